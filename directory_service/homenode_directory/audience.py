"""Who is told what: the sessions of one slice that are on this server's streams.

Who gets an invalidation: the sessions with *interest* in the artifact. Interest is noted before a request that may
make its session a sharer is committed, and goes when the session says that it dropped its copy. It may be too wide,
never too narrow. The committer gets its own invalidation too: until its answer arrives it does not know that its older
copy is obsolete, and the answer may never arrive.

An event is made once, however many sessions are told of it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from homenode_directory.observer import Observer
from homenode_directory.place import Place, Position
from homenode_directory.protocol.effects import Ended, Granted, Inv, PolicySet, Published
from homenode_directory.protocol.model import RESERVED, Cause, Push
from homenode_directory.sinks import (
    Change,
    DeliveryEvent,
    Invalidation,
    LeaseLost,
    LeaseOffered,
    PolicyChanged,
    Resync,
    Sink,
)
from homenode_directory.store import fields
from homenode_directory.store.fields import LogRecord

ROUNDS_MAX = 4_096  # invalidations of a slice that sharers may still acknowledge, for measurements


class Ping(NamedTuple):
    """When a ping was sent, by its sender's clock, and the lease on strict copies that it earned."""

    sent_at: int
    lease_ms: int = 0


@dataclass(slots=True, eq=False)
class Member:
    """A session on one of this server's streams."""

    session: str
    place: Place
    sink: Sink
    interest: set[str] = field(default_factory=set)  # artifacts
    hoped: set[str] = field(default_factory=set)  # of these, the ones that it never got a copy of
    watches: dict[int, str] = field(default_factory=dict)  # watch id -> key prefix

    def tell(self, record: LogRecord, event: object, sequence: int) -> int:
        """Send what concerns the session of one log event: obsolete copies, its own lease. Returns how many."""
        if isinstance(event, Inv | PolicySet):
            if record.artifact not in self.interest:
                return 0
            told = invalidation(record, event, sequence) if isinstance(event, Inv) else policy_changed(record, sequence)
            self.sink.push(told)
            return 1
        if isinstance(event, Granted):
            return self.tell_offered(record, event, sequence)
        return self.tell_ended(record, event, sequence) if isinstance(event, Ended) else 0

    def tell_ended(self, record: LogRecord, event: Ended, sequence: int) -> int:
        """Send the end of its own lease, where the session did not give it up."""
        if event.session != self.session or event.cause is Cause.RELEASED:
            return 0
        key = fields.key_of(record.artifact)
        self.sink.push(LeaseLost(self.session, key, event.lease, event.cause, sequence))
        return 1

    def tell_offered(self, record: LogRecord, event: Granted, sequence: int) -> int:
        """Send that a lease was handed over and waits to be acquired. The session counts as a sharer, so it is told of
        the artifact from now on."""
        if event.session != self.session or event.lease != RESERVED:
            return 0
        self.interest.add(record.artifact)
        key = fields.key_of(record.artifact)
        self.sink.push(LeaseOffered(self.session, key, event.by, event.agent, event.ttl_ms, sequence))
        return 1

    def tell_watch(self, watch: int, prefix: str, record: LogRecord, event: object, sequence: int) -> int:
        """Send a change under a watched prefix."""
        published = isinstance(event, Published) or (isinstance(event, Inv) and not event.prepared)
        place, key = fields.split_artifact(record.artifact)
        if not published or place != self.place or not key.startswith(prefix):
            return 0
        assert isinstance(event, Inv | Published)
        size = event.content.size if event.content is not None else 0
        deleted = event.content is None
        self.sink.push(Change(self.session, watch, key, event.version, deleted, event.session, sequence, size))
        return 1


def invalidation(record: LogRecord, event: Inv, sequence: int) -> Invalidation:
    """What every session with interest in the artifact is told, the same object for all."""
    key = fields.key_of(record.artifact)
    deleted = event.content is None
    trace = record.trace
    return Invalidation(key, event.version, event.fence, sequence, event.session, deleted, event.prepared, trace=trace)


def policy_changed(record: LogRecord, sequence: int) -> PolicyChanged:
    """What they are told of another policy."""
    return PolicyChanged(fields.key_of(record.artifact), sequence)


class Audience:
    """The members of one slice, and who has interest in what."""

    def __init__(self, observer: Observer) -> None:
        self.members: dict[str, Member] = {}
        self._interested: dict[str, dict[Member, None]] = {}  # artifact -> who, in the order in which they came
        self._watching: dict[Member, None] = {}
        self._observer = observer
        self.pinged: dict[Member, Ping] = {}  # who waits for a bookmark
        # (artifact, fence) -> when it was committed, and the traceparent of that
        self.rounds: OrderedDict[tuple[str, int], tuple[int, str]] = OrderedDict()

    def add(self, member: Member) -> None:
        """A session joins."""
        self.members[member.session] = member
        for artifact in member.interest:
            self._interested.setdefault(artifact, {})[member] = None

    def remove(self, session: str) -> None:
        """A session leaves."""
        member = self.members.pop(session)
        self._watching.pop(member, None)
        self.pinged.pop(member, None)
        for artifact in member.interest:
            self._uninterest(member, artifact)

    def interest(self, member: Member, artifact: str) -> None:
        """The session will be told of the artifact."""
        member.interest.add(artifact)
        self._interested.setdefault(artifact, {})[member] = None

    def drop(self, member: Member, artifact: str) -> None:
        """The session holds no copy any more."""
        member.interest.discard(artifact)
        member.hoped.discard(artifact)
        self._uninterest(member, artifact)

    def _uninterest(self, member: Member, artifact: str) -> None:
        interested = self._interested.get(artifact)
        if interested is not None:
            interested.pop(member, None)
            if not interested:
                del self._interested[artifact]

    def watch(self, member: Member, watch: int, prefix: str) -> None:
        """Changes under `prefix` go to the session."""
        member.watches[watch] = prefix
        self._watching[member] = None

    def unwatch(self, member: Member, watch: int) -> None:
        """They do no more."""
        member.watches.pop(watch, None)
        if not member.watches:
            self._watching.pop(member, None)

    def tell(self, record: LogRecord, event: object, sequence: int) -> None:
        """One log event to all whom it concerns."""
        if isinstance(event, Inv):
            self._invalidate(record, event, sequence)
        elif isinstance(event, PolicySet):
            self._change_policy(record, sequence)
        elif isinstance(event, Ended):
            member = self.members.get(event.session)
            if member is not None:
                self._observer.delivered("lease_lost", member.tell_ended(record, event, sequence))
        elif isinstance(event, Granted) and event.by:
            member = self.members.get(event.session)
            if member is not None:
                self.interest(member, record.artifact)
                self._observer.delivered("lease_offered", member.tell_offered(record, event, sequence))
        for member in self._watching:
            for watch, prefix in member.watches.items():
                self._observer.delivered("change", member.tell_watch(watch, prefix, record, event, sequence))

    def _invalidate(self, record: LogRecord, event: Inv, sequence: int) -> None:
        interested = self._interested.get(record.artifact)
        if event.push is Push.ALL and not event.prepared:  # content will follow, which must not be the first to come
            place = fields.split_artifact(record.artifact)[0]
            interested = {m: None for m in self.members.values() if m.place == place or m in (interested or ())}
        if not interested:
            return
        item = invalidation(record, event, sequence)
        for member in interested:
            member.sink.push(item)
        self._observer.delivered("invalidation", len(interested))
        others = len(interested) - (self.members.get(event.session) in interested)
        self._observer.fanout(others)
        if others:
            self.rounds[record.artifact, event.fence] = record.at_ms, record.trace
            if len(self.rounds) > ROUNDS_MAX:
                self.rounds.popitem(last=False)

    def _change_policy(self, record: LogRecord, sequence: int) -> None:
        interested = self._interested.get(record.artifact, {})
        item = policy_changed(record, sequence)
        for member in interested:
            member.sink.push(item)
        self._observer.delivered("policy_changed", len(interested))

    def to_push(self, record: LogRecord, event: Inv | Published) -> dict[Member, bool]:
        """To whom a version's content is sent by itself, each with whether it had a copy of what was replaced.

        To those with interest, or to every session of the workspace on this server; not to the committer.
        """
        interested = self._interested.get(record.artifact, {})
        place = fields.split_artifact(record.artifact)[0]
        members = self.members.values() if event.push is Push.ALL else interested
        return {m: m in interested for m in members if m.place == place and m.session != event.session}

    def interested(self, member: Member, artifact: str) -> bool:
        """Whether the session is here, and is told of the artifact."""
        return self.members.get(member.session) is member and artifact in member.interest

    def push(self, item: DeliveryEvent) -> None:
        """The same to every member."""
        for member in self.members.values():
            member.sink.push(item)

    def resync(self, position: Position) -> None:
        """Events were lost: every session starts anew from `position`, and drops what it holds.

        Interest stays: an answer that holds as of `position` may be on its way still.
        """
        for member in self.members.values():
            member.sink.push(Resync(member.session, position))
            self._observer.resync()
