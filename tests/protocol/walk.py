"""A walk over everything that three sessions can do to one artifact.

Breadth first from the absent entry: every event in every reached entry, once judged by `step`. Reached entries are
made comparable by `canonical`: time counts from now and a deadline that has passed is 0; versions and fences count
from the committed ones; sessions are interchangeable. Time itself is a move of its own (`later`). Where copies must die
before something is published, each event is judged both within a quarantine of the slice and after it.

`Walk.judge` holds each decision against the promises; they are written down here again, from the guarantees, and use
nothing of the rule book but its data types and the lapse of deadlines (`step` of an `Expire`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations, product

from homenode_directory.protocol.effects import (
    Decision,
    Denial,
    Done,
    Ended,
    Grant,
    Granted,
    PolicySet,
    Reason,
    Result,
    Waiting,
)
from homenode_directory.protocol.events import (
    Base,
    Commit,
    EndSession,
    Event,
    Expire,
    GetM,
    GetS,
    Handoff,
    Inherit,
    InvAck,
    Put,
    Renew,
    SetPolicy,
)
from homenode_directory.protocol.facts import Facts, Terms
from homenode_directory.protocol.model import (
    ABSENT_ENTRY,
    RESERVED,
    Content,
    Entry,
    Level,
    Pending,
    Policy,
    State,
    Version,
)
from homenode_directory.protocol.transitions import check, step

UNIT = 1_000  # time passes in steps of so many milliseconds; a round of a commit lasts one, of a policy two
NOW = 100 * UNIT  # canonical present
N = 10  # canonical committed version number, once there is one
FENCE = 50  # canonical fence
FLOOR = 0
INCARNATION = 7
CONTENT = Content("c", 1)
REQUEST = 900  # id of the request that is judged; waiting ones have ids of their own

ANSWERS: dict[type, tuple[type, ...]] = {
    GetS: (Grant, Denial),
    GetM: (Grant, Waiting, Denial),
    Commit: (Done, Waiting, Denial),
    Put: (Done, Denial),
    Renew: (Done, Denial),
    SetPolicy: (Done, Waiting, Denial),
    Inherit: (type(None),),
    Handoff: (Done, Denial),
    InvAck: (type(None),),
    Expire: (type(None),),
    EndSession: (type(None),),
}
R = Reason
DENIALS: dict[type, set[Reason]] = {
    GetS: {R.NOT_FOUND},
    GetM: {R.NOT_FOUND, R.HELD, R.QUEUE_FULL, R.INVALID_ARGUMENT},
    Commit: {R.NOT_FOUND, R.ALREADY_EXISTS, R.VERSION_CONFLICT, R.HELD, R.STALE_FENCE},
    Put: {R.LEASE_LOST},
    Renew: {R.LEASE_LOST},
    SetPolicy: {R.NOT_FOUND, R.HELD},
    Handoff: {R.STALE_FENCE, R.SUCCESSOR_LOST, R.HELD},
}
AGAIN = {R.INVALID_ARGUMENT, R.WAIT_TIMEOUT}  # to a request that waits already


@dataclass(frozen=True)
class Bounds:
    """What a walk may use."""

    default: Level
    sessions: tuple[str, ...] = ("A", "B", "C")
    policies: tuple[Policy | None, ...] = (None,)
    inherited: tuple[Policy | None, ...] = (None,)
    ttls_ms: tuple[int, ...] = (UNIT,)
    keep: tuple[bool, ...] = (False, True)
    create: tuple[bool, ...] = (False, True)
    waiters_max: int = 2

    @property
    def terms(self) -> Terms:
        """The shortest ones."""
        return Terms(
            tombstone_ms=UNIT, waiters_max=self.waiters_max, ended_max=1, lease_ms=0, late_ms=0, max_age_ms=981
        )

    @property
    def quarantines(self) -> tuple[int, ...]:
        """Until when the slice may be in quarantine."""
        strict = self.default is Level.STRICT or Policy(Level.STRICT) in (*self.policies, *self.inherited)
        return (0, NOW + UNIT) if strict else (0,)


@dataclass
class Walk:
    """A finished walk's counts; `run` makes it."""

    bounds: Bounds
    states: set[Entry] = field(default_factory=set)
    pairs: set[tuple[Entry, type]] = field(default_factory=set)
    cells: set[tuple[State, type]] = field(default_factory=set)
    judged: int = 0

    def __post_init__(self) -> None:
        self._canon = Canon(self.bounds.sessions)
        self._quarantine_ms = 0

    def run(self) -> Walk:
        """Visit everything."""
        self.states.add(NOTHING)
        queue = deque([NOTHING])
        while queue:
            entry = queue.popleft()
            for reached in self._moves(entry):
                if reached not in self.states:
                    self.states.add(reached)
                    queue.append(reached)
        return self

    def _moves(self, entry: Entry) -> Iterator[Entry]:
        yield self._canon.of(later(entry))
        for quarantine_ms in self.bounds.quarantines:
            self._quarantine_ms = quarantine_ms
            for known in self._as_known(entry):
                lapsed = lapse(known, self._facts(frozenset()))
                for event, facts in self._events(known):
                    self.pairs.add((entry, type(event)))
                    decision = self.judge(known, lapsed, event, facts)
                    if decision.entry is not known:
                        yield self._canon.of(decision.entry)

    def _as_known(self, entry: Entry) -> Iterator[Entry]:
        """What has no content is judged with whatever its prefix says at that time."""
        if entry.content is not None:
            yield entry
            return
        for policy in self.bounds.inherited:
            yield entry if policy is None else replace(entry, inherited=policy)

    def judge(self, entry: Entry, lapsed: Entry, event: Event, facts: Facts) -> Decision:
        """One step, held against the promises. `lapsed`: see `lapse`."""
        decision = step(entry, event, facts)
        self.judged += 1
        self.cells.add((lapsed.state, type(event)))
        try:
            Promises(entry, lapsed, event, facts, decision).hold()
        except AssertionError as error:
            raise AssertionError(f"{error}\n entry {entry}\n event {event}\n facts {facts}\n -> {decision}") from error
        return decision

    def _events(self, entry: Entry) -> Iterator[tuple[Event, Facts]]:
        bounds = self.bounds
        waiting = [waiter.session for waiter in entry.waiters]
        for dead in [frozenset(), *({session} for session in dict.fromkeys(waiting))]:
            facts = self._facts(dead)
            yield Expire(), facts
            for policy in bounds.inherited:
                yield Inherit(policy), facts
            for session in bounds.sessions:
                yield EndSession(session), facts
                if session not in dead:
                    yield from self._requests(entry, session, facts)
        yield from self._over_the_dead(entry)
        for group in self._groups(entry):
            for n, fence in product((N - 1, N, N + 1), self._fences(entry)):
                yield InvAck(group, n, fence), self._facts(frozenset())

    def _over_the_dead(self, entry: Entry) -> Iterator[tuple[Event, Facts]]:
        """What sessions that are over make a difference to: wait-sets, and what they have prepared."""
        if entry.pending is not None:
            for dead in (frozenset(), {entry.pending.session}):
                yield from self._again(entry.pending, self._facts(dead))
        elif len(self.bounds.quarantines) > 1:
            for gone in entry.sharers:
                facts = self._facts({gone})
                for session in self.bounds.sessions:
                    if session != gone:
                        yield Commit(session, CONTENT, Base.ANY), facts
                        for policy in self.bounds.policies:
                            yield SetPolicy(session, policy), facts
                for policy in self.bounds.inherited:
                    yield Inherit(policy), facts

    def _again(self, pending: Pending, facts: Facts) -> Iterator[tuple[Event, Facts]]:
        """The request that is prepared comes again, though its session may be over."""
        again = replace(facts, request=pending.request, digest=pending.digest)
        if pending.inherits:
            return  # nobody's request
        event: Event = Commit(pending.session, pending.content, Base.ANY)
        if pending.sets_policy:
            event = SetPolicy(pending.session, pending.policy)
        yield event, again
        yield event, replace(again, digest="other")

    def _requests(self, entry: Entry, session: str, facts: Facts) -> Iterator[tuple[Event, Facts]]:
        bounds, lease = self.bounds, "L" + session
        yield GetS(session), facts
        yield GetS(session, share=False), facts
        yield Put(session), facts
        yield Put(session, lease), facts
        for policy in bounds.policies:
            yield SetPolicy(session, policy), facts
        for ttl_ms in bounds.ttls_ms:
            yield Renew(session, lease, ttl_ms), facts
        repeated = next((waiter for waiter in entry.waiters if waiter.session == session), None)
        if repeated is None:
            for ttl_ms, wait_ms, create in product(bounds.ttls_ms, (0, UNIT), bounds.create):
                yield GetM(session, lease, ttl_ms, wait_ms, create), facts
        else:
            again = replace(facts, request=repeated.request, digest=repeated.digest)
            yield GetM(session, lease, repeated.ttl_ms, UNIT, repeated.create), again
            yield GetM(session, lease, repeated.ttl_ms, UNIT, repeated.create), replace(again, digest="other")
        yield from self._commits(entry, session, facts)
        yield from self._handoffs(entry, session, facts)

    def _handoffs(self, entry: Entry, session: str, facts: Facts) -> Iterator[tuple[Event, Facts]]:
        """To everybody, to a dead session, and with an old token."""
        lease, fence = "L" + session, entry.fence
        if entry.holder is None or (entry.holder.session, entry.holder.lease) != (session, lease):
            yield Handoff(session, lease, fence, session, UNIT), facts
            return
        for to in self.bounds.sessions:
            yield Handoff(session, lease, entry.holder.fence, to, UNIT), facts
            yield Handoff(session, lease, entry.holder.fence - 1, to, UNIT), facts
            if to != session:
                dead = replace(facts, dead=frozenset({*facts.dead, to}))  # type: ignore[misc]
                yield Handoff(session, lease, entry.holder.fence, to, UNIT), dead

    def _commits(self, entry: Entry, session: str, facts: Facts) -> Iterator[tuple[Event, Facts]]:
        """All that may be accepted, and one of each kind that may not."""
        lease, version = "L" + session, entry.version
        stale = Version(INCARNATION, N - 1)
        for base in (stale, Base.ABSENT):
            yield Commit(session, CONTENT, base), facts
        fences = self._fences(entry)
        for fence, base in product(fences, (version, stale)):
            yield Commit(session, CONTENT, base, lease, fence), facts
        tokens = [("", 0, False)]
        if entry.holder is not None and entry.holder.session == session:
            tokens += [(lease, entry.holder.fence, keep) for keep in self.bounds.keep]
        for (by, fence, keep), base, content in product(tokens, (version, Base.ANY), (CONTENT, None)):
            yield Commit(session, content, base, by, fence, keep), facts

    def _fences(self, entry: Entry) -> list[int]:
        known = {entry.fence, entry.fence - 1}
        if entry.holder is not None:
            known.add(entry.holder.fence)
        if entry.pending is not None:
            known.add(entry.pending.fence)
        return sorted(known)

    def _groups(self, entry: Entry) -> list[tuple[str, ...]]:
        waits = entry.pending.waits if entry.pending is not None else ()
        return list(dict.fromkeys([*((session,) for session in self.bounds.sessions), waits or ("A",)]))

    def _facts(self, dead: frozenset[str] | set[str]) -> Facts:
        return Facts(
            now_ms=NOW, now_max_ms=NOW, incarnation=INCARNATION, request=REQUEST, digest="d", floor=FLOOR,
            dead=frozenset(dead), quarantine_ms=self._quarantine_ms, default=Policy(self.bounds.default),
            terms=self.bounds.terms,
        )  # fmt: skip


def strict(entry: Entry, facts: Facts) -> bool:
    """Whether commits to the entry are strict."""
    level = entry.nearest.level if entry.nearest is not None else None
    return (level or facts.default.level) is Level.STRICT


def lapse(entry: Entry, facts: Facts) -> Entry:
    """The entry after its passed deadlines took effect, before anything follows from that."""
    alone = replace(facts, dead=frozenset(), request=0)
    if entry.rev == 0:
        return entry
    after = step(replace(entry, waiters=()), Expire(), alone).entry
    return after if after is not None else replace(entry, waiters=())


def later(entry: Entry) -> Entry:
    """The entry one unit of time later: deadlines come nearer."""
    holder, pending = entry.holder, entry.pending
    return replace(
        entry,
        holder=replace(holder, deadline_ms=holder.deadline_ms - UNIT) if holder else None,
        waiters=tuple(replace(waiter, deadline_ms=waiter.deadline_ms - UNIT) for waiter in entry.waiters),
        pending=replace(pending, until_ms=pending.until_ms - UNIT) if pending else None,
        tombstone_ms=entry.tombstone_ms - UNIT if entry.tombstone_ms else 0,
    )


@dataclass
class Canon:
    """Finds the one entry that stands for all that behave alike."""

    sessions: tuple[str, ...]
    known: dict[tuple[object, ...], Entry] = field(default_factory=dict)

    def of(self, entry: Entry | None) -> Entry:
        """See the class."""
        if entry is None or entry.rev == 0:
            return NOTHING
        key = _key(entry)
        found = self.known.get(key)
        if found is None:
            orders = permutations(self.sessions)
            alike = [_renamed(entry, dict(zip(self.sessions, order, strict=True))) for order in orders]
            found = self.known[key] = min(alike, key=repr)
        return found


def _near(deadline_ms: int) -> int:
    return deadline_ms if deadline_ms > NOW else NOW


def _key(entry: Entry) -> tuple[object, ...]:
    """Equal for entries that `_renamed` cannot tell apart."""
    holder, pending, n = entry.holder, entry.pending, entry.version.n
    return (
        n > 0 and entry.version.incarnation > 0,
        entry.content is None,
        holder
        and (
            holder.session, holder.lease == RESERVED, min(entry.fence - holder.fence, 2), _near(holder.deadline_ms),
            holder.ttl_ms,
        ),
        tuple((w.session, w.ttl_ms, _near(w.deadline_ms), w.create) for w in entry.waiters),
        pending
        and (
            pending.session, pending.content is None, min(entry.fence - pending.fence, 2), pending.keep, pending.waits,
            _near(pending.until_ms), pending.shares, pending.sets_policy, pending.policy,
        ),
        tuple(sorted((s, of == n) for s, of in entry.sharers.items())),
        entry.policy,
        entry.tombstone_ms and _near(entry.tombstone_ms),
    )  # fmt: skip


def _renamed(entry: Entry, names: dict[str, str]) -> Entry:
    n, lower = entry.version.n, min(entry.fence, FENCE)
    committed = entry.version.incarnation > 0
    version = Version(INCARNATION, N) if committed else Version(0, N)
    holder, pending = entry.holder, entry.pending

    def fence(of: int) -> int:
        return FENCE - min(entry.fence - of, 2)

    assert lower >= 0
    return replace(
        entry,
        rev=1,
        version=version,
        fence=FENCE,
        content=CONTENT if entry.content else None,
        committed_ms=0,
        holder=replace(
            holder, session=names[holder.session], fence=fence(holder.fence), deadline_ms=_near(holder.deadline_ms),
            lease=RESERVED if holder.lease == RESERVED else "L" + names[holder.session],
        ) if holder else None,
        waiters=tuple(
            replace(waiter, session=names[waiter.session], lease="L" + names[waiter.session], request=100 + i,
                    digest="w", deadline_ms=_near(waiter.deadline_ms))
            for i, waiter in enumerate(entry.waiters)
        ),
        pending=replace(
            pending, session=names.get(pending.session, ""), request=200, version=Version(INCARNATION, N + 1),
            fence=fence(pending.fence), waits=tuple(sorted(names[s] for s in pending.waits)),
            until_ms=_near(pending.until_ms),
        ) if pending else None,
        sharers=_sharers({names[s]: N - min(n - of, 1) for s, of in entry.sharers.items()}),
        tombstone_ms=_near(entry.tombstone_ms) if entry.tombstone_ms else 0,
        ended=(),
        # Of what has no content: looked at only where there are copies that a creation may have to wait for.
        inherited=entry.inherited if entry.content else None,
        outlast_ms=entry.outlast_ms if entry.content is None and entry.sharers else 0,
    )  # fmt: skip


class Sharers(dict):  # type: ignore[type-arg]
    """A mapping that can stand in a set of entries."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


NOTHING = replace(ABSENT_ENTRY, sharers=Sharers())


def _sharers(given: dict[str, int]) -> Sharers:
    return Sharers(sorted(given.items()))


@dataclass
class Promises:
    """What must be true of one decision."""

    entry: Entry
    lapsed: Entry
    event: Event
    facts: Facts
    decision: Decision

    def hold(self) -> None:
        """Raise AssertionError where a promise is broken."""
        self._kinds()
        new = self.decision.entry
        if new is None:
            self._dropped()
            return
        check(new)
        self._never_back(new)
        self._denials_change_nothing(new)
        self._commits(new)
        self._published(new)
        self._prepared(new)
        self._inherits(new)
        self._reads(new)
        self._sharers(new)
        self._writers(new)
        self._queue(new)
        self._handed(new)

    def _handed(self, new: Entry) -> None:
        """Only the holder hands its lease over, only to the live session that it names, and its own token is dead."""
        event, holder, lapsed = self.event, new.holder, self.lapsed.holder
        if isinstance(event, GetM) and isinstance(self.decision.answer, Grant) and lapsed is not None:
            reserved = (lapsed.session, lapsed.lease) == (event.session, RESERVED)
            assert reserved or self._repeated() or not self.entry.holder, "granted while somebody else held it"
        if not isinstance(event, Handoff) or not isinstance(self.decision.answer, Done):
            return
        assert lapsed is not None and (lapsed.session, lapsed.lease, lapsed.fence) == (
            event.session, event.lease, event.fence
        ), "handed over by somebody who does not hold it"  # fmt: skip
        assert holder is not None and holder.session == event.to and event.to not in self.facts.dead
        assert holder.fence > event.fence, "the token of the former holder still counts"
        assert 0 < self.decision.guards.before_ms <= lapsed.deadline_ms, "not guarded by the deadline"
        assert holder.lease != RESERVED or not any(
            w.session == event.to and (w.create or new.content) for w in self.entry.waiters if w.deadline_ms > NOW
        ), "reserved for somebody who waits"

    @property
    def accepted(self) -> bool:
        """Whether a commit went through, or was prepared."""
        return isinstance(self.event, Commit) and isinstance(self.decision.answer, Done | Waiting)

    def _kinds(self) -> None:
        answer = self.decision.answer
        assert isinstance(answer, ANSWERS[type(self.event)]), f"an answer of kind {type(answer).__name__}"
        if isinstance(answer, Denial):
            allowed = DENIALS[type(self.event)] | (AGAIN if self._repeated() else set())
            assert answer.reason in allowed, f"denied for {answer.reason}"

    def _dropped(self) -> None:
        entry = self.entry
        assert isinstance(self.event, Expire), "dropped by something else than time"
        assert entry.content is None and 0 < entry.tombstone_ms <= NOW, "dropped before its time"
        assert self.decision.floor >= max(entry.version.n, entry.fence, entry.rev), "a floor that lets them come back"
        assert self.decision.guards.floor == self.facts.floor
        assert not self.decision.log and not self.decision.results

    def _never_back(self, new: Entry) -> None:
        entry, floor = self.entry, self.facts.floor
        if entry.rev == 0:
            if new.rev:
                assert min(new.version.n, new.fence) >= floor and new.rev > floor, "born at or below the floor"
                assert self.decision.guards.floor == floor, "a birth that does not guard the floor"
            return
        assert new.version.n >= entry.version.n and new.fence >= entry.fence, "a version or fence fell"
        assert new.version.n <= entry.version.n + 1 + (entry.pending is not None), "a version was skipped"
        assert new.rev == entry.rev + (new is not entry)
        rounds = sum(isinstance(event, Granted | Ended) for event in self.decision.log)
        assert new.fence >= entry.fence + rounds, "a round without a fence of its own"
        if new.version != entry.version:
            assert new.version.incarnation == self.facts.incarnation or entry.pending is not None

    def _denials_change_nothing(self, new: Entry) -> None:
        if not isinstance(self.decision.answer, Denial):
            return
        if new is self.entry:
            return
        alone = step(self.entry, Expire(), replace(self.facts, request=0))
        if alone.entry is not None:
            assert new == alone.entry, "a denial with an effect"
            assert self.decision.log == alone.log

    def _commits(self, new: Entry) -> None:
        event, lapsed = self.event, self.lapsed
        if not isinstance(event, Commit) or not self.accepted:
            return
        if self._repeated():
            return
        assert lapsed.pending is None, "two commits under way"
        if event.lease:
            holder = lapsed.holder
            assert holder is not None and (holder.session, holder.lease) == (event.session, event.lease)
            assert holder.fence == event.fence, "a stale token was accepted"
            assert self.entry.holder is not None and self.entry.holder.deadline_ms > NOW
            assert 0 < self.decision.guards.before_ms <= self.entry.holder.deadline_ms, "not guarded by the deadline"
        else:
            assert lapsed.holder is None, "past a live holder"
        if event.base is Base.ABSENT:
            assert lapsed.content is None, "created over content"
        elif event.base is not Base.ANY:
            assert event.base == lapsed.version or (lapsed.rev == 0), "a commit on another base"
        if isinstance(self.decision.answer, Done):
            assert new.version.n > lapsed.version.n or lapsed.rev == 0
            assert self.decision.answer.version == new.version
        if event.content is not None:
            assert self.decision.guards.content == event.content.hash, "content that nobody checked"

    def _repeated(self) -> bool:
        return self.facts.request != REQUEST

    @property
    def _calm(self) -> bool:
        return self.facts.quarantine_ms <= NOW

    def _published(self, new: Entry) -> None:
        """What must not be published over copies is published when there are none, and no quarantine."""
        entry, event, facts = self.entry, self.event, self.facts
        if entry.pending is not None and (new.pending is None or new.version.n > entry.version.n):
            pending = entry.pending
            assert new.version.n >= pending.version.n, "a prepared version was given up"
            assert self._calm and self.decision.guards.calm, "published in quarantine, or without a look at it"
            for session in pending.waits:
                acked = isinstance(event, InvAck) and event.fence == pending.fence and session in event.sessions
                left = isinstance(event, EndSession | Put) and event.session == session
                assert pending.until_ms <= NOW or acked or left, f"published before {session} was done"
        changed = isinstance(event, SetPolicy | Inherit) and strict(self.lapsed, facts) != strict(new, facts)
        done = isinstance(self.decision.answer, Done | None) and not self._repeated()
        if done and (changed or (isinstance(event, Commit) and strict(entry, facts))):
            assert self._calm and self.decision.guards.calm, "published in quarantine, or without a look at it"
            committer = event.session if isinstance(event, Commit) else ""
            for session in self.lapsed.sharers:
                assert session in (committer, *facts.dead), f"published at once over {session}'s copy"

    def _prepared(self, new: Entry) -> None:
        """A round waits for everybody who may hold a copy, for as long as one that was granted before may live."""
        entry, event, facts, pending = self.entry, self.event, self.facts, new.pending
        if pending is None:
            return
        guards, terms = self.decision.guards, facts.terms
        if entry.pending is not None and pending.version == entry.pending.version:
            least_ms = entry.pending.until_ms if pending.waits else facts.quarantine_ms
            assert pending.until_ms >= least_ms, "a round that is over earlier than it was to be"
            assert set(pending.waits) <= set(entry.pending.waits)
            return
        assert isinstance(event, Inherit) or isinstance(self.decision.answer, Waiting)
        assert isinstance(event, Commit | SetPolicy | Inherit)
        created = isinstance(event, Commit) and self.lapsed.content is None
        committer = event.session if isinstance(event, Commit) and not created else ""
        waits = {session for session in self.lapsed.sharers if session != committer and session not in facts.dead}
        assert set(pending.waits) == waits, "a round that does not wait for every copy"
        assert waits or not self._calm, "nobody to wait for"
        assert pending.until_ms >= facts.quarantine_ms
        if waits:
            lazy = isinstance(event, SetPolicy | Inherit) or created  # copies of the former level
            age_ms = terms.max_age_ms * 102 // 100 + UNIT if lazy else 0
            quiet_ms = max(terms.quiet_ms, age_ms)
            assert 0 < guards.before_ms <= pending.until_ms - quiet_ms, "copies may have been granted later"
            assert guards.calm, "judged by a clock that may have been set anew"
        if isinstance(event, SetPolicy):
            assert pending.content == self.lapsed.content and pending.sets_policy and new.policy == self.lapsed.policy
        if isinstance(event, Inherit):
            assert pending.content == self.lapsed.content and pending.inherits and guards.policies

    def _inherits(self, new: Entry) -> None:
        """What comes to be, or takes something over, is compared with what the prefix says then; the log tells."""
        comes = self.lapsed.content is None and new.content is not None
        takes = self.lapsed.content is not None and new.content is not None and new.inherited != self.lapsed.inherited
        if comes or (takes and self.entry.pending is None):
            assert self.decision.guards.policies, "inherited what nobody compares"
        told = [event.policy for event in self.decision.log if isinstance(event, PolicySet)]
        if (comes and new.policy is None and new.inherited is not None) or new.nearest != self.lapsed.nearest:
            assert new.content is None or new.nearest in told, "the log does not tell of the policy"

    def _reads(self, new: Entry) -> None:
        answer = self.decision.answer
        if isinstance(self.event, GetS) and isinstance(answer, Grant):
            stays = new.pending is None and (self._calm or not strict(new, self.facts))
            assert answer.cacheable == stays, "a copy that may be kept while it goes out of date"
            assert answer.version == new.version

    def _sharers(self, new: Entry) -> None:
        """A copy leaves the set only when it is certainly gone, and what was granted is in it."""
        before, after = self.entry.sharers, new.sharers
        moved = {session for session in {*before, *after} if before.get(session) != after.get(session)}
        assert moved <= set(self.decision.moved), "a sharer moved, and the decision does not name it"
        event, new_version = self.event, new.version.n
        for session, n in self.entry.sharers.items():
            if new.sharers.get(session, -1) >= n:
                continue
            gone = (
                (isinstance(event, Put | EndSession | Commit) and event.session == session)
                or (isinstance(event, InvAck) and session in event.sessions and n < event.n)
                or ((strict(self.entry, self.facts) or self.entry.pending is not None) and n < new_version)
            )
            assert gone, f"{session} left the sharers"
        for event_ in self.decision.log:
            if isinstance(event_, Granted) and new.content is not None:
                assert event_.session in new.sharers
        answer = self.decision.answer
        if isinstance(event, GetS) and isinstance(answer, Grant) and answer.cacheable and event.share:
            assert new.sharers[event.session] == answer.version.n

    def _writers(self, new: Entry) -> None:
        holder, lapsed = new.holder, self.lapsed.holder
        if holder is None:
            return
        assert holder.fence <= new.fence
        same = lapsed is not None and (lapsed.session, lapsed.lease) == (holder.session, holder.lease)
        if not same:
            ended = any(isinstance(event, Ended) for event in self.decision.log)
            assert self.entry.holder is None or ended, "a live holder was put out"
            assert holder.session not in self.facts.dead, "a dead session was granted the lease"
            assert holder.session in self.decision.guards.live, "granted without a look at the session"
            assert holder.fence == new.fence and new.fence > self.entry.fence

    def _queue(self, new: Entry) -> None:
        """Waiters go in order, and nobody leaves the queue without an answer unless its session is over."""
        before = [(waiter.session, waiter.request) for waiter in self.entry.waiters]
        after = [(waiter.session, waiter.request) for waiter in new.waiters]
        stayed = [waiter for waiter in before if waiter in after]
        assert after[: len(stayed)] == stayed, "the queue was reordered"
        answered = {(result.session, result.request): result for result in self.decision.results}
        event = self.event
        for session, request in before:
            if (session, request) in after:
                continue
            over = session in self.facts.dead or (isinstance(event, EndSession) and event.session == session)
            assert over or (session, request) in answered, f"{session} waits for an answer that never comes"
        granted = [event_ for event_ in self.decision.log if isinstance(event_, Granted) and event_.request]
        for grant in granted:
            if grant.by:
                assert isinstance(event, Handoff) and grant.session == event.to, "handed to somebody else"
                continue
            earlier = before[: before.index((grant.session, grant.request))]
            for session, request in earlier:
                assert (session, request) not in after, "granted past somebody who waits longer"
            result: Result = answered[grant.session, grant.request]
            assert isinstance(result.answer, Grant) and result.answer.fence == grant.fence
