"""The loop: what changed on either side is looked at, and brought to agree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import homenode
from homenode.client import Homenode
from homenode.errors import (
    AlreadyExists,
    HomenodeError,
    InvalidArgument,
    LeaseDenied,
    NotFound,
    TooLarge,
    VersionConflict,
)
from homenode.mount.bases import Bases
from homenode.mount.disk import Disk, Seen
from homenode.mount.plan import Action, Remote, plan

#: Files of one mount, at most.
FILES_MAX = 20_000
_TRIES = 8
#: A mount with at least so many files, of which none is left, is not a mount whose user deleted them all.
_EMPTY_MIN = 3
#: A file that was written within this time may still be being written.
_QUIET_NS = 100_000_000
_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that was done, or could not be.

    Attributes:
        action: "pull", "push", "delete", "remove", "restore", "conflict", "skip", or "return": what a mount that was
            killed had taken away is in its place again.
        name: of the file, relative to the folder; `version`: of the artifact now, or None.
        text: of a conflict, the name of the copy; of what was skipped, why.
    """

    action: str
    name: str
    version: homenode.Version | None = None
    text: str = ""


class Mount:
    """A folder and the artifacts under a prefix.

    Args:
        hn: a connection.
        root: the folder; made if it is not there.
        prefix: what the names of the artifacts begin with, such as "repo/"; the rest is the file's path.
        address: says in the folder what is mounted there.
        ignore: patterns of names that are not shared, beside those of mounts and editors.
        tell: called with each Report.
        every_s: seconds between two looks at the folder.
    """

    def __init__(
        self,
        hn: Homenode,
        root: Path,
        prefix: str,
        *,
        address: str = "",
        ignore: Iterable[str] = (),
        tell: Callable[[Report], None] = lambda report: None,
        every_s: float = 0.25,
    ) -> None:
        if prefix and not prefix.endswith("/"):
            raise InvalidArgument(f"the prefix of a mount ends with a slash, unlike {prefix!r}")
        root.mkdir(parents=True, exist_ok=True)
        self._hn = hn
        self._prefix = prefix
        self._disk = Disk(root.resolve(), tuple(ignore))
        self._bases = Bases(root / ".homenode" / "mount.json", f"{address}#{prefix}")
        self._tell = tell
        self._every_s = every_s
        self._seen: dict[str, Seen] = {}
        self._hashes: dict[str, tuple[Seen, bytes]] = {}
        self._dirty: set[str] = set()
        self._skipped: dict[str, str] = {}
        self._wake = asyncio.Event()

    async def sync(self, *, wait_s: float = 30.0) -> None:
        """Bring everything to agree once. Raises HomenodeError where the directory cannot be asked.

        Files that are being written, here or under a lease, are waited for so long, and left as they are then.
        """
        with self._alone():
            await self._begin()
            deadline = time.monotonic() + wait_s
            while self._dirty and time.monotonic() < deadline:
                await self._turn()
            for name in sorted(self._dirty):
                self._skip(name, "it was being written all the time")
            self._examine(all=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._disk.alone() as alone:
            if not alone:
                raise InvalidArgument(f"another mount of {self._disk.root} is at work")
            yield

    async def _begin(self) -> None:
        await self._put_back()
        stats = await self._hn.list(self._prefix, limit=FILES_MAX)
        names = {stat.key.removeprefix(self._prefix) for stat in stats} | self._bases.names() | self._look()
        if len(names) >= FILES_MAX:
            raise TooLarge(f"a mount has {FILES_MAX} files at most: mount a longer prefix")
        if not self._seen and len(self._bases.names()) >= _EMPTY_MIN:
            raise InvalidArgument(
                f"all files of {self._disk.root} are gone, and would be deleted for everybody: "
                "remove the folder .homenode in it to fetch them again"
            )
        await self._settle(names)

    async def run(self) -> None:
        """Keep them in agreement until cancelled. Where the directory cannot be asked, edits wait for it."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._alone())
            events = await stack.enter_async_context(self._hn.watch(self._prefix))
            await self._begin()
            hearing = asyncio.create_task(self._hear(events))
            try:
                while True:
                    await self._turn()
                    if hearing.done():
                        hearing.result()
            finally:
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)
                self._examine(all=True)
                self._bases.save()

    # --- what a mount that was killed has left ------------------------------------------------------------------------

    async def _put_back(self) -> None:
        """What is nowhere else goes back to where it was, or beside a file that is there now."""
        unknown = 0
        for name, left in self._disk.left_over():
            if name and await self._is_elsewhere(name, left):
                self._disk.drop(left)
                continue
            try:
                copy = self._disk.put_back(name, left) if name else left
            except OSError:  # where its folder was is a file now
                copy = left
            if copy is left:
                unknown += 1
            elif copy is not None:
                self._conflict(name, copy)
            else:
                self._tell(Report("return", name))
        if unknown:
            self._skip(".homenode/moving", f"{unknown} files that a mount was moving when it was killed: look at them")

    async def _is_elsewhere(self, name: str, left: Path) -> bool:
        """Whether the file holds this content, or the directory has had it."""
        hash, base = self._disk.hash(left.relative_to(self._disk.root).as_posix()), self._bases.get(name)
        if hash is None or hash == self._disk.hash(name) or (base is not None and hash == base.hash):
            return True
        try:
            versions = await self._hn.history(self._prefix + name)
        except NotFound:
            return False
        return any(version.hash == hash for version in versions)

    # --- what changed ---------------------------------------------------------------------------------------------

    async def _hear(self, events: homenode.Watch) -> None:
        async for event in events:
            if event.kind == "resync":
                self._dirty |= self._bases.names()
                self._dirty |= {stat.key.removeprefix(self._prefix) for stat in await self._listed()}
            elif event.kind in ("change", "delete"):
                self._dirty.add(event.key.removeprefix(self._prefix))
            self._wake.set()

    async def _listed(self) -> list[homenode.Stat]:
        while True:
            try:
                return await self._hn.list(self._prefix, limit=FILES_MAX)
            except HomenodeError:
                await asyncio.sleep(1)

    async def _turn(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._every_s):
                await self._wake.wait()
        self._wake.clear()
        self._examine()
        self._dirty |= await asyncio.to_thread(self._look)
        names, self._dirty = self._dirty, set()
        try:
            await self._settle(names)
        except HomenodeError:
            self._dirty |= names  # it cannot be asked now

    def _examine(self, *, all: bool = False) -> None:
        for name, copy in self._disk.examine(all=all):
            self._conflict(name, copy)

    def _conflict(self, name: str, copy: Path) -> None:
        self._tell(Report("conflict", name, text=copy.relative_to(self._disk.root).as_posix()))

    def _look(self) -> set[str]:
        """The files that are not as they were at the last look."""
        now = dict(self._disk.scan())
        changed = {name for name, seen in now.items() if self._seen.get(name) != seen}
        changed |= (self._seen.keys() | self._bases.names()) - now.keys()  # gone, maybe before it was seen
        self._seen = now
        return changed

    # --- bringing to agree ----------------------------------------------------------------------------------------

    async def _settle(self, names: Iterable[str]) -> None:
        limit = asyncio.Semaphore(_TOGETHER)

        async def settle(name: str) -> None:
            async with limit:
                await self._one(name)

        done = await asyncio.gather(*map(settle, sorted(names)), return_exceptions=True)
        self._bases.save()
        for failure in done:
            if isinstance(failure, BaseException):
                raise failure

    async def _one(self, name: str) -> None:
        if not self._disk.fits(name):
            self._skip(name, "no name for a file here")
            return
        for _ in range(_TRIES):
            try:
                await self._agree(name)
                return
            except (VersionConflict, AlreadyExists):
                continue  # somebody was faster: look again
            except LeaseDenied as refusal:
                self._skip(name, f"{refusal.holder or 'somebody'} is writing it")
                break
            except (InvalidArgument, TooLarge, OSError) as failure:
                self._skip(name, str(failure))
                return
        self._dirty.add(name)

    def _skip(self, name: str, why: str) -> None:
        if self._skipped.get(name) != why:
            self._skipped[name] = why
            self._tell(Report("skip", name, text=why))

    async def _agree(self, name: str) -> None:
        key, base = self._prefix + name, self._bases.get(name)
        file = await asyncio.to_thread(self._hash, name)
        artifact = await self._artifact(key)
        action = plan(base, file, artifact)
        if action is Action.NOTHING:
            return
        if action is Action.AGREE:
            self._bases.agree(name, artifact)
            return
        if action in (Action.PUSH, Action.RESTORE):
            await self._push(name, key, base if action is Action.PUSH else None, action)
        elif action is Action.DELETE:
            assert base is not None
            await self._hn.delete(key, base=base.version)
            self._bases.agree(name, None)
            self._tell(Report("delete", name))
        else:
            await self._pull(name, key, file, action)
        self._skipped.pop(name, None)

    def _hash(self, name: str) -> bytes | None:
        seen = self._disk.look(name)
        known = self._hashes.get(name)
        if seen is None:
            self._hashes.pop(name, None)
            return None
        if known is not None and known[0] == seen:
            return known[1]
        hash = self._disk.hash(name)
        if hash is not None and self._disk.look(name) == seen:
            self._hashes[name] = (seen, hash)
        return hash

    async def _artifact(self, key: str) -> Remote | None:
        try:
            stat = await self._hn.stat(key)
        except NotFound:
            return None
        return Remote(stat.version, stat.hash)

    async def _push(self, name: str, key: str, base: Remote | None, action: Action) -> None:
        seen = self._disk.look(name)
        if seen is not None and 0 <= time.time_ns() - seen.modified_ns < _QUIET_NS:
            self._dirty.add(name)
            return
        path = self._disk.root / name
        info = await self._hn.upload(key, path, base=base.version if base is not None else homenode.ABSENT)
        self._bases.agree(name, Remote(info.version, info.hash))
        self._tell(Report(str(action), name, info.version))

    async def _pull(self, name: str, key: str, file: bytes | None, action: Action) -> None:
        if action is Action.REMOVE:
            kept = await asyncio.to_thread(self._disk.replace, name, None, file)
            self._bases.agree(name, None)
            self._disk.prune(name)
            self._tell(Report("remove", name))
        else:
            new = self._disk.temporary()
            try:
                info = await self._hn.download(key, new, old=self._disk.root / name)
                expected = file if action is Action.PULL else None
                kept = await asyncio.to_thread(self._disk.replace, name, new, expected)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(new)
            self._bases.agree(name, Remote(info.version, info.hash))
            self._tell(Report("pull", name, info.version))
        if kept is not None:
            self._conflict(name, kept)
