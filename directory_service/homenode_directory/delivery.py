"""From the log to the sessions on this server's streams.

`tail` follows the logs, `audience` knows who is told what; here sessions come and go, and bookmarks are made.

A bookmark tells a session that everything up to a position has been sent, and that this position was the log's head
after the session's ping had arrived. One read of all heads answers all pings of a tick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from homenode_directory.audience import Audience, Member, Ping
from homenode_directory.incarnations import Incarnations
from homenode_directory.mistakes import Mistakes
from homenode_directory.observer import SILENT, Observer
from homenode_directory.place import Place, Position
from homenode_directory.protocol.effects import Denial, Granted, Inv, Published, Reason, Refused
from homenode_directory.sinks import Bookmark, Crowded, SessionOver, Sink
from homenode_directory.store import fields
from homenode_directory.store.base import Incarnation, LogTrimmed, Store, StoreChanged
from homenode_directory.store.fields import LogRecord
from homenode_directory.tail import Cursor, Pace, Tail

COPIES_MAX = 65_536
"""Artifacts that a session is told of. It may declare fewer when it attaches, so it has room then."""


@dataclass(frozen=True, slots=True)
class Attached:
    """Where a session's events go on from; `resync`: not from where it asked, so it must drop what it holds."""

    position: Position
    resync: bool


# Looked up by type: `isinstance` of a union makes the union anew each time.
_ANSWERING = frozenset({Granted, Refused, Published})
_OBSOLETING = frozenset({Inv, Published})

Answered = Callable[[Place, str, int, int], None]
"""Hears (place, session, request id, sequence) of every queued request that the log says is answered."""

Unheard = Callable[[int], None]
"""Hears of a slice in whose log answers may have been missed."""


Superseded = Callable[[str, Inv | Published], None]
"""Hears of every version that the log tells of, with its artifact."""

Pushing = Callable[[Audience, str, Inv | Published, Mapping[Member, bool]], None]
"""Hears that a version's content is to be sent by itself: of which artifact, and to whom (see `Audience.to_push`)."""


class Delivery:
    """Delivers log entries to the sessions attached to this process, and tells `answered` of queued requests."""

    def __init__(
        self,
        store: Store,
        incarnations: Incarnations,
        *,
        pace: Pace | None = None,
        observer: Observer = SILENT,
        mistakes: Mistakes | None = None,
    ) -> None:
        self._store = store
        self._incarnations = incarnations
        self._observer = observer
        self.tail = Tail(
            store,
            incarnations,
            pace or Pace(),
            observer,
            mistakes or Mistakes(observer),
            deliver=self._deliver,
            missed=self._missed,
        )
        self.committed = self.tail.committed
        self.copies_max = COPIES_MAX
        self._slice_of: dict[str, int] = {}  # session -> slice
        self._expected: dict[str, dict[str, int]] = {}  # session, attached or not -> artifact -> requests under way
        self.answered: Answered | None = None
        self.pushing: Pushing | None = None
        self.superseded: Superseded | None = None
        self.unheard: Unheard = lambda slice_: None
        incarnations.listeners.append(self._new_incarnation)

    def start(self) -> None:
        """Begin to follow the logs and to send bookmarks."""
        self.tail.start()
        self.tail.every(self.tail.pace.bookmark_ms, self.bookmark)

    async def close(self) -> None:
        """Stop."""
        await self.tail.close()

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
        cursor = await self.tail.cursor(slice_)
        self.detach(session)
        member = Member(session, place, sink, {fields.artifact_of(place, key) for key in holdings})
        if resume is None:  # whatever it holds, nobody knows what it missed since
            attached = Attached(cursor.position, bool(member.interest))
            self._join(cursor, member, attached)
        else:
            async with self.tail.hold(cursor):
                attached = await self._catch_up(cursor, member, resume)
                self._join(cursor, member, attached)  # before what is committed meanwhile is handed on
        self.tail.look(cursor)
        return attached

    def _join(self, cursor: Cursor, member: Member, attached: Attached) -> None:
        """The session is told of everything from the cursor on."""
        if self.tail.cursors.get(cursor.slice_) is not cursor:
            raise StoreChanged("the slice's memory changed meanwhile")
        self.detach(member.session)
        self._slice_of[member.session] = cursor.slice_
        if attached.resync:
            member.interest.clear()
        member.interest.update(self._expected.get(member.session, ()))
        cursor.audience.add(member)
        self._observer.gauge("sessions", len(self._slice_of))

    def detach(self, session: str) -> None:
        """Take a session off its sink."""
        slice_ = self._slice_of.pop(session, None)
        if slice_ is not None:
            self.tail.cursors[slice_].audience.remove(session)
            self._observer.gauge("sessions", len(self._slice_of))

    def attached(self, session: str) -> bool:
        """Whether the session is on one of this server's streams."""
        return session in self._slice_of

    def shared_by(self, session: str) -> Iterable[str]:
        """Artifacts of which the session may hold copies, as far as this server knows."""
        member = self._member(session)
        return sorted(member.interest) if member is not None else ()

    def expect(self, session: str, artifact: str) -> None:
        """Interest begins, for a request under way; a session attached meanwhile has it too."""
        under_way = self._expected.get(session)
        if under_way is None:
            under_way = self._expected[session] = {}
        under_way[artifact] = under_way.get(artifact, 0) + 1
        slice_ = self._slice_of.get(session)
        if slice_ is not None:
            audience = self.tail.cursors[slice_].audience
            member = audience.members[session]
            if artifact not in member.interest:
                audience.interest(member, artifact)
                member.hoped.add(artifact)
                if len(member.interest) == self.copies_max + 1:
                    member.sink.push(Crowded(session))

    def settle(self, session: str, artifact: str, *, held: bool = True) -> None:
        """The request is answered. Interest stays until the session drops its copy, or ends if it never got one."""
        member = self._member(session)
        if held and member is not None:
            member.hoped.discard(artifact)
        under_way = self._expected.get(session)
        if under_way is not None:
            left = under_way.pop(artifact, 1) - 1
            if left > 0:
                under_way[artifact] = left
                return
            if not under_way:
                del self._expected[session]
        if member is not None and artifact in member.hoped:
            self.tail.cursors[self._slice_of[session]].audience.drop(member, artifact)

    def told(self, session: str, artifact: str, fence: int) -> tuple[int, str]:
        """When what an acknowledgement speaks of was committed, by the slice's time, and its traceparent.

        0 and "" where that is not remembered.
        """
        slice_ = self._slice_of.get(session)
        return (0, "") if slice_ is None else self.tail.cursors[slice_].audience.rounds.get((artifact, fence), (0, ""))

    def drop(self, session: str, key: str) -> None:
        """The session holds no copy of `key` any more."""
        member = self._member(session)
        if member is not None:
            artifact = fields.artifact_of(member.place, key)
            if artifact not in self._expected.get(session, ()):
                self.tail.cursors[self._slice_of[session]].audience.drop(member, artifact)

    async def watch(self, session: str, watch: int, prefix: str, after: Position | None) -> Position:
        """Send changes under `prefix` to the session's sink, those after `after` first.

        Raises:
            LogTrimmed: the log no longer has what came after `after`.
            KeyError: the session is not attached here.
        """
        cursor = self.tail.cursors[self._slice_of[session]]
        member = cursor.audience.members[session]
        async with self.tail.hold(cursor):
            if after is not None:
                if after.incarnation != cursor.position.incarnation:
                    raise LogTrimmed("another incarnation")
                for sequence, record in await self.tail.between(cursor, after.sequence):
                    for event in record.events:
                        member.tell_watch(watch, prefix, record, event, sequence)
            if cursor.audience.members.get(session) is not member:
                raise KeyError(session)
            cursor.audience.watch(member, watch, prefix)
            return cursor.position

    def unwatch(self, session: str, watch: int) -> None:
        """Stop a watch."""
        member = self._member(session)
        if member is not None:
            self.tail.cursors[self._slice_of[session]].audience.unwatch(member, watch)

    def ping(self, session: str, sent_at: int, lease_ms: int = 0) -> None:
        """A sign of life that the next bookmark echoes, with a head that is read after this call.

        Args:
            lease_ms: the session's record was renewed by a commit made after the ping had arrived and before this call,
                so with that bookmark its strict copies may be served until so long after `sent_at`. 0: it was not.
        """
        slice_ = self._slice_of.get(session)
        if slice_ is not None:
            audience = self.tail.cursors[slice_].audience
            audience.pinged[audience.members[session]] = Ping(sent_at, lease_ms)

    def _member(self, session: str) -> Member | None:
        slice_ = self._slice_of.get(session)
        return None if slice_ is None else self.tail.cursors[slice_].audience.members[session]

    # --- the log ------------------------------------------------------------------------------------------------

    async def _catch_up(self, cursor: Cursor, member: Member, resume: Position) -> Attached:
        """Replay for one session what lies between its position and the cursor, which the caller holds."""
        if resume.sequence > cursor.position.sequence:
            await self.tail.advance(cursor)
        at = cursor.position
        missing = at.sequence - resume.sequence
        if resume.incarnation != at.incarnation or not 0 <= missing <= self.tail.pace.replay_max:
            return Attached(at, True)
        try:
            missed = await self.tail.between(cursor, resume.sequence)
        except LogTrimmed:
            return Attached(at, True)
        member.interest.update(self._expected.get(member.session, ()))
        for sequence, record in missed:
            for event in record.events:
                member.tell(record, event, sequence)
        return Attached(resume, False)

    def _deliver(self, cursor: Cursor, sequence: int, record: LogRecord) -> None:
        audience = cursor.audience
        for event in record.events:
            kind: type = type(event)
            if kind in _ANSWERING and event.request and self.answered is not None:  # type: ignore[union-attr]
                place, _ = fields.split_artifact(record.artifact)
                self.answered(place, event.session, event.request, sequence)  # type: ignore[union-attr]
            audience.tell(record, event, sequence)
            if kind in _OBSOLETING and self.superseded is not None:
                self.superseded(record.artifact, event)  # type: ignore[arg-type]
            if kind in _OBSOLETING and event.push is not None and self.pushing is not None:  # type: ignore[union-attr]
                wanted = audience.to_push(record, event)  # type: ignore[arg-type]
                if wanted:
                    self.pushing(audience, record.artifact, event, wanted)  # type: ignore[arg-type]

    def _missed(self, cursor: Cursor) -> None:
        """Entries are gone unread."""
        cursor.audience.resync(cursor.position)
        self.unheard(cursor.slice_)

    # --- bookmarks ----------------------------------------------------------------------------------------------

    async def bookmark(self) -> None:
        """Answer all pings that have arrived, of all slices, with one read of the heads. Raises StoreError."""
        cursors = [cursor for cursor in self.tail.cursors.values() if cursor.audience.pinged]
        if cursors:
            pings = [dict(cursor.audience.pinged) for cursor in cursors]
            heads = await self._store.heads({cursor.slice_: cursor.token for cursor in cursors})
            await self.tail.each(
                self._bookmark(cursor, heads[cursor.slice_], pinged)
                for cursor, pinged in zip(cursors, pings, strict=True)
            )

    async def _bookmark(self, cursor: Cursor, head: int | None, pinged: dict[Member, Ping]) -> None:
        """Answer the pings of a slice that came before its head was read."""
        if head is None:
            await self._incarnations.renew(cursor.slice_, cursor.token)
            return
        if cursor.position.sequence < head:
            async with self.tail.hold(cursor):
                if cursor.position.sequence < head:
                    await self.tail.advance(cursor)
        at, audience = cursor.position, cursor.audience
        if at.sequence < head or self.tail.cursors.get(cursor.slice_) is not cursor:
            return  # the pings wait for the next round
        for member, ping in pinged.items():
            if audience.members.get(member.session) is member:
                member.sink.push(Bookmark(member.session, at, *ping))
                if audience.pinged.get(member) is ping:
                    del audience.pinged[member]
        self._observer.delivered("bookmark", len(pinged))

    # --- lost memory --------------------------------------------------------------------------------------------

    def _new_incarnation(self, slice_: int, incarnation: Incarnation) -> None:
        """The slice's memory is another: every session of the old one is over."""
        cursor = self.tail.cursors.pop(slice_, None)
        if cursor is None:
            return
        over = Denial(Reason.SESSION_LOST, "the directory's memory changed")
        for session, member in cursor.audience.members.items():
            self._slice_of.pop(session, None)
            member.sink.push(SessionOver(session, over))
