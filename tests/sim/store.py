"""A store that fails and takes its server down with it, at every call; and the history of what was committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from homenode_directory.audit.items import Item, Logged, Renewed
from homenode_directory.audit.rules import Auditor
from homenode_directory.protocol.effects import Inv
from homenode_directory.protocol.model import Version
from homenode_directory.store import fields
from homenode_directory.store.base import Commit, Outcome, Put, StoreError
from homenode_directory.store.fields import LogRecord
from homenode_directory.store.memory_store import Memory, MemoryStore
from tests.sim.faults import Faults

LATENCY_S = (0.0001, 0.002)


@dataclass(frozen=True, slots=True)
class Committed:
    """A version that the store took, when, and what it holds (None: deleted)."""

    at_s: float
    version: Version
    hash: str | None


@dataclass(slots=True)
class History:
    """Every version of every artifact in the order of the commits, and when memory was lost."""

    versions: dict[str, list[Committed]] = field(default_factory=dict)
    wiped_at_s: list[float] = field(default_factory=list)
    auditor: Auditor = field(default_factory=Auditor)
    listeners: list[Callable[[LogRecord], None]] = field(
        default_factory=list
    )  # of each entry, before anybody else is told
    items: list[Item] = field(default_factory=list)  # the log

    def log(self, slice_: int, sequence: int, data: bytes) -> None:
        """The store has appended to its log."""
        record, where = fields.decode_log(data), f"slice {slice_}, entry {sequence}"
        if sequence != self.auditor.heads.get(slice_, 0) + 1:
            self._see(Renewed(slice_, record.incarnation, sequence - 1, where))
        self._see(Logged(slice_, sequence, record, where))
        for hear in list(self.listeners):
            hear(record)

    def _see(self, item: Item) -> None:
        self.auditor.see(item)
        self.items.append(item)

    def add(self, at_s: float, artifact: str, record: fields.VersionRecord) -> None:
        """The store has taken a version."""
        hash_ = record.content.hash if record.content is not None else None
        self.versions.setdefault(artifact, []).append(Committed(at_s, record.version, hash_))

    def superseded_at_s(self, artifact: str, version: Version) -> float | None:
        """When something newer than `version` was first there, or the memory that had it was lost."""
        times = [c.at_s for c in self.versions.get(artifact, ()) if c.version > version]
        born = [c.at_s for c in self.versions.get(artifact, ()) if c.version == version]
        times += [at for at in self.wiped_at_s if born and at > born[0]]
        return min(times, default=None)


class FaultyStore:
    """`MemoryStore` as one server process sees it. `crash` kills that process."""

    def __init__(self, memory: Memory, faults: Faults, history: History, crash: Callable[[], None]) -> None:
        self._inner = MemoryStore(memory)
        self._faults = faults
        self._history = history
        self._crash = crash
        self.dead = False

    @property
    def shared(self) -> bool:
        return self._inner.shared

    @property
    def slices(self) -> int:
        return self._inner.slices

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Reads and the like: latency and the process's death, no other fault."""
        inner = getattr(self._inner, name)

        async def call(*args: Any, **named: Any) -> Any:
            await self._enter()
            return await inner(*args, **named)

        return call

    def hints(self) -> AsyncIterator[tuple[int, int]]:
        """None: servers poll."""
        return self._inner.hints()

    async def commit(
        self,
        slice_: int,
        incarnation: str,
        commits: Sequence[Commit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        await self._enter()
        faults = self._faults
        writes = any(commit.writes for commit in commits)
        if writes and faults.hit("crash_before"):
            await self._die()
        if faults.hit("store_unknown_before"):
            raise StoreError("the connection broke")
        outcomes = await self._inner.commit(slice_, incarnation, commits, relief=relief, blobs=blobs)
        self._record(slice_, commits, outcomes)
        if writes and faults.hit("crash_after"):
            await self._die()
        if _prepares(commits, outcomes) and faults.hit("crash_prepared"):
            await self._die()
        await asyncio.sleep(faults.rng.uniform(*LATENCY_S))
        if faults.hit("store_unknown_after"):
            raise StoreError("the connection broke")
        return outcomes

    async def _enter(self) -> None:
        if self.dead:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self._faults.rng.uniform(*LATENCY_S))
        if self.dead:
            await asyncio.get_running_loop().create_future()

    async def _die(self) -> None:
        self._crash()
        await asyncio.get_running_loop().create_future()

    def _record(self, slice_: int, commits: Sequence[Commit], outcomes: Sequence[Outcome]) -> None:
        now_s = asyncio.get_running_loop().time()
        for commit, outcome in zip(commits, outcomes, strict=True):
            if not outcome.ok:
                continue
            for i, data in enumerate(commit.log, outcome.head - len(commit.log) + 1):
                self._history.log(slice_, i, data)
            for write in commit.writes:
                if isinstance(write, Put) and write.key.startswith(fields.versions_key("")):
                    artifact = write.key.removeprefix(fields.versions_key(""))
                    self._history.add(now_s, artifact, fields.decode_version(write.value))


def _prepares(commits: Sequence[Commit], outcomes: Sequence[Outcome]) -> bool:
    """Whether a strict version is prepared now, and not published yet."""
    taken = [data for commit, outcome in zip(commits, outcomes, strict=True) if outcome.ok for data in commit.log]
    return any(isinstance(e, Inv) and e.prepared for data in taken for e in fields.decode_log(data).events)
