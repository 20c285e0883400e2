"""A `Homenode` that writes down what it does. Used where a recorder is; the ordinary one knows nothing of it."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, cast

from homenode.artifact import Artifact
from homenode.chunking import Source
from homenode.client import Homenode
from homenode.core import Core
from homenode.errors import AlreadyExists, HomenodeError, NotFound, Unknown, VersionConflict
from homenode.history.operations import Kind
from homenode.history.recorder import Recorder
from homenode.joint import Change
from homenode.reads import NO_DEFAULT
from homenode.values import Meta, Value, encode
from homenode.versions import Base, Version
from homenode.view import View
from homenode_api.patch import content_hash

HASH_HEX = 24
HASHED_BYTES_MAX = 4 << 20  # of larger contents the hash is known once they are committed


class RecordedCore:
    """Passes everything on, and records commits: every write path ends here. One for each agent."""

    def __init__(self, core: Core, recorder: Recorder, agent: str) -> None:
        self._core = core
        self._recorder = recorder
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    async def commit(
        self, key: str, data: bytes | Source | None, base: Version | Base, *rest: Any, lease: Any = None, **named: Any
    ) -> Artifact:
        """See `Core.commit`."""
        recorder = self._recorder
        name = begin(recorder, self._agent, self._core.session.id, key, data, base, lease=lease is not None)
        ended: dict[str, Any] = {}
        try:
            artifact = await self._core.commit(key, data, base, *rest, lease=lease, **named)
            ended = done(artifact)
        except Unknown:
            raise
        except HomenodeError as failure:
            ended = refused(failure)
            raise
        finally:
            if ended:  # else nobody knows: cancelled, or unknown to the directory itself
                recorder.write({"id": name, "end": recorder.clock(), **ended})
        return artifact

    async def set_policy(self, key: str, *rest: Any) -> Any:
        """See `Core.set_policy`."""
        name = self._begin_policy(key)
        await self._policy(name, self._core.set_policy(key, *rest))

    async def set_prefix_policy(self, prefix: str, *rest: Any) -> int:
        """See `Core.set_prefix_policy`."""
        name = self._begin_policy(prefix, prefix=True)
        return int(await self._policy(name, self._core.set_prefix_policy(prefix, *rest)))

    def _begin_policy(self, key: str, **more: Any) -> str:
        recorder, session = self._recorder, self._core.session.id
        said = {"kind": Kind.POLICY, "key": key, "agent": self._agent, "session": session}
        return recorder.begin(**said, start=recorder.clock(), **more)

    async def _policy(self, name: str, change: Coroutine[Any, Any, Any]) -> Any:
        recorder = self._recorder
        ended: dict[str, Any] | None = {}
        try:
            remaining = await change
            if remaining:  # artifacts that take it over later
                ended = None
            return remaining
        except Unknown:
            ended = None
            raise
        except HomenodeError as failure:
            ended = {"refused": type(failure).__name__}
            raise
        finally:
            if ended is not None:
                recorder.write({"id": name, "end": recorder.clock(), **ended})


def begin(
    recorder: Recorder,
    agent: str,
    session: str,
    key: str,
    data: bytes | Source | None,
    base: Version | Base,
    *,
    lease: bool,
) -> str:
    """A write is about to be sent; returns its id."""
    said: dict[str, Any] = {"base": str(base) if isinstance(base, Version) else base.value}
    if isinstance(data, bytes) and len(data) <= HASHED_BYTES_MAX:
        said["hash"] = content_hash(data)[:HASH_HEX]
    if lease:
        said["lease"] = True
    kind = Kind.WRITE if data is not None else Kind.DELETE
    return recorder.begin(kind=kind, key=key, agent=agent, session=session, start=recorder.clock(), **said)


def done(artifact: Artifact) -> dict[str, Any]:
    """What a commit that took effect says."""
    return {"version": str(artifact.version), "level": artifact.level, "hash": _hash(artifact)}


def refused(failure: HomenodeError) -> dict[str, Any]:
    """What a refusal says."""
    said: dict[str, Any] = {"refused": type(failure).__name__}
    current = getattr(failure, "current", None)
    if isinstance(failure, VersionConflict | NotFound) and current is not None:
        said["version"] = str(current)
    if isinstance(failure, NotFound) or (
        isinstance(failure, VersionConflict) and not isinstance(failure, AlreadyExists) and current is None
    ):
        said["absent"] = True
    return said


def _hash(artifact: Artifact) -> str:
    return artifact.hash.hex()[:HASH_HEX]


class RecordedHomenode(Homenode):
    """See the module. Reads of earlier versions (`version=`), of snapshots and of streams are not recorded."""

    def __init__(self, core: Core, view: View, views: dict[str, View], recorder: Recorder, *, owner: bool) -> None:
        super().__init__(cast(Core, RecordedCore(core, recorder, view.agent)), view, views, owner=owner)
        self._plain_core = core
        self._recorder = recorder

    def agent(self, name: str) -> Homenode:
        """See `Homenode.agent`."""
        plain = super().agent(name)
        return RecordedHomenode(self._plain_core, plain._view, self._views, self._recorder, owner=False)

    def read_cached(self, key: str) -> Artifact | None:
        """See `Homenode.read_cached`."""
        start = self._recorder.clock()
        artifact = super().read_cached(key)
        if artifact is not None:
            self._saw(Kind.HIT, key, start, artifact)
        return artifact

    def hot(self, key: str) -> Artifact | None:
        """See `Homenode.hot`."""
        start = self._recorder.clock()
        artifact = super().hot(key)
        if artifact is not None:
            self._saw(Kind.HIT, key, start, artifact)
        return artifact

    async def read(
        self,
        key: str,
        *,
        default: Value = NO_DEFAULT,
        since: Version | None = None,
        version: Version | None = None,
        max_age_ms: int | None = None,
        consistency: str | None = None,
        access: str | None = None,
        timeout_ms: int | None = None,
    ) -> Artifact:
        """See `Homenode.read`."""
        if version is not None:
            return await super().read(key, since=since, version=version, access=access, timeout_ms=timeout_ms)
        asked = "strict" if consistency == "strict" else "fresh" if max_age_ms == 0 else ""
        start = self._recorder.clock()
        copy, misses = self._plain_core.cache.copy(key), self._view.counters.misses
        options: dict[str, Any] = {"max_age_ms": max_age_ms, "consistency": consistency, "access": access}
        try:
            artifact = await super().read(key, since=since, timeout_ms=timeout_ms, **options)
        except HomenodeError as failure:
            said = refused(failure)
            self._line(Kind.READ, key, start, {**said, **({"asked": asked} if asked else {})})
            if isinstance(failure, NotFound) and default is not NO_DEFAULT:
                data, media_type = encode(default)
                return self._core.make(key, None, data, b"", Meta(media_type=media_type), fetched_ns=self._now())
            raise
        cached = artifact is copy and misses == self._view.counters.misses
        self._saw(Kind.HIT if cached else Kind.READ, key, start, artifact, asked)
        return artifact

    async def _commit_changes(self, changes: Sequence[Change], timeout_ms: int | None) -> dict[str, Artifact]:
        recorder, agent, session = self._recorder, self._view.agent, self._plain_core.session.id
        names = [
            begin(recorder, agent, session, one.key, one.data, one.base, lease=one.lease is not None) for one in changes
        ]
        ended: list[dict[str, Any]] = []
        try:
            made = await super()._commit_changes(changes, timeout_ms)
            ended = [done(made[one.key]) for one in changes]
        except Unknown:
            raise
        except HomenodeError as failure:
            ended = [{"refused": type(failure).__name__}] * len(changes)
            raise
        finally:
            for name, said in zip(names, ended, strict=False):
                recorder.write({"id": name, "end": recorder.clock(), **said})
        return made

    def _saw(self, kind: Kind, key: str, start: int, artifact: Artifact, asked: str = "") -> None:
        said = {"version": str(artifact.version), "level": artifact.level, "hash": _hash(artifact)}
        if asked:
            said["asked"] = asked
        self._line(kind, key, start, said)

    def _line(self, kind: Kind, key: str, start: int, said: dict[str, Any]) -> None:
        recorder = self._recorder
        session = self._plain_core.session.id
        line = {"kind": kind, "key": key, "agent": self._view.agent, "session": session, "start": start}
        recorder.write({**line, "end": recorder.clock(), **said})

    async def close(self) -> None:
        """See `Homenode.close`."""
        try:
            await super().close()
        finally:
            self._recorder.flush()
