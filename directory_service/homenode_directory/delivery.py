"""From the log to the sessions on this server's streams.

Each slice has a cursor: everything up to it has been handed to the sinks of the sessions attached here. What this
process commits arrives at once and moves the cursor when it is contiguous; whatever else is in the log is read from
the store, by every bookmark tick and by the poll. So an event is never skipped: a hole is read, and where the log no
longer has it, every session of the slice gets a RESYNC.

Who gets an invalidation: the sessions with *interest* in the artifact. Interest is noted before a request that may
make its session a sharer is committed (`expecting`), and goes when the session says that it dropped its copy. It may
be too wide, never too narrow. The committer gets its own invalidation too: until its answer arrives it does not know
that its older copy is obsolete, and the answer may never arrive.

A bookmark tells a session that everything up to a position has been sent, and that this position was the log's head
after the session's ping had arrived. Heads are read by a compare-only commit, so they are of the adopted memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from homenode_directory.incarnations import Incarnations
from homenode_directory.observer import SILENT, Observer
from homenode_directory.place import Place, Position
from homenode_directory.protocol.effects import Denial, Ended, Granted, Inv, Published, Reason, Refused
from homenode_directory.protocol.model import Cause
from homenode_directory.sinks import Bookmark, Change, Invalidation, LeaseLost, Resync, SessionOver, Sink
from homenode_directory.store import fields
from homenode_directory.store.base import Commit, Incarnation, LogTrimmed, Store, StoreChanged, StoreError
from homenode_directory.store.fields import LogRecord


@dataclass(frozen=True, slots=True)
class Attached:
    """Where a session's events go on from; `resync`: not from where it asked, so it must drop what it holds."""

    position: Position
    resync: bool


@dataclass(frozen=True, slots=True)
class Pace:
    """How often delivery looks, and how much it reads at once."""

    bookmark_ms: int = 25
    poll_ms: int = 100
    read_max: int = 1_024
    replay_max: int = 65_536


Answered = Callable[[Place, str, int, int], None]
"""Hears (place, session, request id, sequence) of every queued request that the log says is answered."""


@dataclass(slots=True)
class _Session:
    """A session on one of this server's streams."""

    place: Place
    sink: Sink
    interest: set[str] = field(default_factory=set)  # artifacts
    hoped: set[str] = field(default_factory=set)  # of these, the ones that it never got a copy of
    watches: dict[int, str] = field(default_factory=dict)  # watch id -> key prefix
    ping: tuple[int, int] | None = None  # (when it was sent, the lease on strict copies that it earned)


@dataclass(slots=True)
class _Cursor:
    """How far a slice's log has been delivered, and to whom."""

    position: Position
    token: str  # of the incarnation that the position lies in
    sessions: dict[str, _Session] = field(default_factory=dict)
    interested: dict[str, set[str]] = field(default_factory=dict)  # artifact -> sessions
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Delivery:
    """Delivers log entries to the sessions attached to this process."""

    def __init__(
        self, store: Store, incarnations: Incarnations, *, pace: Pace | None = None, observer: Observer = SILENT
    ) -> None:
        self.pace = pace or Pace()
        self._store = store
        self._incarnations = incarnations
        self._observer = observer
        self._cursors: dict[int, _Cursor] = {}
        self._slice_of: dict[str, int] = {}  # session -> slice
        self._expected: dict[str, dict[str, int]] = {}  # session, attached or not -> artifact -> requests under way
        self.answered: Answered | None = None
        self._tasks: list[asyncio.Task[None]] = []
        incarnations.listeners.append(self._new_incarnation)

    def start(self) -> None:
        """Begin to poll the log and to send bookmarks."""
        self._tasks = [
            asyncio.ensure_future(self._every(self.pace.poll_ms, self._poll)),
            asyncio.ensure_future(self._every(self.pace.bookmark_ms, self._bookmark)),
        ]

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- sessions -----------------------------------------------------------------------------------------------

    async def attach(
        self, place: Place, session: str, sink: Sink, holdings: Mapping[str, int], resume: Position | None
    ) -> Attached:
        """Bring a session's events onto a sink, from `resume` on where the log still has it.

        Args:
            holdings: keys of which the session declares to hold copies, with their version numbers.
            resume: the last position that the session has applied; None: start at the head.

        Raises:
            StoreError: the log cannot be read.
        """
        slice_ = place.slice_of(self._store.slices)
        cursor = await self._cursor(slice_)
        self.detach(session)
        state = _Session(place, sink)
        for key in holdings:
            state.interest.add(fields.artifact_of(place, key))
        attached = await self._catch_up(slice_, cursor, session, state, resume)
        if self._cursors.get(slice_) is not cursor:
            raise StoreChanged("the slice's memory changed meanwhile")
        self.detach(session)
        cursor.sessions[session] = state
        self._slice_of[session] = slice_
        if attached.resync:
            state.interest.clear()
        state.interest.update(self._expected.get(session, ()))
        for artifact in state.interest:
            cursor.interested.setdefault(artifact, set()).add(session)
        self._observer.gauge("sessions", len(self._slice_of))
        return attached

    def detach(self, session: str) -> None:
        """Take a session off its sink."""
        slice_ = self._slice_of.pop(session, None)
        if slice_ is None:
            return
        cursor = self._cursors[slice_]
        state = cursor.sessions.pop(session)
        for artifact in state.interest:
            self._uninterest(cursor, artifact, session)
        self._observer.gauge("sessions", len(self._slice_of))

    def attached(self, session: str) -> bool:
        """Whether the session is on one of this server's streams."""
        return session in self._slice_of

    def shared_by(self, session: str) -> Iterable[str]:
        """Artifacts of which the session may hold copies, as far as this server knows."""
        state = self._state(session)
        return sorted(state.interest) if state is not None else ()

    def expect(self, session: str, artifact: str) -> None:
        """Interest begins, for a request under way; a session attached meanwhile has it too."""
        under_way = self._expected.get(session)
        if under_way is None:
            under_way = self._expected[session] = {}
        under_way[artifact] = under_way.get(artifact, 0) + 1
        state = self._state(session)
        if state is not None and artifact not in state.interest:
            state.interest.add(artifact)
            state.hoped.add(artifact)
            self._cursors[self._slice_of[session]].interested.setdefault(artifact, set()).add(session)

    def settle(self, session: str, artifact: str, *, held: bool = True) -> None:
        """The request is answered. Interest stays until the session drops its copy, or ends if it never got one."""
        state = self._state(session)
        if held and state is not None:
            state.hoped.discard(artifact)
        under_way = self._expected.get(session)
        if under_way is not None:
            left = under_way.pop(artifact, 1) - 1
            if left > 0:
                under_way[artifact] = left
                return
            if not under_way:
                del self._expected[session]
        if state is not None and artifact in state.hoped:
            self._drop(session, state, artifact)

    def drop(self, session: str, key: str) -> None:
        """The session holds no copy of `key` any more."""
        state = self._state(session)
        if state is not None:
            artifact = fields.artifact_of(state.place, key)
            if artifact not in self._expected.get(session, ()):
                self._drop(session, state, artifact)

    def _drop(self, session: str, state: _Session, artifact: str) -> None:
        state.interest.discard(artifact)
        state.hoped.discard(artifact)
        self._uninterest(self._cursors[self._slice_of[session]], artifact, session)

    async def watch(self, session: str, watch: int, prefix: str, after: Position | None) -> Position:
        """Send changes under `prefix` to the session's sink, those after `after` first.

        Raises:
            LogTrimmed: the log no longer has what came after `after`.
            KeyError: the session is not attached here.
        """
        slice_ = self._slice_of[session]
        cursor = self._cursors[slice_]
        state = cursor.sessions[session]
        async with cursor.lock:
            if after is not None:
                if after.incarnation != cursor.position.incarnation:
                    raise LogTrimmed("another incarnation")
                for sequence, record in await self._between(slice_, cursor, after.sequence):
                    for event in record.events:
                        self._tell_watch(session, state, watch, prefix, record, event, sequence)
            state.watches[watch] = prefix
            return cursor.position

    def unwatch(self, session: str, watch: int) -> None:
        """Stop a watch."""
        state = self._state(session)
        if state is not None:
            state.watches.pop(watch, None)

    def ping(self, session: str, sent_at: int, lease_ms: int = 0) -> None:
        """A sign of life that the next bookmark echoes, with a head that is read after this call.

        Args:
            lease_ms: the session's record was renewed by a commit made after the ping had arrived and before this call,
                so with that bookmark its strict copies may be served until so long after `sent_at`. 0: it was not.
        """
        state = self._state(session)
        if state is not None:
            state.ping = (sent_at, lease_ms)

    def _state(self, session: str) -> _Session | None:
        slice_ = self._slice_of.get(session)
        return None if slice_ is None else self._cursors[slice_].sessions[session]

    @staticmethod
    def _uninterest(cursor: _Cursor, artifact: str, session: str) -> None:
        interested = cursor.interested.get(artifact)
        if interested is not None:
            interested.discard(session)
            if not interested:
                del cursor.interested[artifact]

    # --- the log ------------------------------------------------------------------------------------------------

    def committed(self, slice_: int, incarnation: int, entries: list[tuple[int, bytes]]) -> None:
        """Entries that this process has just committed; delivered at once when nothing lies between."""
        cursor = self._cursors.get(slice_)
        if cursor is None or cursor.lock.locked() or cursor.position.incarnation != incarnation:
            return
        for sequence, data in entries:
            if sequence == cursor.position.sequence + 1:
                self._deliver(cursor, sequence, data)

    async def _cursor(self, slice_: int) -> _Cursor:
        while (cursor := self._cursors.get(slice_)) is None:
            incarnation = await self._incarnations.current(slice_)
            head = await self._head(slice_, incarnation)
            if self._incarnations.known(slice_) == incarnation:  # else it changed meanwhile, and nobody is told again
                self._cursors.setdefault(slice_, _Cursor(Position(incarnation.number, head), incarnation.token))
        return cursor

    async def _head(self, slice_: int, incarnation: Incarnation) -> int:
        (outcome,) = await self._store.commit(slice_, incarnation.token, [Commit()])
        return outcome.head

    async def _catch_up(
        self, slice_: int, cursor: _Cursor, session: str, state: _Session, resume: Position | None
    ) -> Attached:
        """Replay for one session what lies between its position and the cursor; the lock holds the cursor still."""
        if resume is None:  # whatever it holds, nobody knows what it missed since
            return Attached(cursor.position, bool(state.interest))
        async with cursor.lock:
            at = cursor.position
            if resume.incarnation != at.incarnation or at.sequence - resume.sequence > self.pace.replay_max:
                return Attached(at, True)
            if resume.sequence > at.sequence:
                await self._advance(slice_, cursor)
                at = cursor.position
                if resume.sequence > at.sequence:
                    return Attached(at, True)
            try:
                missed = await self._between(slice_, cursor, resume.sequence)
            except LogTrimmed:
                return Attached(at, True)
            state.interest.update(self._expected.get(session, ()))
            for sequence, record in missed:
                for event in record.events:
                    self._tell(session, state, record, event, sequence)
            return Attached(resume, False)

    async def _between(self, slice_: int, cursor: _Cursor, after: int) -> list[tuple[int, LogRecord]]:
        """What lies after a sequence, up to the cursor."""
        found: list[tuple[int, LogRecord]] = []
        until = cursor.position.sequence
        while after < until:
            limit = min(self.pace.read_max, until - after)
            entries, _ = await self._store.read_log(slice_, after, limit, incarnation=cursor.token)
            if not entries:
                raise LogTrimmed("the log ends early")
            found.extend((sequence, fields.decode_log(data)) for sequence, data in entries)
            after = entries[-1][0]
        return found

    async def _advance(self, slice_: int, cursor: _Cursor) -> None:
        """Deliver everything that the log has beyond the cursor. The caller holds the lock."""
        while True:
            try:
                entries, head = await self._store.read_log(
                    slice_, cursor.position.sequence, self.pace.read_max, incarnation=cursor.token
                )
            except StoreChanged:
                await self._incarnations.renew(slice_, cursor.token)
                return
            except LogTrimmed:
                incarnation = await self._incarnations.current(slice_)
                head = await self._head(slice_, incarnation)
                if incarnation.token == cursor.token:
                    self._resync(cursor, Position(incarnation.number, head))
                return
            for sequence, data in entries:
                self._deliver(cursor, sequence, data)
            self._observer.lag(slice_, head, cursor.position.sequence)
            if cursor.position.sequence >= head:
                return

    def _deliver(self, cursor: _Cursor, sequence: int, data: bytes) -> None:
        record = fields.decode_log(data)
        watchers = [(s, state) for s, state in cursor.sessions.items() if state.watches]
        for event in record.events:
            if isinstance(event, Ended):
                state = cursor.sessions.get(event.session)
                if state is not None:
                    self._tell(event.session, state, record, event, sequence)
            elif isinstance(event, Inv):
                for session in sorted(cursor.interested.get(record.artifact, ())):
                    self._tell(session, cursor.sessions[session], record, event, sequence)
            elif isinstance(event, Granted | Refused | Published) and event.request and self.answered is not None:
                self.answered(fields.split_artifact(record.artifact)[0], event.session, event.request, sequence)
            for session, state in watchers:
                for watch, prefix in state.watches.items():
                    self._tell_watch(session, state, watch, prefix, record, event, sequence)
        cursor.position = Position(cursor.position.incarnation, sequence)

    def _tell(self, session: str, state: _Session, record: LogRecord, event: object, sequence: int) -> None:
        """Send what concerns the session of one log event: obsolete copies, its own lease."""
        place, key = fields.split_artifact(record.artifact)
        if isinstance(event, Inv):
            if record.artifact in state.interest and place == state.place:
                deleted = event.content is None
                state.sink.push(
                    Invalidation(
                        session, key, event.version, event.fence, sequence, event.session, deleted, event.prepared
                    )
                )
                self._observer.delivered("invalidation")
        elif isinstance(event, Ended) and event.session == session and event.cause is not Cause.RELEASED:
            state.sink.push(LeaseLost(session, key, event.lease, event.cause, sequence))
            self._observer.delivered("lease_lost")

    def _tell_watch(
        self, session: str, state: _Session, watch: int, prefix: str, record: LogRecord, event: object, sequence: int
    ) -> None:
        published = isinstance(event, Published) or (isinstance(event, Inv) and not event.prepared)
        place, key = fields.split_artifact(record.artifact)
        if not published or place != state.place or not key.startswith(prefix):
            return
        assert isinstance(event, Inv | Published)
        size = event.content.size if event.content is not None else 0
        deleted = event.content is None
        state.sink.push(Change(session, watch, key, event.version, deleted, event.session, sequence, size))
        self._observer.delivered("change")

    # --- ticks --------------------------------------------------------------------------------------------------

    async def _every(self, period_ms: int, tick: object) -> None:
        assert callable(tick)
        while True:
            await asyncio.sleep(period_ms / 1_000)
            await asyncio.gather(
                *(tick(slice_, cursor) for slice_, cursor in self._cursors.items() if cursor.sessions),
                return_exceptions=True,
            )

    async def _poll(self, slice_: int, cursor: _Cursor) -> None:
        async with cursor.lock:
            await self._advance(slice_, cursor)

    async def _bookmark(self, slice_: int, cursor: _Cursor) -> None:
        """Answer all pings that have arrived with one head."""
        pinged = [(s, state, state.ping) for s, state in cursor.sessions.items() if state.ping is not None]
        if not pinged:
            return
        incarnation = await self._incarnations.current(slice_)
        try:
            head = await self._head(slice_, incarnation)
            async with cursor.lock:
                if cursor.position.sequence < head:
                    await self._advance(slice_, cursor)
                at = cursor.position
        except StoreChanged:
            await self._incarnations.renew(slice_, incarnation.token)
            return
        except StoreError:
            return  # no bookmark: copies age out where the store cannot be asked
        if at.incarnation != incarnation.number or at.sequence < head:
            return
        for session, state, ping in pinged:
            if state.ping is ping:
                state.ping = None
            if cursor.sessions.get(session) is state and ping is not None:
                state.sink.push(Bookmark(session, Position(at.incarnation, at.sequence), *ping))
        self._observer.delivered("bookmark", len(pinged))

    # --- lost memory --------------------------------------------------------------------------------------------

    def _new_incarnation(self, slice_: int, incarnation: Incarnation) -> None:
        """The slice's memory is another: every session of the old one is over."""
        cursor = self._cursors.pop(slice_, None)
        if cursor is None:
            return
        over = Denial(Reason.SESSION_LOST, "the directory's memory changed")
        for session, state in list(cursor.sessions.items()):
            self._slice_of.pop(session, None)
            state.sink.push(SessionOver(session, over))

    def _resync(self, cursor: _Cursor, position: Position) -> None:
        """Entries are gone: every session starts anew from `position`, and drops what it holds.

        Interest stays: an answer that holds as of `position` may be on its way still.
        """
        cursor.position = position
        for session, state in cursor.sessions.items():
            state.sink.push(Resync(session, position))
            self._observer.resync()
