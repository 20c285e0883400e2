"""Snapshots: several artifacts as they were at one moment, kept readable until released."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Mapping, Sequence

from homenode.artifact import Artifact
from homenode.core import Core
from homenode.errors import HomenodeError, InvalidArgument, NotFound
from homenode.values import Meta, name
from homenode.versions import Position, Version, position_of, version_of
from homenode.view import View
from homenode_api.v1 import directory_pb2 as pb

LOADS_AT_ONCE = 16
RELEASE_TIMEOUT_MS = 2_000


class Snapshot:
    """One cut of several artifacts: every one as of `as_of`.

    `snap["plan.md"]` is an artifact, `"plan.md" in snap` whether it existed; `len(snap)`, `for key in snap` and
    `.keys()` are about those that existed. Where contents were not loaded, `await snap.read(key)` fetches one.

    Attributes:
        id: names it in the directory.
        as_of: the place in the workspace's log.
        versions: version of each artifact that existed.
        missing: the artifacts that were asked for and did not exist.
    """

    def __init__(self, core: Core, view: View, message: pb.SnapshotResponse) -> None:
        self._core = core
        self._view = view
        self._entries = {entry.key: entry for entry in message.entries if entry.hash}
        self._loaded: dict[str, Artifact] = {}
        self._released = False
        self.id: str = message.snapshot
        self.as_of: Position = position_of(message.as_of)
        self.versions: Mapping[str, Version] = {key: version_of(e.version) for key, e in self._entries.items()}
        self.missing = tuple(entry.key for entry in message.entries if not entry.hash)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> Sequence[str]:
        """The artifacts that existed."""
        return list(self._entries)

    def __getitem__(self, key: str) -> Artifact:
        """The artifact, loaded before. Raises NotFound where there was none, InvalidArgument where it is not loaded."""
        self._entry(key)
        artifact = self._loaded.get(key)
        if artifact is None:
            raise InvalidArgument(
                f"{key!r} is not loaded: await snap.read({key!r}), or take the snapshot with load=True"
            )
        self._show(artifact)
        return artifact

    def get(self, key: str) -> Artifact | None:
        """The artifact, loaded before; None where there was none."""
        return self[key] if key in self._entries else None

    async def read(self, key: str, *, timeout_ms: int | None = None) -> Artifact:
        """The artifact, from the directory if need be. Raises NotFound, HomenodeError."""
        artifact = self._loaded.get(key) or await self._load(key, timeout_ms)
        self._show(artifact)
        return artifact

    def _entry(self, key: str) -> pb.SnapshotEntry:
        entry = self._entries.get(key)
        if entry is None:
            raise NotFound(f"{key!r} was not there when the snapshot was taken")
        return entry

    def _show(self, artifact: Artifact) -> None:
        """The agent sees it; what it has seen of later versions stands."""
        seen = self._view.version(artifact.key)
        if seen is None or (artifact.version is not None and artifact.version > seen):
            self._view.show(artifact)

    async def _load(self, key: str, timeout_ms: int | None) -> Artifact:
        entry, version = self._entry(key), self.versions[key]
        data = self._core.cache.content(entry.hash)
        if data is not None:
            artifact = self._core.make(
                key, version, data, entry.hash, Meta.of(entry.metadata), committed_at_ms=entry.committed_at_ms,
                fetched_ns=self._core.clock(),
            )  # fmt: skip
        else:
            artifact = await self._core.fetch(
                key, self._view.counters, version=version, snapshot=self.id, timeout_ms=timeout_ms
            )
        self._loaded[key] = artifact
        return artifact

    async def load(self, timeout_ms: int | None = None) -> None:
        """Fetch every content that is not loaded yet. Raises HomenodeError."""
        places = asyncio.Semaphore(LOADS_AT_ONCE)

        async def load(key: str) -> None:
            async with places:
                await self._load(key, timeout_ms)

        async with asyncio.TaskGroup() as loads:
            for key in self._entries:
                if key not in self._loaded:
                    loads.create_task(load(key))

    async def release(self) -> None:
        """Let go of it; what is loaded stays usable. Again does nothing."""
        if self._released:
            return
        self._released = True
        if not self.id.startswith(f"{self._core.session.id}/"):
            return  # its session was lost, and the directory lets go of it by itself
        request = pb.ReleaseSnapshotRequest(snapshot=self.id)
        await self._core.session.request("release_snapshot", request, timeout_ms=RELEASE_TIMEOUT_MS)

    def release_later(self) -> None:
        """Let go of it without waiting."""
        if not self._released:
            self._released = True
            self._core.session.background("release_snapshot", pb.ReleaseSnapshotRequest(snapshot=self.id))


class SnapshotContext:
    """What `hn.snapshot(…)` gives: await it, or use it in `async with` to release it at the end."""

    def __init__(
        self,
        core: Core,
        view: View,
        keys: Sequence[str] | None,
        *,
        prefix: str | None,
        load: bool,
        ttl_ms: int,
        timeout_ms: int | None,
    ) -> None:
        if (keys is None) == (prefix is None):
            raise InvalidArgument("a snapshot is of keys, or of a prefix")
        if isinstance(keys, str):
            raise InvalidArgument("a snapshot takes a list of keys, or prefix=")
        if keys is not None and not keys:
            raise InvalidArgument("a snapshot is of one artifact at least")
        self._core = core
        self._view = view
        self._request = pb.SnapshotRequest(
            keys=[name(key) for key in keys or ()], prefix=name(prefix or ""), ttl_ms=ttl_ms
        )
        self._load = load
        self._timeout_ms = timeout_ms
        self._snapshot: Snapshot | None = None

    async def _take(self) -> Snapshot:
        message, _ = await self._core.session.request(
            "snapshot", self._request, effect=True, timeout_ms=self._timeout_ms
        )
        snapshot = Snapshot(self._core, self._view, message)
        if self._load:
            try:
                await snapshot.load(self._timeout_ms)
            except BaseException as failure:
                snapshot.release_later()
                if isinstance(failure, BaseExceptionGroup):
                    raise _first(failure) from None
                raise
        return snapshot

    def __await__(self) -> Generator[None, None, Snapshot]:
        return self._take().__await__()

    async def __aenter__(self) -> Snapshot:
        self._snapshot = await self._take()
        return self._snapshot

    async def __aexit__(self, *_: object) -> None:
        assert self._snapshot is not None
        try:
            await self._snapshot.release()
        except HomenodeError:
            pass  # it ends with its time or its session


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of several failures, which are alike."""
    failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
