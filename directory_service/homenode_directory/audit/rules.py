"""What a log must never show: the invariants, checked event by event.

`Auditor.see` takes the items of a log in order and knows each artifact as far as the log has told of it. A log that
begins in the middle, or has gaps, says less: what is not known is not judged. Checked per artifact:

  - one writer: the lease is granted only when nobody has it, and ends for the one who has it;
  - every commit is made under the lease that is held, or without one while nobody holds it;
  - versions rise by one and carry the incarnation of their entry; fences rise by one; `rev` rises. Dropping a deleted
    artifact's record is not logged: after it they may start anywhere above;
  - a prepared version waits for sessions that had a copy; nothing else is committed meanwhile; it is published as it
    was prepared, once, and not before everybody in its wait-set has dropped the copy or the frozen deadline has passed;
  - whoever drops a copy had one; whoever is given one is given the committed version;
  - a queued or prepared request is answered once;
  - incarnations rise, and no session acts in a later incarnation than the one it began in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from homenode_directory.audit.items import Gap, Item, Logged, Renewed
from homenode_directory.protocol import effects
from homenode_directory.protocol.effects import LogEvent
from homenode_directory.protocol.model import Cause, Version

ENDED_MAX = 32


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be. `rule` is one of a few short names; `where` the entry that shows it."""

    rule: str
    artifact: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Holding:
    """The write lease, as the log knows its holder."""

    session: str
    lease: str
    fence: int


@dataclass(slots=True)
class Known:
    """What the log has told of one artifact.

    `whole`: it has told everything, so what is not here is not there. `exists` and `holder_known` say whether the
    fields beside them mean anything. `slack`: the fence may have risen once without an event of its own. `past`: the
    newest version before the log broke off, which never comes back.
    """

    whole: bool
    rev: int = 0
    version: Version | None = None
    fence: int | None = None
    exists: bool | None = None
    holder: Holding | None = None
    holder_known: bool = False
    pending: effects.Inv | None = None
    dropped: set[str] = field(default_factory=set)  # since the pending version was prepared
    sharers: dict[str, int] = field(default_factory=dict)
    ended: dict[tuple[str, str], Cause] = field(default_factory=dict)
    slack: bool = False
    past: Version | None = None

    @property
    def forgettable(self) -> bool:
        """Whether its record may have been dropped, and with it its counters."""
        return self.exists is not True and self.holder is None and self.pending is None


class _Broken(Exception):
    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


def _require(held: object, rule: str, text: str) -> None:
    if not held:
        raise _Broken(rule, text)


class Auditor:
    """Sees the items of a log in order. `violations` has what it found, at most `violations_max`."""

    def __init__(self, *, violations_max: int = 100) -> None:
        self.violations: list[Violation] = []
        self.found = 0
        self.known: dict[str, Known] = {}
        self.heads: dict[int, int] = {}
        self.incarnations: dict[int, int] = {}
        self._violations_max = violations_max
        self._of_slice: dict[int, set[str]] = {}
        self._whole: dict[int, bool] = {}  # slices whose log was seen from its beginning
        self._began: dict[str, int] = {}  # session -> incarnation
        self._answered: set[tuple[str, int]] = set()

    def see(self, item: Item) -> None:
        """One more item."""
        if isinstance(item, Renewed):
            self._renewed(item)
        elif isinstance(item, Gap):
            self._forget(item.slice)
            self.heads[item.slice] = item.last
        else:
            self._logged(item)

    def state(self, slice_: int, artifact: str) -> Known:
        """What is known of an artifact before the next item."""
        return self.known.get(artifact) or _nothing_yet(self._whole.get(slice_, False))

    def _forget(self, slice_: int, *, whole: bool = False) -> None:
        """What follows is not a continuation of what is known; versions stay, because they never come back."""
        self._whole[slice_] = whole
        for artifact in self._of_slice.get(slice_, ()):
            known = self.known[artifact]
            self.known[artifact] = _nothing_yet(whole, known.version or known.past)

    def _renewed(self, item: Renewed) -> None:
        before = self.incarnations.get(item.slice, 0)
        if item.number <= before:
            self._report("incarnation", "", item.where, f"incarnation {item.number} after {before}")
        self.incarnations[item.slice] = item.number
        if item.after != self.heads.get(item.slice):
            self._forget(item.slice, whole=item.after == 0)
        self.heads[item.slice] = item.after

    def _logged(self, item: Logged) -> None:
        record = item.record
        self._whole.setdefault(item.slice, item.sequence == 1)
        self.heads[item.slice] = item.sequence
        known = self.known.get(record.artifact)
        if known is None:
            known = self.known[record.artifact] = self.state(item.slice, record.artifact)
            self._of_slice.setdefault(item.slice, set()).add(record.artifact)
        try:
            self._in_order(item, known)
            for event in record.events:
                self._acts(event, record.incarnation)
                JUDGES[type(event)](known, event, item)
                self._once(event)
        except _Broken as broken:
            self._report(broken.rule, record.artifact, item.where, str(broken))
            self.known[record.artifact] = _nothing_yet(False, known.version or known.past)  # judged anew from here on

    def _in_order(self, item: Logged, known: Known) -> None:
        record, incarnation = item.record, self.incarnations.get(item.slice, 0)
        _require(record.incarnation >= incarnation, "incarnation", f"{record.incarnation} after {incarnation}")
        self.incarnations[item.slice] = record.incarnation
        _require(record.rev > known.rev, "rev", f"rev {record.rev} after {known.rev}")
        known.rev = record.rev

    def _acts(self, event: LogEvent, incarnation: int) -> None:
        if isinstance(event, effects.Inv | effects.Granted | effects.Shared) and event.session:
            began = self._began.setdefault(event.session, incarnation)
            text = f"session {event.session} of incarnation {began} acts in {incarnation}"
            _require(began == incarnation, "incarnation", text)

    def _once(self, event: LogEvent) -> None:
        if isinstance(event, effects.Granted | effects.Published | effects.Refused) and event.request:
            named = (event.session, event.request)
            _require(named not in self._answered, "once", f"request {named[1]} of {named[0]} is answered again")
            self._answered.add(named)

    def _report(self, rule: str, artifact: str, where: str, text: str) -> None:
        self.found += 1
        if len(self.violations) < self._violations_max:
            self.violations.append(Violation(rule, artifact, where, text))


def _nothing_yet(whole: bool, past: Version | None = None) -> Known:
    """Before the first entry: where the log is whole there is nothing, else it is not known what there is."""
    return Known(whole=whole, past=past, exists=False if whole else None, holder_known=whole)


# --- one judge for each kind of event ---------------------------------------------------------------------------------


def _raise_fence(known: Known, fence: int) -> None:
    before = known.fence
    if before is not None:
        steps = (1, 2) if known.slack else (1,)
        fits = fence - before in steps or (known.forgettable and fence > before)
        _require(fits, "fence", f"fence {fence} after {before}")
    known.fence, known.slack = fence, False


def _inv(known: Known, event: LogEvent, item: Logged) -> None:
    assert isinstance(event, effects.Inv)
    number, before = event.version.n, known.version
    _require(known.past is None or event.version > known.past, "version", f"version {number} was used already")
    _require(known.pending is None, "publish", "committed while another version is prepared")
    _require(event.version.incarnation == item.record.incarnation, "version", "a version of another incarnation")
    if before is not None:
        _require(event.version > before, "version", f"version {number} after {before.n}: it was used already")
        fits = number == before.n + 1 or known.forgettable or known.exists is None
        _require(fits, "version", f"version {number} after {before.n}: one is missing")
    _under_lease(known, event)
    _raise_fence(known, event.fence)
    if known.holder is not None:
        known.holder = Holding(event.session, event.lease, event.fence)
    if event.prepared:
        _prepare(known, event, item)
        return
    known.version, known.exists = event.version, event.content is not None
    if known.exists:  # who deletes goes on serving its copy, if it has one, until it has heard of that
        _shares(known, event.session, number)


def _under_lease(known: Known, event: effects.Inv) -> None:
    holder = known.holder
    if holder is not None:
        fits = (event.session, event.lease) == (holder.session, holder.lease)
        _require(fits, "lease", f"{event.session} committed while {holder.session} held the lease {holder.lease}")
    elif event.lease and known.holder_known:
        cause = known.ended.get((event.session, event.lease))
        why = f"had ended ({cause})" if cause is not None else "is not held"
        raise _Broken("lease", f"{event.session} committed under the lease {event.lease}, which {why}")
    known.holder_known = True
    if event.lease:
        known.holder = Holding(event.session, event.lease, event.fence)


def _prepare(known: Known, event: effects.Inv, item: Logged) -> None:
    _require(event.until_ms > item.record.at_ms, "publish", "prepared until a time that has passed")
    for session in event.waits:
        _require(session in known.sharers or not known.whole, "sharers", f"waits for {session}, which has no copy")
    known.pending, known.dropped = event, set()


def _published(known: Known, event: LogEvent, item: Logged) -> None:
    assert isinstance(event, effects.Published)
    pending = known.pending
    if pending is not None:
        same = (event.version, event.content, event.session) == (pending.version, pending.content, pending.session)
        _require(same, "publish", f"version {event.version.n} is published, {pending.version.n} was prepared")
        left_ms = pending.until_ms - item.record.at_ms
        for session in pending.waits:
            gone = session in known.dropped or left_ms <= 0
            _require(gone, "publish", f"published {left_ms} ms before the copy of {session} is surely dead")
    else:
        _require(not known.whole, "publish", f"version {event.version.n} is published, none was prepared")
    if known.version is not None:
        _require(event.version > known.version, "version", f"version {event.version.n} after {known.version.n}")
    known.version, known.exists, known.pending = event.version, event.content is not None, None
    known.sharers = {s: n for s, n in known.sharers.items() if n >= event.version.n}
    _shares(known, event.session, event.version.n if known.exists else None)
    known.slack = True  # a lease that is kept has another fence now


def _granted(known: Known, event: LogEvent, item: Logged) -> None:
    assert isinstance(event, effects.Granted)
    holder = known.holder
    if holder is not None:
        raise _Broken("one writer", f"{event.session} got the lease while {holder.session} held it ({holder.lease})")
    _require(known.pending is None, "one writer", f"{event.session} got the lease while a version is prepared")
    known.slack |= not known.holder_known
    _raise_fence(known, event.fence)
    known.holder, known.holder_known = Holding(event.session, event.lease, event.fence), True
    if known.exists and known.version is not None:
        _shares(known, event.session, known.version.n)


def _ended(known: Known, event: LogEvent, item: Logged) -> None:
    assert isinstance(event, effects.Ended)
    holder = known.holder
    if holder is not None:
        fits = (event.session, event.lease) == (holder.session, holder.lease)
        _require(fits, "one writer", f"the lease {event.lease} ended, {holder.lease} was held")
    else:
        _require(not known.holder_known, "one writer", f"the lease {event.lease} ended, nobody held one")
    _raise_fence(known, event.fence)
    known.holder, known.holder_known = None, True
    known.ended[event.session, event.lease] = event.cause
    if len(known.ended) > ENDED_MAX:
        known.ended.pop(next(iter(known.ended)))


def _shared(known: Known, event: LogEvent, item: Logged) -> None:
    assert isinstance(event, effects.Shared)
    _require(known.pending is None, "sharers", f"{event.session} got a copy while a version is prepared")
    _require(known.exists is not False, "sharers", f"{event.session} got a copy of what does not exist")
    if known.version is not None and known.exists is not None:
        current = known.version.n
        _require(event.n == current, "sharers", f"{event.session} got version {event.n}, committed is {current}")
    known.sharers[event.session] = event.n


def _dropped(known: Known, event: LogEvent, item: Logged) -> None:
    assert isinstance(event, effects.Dropped)
    for session in event.sessions:
        had = known.sharers.pop(session, None)
        _require(had is not None or not known.whole, "sharers", f"{session} dropped a copy that it was never given")
    known.dropped.update(event.sessions)


def _nothing(known: Known, event: LogEvent, item: Logged) -> None:
    """Says nothing about copies or leases."""


def _shares(known: Known, session: str, n: int | None) -> None:
    if not session:  # the directory's own round: a change of policy
        return
    if n is None:
        known.sharers.pop(session, None)
    else:
        known.sharers[session] = n


JUDGES: dict[type[LogEvent], Callable[[Known, LogEvent, Logged], None]] = {
    effects.Inv: _inv,
    effects.Shared: _shared,
    effects.Granted: _granted,
    effects.Ended: _ended,
    effects.Refused: _nothing,
    effects.Published: _published,
    effects.Dropped: _dropped,
    effects.PolicySet: _nothing,
}
