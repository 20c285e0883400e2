"""Snapshots: one cut of several artifacts, pinned: its contents stay readable whatever happens to the artifacts.

A pin is a record of its own: what every artifact of the cut was, and until when it lives. The commit that compares the
cut writes it, and adds a reference to each content; so history may be cut, artifacts deleted and contents collected
meanwhile, and what is pinned stays. A pin ends when it is released, when its session is over, or at its deadline: the
sweeper looks at each when it is due.

Per slice:

  pn/<session>/<request>  record: until, bytes, and `k/<key>` -> what the artifact was
  ps/<session>            record: pins, "how many, how many bytes" of the session
  due/pins                ranked set: pin -> when to look again
  meta                    record: pins, as in ps, of the whole slice
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from homenode_directory.directory import SESSION_OVER, Directory
from homenode_directory.errors import Contended
from homenode_directory.place import Place, Position
from homenode_directory.protocol.effects import Denial, Pinned, Reason, Stored
from homenode_directory.protocol.transitions import SETTLED
from homenode_directory.slice import ROUNDS_MAX, Slice
from homenode_directory.store import fields
from homenode_directory.store.base import (
    META,
    Add,
    Commit,
    Delete,
    Drop,
    Equals,
    Exists,
    Guard,
    Outcome,
    Put,
    Rank,
    Unrank,
    Write,
)
from homenode_directory.store.fields import VersionRecord
from homenode_directory.together import EffectJob, Joint, Request, artifacts_of, entries_shown

DUE_PINS = "due/pins"
UNTIL = "until"
BYTES = "bytes"
PINS = "pins"
KNOWN_MAX = 1_024
GONE = Denial(Reason.NOT_FOUND, "the snapshot was released, has run out, or its session is over")


@dataclass(frozen=True, slots=True)
class PinLimits:
    """Bounds of snapshots; times in milliseconds."""

    keys_max: int = 256
    bytes_max: int = 256 << 20  # of the contents of one
    session_pins_max: int = 16
    slice_pins_max: int = 1_024
    slice_bytes_max: int = 4 << 30
    ttl_ms: int = 600_000
    ttl_max_ms: int = 3_600_000
    look_ms: int = 10_000  # how often the sweeper looks whether a pin's session lives


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pinned cut: what each artifact was; content None: it did not exist."""

    pin: str
    records: Mapping[str, VersionRecord]
    as_of: Position


def pin_key(pin: str) -> str:
    """Record of a pin."""
    return "pn/" + pin


def session_pins_key(session: str) -> str:
    """Record of what a session has pinned."""
    return "ps/" + session


@dataclass(slots=True)
class Tally:
    """How many pins, and how many bytes, some record counts; as known here, which the store's refusal corrects."""

    key: str
    text: str | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """(pins, bytes)."""
        pins, size = (self.text or "0 0").split()
        return int(pins), int(size)

    def guard(self) -> Guard:
        """It is as known."""
        return Equals(self.key, PINS, self.text)

    def change(self, pins: int, size: int) -> Write:
        """Add to it; taken for true until the store says otherwise."""
        old_pins, old_size = self.counts
        total = old_pins + pins
        self.text = f"{total} {max(0, old_size + size)}" if total > 0 else None
        return Drop(self.key, PINS) if self.text is None else Put(self.key, PINS, self.text)


@dataclass(slots=True)
class PinJob(EffectJob):
    """Take a cut and pin it."""

    keys: tuple[str, ...] = ()
    ttl_ms: int = 0
    pins: Pins | None = None
    denial: Denial | None = None
    records: Mapping[str, VersionRecord] = field(default_factory=dict)

    def judge(self, slice_: Slice) -> Commit:
        """The cut, the pin, and a reference to each content; or one comparison that confirms the refusal."""
        assert self.pins is not None
        tallies = self.pins.tallies(slice_.number, self.session)
        guards = (*self.effect_guards(slice_), *(tally.guard() for tally in tallies))
        self.records = {
            key: VersionRecord(entry.version, entry.content, entry.committed_ms, "")
            for key, entry in zip(self.keys, self.entries, strict=True)
        }
        contents = [record.content for record in self.records.values() if record.content is not None]
        size = sum(content.size for content in contents)
        self.denial = SETTLED if self.settled(slice_) else self.pins.refuse(tallies, size)
        if self.denial is not None:
            return Commit(guards)
        pin, now_ms = pin_of(self.request), slice_.time.latest_ms
        until_ms, key = now_ms + self.ttl_ms, pin_key(pin)
        writes: list[Write] = [self.request.store(Pinned(pin))]
        writes += [Put(key, UNTIL, str(until_ms)), Put(key, BYTES, str(size))]
        writes += [Put(key, "k/" + name, fields.encode_version(record)) for name, record in self.records.items()]
        writes += [Add(fields.references_key(content.hash), "refs", 1) for content in contents]
        writes += [Rank(DUE_PINS, pin, min(until_ms, now_ms + self.pins.limits.look_ms))]
        writes += [tally.change(1, size) for tally in tallies]
        there = [Exists(of(content.hash)) for content in contents for of in (fields.content_key, fields.references_key)]
        return Commit((*guards, *there), tuple(writes))

    def applied(self, slice_: Slice) -> Stored:
        """The pinned cut."""
        return self.denial or Pinned(pin_of(self.request))

    @property
    def shown(self) -> tuple[str, ...]:
        """The tallies too: both were changed here, and a refusal names one."""
        return (*entries_shown(self.artifacts), session_pins_key(self.session), META)

    def learn(self, slice_: Slice, outcome: Outcome) -> None:
        """Tallies are learnt with the entries."""
        assert self.pins is not None
        EffectJob.learn(self, slice_, outcome)
        self.pins.learn(slice_.number, self.session, outcome)


def pin_of(request: Request) -> str:
    """A pin is named by the request that asks for it."""
    return f"{request.session}/{request.number}"


class Pins:
    """Takes, reads, releases and reaps snapshots, over a directory's slices."""

    def __init__(self, directory: Directory, joint: Joint, limits: PinLimits | None = None) -> None:
        self.limits = limits or PinLimits()
        self._directory = directory
        self._joint = joint
        self._tallies: OrderedDict[tuple[int, str], Tally] = OrderedDict()
        self._known: OrderedDict[str, Mapping[str, str]] = OrderedDict()  # pin -> its record, which never changes

    # --- taking -----------------------------------------------------------------------------------------------------

    async def take(
        self, place: Place, request: Request, ttl_ms: int, *, keys: Sequence[str] = (), prefix: str = ""
    ) -> Snapshot | Denial:
        """Pin `keys`, or everything that begins with `prefix`, as of one place in the log. Raises DirectoryError."""
        for _ in range(ROUNDS_MAX):
            wanted: tuple[str, ...] = tuple(keys)
            unchanged: tuple[Equals, ...] = ()
            if not keys:
                found = await self._listed(place, prefix)
                if isinstance(found, Denial):
                    return found
                wanted, unchanged = found
            artifacts = artifacts_of(place, wanted)
            job = PinJob(
                request.session, artifacts, unchanged=unchanged, request=request, keys=wanted, ttl_ms=ttl_ms, pins=self
            )
            reply = await self._joint.effect(place, job)
            if reply is None:  # a key came or went meanwhile
                continue
            if isinstance(reply.answer, Denial):
                return reply.answer
            assert isinstance(reply.answer, Pinned)
            if reply.as_of.sequence:
                return Snapshot(reply.answer.pin, MappingProxyType(dict(job.records)), reply.as_of)
            record = await self._record(place, reply.answer.pin, fresh=True)
            return GONE if record is None else Snapshot(reply.answer.pin, _versions(record), reply.as_of)
        raise Contended("artifacts came and went in every round")

    async def _listed(self, place: Place, prefix: str) -> tuple[tuple[str, ...], tuple[Equals, ...]] | Denial:
        """The keys that exist, and what must still hold when the cut is taken for that to be all of them."""
        directory, number = self._directory, self._directory.slice_of(place).number
        changes_key = fields.index_changes_key(place)
        (changes,) = await directory.store_call(directory.store.load(number, [changes_key]))
        limit = self.limits.keys_max + 1
        index = fields.index_key(place)
        keys = await directory.store_call(directory.store.by_prefix(number, index, prefix, "", limit))
        if len(keys) == limit:
            return Denial(Reason.TOO_LARGE, f"a snapshot has at most {self.limits.keys_max} artifacts")
        return tuple(keys), (Equals(changes_key, "n", changes.get("n")),)

    def refuse(self, tallies: tuple[Tally, Tally], size: int) -> Denial | None:
        """Why another pin of `size` bytes is too much, if it is."""
        limits = self.limits
        (session_pins, _), (slice_pins, slice_bytes) = (tally.counts for tally in tallies)
        if size > limits.bytes_max:
            return Denial(Reason.TOO_LARGE, f"a snapshot has at most {limits.bytes_max} bytes, not {size}")
        if session_pins >= limits.session_pins_max:
            return Denial(Reason.QUOTA_EXCEEDED, f"a session has at most {limits.session_pins_max} snapshots at once")
        if slice_pins >= limits.slice_pins_max or slice_bytes + size > limits.slice_bytes_max:
            return Denial(Reason.QUOTA_EXCEEDED, "the workspace's part of the store has too many snapshots")
        return None

    def tallies(self, slice_: int, session: str) -> tuple[Tally, Tally]:
        """Of the session and of the slice."""
        return self._tally(slice_, session_pins_key(session)), self._tally(slice_, META)

    def _tally(self, slice_: int, key: str) -> Tally:
        tally = self._tallies.get((slice_, key))
        if tally is None:
            tally = self._tallies[slice_, key] = Tally(key)
            if len(self._tallies) > KNOWN_MAX:
                self._tallies.popitem(last=False)
        return tally

    def learn(self, slice_: int, session: str, outcome: Outcome) -> None:
        """What the store says of both tallies."""
        for tally in self.tallies(slice_, session):
            text = outcome.shown.get(tally.key, {}).get(PINS)
            tally.text = None if text is None else str(text)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def read(self, place: Place, session: str, pin: str, key: str) -> VersionRecord | Denial:
        """What an artifact of a snapshot was, as long as that is pinned. Any session of the workspace may ask."""
        slice_ = self._directory.slice_of(place)
        live = Equals(fields.session_key(session), fields.LIVE, None)

        def confirm(s: Slice) -> Commit:
            live.value = s.incarnation.token
            return Commit((live, Exists(pin_key(pin))))

        record = await self._record(place, pin)
        outcome = await self._directory.plain(slice_, confirm)
        if not outcome.ok or record is None:
            return SESSION_OVER if outcome.failed == 0 else GONE
        text = record.get("k/" + key)
        if text is None:
            return Denial(Reason.NOT_FOUND, "the snapshot was not asked for this artifact")
        return fields.decode_version(text)

    async def _record(self, place: Place, pin: str, *, fresh: bool = False) -> Mapping[str, str] | None:
        record = None if fresh else self._known.get(pin)
        if record is None:
            number = self._directory.slice_of(place).number
            (record,) = await self._directory.store_call(self._directory.store.load(number, [pin_key(pin)]))
            if not record:
                return None
            self._known[pin] = record
            if len(self._known) > KNOWN_MAX // 16:
                self._known.popitem(last=False)
        return record

    # --- ending -----------------------------------------------------------------------------------------------------

    async def release(self, place: Place, pin: str) -> None:
        """Give a snapshot up; one that is gone already is no mistake. Raises DirectoryError."""
        await self._release(self._directory.slice_of(place), pin)

    async def _release(self, slice_: Slice, pin: str) -> None:
        self._known.pop(pin, None)
        session = pin.rpartition("/")[0]
        for _ in range(ROUNDS_MAX):
            (record,) = await self._directory.store_call(self._directory.store.load(slice_.number, [pin_key(pin)]))
            outcome = await self._directory.plain(slice_, partial(self._unpinned, pin, session, record))
            if outcome.ok:
                return
            self.learn(slice_.number, session, outcome)
        raise Contended("snapshots came and went in every round")

    def _unpinned(self, pin: str, session: str, record: Mapping[str, str], slice_: Slice) -> Commit:
        """Drop a pin and its references."""
        key = pin_key(pin)
        if not record:
            return Commit((Equals(key, UNTIL, None),), (Unrank(DUE_PINS, pin),))
        tallies = self.tallies(slice_.number, session)
        guards = (Equals(key, UNTIL, record[UNTIL]), *(tally.guard() for tally in tallies))
        contents = [version.content for version in _versions(record).values() if version.content is not None]
        writes: list[Write] = [Add(fields.references_key(content.hash), "refs", -1) for content in contents]
        writes += [Delete(key), Unrank(DUE_PINS, pin)]
        writes += [tally.change(-1, -int(record[BYTES])) for tally in tallies]
        return Commit(guards, tuple(writes), show=(session_pins_key(session), META))

    async def reap(self, slice_: Slice, limit: int) -> None:
        """Release the pins whose time or session is over."""
        store = self._directory.store
        due, now_ms = await store.by_score(slice_.number, DUE_PINS, limit)
        for pin, at_ms in due:
            if at_ms > now_ms:
                return
            session = pin.rpartition("/")[0]
            keys = [pin_key(pin), fields.session_key(session)]
            record, owner = await store.load(slice_.number, keys, (UNTIL, fields.LIVE))
            until_ms = int(record.get(UNTIL, 0))
            if until_ms > now_ms and owner.get(fields.LIVE) == slice_.incarnation.token:
                again = Rank(DUE_PINS, pin, min(until_ms, now_ms + self.limits.look_ms))
                look = Commit((Equals(pin_key(pin), UNTIL, record[UNTIL]),), (again,))
                await self._directory.plain(slice_, partial(_as_is, look))
            else:
                await self._release(slice_, pin)


def _as_is(commit: Commit, slice_: Slice) -> Commit:
    """A commit that needs nothing from the slice."""
    return commit


def _versions(record: Mapping[str, str]) -> Mapping[str, VersionRecord]:
    """What a pin's record says of its artifacts."""
    return {name[2:]: fields.decode_version(text) for name, text in record.items() if name.startswith("k/")}
