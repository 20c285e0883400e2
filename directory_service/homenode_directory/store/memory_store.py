"""A store in this process's memory: for simulation, tests and throw-away directories.

`Memory` is what a Redis process would hold; several `MemoryStore` clients may share one. It can be wiped, replaced by
an empty restart or set back to an older snapshot, and then refuses commits until the slice is adopted again, as the
durable stores do. Clock and ids come from outside, so a run can be repeated exactly.
"""

from __future__ import annotations

import bisect
import copy
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from homenode_directory.store.apply import apply
from homenode_directory.store.base import (
    META,
    OFFSET,
    Commit,
    Condition,
    Incarnation,
    LogTrimmed,
    Outcome,
    StoreChanged,
    StoreError,
)

DEFAULT_SLICES = 16
DEFAULT_LOG_MAX = 65_536

Clock = Callable[[], int]
Ids = Callable[[], str]


@dataclass(slots=True)
class Slice:
    """One slice: a `View` for `apply`. `first` is the sequence of the oldest retained log entry."""

    log_max: int
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    ranks: dict[str, dict[str, int]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    log: deque[bytes] = field(default_factory=deque)
    head: int = 0
    incarnation: Incarnation | None = None
    identity: str = ""

    @property
    def first(self) -> int:
        return self.head - len(self.log) + 1

    def field(self, key: str, name: str) -> str | None:
        record = self.records.get(key)
        return None if record is None else record.get(name)

    def exists(self, key: str) -> bool:
        return key in self.records or key in self.ranks or key in self.blobs

    def show(self, key: str) -> Mapping[str, str | int] | None:
        whole = self.records.get(key) or self.ranks.get(key)
        return None if whole is None else dict(whole)

    def put(self, key: str, name: str, value: str) -> None:
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = {}
        record[name] = value

    def drop(self, key: str, name: str) -> None:
        record = self.records.get(key)
        if record is not None and record.pop(name, None) is not None and not record:
            del self.records[key]

    def rank(self, key: str, member: str, score: int) -> None:
        self.ranks.setdefault(key, {})[member] = score

    def unrank(self, key: str, member: str) -> None:
        ranked = self.ranks.get(key)
        if ranked is not None and ranked.pop(member, None) is not None and not ranked:
            del self.ranks[key]

    def delete(self, key: str) -> None:
        self.records.pop(key, None)
        self.ranks.pop(key, None)
        self.blobs.pop(key, None)

    def append(self, data: bytes) -> None:
        self.log.append(data)
        self.head += 1
        if len(self.log) > self.log_max:
            self.log.popleft()


class Memory:
    """What outlives the clients of a memory store. `clock` returns milliseconds since the epoch."""

    def __init__(self, clock: Clock, ids: Ids, *, log_max: int = DEFAULT_LOG_MAX) -> None:
        self.clock = clock
        self.ids = ids
        self.log_max = log_max
        self.identity = ids()
        self.slices = 0
        self._data: dict[int, Slice] = {}

    def slice(self, slice_: int) -> Slice:
        """The slice's data, empty at first."""
        found = self._data.get(slice_)
        if found is None:
            found = self._data[slice_] = Slice(self.log_max)
        return found

    def wipe(self) -> None:
        """Forget everything while clients stay connected, as FLUSHALL does."""
        self.slices = 0
        self._data.clear()

    def restart_empty(self) -> None:
        """Come back as a new process with nothing."""
        self.wipe()
        self.identity = self.ids()

    def snapshot(self) -> dict[int, Slice]:
        """A copy for `restore`."""
        return copy.deepcopy(self._data)

    def restore(self, snapshot: Mapping[int, Slice]) -> None:
        """Come back as a new process with older data."""
        self._data = copy.deepcopy(dict(snapshot))
        self.identity = self.ids()

    def restart(self) -> None:
        """Come back as a new process with all data."""
        self.identity = self.ids()


class MemoryStore:
    """A client of a `Memory`. No method awaits anything, so each is atomic under asyncio."""

    shared = True

    def __init__(self, memory: Memory, *, slices: int = DEFAULT_SLICES) -> None:
        self.memory = memory
        self.slices = slices

    async def open(self) -> None:
        """Fix the number of slices at first use."""
        self.memory.slices = self.memory.slices or self.slices
        self.slices = self.memory.slices

    async def close(self) -> None:
        """Nothing to release."""

    async def adopt(self, slice_: int, at_least: int) -> Incarnation:
        """See `Store.adopt`."""
        memory, data = self.memory, self._slice(slice_)
        memory.slices = memory.slices or self.slices
        stored = data.incarnation
        if stored is None or data.identity != memory.identity or stored.number < at_least:
            number = max(stored.number + 1 if stored else 1, at_least, memory.clock())
            stored = data.incarnation = Incarnation(number, f"{number}-{memory.ids()}")
            data.identity = memory.identity
        return stored

    async def commit(
        self,
        slice_: int,
        incarnation: str,
        commits: Sequence[Commit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        """See `Store.commit`. There is no limit to run into, so `relief` changes nothing."""
        data = self._slice(slice_)
        self._check(data, incarnation)
        for key, data_ in blobs:
            data.blobs.setdefault(key, bytes(data_))
        return list(apply(data, commits, self._now_ms(data)))

    async def load(self, slice_: int, keys: Sequence[str], names: Sequence[str] = ()) -> list[Mapping[str, str]]:
        """See `Store.load`."""
        records = self._slice(slice_).records
        found = [records.get(key, {}) for key in keys]
        return [{name: one[name] for name in names or one if name in one} for one in found]

    async def ranked(self, slice_: int, key: str) -> Mapping[str, int]:
        """See `Store.ranked`."""
        return dict(self._slice(slice_).ranks.get(key, ()))

    async def by_prefix(self, slice_: int, key: str, prefix: str, after: str, limit: int) -> list[str]:
        """See `Store.by_prefix`."""
        members = sorted(m for m in self._slice(slice_).ranks.get(key, ()) if m.startswith(prefix))
        start = bisect.bisect_right(members, after)
        return members[start : start + limit]

    async def by_score(self, slice_: int, key: str, limit: int) -> tuple[list[tuple[str, int]], int]:
        """See `Store.by_score`."""
        data = self._slice(slice_)
        lowest = heapq.nsmallest(limit, data.ranks.get(key, {}).items(), key=lambda item: (item[1], item[0]))
        return lowest, self._now_ms(data)

    async def read_log(
        self, slice_: int, after: int, limit: int, *, incarnation: str | None = None
    ) -> tuple[list[tuple[int, bytes]], int]:
        """See `Store.read_log`."""
        data = self._slice(slice_)
        if incarnation is not None:
            self._check(data, incarnation)
        if after > data.head or after + 1 < data.first:
            kept = f"slice {slice_} keeps {data.first} to {data.head}"
            raise LogTrimmed(f"{kept}; asked for what follows {after}", data.head)
        skip = after + 1 - data.first
        return list(enumerate(islice(data.log, skip, skip + limit), after + 1)), data.head

    async def heads(self, slices: Mapping[int, str]) -> Mapping[int, int | None]:
        """See `Store.heads`."""
        found = {slice_: self._slice(slice_) for slice_ in slices}
        return {slice_: data.head if self._is(data, slices[slice_]) else None for slice_, data in found.items()}

    async def hints(self) -> AsyncIterator[tuple[int, int]]:
        """See `Store.hints`. Several clients of one memory are for tests and simulations, which poll."""
        nobody: tuple[tuple[int, int], ...] = ()
        for hint in nobody:
            yield hint

    async def trim_log(self, slice_: int, keep_from: int) -> None:
        """See `Store.trim_log`."""
        data = self._slice(slice_)
        while data.log and data.first < keep_from:
            data.log.popleft()

    async def put_blobs(self, slice_: int, blobs: Sequence[tuple[str, bytes]]) -> None:
        """See `Store.put_blobs`."""
        for key, data in blobs:
            self._slice(slice_).blobs.setdefault(key, bytes(data))

    async def get_blob(self, slice_: int, key: str) -> bytes | None:
        """See `Store.get_blob`."""
        return self._slice(slice_).blobs.get(key)

    async def weakness(self) -> str:
        """See `Store.weakness`."""
        return ""

    async def condition(self) -> Condition:
        """See `Store.condition`."""
        return Condition()

    async def now_ms(self) -> int:
        """See `Store.now_ms`."""
        return self.memory.clock()

    def _slice(self, slice_: int) -> Slice:
        if not 0 <= slice_ < self.slices:
            raise StoreError(f"no slice {slice_}: the store has {self.slices}")
        return self.memory.slice(slice_)

    def _is(self, data: Slice, incarnation: str) -> bool:
        stored = data.incarnation
        return stored is not None and stored.token == incarnation and data.identity == self.memory.identity

    def _check(self, data: Slice, incarnation: str) -> None:
        if not self._is(data, incarnation):
            raise StoreChanged("the slice's memory is not the one that was adopted")

    def _now_ms(self, data: Slice) -> int:
        return self.memory.clock() + int(data.field(META, OFFSET) or "0")
