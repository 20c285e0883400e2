"""replay: what happened, from a log archive, a store's log, or a recorded history, checked."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output
from homenode.cli.session import Commands

_SHOWN_MAX = 10


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    replay = commands.add_parser(
        "replay",
        parents=[common],
        help="check a log archive, a store's log or a recorded history; tell an artifact's history",
        description="Check what must never be: in a log (one writer, fences and versions that rise, no commit by an "
        "ended lease, nothing published too early, no copy forgotten), or in what agents recorded "
        "(homenode.connect(record=PATH)). Ends with 1 where something is wrong, and says what was first.",
    )
    replay.add_argument(
        "source", metavar="SOURCE", help="an archive or a recorded history (file or folder), or a store's address"
    )
    replay.add_argument("--key", metavar="KEY", default="", help="tell what happened to this artifact, in words")
    replay.add_argument("--workspace", metavar="NAME", default="", help="of the artifact (default: any)")
    replay.add_argument(
        "--max-age-ms", type=float, metavar="MS", help="of a recorded history: how old a cached read may be"
    )
    replay.add_argument(
        "--some-writers", action="store_true", help="of a recorded history: others wrote too, and were not recorded"
    )
    replay.set_defaults(run=run_replay)


async def run_replay(args: argparse.Namespace, out: Output) -> int:
    """`replay`."""
    if "://" not in args.source and _is_history(Path(args.source)):
        return _history(args, out)
    return await _log(args, out)


def _is_history(path: Path) -> bool:
    """Whether the file, or the first of the folder, is a recorded history. Raises OSError where there is none."""
    first = next(iter(sorted(path.glob("*.jsonl"))), path) if path.is_dir() else path
    if first.is_dir():
        raise CliError(f"there is neither an archive nor a history in {path}", Exit.USAGE)
    with first.open("rb") as file:
        return file.read(11) == b'{"history":'


def _history(args: argparse.Namespace, out: Output) -> int:
    from homenode.history.operations import BadHistory, read_history
    from homenode.history.report import judge

    try:
        operations = read_history([Path(args.source)])
    except BadHistory as bad:
        raise CliError(str(bad), Exit.ERROR, kind="BadHistory") from None
    if args.workspace:
        operations = [one for one in operations if one.workspace == args.workspace]
    if args.key:
        operations = [one for one in operations if one.key == args.key]
        if not out.json:
            for one in operations:
                out.line(str(one))
    verdict = judge(operations, max_age_ms=args.max_age_ms, all_writers=not args.some_writers)
    if out.json:
        out.value(verdict.as_dict())
    else:
        counts = ", ".join(f"{count} {kind}" for kind, count in verdict.operations.items())
        out.line(f"{counts} on {verdict.artifacts} artifacts; refused: {dict(verdict.refused) or 'none'}")
        out.line(
            f"{verdict.stale.total()} reads of superseded versions, the oldest by {verdict.oldest_ms:.0f} ms; "
            f"{verdict.availability:.2%} answered, longest silence {verdict.longest_gap_ms:.0f} ms"
        )
        _findings(out, [f"{found.rule}: {found.key}: {found.text}" for found in verdict.findings])
        if verdict.findings and not args.some_writers:
            out.note(
                "if others wrote too, and were not recorded, say --some-writers: what they wrote is taken as given"
            )
    return Exit.ERROR if verdict.findings else Exit.OK


def _findings(out: Output, found: list[str]) -> None:
    if not found:
        out.line("nothing is wrong")
    for text in found[:_SHOWN_MAX]:
        out.line(f"VIOLATION: {text}")
    if len(found) > _SHOWN_MAX:
        out.line(f"… and {len(found) - _SHOWN_MAX} more")


async def _log(args: argparse.Namespace, out: Output) -> int:
    from homenode_directory.audit.items import Corrupt
    from homenode_directory.audit.replay import Replay, Told
    from homenode_directory.audit.words import clock
    from homenode_directory.store.base import StoreError

    lines: list[dict[str, object]] = []

    def tell(told: Told) -> None:
        if out.json:
            lines.append({"at_ms": told.at_ms, "artifact": told.artifact, "where": told.where, "text": told.text})
        else:
            out.line(f"{clock(told.at_ms) if told.at_ms else '':<23}  {told.text}  [{told.where}]")

    replay = Replay(key=args.key, workspace=args.workspace, tell=tell)
    torn: list[str] = []
    try:
        async for item in _items(args.source, torn):
            replay.see(item)
    except Corrupt as corrupt:
        raise CliError(f"{corrupt.where}: {corrupt.why}", Exit.ERROR, kind="Corrupt", where=corrupt.where) from None
    except StoreError as error:
        raise CliError(str(error), Exit.UNAVAILABLE, kind=type(error).__name__) from None
    for where in torn:
        out.note(f"{where}: was being written when its process died; left out")
    if out.json:
        out.value({**replay.as_dict(), "unfinished": torn, **({"history": lines} if args.key else {})})
    else:
        out.line(replay.summary.text())
        _findings(out, [f"{v.rule}: {v.artifact} at {v.where}: {v.text}" for v in replay.violations])
    return Exit.ERROR if replay.violations else Exit.OK


async def _items(source: str, torn: list[str]) -> AsyncIterator[Any]:
    from homenode_directory.audit.archive import read_archive
    from homenode_directory.audit.live import read_store
    from homenode_directory.store.open import open_store

    if "://" not in source:
        for item in read_archive(Path(source), torn):
            yield item
        return
    store = open_store(source)
    await store.open()
    try:
        async for item in read_store(store):
            yield item
    finally:
        await store.close()
