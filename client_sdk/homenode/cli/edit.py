"""edit: change an artifact, never over somebody else's change."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.files import held
from homenode.cli.output import Output, version_fields
from homenode.cli.session import Commands, connected, need_text
from homenode.errors import LeaseDenied, NotFound, VersionConflict


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    edit = commands.add_parser(
        "edit",
        parents=[common],
        help="change an artifact in $EDITOR, or by --append or --replace",
        description="Change an artifact under compare-and-set. --append and --replace are made again on the newer "
        "version when somebody was faster. What was written in $EDITOR is not: it is kept in a file, and the message "
        "says how to go on.",
    )
    edit.add_argument("key", metavar="KEY")
    how = edit.add_mutually_exclusive_group()
    how.add_argument("--append", metavar="TEXT", help="add a line at the end")
    how.add_argument("--replace", metavar=("OLD", "NEW"), nargs=2, help="replace a text that occurs exactly once")
    edit.add_argument(
        "--create", action="store_true", help="begin with an empty text where the artifact does not exist"
    )
    edit.set_defaults(run=run_edit)


def appended(text: str, line: str) -> str:
    """`text` with one more line."""
    separator = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{separator}{line}\n"


def replaced(text: str, old: str, new: str) -> str:
    """`text` with `new` for the only occurrence of `old`. Raises CliError where it is not the only one."""
    count = text.count(old) if old else 0
    if count != 1:
        raise CliError(f"nothing changed: {old!r} occurs {count} times, and must occur once")
    return text.replace(old, new)


async def run_edit(args: argparse.Namespace, out: Output) -> int:
    """`edit`."""
    async with connected(args) as hn:
        try:
            if args.append is not None:
                version = await _change(hn, args, lambda text: appended(text, args.append))
            elif args.replace is not None:
                version = await _change(hn, args, lambda text: replaced(text, *args.replace))
            else:
                version = await _in_editor(hn, args)
        except LeaseDenied as error:
            raise held(error, args.key) from None
    if out.json:
        out.value({"key": args.key, **version_fields(version), "changed": version is not None})
    else:
        out.line(f"{args.key} is at version {version.n}" if version is not None else f"{args.key} was not changed")
    return Exit.OK


async def _change(hn: Any, args: argparse.Namespace, change: Callable[[str], str]) -> Any:
    """By the SDK's read-modify-write, which makes the change again where somebody was faster."""

    def of_bytes(data: bytes) -> bytes:
        return change(need_text(data, args.key)).encode()

    default = {"default": b""} if args.create else {}
    written = await hn.edit(args.key, of_bytes, kind="bytes", **default)
    return written.version


async def _in_editor(hn: Any, args: argparse.Namespace) -> Any:
    """The new version; None where nothing was changed."""
    import homenode

    base: Any
    try:
        artifact = await hn.read(args.key)
        base, before = artifact.version, need_text(artifact.bytes, args.key)
    except NotFound:
        if not args.create:
            raise
        base, before = homenode.ABSENT, ""
    draft = _draft_file(args.key, before)
    await _open_editor(draft)
    try:
        after = draft.read_bytes().decode()
    except UnicodeDecodeError:
        raise CliError(f"what the editor wrote is not text (UTF-8); nothing was written, it is in {draft}") from None
    if after == before:
        draft.unlink()
        return None
    try:
        written = await hn.put(args.key, after, base=base)
    except VersionConflict as conflict:
        raise _kept(args.key, draft, base, conflict) from None
    except BaseException:
        print(f"homenode: your text is kept in {draft}", file=sys.stderr, flush=True)
        raise
    draft.unlink()
    return written.version


def _draft_file(key: str, text: str) -> Path:
    name = key.rsplit("/", 1)[-1]
    handle, path = tempfile.mkstemp(prefix="homenode-", suffix=f"-{name}"[-80:])
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    return Path(path)


async def _open_editor(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        process = await asyncio.create_subprocess_exec(*shlex.split(editor), str(path))
    except (OSError, ValueError) as error:
        path.unlink()
        raise CliError(f"cannot start the editor {editor!r}: {error}; set EDITOR") from None
    # Ctrl-C is the editor's while it runs: text must not be thrown away because of it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = await process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if code != 0:
        raise CliError(f"the editor {editor!r} ended with {code}; nothing was written, the text is in {path}")


def _kept(key: str, draft: Path, base: Any, conflict: VersionConflict) -> CliError:
    current = conflict.current
    if current is None:
        return CliError(
            f"{key} was deleted meanwhile; your text is in {draft}",
            Exit.CONFLICT,
            kind="VersionConflict",
            kept=str(draft),
        )
    since = getattr(base, "n", None)
    look = f"homenode diff {key} {since}" if since is not None else f"homenode get {key}"
    return CliError(
        f"{key} moved to version {current.n} while you edited; your text is in {draft}. See what came in between with: "
        f"{look}; then: homenode put {key} {draft} --base {current.n}",
        Exit.CONFLICT,
        kind="VersionConflict",
        current=version_fields(current),
        kept=str(draft),
    )
