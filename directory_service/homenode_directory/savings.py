"""What the agents of each workspace have saved, by agent and artifact, for the last hour and the last day.

SDKs tell it for people to look at, and nothing rests on it. It is added up in memory and written into the store every
FLUSH_S, so a server that is killed takes no more than that with it, and all servers over a store tell the same.

Per slice:

  sv/<tenant>/<workspace>/<span>/<number>  record of a step of a span: rev; `s/<server>`, the last batch of a server
                                           that is in it; `l/[agent, key, strategy]` -> sums
  due/savings                              ranked set: record -> when it is of no use any more
  meta                                     record: savings, how many of these there are

Each batch has a number, and the commit that adds it writes the number too: when nobody knows whether it took effect,
the next look at the record tells, and nothing is counted twice.

Bounded: LINES_MAX lines a record, the largest; the others are added up by strategy, without agent and artifact. Where a
slice has RECORDS_MAX records no others are begun, and what would be in them is not counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from homenode_directory.content.bounds import KeyLocks
from homenode_directory.directory import Directory
from homenode_directory.errors import Contended
from homenode_directory.mistakes import Mistakes
from homenode_directory.observer import Saved
from homenode_directory.place import Place
from homenode_directory.slice import Slice
from homenode_directory.store.base import META, Add, Commit, Delete, Drop, Equals, Guard, Put, Rank, Unrank, Write
from homenode_directory.store.codec import dumps, loads

LOG = logging.getLogger("homenode.savings")

FLUSH_S = 5.0
CLOSE_S = 2.0  # how long a server that stops waits for the store
LINES_MAX = 128
TOLD_MAX = 256  # STRATEGIES_MAX of them for what is not told apart
STRATEGIES_MAX = 8
RECORDS_MAX = 4_096
PLACES_MAX = 256  # workspaces between two flushes
ROUNDS_MAX = 16  # servers that write into the same record at once
FORGET_MAX = 256

DUE_SAVINGS = "due/savings"
SAVINGS = "savings"
REV = "rev"
SERVER = "s/"
LINE = "l/"


class Line(NamedTuple):
    """What is told apart. Without agent and key: all others of the strategy."""

    agent: str
    key: str
    strategy: str


Sums = tuple[int, ...]
"""Tokens of hits, changes, unchanged; bytes of hits."""


class Span(NamedTuple):
    """A time that is told of, in so many `steps`."""

    name: str
    step_ms: int
    steps: int

    def key(self, place: Place, number: int) -> str:
        """The record of a step."""
        return f"sv/{place.tenant}/{place.workspace}/{self.name}/{number}"

    def keys(self, place: Place, now_ms: int) -> list[str]:
        """The records of all steps up to now, the oldest first."""
        last = now_ms // self.step_ms
        return [self.key(place, number) for number in range(last - self.steps + 1, last + 1)]


HOUR, DAY = Span("hour", 900_000, 4), Span("day", 3_600_000, 24)


@dataclass(frozen=True, slots=True)
class Told:
    """Of a workspace: lines of the last hour and day, the largest first; how long ago the first step of them began."""

    hour: list[tuple[Line, Sums]]
    day: list[tuple[Line, Sums]]
    since_ms: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a server adds to the records of a step: which record, and when it will be of no use."""

    number: int
    lines: Mapping[Line, Sums]
    records: Mapping[str, int]


class Ledger:
    """See the module.

    Args:
        ids: makes the name of this server, which no other has, nor itself when it is started again.
        mistakes: hears of what nobody expected; the next flush comes all the same.
    """

    def __init__(self, directory: Directory, ids: Callable[[], str], mistakes: Mistakes | None = None) -> None:
        self._directory = directory
        self._mistakes = mistakes or Mistakes()
        self._ids = ids
        self._server = ""
        self._batches = 0
        self._pending: dict[Place, dict[Line, Sums]] = {}
        self._unsure: dict[Place, _Batch] = {}  # those of which it is not known whether they were written
        self._locks = KeyLocks()
        self._complained = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write what was told from now on."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Write the rest, if the store answers in time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), CLOSE_S)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    def note(self, place: Place, savings: Iterable[Saved]) -> None:
        """An SDK has told this."""
        lines = self._pending.get(place)
        for saved in savings:
            if lines is None:
                if len(self._pending) >= PLACES_MAX:
                    return
                lines = self._pending[place] = {}
            line = Line(saved.agent, saved.key, saved.strategy)
            if line not in lines and len(lines) >= LINES_MAX:
                line = Line("", "", saved.strategy)
            _add(lines, line, saved.sums)

    async def flush(self) -> None:
        """Write what was told. What the store does not take now is kept for the next time."""
        for place in [*self._unsure, *self._pending]:
            await self._mistakes.guard("savings", self._flush(place))

    async def _flush(self, place: Place) -> None:
        """Write what was told of a workspace. Raises DirectoryError."""
        async with self._locks.hold(place):
            if place in self._unsure:
                await self._write(place, self._unsure[place])
                del self._unsure[place]
            if place in self._pending:
                now_ms = await self._now_ms(place)
                batch = self._unsure[place] = self._batch(place, now_ms)
                await self._write(place, batch)
                del self._unsure[place]

    def _batch(self, place: Place, now_ms: int) -> _Batch:
        self._server = self._server or self._ids()
        self._batches += 1
        records = {
            span.key(place, now_ms // span.step_ms): (now_ms // span.step_ms + span.steps) * span.step_ms
            for span in (HOUR, DAY)
        }
        return _Batch(self._batches, self._pending.pop(place), records)

    async def _now_ms(self, place: Place) -> int:
        """The time of the workspace's slice."""
        store, slice_ = self._directory.store, self._directory.slice_of(place)
        _, now_ms = await self._directory.store_call(store.by_score(slice_.number, DUE_SAVINGS, 1))
        return now_ms

    async def _write(self, place: Place, batch: _Batch) -> None:
        store, slice_, mark = self._directory.store, self._directory.slice_of(place), SERVER + self._server
        for _ in range(ROUNDS_MAX):
            keys = [META, *batch.records]
            meta, *records = await self._directory.store_call(store.load(slice_.number, keys))
            if any(record.get(mark) == str(batch.number) for record in records):
                return  # it was written when the store failed to say so
            room = RECORDS_MAX - int(meta.get(SAVINGS, "0"))
            commit = _added(batch, mark, dict(zip(batch.records, records, strict=True)), room)
            if not commit.writes:
                if not self._complained:
                    LOG.warning("no room for more savings", extra={"slice": slice_.number})
                self._complained = True
                return
            if (await self._directory.plain(slice_, partial(_as_is, commit), relief=False)).ok:
                return
        raise Contended("savings were written by others in every round")

    async def told(self, place: Place) -> Told:
        """What all servers have written of a workspace, and this one was told. Raises DirectoryError."""
        await self._flush(place)
        now_ms = await self._now_ms(place)
        keys = [key for span in (HOUR, DAY) for key in span.keys(place, now_ms)]
        number = self._directory.slice_of(place).number
        records = await self._directory.store_call(self._directory.store.load(number, keys))
        hours = records[HOUR.steps :]
        first = next((at for at, record in enumerate(hours) if record), None)
        began_ms = now_ms if first is None else (now_ms // DAY.step_ms - DAY.steps + 1 + first) * DAY.step_ms
        return Told(_ranked(records[: HOUR.steps]), _ranked(hours), now_ms - began_ms)

    async def forget(self, slice_: Slice) -> None:
        """Delete records of a slice that are of no use any more. Raises DirectoryError, StoreError."""
        store = self._directory.store
        due, now_ms = await store.by_score(slice_.number, DUE_SAVINGS, FORGET_MAX)
        keys = [key for key, at_ms in due if at_ms <= now_ms]
        records = await store.load(slice_.number, keys, (REV,)) if keys else []
        for key, record in zip(keys, records, strict=True):
            writes = (Delete(key), Unrank(DUE_SAVINGS, key), Add(META, SAVINGS, -1))
            commit = Commit((Equals(key, REV, record.get(REV)),), writes if record else writes[1:2])
            await self._directory.plain(slice_, partial(_as_is, commit))


def _added(batch: _Batch, mark: str, records: Mapping[str, Mapping[str, str]], room: int) -> Commit:
    """A batch, added to records as they are; those that do not exist yet only while there is room."""
    guards: list[Guard] = []
    writes: list[Write] = []
    for key, record in records.items():
        if not record and room <= 0:
            continue
        guards.append(Equals(key, REV, record.get(REV)))
        writes += [Put(key, REV, str(int(record.get(REV, "0")) + 1)), Put(key, mark, str(batch.number))]
        if not record:
            room -= 1
            writes += [Rank(DUE_SAVINGS, key, batch.records[key]), Add(META, SAVINGS, 1)]
        before = _lines(record)
        lines = dict(before)
        for line, sums in batch.lines.items():
            _add(lines, line, sums)
        lines = _largest(lines, LINES_MAX)
        writes += [Drop(key, _field(line)) for line in before if line not in lines]
        writes += [
            Put(key, _field(line), " ".join(map(str, sums))) for line, sums in lines.items() if before.get(line) != sums
        ]
    return Commit(tuple(guards), tuple(writes))


def _largest(lines: Mapping[Line, Sums], count: int) -> dict[Line, Sums]:
    """The largest, first; those that find no room are added up by strategy, of which there are few."""
    ranked = sorted(lines, key=lambda line: (-sum(lines[line][:3]), -lines[line][3], line))
    kept: dict[Line, Sums] = {}
    for line in ranked:
        other = Line("", "", line.strategy)
        _add(kept, line if len(kept) < count or line == other else other, lines[line])
    return kept


def _ranked(records: Iterable[Mapping[str, str]]) -> list[tuple[Line, Sums]]:
    """The lines of several records, added up."""
    lines: dict[Line, Sums] = {}
    for record in records:
        for line, sums in _lines(record).items():
            _add(lines, line, sums)
    return list(_largest(lines, TOLD_MAX - STRATEGIES_MAX).items())


def _lines(record: Mapping[str, str]) -> dict[Line, Sums]:
    at = len(LINE)
    return {
        Line(*loads(name[at:])): tuple(map(int, text.split())) for name, text in record.items() if name.startswith(LINE)
    }


def _field(line: Line) -> str:
    return LINE + dumps(list(line))


def _add(lines: dict[Line, Sums], line: Line, more: Sums) -> None:
    before = lines.get(line)
    lines[line] = more if before is None else tuple(a + b for a, b in zip(before, more, strict=True))


def _as_is(commit: Commit, slice_: Slice) -> Commit:
    """A commit that needs nothing from the slice."""
    return commit
