"""Following the slices' logs, as far as somebody here wants to hear of them.

Each slice has a cursor: everything up to it has been handed on. What this process commits arrives at once and moves
the cursor when it is contiguous; until then it waits beside it. Whatever lies between is read from the log, one read
at a time: when an own commit shows a hole, when the store hints at another process's commit, at every poll, and before
every bookmark. So an entry is never skipped; where the log no longer has one, `missed` says so.

A slice in which nobody listens (no session on a stream, no request that waits) is not followed: its cursor stands
still, and jumps to the head when somebody comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from homenode_directory.audience import Audience
from homenode_directory.incarnations import Incarnations
from homenode_directory.mistakes import Mistakes
from homenode_directory.observer import Observer
from homenode_directory.place import Position
from homenode_directory.store import fields
from homenode_directory.store.base import LogTrimmed, Store, StoreChanged, StoreError
from homenode_directory.store.fields import LogRecord

EARLY_MAX = 1_024
LISTEN_AGAIN_S = (0.1, 5.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often delivery looks, and how much it reads at once."""

    bookmark_ms: int = 25
    poll_ms: int = 100
    read_max: int = 1_024
    replay_max: int = 65_536


@dataclass(slots=True, eq=False)
class Cursor:
    """How far a slice's log has been handed on. `lock` holds it still against reads of the log."""

    slice_: int
    position: Position
    token: str  # of the incarnation that the position lies in
    audience: Audience
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    early: dict[int, LogRecord] = field(default_factory=dict)  # own entries beyond a hole, by sequence
    behind: bool = False
    reading: asyncio.Task[None] | None = None


Deliver = Callable[[Cursor, int, LogRecord], None]
"""Hands on one log entry; never blocks, never raises."""

Missed = Callable[[Cursor], None]
"""Entries up to the cursor's position are gone unread."""


class Tail:
    """See the module.

    Args:
        deliver, missed: what is done with entries, and without them.
        awaited: whether requests of a slice wait for an answer that the log will tell of.
    """

    def __init__(
        self,
        store: Store,
        incarnations: Incarnations,
        pace: Pace,
        observer: Observer,
        mistakes: Mistakes,
        *,
        deliver: Deliver,
        missed: Missed,
    ) -> None:
        self.pace = pace
        self.cursors: dict[int, Cursor] = {}
        self.awaited: Callable[[int], bool] = lambda slice_: False
        self._store = store
        self._incarnations = incarnations
        self._observer = observer
        self._mistakes = mistakes
        self._deliver = deliver
        self._missed = missed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to poll and to listen for hints."""
        self.every(self.pace.poll_ms, self.poll)
        self._tasks.append(asyncio.ensure_future(self._listen()))

    def every(self, period_ms: int, tick: Callable[[], Awaitable[None]]) -> None:
        """Call `tick` again and again until `close`; what it did not expect is told, and it goes on."""

        async def run() -> None:
            while True:
                await asyncio.sleep(period_ms / 1_000)
                await self._mistakes.guard("delivery", tick())

        self._tasks.append(asyncio.ensure_future(run()))

    async def close(self) -> None:
        """Stop."""
        tasks = [*self._tasks, *(cursor.reading for cursor in self.cursors.values() if cursor.reading is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- who listens --------------------------------------------------------------------------------------------

    def listens(self, cursor: Cursor) -> bool:
        """Whether anybody here wants to hear of the slice."""
        return bool(cursor.audience.members) or self.awaited(cursor.slice_)

    async def cursor(self, slice_: int) -> Cursor:
        """The slice's cursor, at the log's head if nobody listened before. Raises StoreError."""
        while (cursor := self.cursors.get(slice_)) is None or not self.listens(cursor):
            incarnation = await self._incarnations.current(slice_)
            head = (await self._store.heads({slice_: incarnation.token}))[slice_]
            if head is None:
                await self._incarnations.renew(slice_, incarnation.token)
            elif self._incarnations.known(slice_) == incarnation:  # else it changed meanwhile
                return self._at(slice_, Position(incarnation.number, head), incarnation.token)
        return cursor

    def follow(self, slice_: int, incarnation: int, head: int) -> None:
        """A request begins to wait for what the log will say beyond `head`."""
        known = self._incarnations.known(slice_)
        if known is not None and known.number == incarnation:
            self._at(slice_, Position(incarnation, head), known.token)

    def _at(self, slice_: int, position: Position, token: str) -> Cursor:
        """The cursor, at `position` unless somebody listens already, who must miss nothing before it."""
        cursor = self.cursors.get(slice_)
        if cursor is None:
            cursor = self.cursors[slice_] = Cursor(slice_, position, token, Audience(self._observer))
        elif not self.listens(cursor) and not cursor.lock.locked():
            cursor.position = max(cursor.position, position)
        return cursor

    @asynccontextmanager
    async def hold(self, cursor: Cursor) -> AsyncIterator[None]:
        """Keep the cursor where it is, but for `advance`; what this process commits meanwhile follows."""
        async with cursor.lock:
            try:
                yield
            finally:
                self._settle_early(cursor)
        if cursor.early:  # beyond a hole
            self.look(cursor)

    # --- the log ------------------------------------------------------------------------------------------------

    def committed(self, slice_: int, incarnation: int, entries: list[tuple[int, LogRecord]]) -> None:
        """Entries that this process has just committed; handed on at once when nothing lies between."""
        cursor = self.cursors.get(slice_)
        if cursor is None or cursor.position.incarnation != incarnation or not self.listens(cursor):
            return
        cursor.early.update(entries)
        if not cursor.lock.locked():
            self._settle_early(cursor)
            if cursor.early:
                self.look(cursor)
        while len(cursor.early) > EARLY_MAX:
            del cursor.early[max(cursor.early)]

    def hinted(self, slice_: int, head: int) -> None:
        """Another process has committed, up to `head`."""
        cursor = self.cursors.get(slice_)
        if cursor is not None and head > cursor.position.sequence and self.listens(cursor):
            self.look(cursor)

    def look(self, cursor: Cursor) -> None:
        """Read, soon, what the log has beyond the cursor."""
        cursor.behind = True
        if cursor.reading is None:
            cursor.reading = asyncio.ensure_future(self._read(cursor))

    async def _read(self, cursor: Cursor) -> None:
        try:
            while cursor.behind:
                cursor.behind = False
                await self._mistakes.guard("delivery", self._poll(cursor))
        finally:
            cursor.reading = None

    async def poll(self) -> None:
        """Look at every slice in which somebody listens, whatever was heard of it."""
        await self.each(self._poll(cursor) for cursor in list(self.cursors.values()) if self.listens(cursor))

    async def each(self, calls: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run calls together; a failure of one is none of the others."""
        await asyncio.gather(*(self._mistakes.guard("delivery", call) for call in calls))

    async def _poll(self, cursor: Cursor) -> None:
        async with self.hold(cursor):
            await self.advance(cursor)

    async def advance(self, cursor: Cursor) -> None:
        """Hand on everything that the log has beyond the cursor, which the caller holds."""
        slice_ = cursor.slice_
        while True:
            try:
                entries, head = await self._store.read_log(
                    slice_, cursor.position.sequence, self.pace.read_max, incarnation=cursor.token
                )
            except StoreChanged:
                await self._incarnations.renew(slice_, cursor.token)
                return
            except LogTrimmed:
                await self._skip(cursor)
                return
            for sequence, data in entries:
                self._hand_on(cursor, sequence, fields.decode_log(data))
            self._observer.lag(slice_, head, cursor.position.sequence)
            if cursor.position.sequence >= head:
                return

    async def _skip(self, cursor: Cursor) -> None:
        """What follows the cursor is no longer in the log."""
        head = (await self._store.heads({cursor.slice_: cursor.token}))[cursor.slice_]
        if head is None:
            await self._incarnations.renew(cursor.slice_, cursor.token)
            return
        cursor.position = Position(cursor.position.incarnation, head)
        self._missed(cursor)

    async def between(self, cursor: Cursor, after: int) -> list[tuple[int, LogRecord]]:
        """What lies after a sequence, up to the cursor. Raises LogTrimmed."""
        found: list[tuple[int, LogRecord]] = []
        until = cursor.position.sequence
        while after < until:
            limit = min(self.pace.read_max, until - after)
            entries, _ = await self._store.read_log(cursor.slice_, after, limit, incarnation=cursor.token)
            if not entries:
                raise LogTrimmed("the log ends early")
            found.extend((sequence, fields.decode_log(data)) for sequence, data in entries)
            after = entries[-1][0]
        return found

    def _settle_early(self, cursor: Cursor) -> None:
        """Hand on own entries that are contiguous now, and forget those that were read from the log."""
        early = cursor.early
        while early:
            record = early.pop(cursor.position.sequence + 1, None)
            if record is not None:
                self._hand_on(cursor, cursor.position.sequence + 1, record)
                continue
            for sequence in [s for s in early if s <= cursor.position.sequence]:
                del early[sequence]
            return

    def _hand_on(self, cursor: Cursor, sequence: int, record: LogRecord) -> None:
        cursor.position = Position(cursor.position.incarnation, sequence)
        self._deliver(cursor, sequence, record)

    # --- hints --------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Hear of other processes' commits as long as the store tells of them; the poll finds what is missed."""
        pause_s = LISTEN_AGAIN_S[0]
        while True:
            try:
                async for slice_, head in self._store.hints():
                    self.hinted(slice_, head)
                    pause_s = LISTEN_AGAIN_S[0]
                return  # nobody else commits to this store
            except StoreError:
                pass
            except Exception as mistake:
                self._mistakes.tell("hints", mistake)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LISTEN_AGAIN_S[1])
