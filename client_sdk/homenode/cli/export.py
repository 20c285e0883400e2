"""export: everything under a prefix into one file, as of one moment where that can be had."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import secrets
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output, size_text
from homenode.cli.portable import Entry, Writer, policy_parts
from homenode.cli.session import Commands, connected, installed_version
from homenode.errors import Contended, NotFound, QuotaExceeded, TooLarge
from homenode.values import VersionInfo

if TYPE_CHECKING:
    from homenode import Homenode
    from homenode.artifact import Artifact
    from homenode.snapshot import Snapshot
    from homenode.values import Stat
    from homenode.versions import Version

AT_ONCE = 16
SMALL_BYTES = 1 << 20
ROUNDS_MAX = 5
PAGE = 10_000
SNAPSHOT_MS = 3_600_000
MEANING = {
    "snapshot": "as of one moment",
    "listing": "as of one moment",
    "each": "each artifact by itself: the workspace changed while it was listed",
}


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    export = commands.add_parser(
        "export",
        parents=[common],
        help="write the workspace's artifacts to one file",
        description="Writes contents, metadata, tags and policies of a workspace's artifacts to a compressed file that "
        "`homenode import` reads, and the policies of its prefixes: with --prefix, those of P and of longer ones. "
        "The file appears at once and whole, or not at all. All artifacts are as of one moment, unless the workspace "
        "changes all the time; the summary, and the file, say which.",
    )
    export.add_argument("file", metavar="FILE", help="where to; - for stdout")
    export.add_argument("--prefix", default="", metavar="P", help="only artifacts whose name begins with it")
    export.add_argument("--history", action="store_true", help="earlier retained versions too")
    export.add_argument("--force", action="store_true", help="replace FILE if it exists")
    export.set_defaults(run=run_export)


async def run_export(args: argparse.Namespace, out: Output) -> int:
    """`export`."""
    target = None if args.file == "-" else Path(args.file)
    if target is None and (sys.stdout.isatty() or out.json):
        raise CliError("- writes the file to stdout: send it to a file or a pipe, without --json", Exit.USAGE)
    if target is not None and not target.parent.is_dir():
        raise CliError(f"there is no folder {target.parent}", Exit.USAGE)
    if target is not None and target.exists() and not (args.force and target.is_file()):
        raise CliError(f"{target} exists; --force replaces a file", Exit.CONFLICT, kind="FileExists")
    async with connected(args, agent="export") as hn:
        cut = _Cut(hn, args.prefix)
        async with cut:
            with _replacing(target) as file, out.progress("export") as progress:
                writer = Writer(file, await _head(hn, args, cut))
                await _write_all(hn, cut, writer, args.history, progress)
                writer.close()
    told = {"file": args.file, "cut": cut.kind, "moved": cut.moved, **_totals(writer), "policies": writer.policies}
    if out.json:
        out.value(told)
    else:
        moved = f"; {cut.moved} of them newer than that: what was there is no longer kept" if cut.moved else ""
        said = f"{told['artifacts']} artifacts, {told['versions']} versions, {size_text(writer.totals.bytes)} bytes"
        said += f", {writer.policies} policies of prefixes" if writer.policies else ""
        out.note(f"{said} -> {args.file}, {MEANING[cut.kind]}{moved}")
    return Exit.OK


async def _head(hn: Homenode, args: argparse.Namespace, cut: _Cut) -> dict[str, Any]:
    workspace = hn.session_id.partition("~")[0]
    made = {"taken_at_ms": int(time.time() * 1000), "by": f"homenode {installed_version()}"}
    # A shorter prefix than the exported one has artifacts that are not exported: its policy is not this file's.
    policies = {prefix: policy_parts(one) for prefix, one in (await hn.policies()).items()}
    kept = {prefix: parts for prefix, parts in policies.items() if parts and prefix.startswith(args.prefix)}
    return {"workspace": workspace, "prefix": args.prefix, "cut": cut.kind, **made, "policies": kept}


def _totals(writer: Writer) -> dict[str, int]:
    totals = writer.totals
    return {"artifacts": totals.artifacts, "versions": totals.versions, "bytes": totals.bytes}


class _Cut:
    """Which version of which artifact is exported.

    A snapshot, where the artifacts fit into one: it keeps their contents. Else two listings in a row that are equal:
    between them, everything was as they say, and the versions are retained for a while. Else the last listing.

    Attributes:
        kind: see MEANING.
        stats: the artifacts, by name.
        moved: artifacts whose version was gone when it was read.
    """

    def __init__(self, hn: Homenode, prefix: str) -> None:
        self._hn = hn
        self._prefix = prefix
        self._held = contextlib.AsyncExitStack()
        self.kind = "each"
        self.stats: list[Stat] = []
        self.moved = 0
        self._snapshot: Snapshot | None = None
        self._versions: Mapping[str, Version] = {}

    async def __aenter__(self) -> _Cut:
        self.stats = await self._list()
        if not await self._pinned():
            for _ in range(ROUNDS_MAX):
                before, self.stats = self.stats, await self._list()
                if [(stat.key, stat.version) for stat in before] == [(stat.key, stat.version) for stat in self.stats]:
                    self.kind = "listing"
                    break
            self._versions = {stat.key: stat.version for stat in self.stats}
        return self

    async def _pinned(self) -> bool:
        """Take a snapshot of what is listed. Policies are not part of it."""
        for _ in range(ROUNDS_MAX):
            taken = self._hn.snapshot(prefix=self._prefix, load=False, ttl_ms=SNAPSHOT_MS)
            try:
                snapshot = await self._held.enter_async_context(taken)
            except (TooLarge, QuotaExceeded, Contended):
                return False
            if set(snapshot.keys()) == {stat.key for stat in self.stats}:
                self.kind, self._snapshot, self._versions = "snapshot", snapshot, snapshot.versions
                return True
            await self._held.aclose()
            self.stats = await self._list()
        return False

    async def __aexit__(self, *error: object) -> None:
        await self._held.aclose()

    async def _list(self) -> list[Stat]:
        found: list[Stat] = []
        while True:
            page = await self._hn.list(self._prefix, limit=PAGE, after=found[-1].key if found else "")
            found += page
            if len(page) < PAGE:
                return found

    @contextlib.asynccontextmanager
    async def open(self, stat: Stat) -> AsyncIterator[tuple[VersionInfo, AsyncIterable[bytes]]]:
        """The version of the cut; the current one where that is gone. Raises NotFound where that is gone too."""
        version = self._versions[stat.key]
        async with contextlib.AsyncExitStack() as stack:
            try:
                content = await stack.enter_async_context(self._hn.open(stat.key, version=version))
            except NotFound:
                if self._snapshot is not None:  # it has what history has forgotten
                    yield _loaded(await self._snapshot.read(stat.key), stat)
                    return
                self.moved += 1
                content = await stack.enter_async_context(self._hn.open(stat.key))
            yield content.info, content

    async def earlier(self, stat: Stat) -> list[VersionInfo]:
        """The retained versions before that of the cut, oldest first."""
        found = [info for info in await self._hn.history(stat.key) if not info.deleted]
        return sorted((info for info in found if info.version < self._versions[stat.key]), key=attrgetter("version"))


def _loaded(artifact: Artifact, stat: Stat) -> tuple[VersionInfo, AsyncIterable[bytes]]:
    async def whole() -> AsyncIterator[bytes]:
        yield artifact.bytes

    assert artifact.version is not None
    info = VersionInfo(
        artifact.version, artifact.hash, len(artifact.bytes), artifact.committed_at_ms, "", False,
        artifact.metadata, artifact.tags, artifact.media_type,
    )  # fmt: skip
    return info, whole()


async def _write_all(hn: Homenode, cut: _Cut, writer: Writer, history: bool, progress: Any) -> None:
    """Small artifacts are fetched several at once, and written in order."""
    total = sum(stat.size for stat in cut.stats)
    at_once = 1 if history else AT_ONCE
    for small, group in itertools.groupby(cut.stats, lambda stat: stat.size <= SMALL_BYTES):
        stats = list(group)
        for start in range(0, len(stats), at_once):
            some = stats[start : start + at_once]
            if history:
                await _earlier(hn, cut, some[0], writer)
            if small:
                for stat, fetched in zip(some, await asyncio.gather(*(_small(cut, s) for s in some)), strict=True):
                    _write(writer, stat, fetched)
            else:
                for stat in some:
                    await _large(cut, stat, writer)
            if progress is not None:
                progress(writer.totals.bytes, total)


async def _small(cut: _Cut, stat: Stat) -> tuple[VersionInfo, bytes] | None:
    try:
        async with cut.open(stat) as (info, pieces):
            return info, b"".join([piece async for piece in pieces])
    except NotFound:
        return None  # deleted since


def _write(writer: Writer, stat: Stat, fetched: tuple[VersionInfo, bytes] | None) -> None:
    if fetched is not None:
        writer.begin(_entry(stat, fetched[0]))
        writer.piece(fetched[1])
        writer.end()


async def _large(cut: _Cut, stat: Stat, writer: Writer) -> None:
    async with cut.open(stat) as (info, pieces):
        await _copy(writer, _entry(stat, info), pieces)


async def _earlier(hn: Homenode, cut: _Cut, stat: Stat, writer: Writer) -> None:
    for info in await cut.earlier(stat):
        with contextlib.suppress(NotFound):  # it is forgotten by now
            async with hn.open(stat.key, version=info.version) as content:
                await _copy(writer, _entry(stat, content.info, current=False), content)


async def _copy(writer: Writer, entry: Entry, pieces: AsyncIterable[bytes]) -> None:
    writer.begin(entry)
    async for piece in pieces:
        await asyncio.to_thread(writer.piece, piece)
    writer.end()


def _entry(stat: Stat, info: VersionInfo, *, current: bool = True) -> Entry:
    return Entry(
        stat.key, info.size, info.hash.hex(), str(info.version), current, info.committed_at_ms, dict(info.metadata),
        tuple(info.tags), info.media_type, policy_parts(stat.policy),
    )  # fmt: skip


@contextlib.contextmanager
def _replacing(target: Path | None) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` when it is whole and on the disk; None: stdout."""
    if target is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
