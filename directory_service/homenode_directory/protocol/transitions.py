"""The rule book: `step(entry, event, facts) -> Decision`.

Theory of operation. A judgement has three parts, always in this order:

  1. *lapse*: deadlines that have passed take effect first, so that every rule below may trust what it sees. A
     prepared version whose wait-set is empty or run out is published, an overdue lease ends, overdue waiters are
     refused.
  2. the *rule* of (state, event) from `RULES`. Every pair is present. A rule either changes the draft and answers, or
     answers with a denial and changes nothing.
  3. *settle*: what follows from the change. A free write lease goes to the first live waiter; an artifact without
     content and without anybody interested becomes a tombstone.

Lazy and strict differ in one place, `_publish_or_prepare`. A lazy commit publishes at once: other sharers stay in the
set with the old version number until they acknowledge, because until then they may still hold it. A strict commit
prepares: version and wait-set are fixed, readers get the old version uncached, and the version is published when
every copy is acknowledged gone or certainly dead. It is never aborted.

Tokens. The fence rises with every grant, commit, release and expiry, so a token is valid in one round only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homenode_directory.protocol.draft import Draft
from homenode_directory.protocol.effects import (
    Answer,
    Decision,
    Denial,
    Done,
    Dropped,
    Grant,
    Guards,
    Inv,
    PolicySet,
    Reason,
    Refused,
    Shared,
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
    InvAck,
    Put,
    Renew,
    SetPolicy,
)
from homenode_directory.protocol.facts import Facts
from homenode_directory.protocol.model import Cause, Entry, Holder, Level, Pending, State, Version, Waiter

Judge = Callable[[Draft, Event], Answer | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One cell of the table: what it does, in words, and the function that does it."""

    name: str
    judge: Judge


def step(entry: Entry, event: Event, facts: Facts) -> Decision:
    """Judge one event.

    Args:
        entry: the artifact's record; `ABSENT_ENTRY` where there is none.
        event: what happened or is asked for.
        facts: what the judgement rests on beyond the entry.

    Returns:
        The new entry with everything that must be committed with it. Never raises for what a client can send.
    """
    if facts.stored is not None:
        return Decision(entry, _repeat(facts, facts.stored.digest, facts.stored.answer))
    if 0 < facts.request < facts.settled_below:
        return Decision(entry, Denial(Reason.INVALID_ARGUMENT, "this request was settled; its answer is forgotten"))
    draft = Draft(entry, facts)
    session = getattr(event, "session", "")
    if session and not isinstance(event, EndSession):
        if session in facts.dead:
            return Decision(entry, Denial(Reason.SESSION_LOST, "the session is over"))
        draft.live.append(session)
    _lapse(draft)
    state = _state(draft)
    answer = _under_way(draft, session)
    if answer is None:
        answer = RULES[state, type(event)].judge(draft, event)
        if isinstance(event, GetM | Commit | SetPolicy | Put):
            if isinstance(answer, Grant | Done | Denial):
                draft.store_result(event.session, facts.request, facts.digest, answer)
    return _settle(draft, event, answer)


def _repeat(facts: Facts, digest: str, answer: Answer) -> Answer:
    """The same request gets the same answer; the same id with another request is a mistake."""
    if digest == facts.digest:
        return answer
    return Denial(Reason.INVALID_ARGUMENT, "this request id was used for another request")


def _under_way(draft: Draft, session: str) -> Answer | None:
    """The answer to a repeated request that waits, is prepared, or was answered by a deadline that has just passed."""
    facts, pending = draft.facts, draft.pending
    if not (session and facts.request):
        return None
    named = (session, facts.request)
    for result in draft.results:
        if (result.session, result.request) == named:
            return _repeat(facts, result.digest, result.answer)
    for waiter in draft.waiters:
        if (waiter.session, waiter.request) == named:
            return _repeat(facts, waiter.digest, Waiting())
    if pending is not None and (pending.session, pending.request) == named:
        return _repeat(facts, pending.digest, Waiting())
    return None


def _state(draft: Draft) -> State:
    if draft.pending is not None:
        return State.P
    if draft.holder is not None:
        return State.M
    if not draft.sharers:
        return State.I
    return State.E if len(draft.sharers) == 1 else State.S


# --- lapse and settle ---------------------------------------------------------------------------------------------


def _lapse(draft: Draft) -> None:
    now = draft.facts.now_ms
    pending = draft.pending
    if pending is not None:
        waits = tuple((s, ms) for s, ms in pending.waits if ms > now)
        _wait_only_for(draft, pending, waits)
    holder = draft.holder
    if holder is not None and holder.deadline_ms <= now:
        draft.end_lease(Cause.EXPIRED)
    overdue = [waiter for waiter in draft.waiters if waiter.deadline_ms <= now]
    if overdue:
        draft.waiters = tuple(waiter for waiter in draft.waiters if waiter.deadline_ms > now)
        for waiter in overdue:
            draft.refuse_waiter(waiter, _waited(draft))


def _waited(draft: Draft) -> Denial:
    holder = draft.holder.session if draft.holder is not None else ""
    return Denial(
        Reason.WAIT_TIMEOUT, "the write lease did not become free in time", current=draft.current, holder=holder
    )


def _wait_only_for(draft: Draft, pending: Pending, waits: tuple[tuple[str, int], ...]) -> None:
    """Shrink a pending commit's wait-set; publish when nobody is left."""
    if not waits:
        draft.publish(pending)
    elif waits != pending.waits:
        draft.changed = True
        draft.pending = Pending(
            pending.session, pending.request, pending.digest, pending.content, pending.version, pending.fence,
            pending.keep, waits,
        )  # fmt: skip


def _settle(draft: Draft, event: Event, answer: Answer | None) -> Decision:
    facts = draft.facts
    while draft.holder is None and draft.pending is None and draft.waiters:
        waiter, draft.waiters = draft.waiters[0], draft.waiters[1:]
        draft.changed = True
        if waiter.session in facts.dead:
            draft.log.append(Refused(waiter.session, waiter.request))
            continue
        if draft.content is None and not waiter.create:
            draft.refuse_waiter(waiter, _missing(draft))
            continue
        grant = draft.give_lease(waiter.session, waiter.lease, waiter.ttl_ms, waiter.request)
        draft.store_result(waiter.session, waiter.request, waiter.digest, grant)
    idle = draft.content is None and draft.holder is None and draft.pending is None
    if idle and (draft.changed or draft.old.rev):
        if draft.tombstone_ms == 0:
            draft.tombstone_ms = facts.now_max_ms + facts.terms.tombstone_ms
            draft.changed = True
        elif isinstance(event, Expire) and draft.tombstone_ms <= facts.now_ms and not draft.log:
            return _drop(draft)
    return draft.decide(answer)


def _drop(draft: Draft) -> Decision:
    """Forget a tombstone. The slice's floor keeps its versions, fences and revs from coming back."""
    floor = max(draft.facts.floor, draft.version.n, draft.fence, draft.old.rev)
    return Decision(None, guards=Guards(floor=draft.facts.floor), floor=floor)


# --- reads --------------------------------------------------------------------------------------------------------


def _missing(draft: Draft) -> Denial:
    return Denial(Reason.NOT_FOUND, "there is no such artifact", current=draft.current)


def _read(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, GetS)
    if draft.content is None:
        return _missing(draft)
    if event.share and draft.share(event.session):
        draft.log.append(Shared(event.session, draft.version.n))
    return draft.grant()


def _read_prepared(draft: Draft, event: Event) -> Answer:
    return draft.grant() if draft.content is not None else _missing(draft)


# --- the write lease ----------------------------------------------------------------------------------------------


def _acquire(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, GetM)
    if draft.content is None and not event.create:
        return _missing(draft)
    return draft.give_lease(event.session, event.lease, event.ttl_ms)


def _held(draft: Draft) -> Denial:
    facts, holder = draft.facts, draft.holder
    until = holder.deadline_ms if holder is not None else facts.now_max_ms
    if draft.pending is not None:
        until = max([until, *(ms for _, ms in draft.pending.waits)])
    return Denial(
        Reason.HELD,
        "another writer is active",
        current=draft.current,
        holder=holder.session if holder is not None else "",
        retry_after_ms=max(1, until - facts.now_ms),
    )


def _queue(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, GetM)
    facts = draft.facts
    if draft.holder is not None and (draft.holder.session, draft.holder.lease) == (event.session, event.lease):
        return Denial(Reason.INVALID_ARGUMENT, "this lease id is in use")
    if draft.content is None and not event.create:
        return _missing(draft)
    if event.wait_ms <= 0:
        return _held(draft)
    if len(draft.waiters) >= facts.terms.waiters_max:
        return Denial(Reason.QUEUE_FULL, "too many writers wait already", retry_after_ms=_held(draft).retry_after_ms)
    deadline_ms = facts.now_max_ms + event.wait_ms
    waiter = Waiter(
        event.session, facts.request, facts.digest, event.lease, event.ttl_ms, deadline_ms, create=event.create
    )
    draft.waiters = (*draft.waiters, waiter)
    draft.changed = True
    return Waiting()


def _not_holder(draft: Draft, lease: str) -> Denial:
    cause = draft.cause_of(lease)
    return Denial(Reason.LEASE_LOST, "the write lease is not held any more", current=draft.current, cause=cause)


def _is_holder(draft: Draft, session: str, lease: str) -> bool:
    holder = draft.holder
    return holder is not None and (holder.session, holder.lease) == (session, lease)


def _renew(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, Renew)
    holder = draft.holder
    if holder is None or not _is_holder(draft, event.session, event.lease):
        return _not_holder(draft, event.lease)
    draft.before_ms = holder.deadline_ms
    deadline_ms = max(holder.deadline_ms, draft.facts.now_max_ms + event.ttl_ms)
    if deadline_ms != holder.deadline_ms:
        draft.holder = Holder(holder.session, holder.lease, holder.fence, deadline_ms, event.ttl_ms)
        draft.changed = True
    return Done(draft.version, holder.fence, event.ttl_ms)


def _renew_none(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, Renew)
    return _not_holder(draft, event.lease)


def _put(draft: Draft, event: Event) -> Answer:
    """Give up the lease, or the shared copy. A prepared commit whose lease is given up is published without it."""
    assert isinstance(event, Put)
    if not event.lease:
        dropped = draft.unshare(lambda session, _: session == event.session)
        if dropped:
            draft.log.append(Dropped(dropped))
        return Done(draft.version)
    if not _is_holder(draft, event.session, event.lease):
        return _not_holder(draft, event.lease)
    draft.end_lease(Cause.RELEASED)
    return Done(draft.version)


# --- commits ------------------------------------------------------------------------------------------------------


def _commit(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, Commit)
    if event.lease:
        denial = _check_token(draft, event)
        if denial is not None:
            return denial
    denial = _check_base(draft, event)
    if denial is not None:
        return denial
    if not event.lease and draft.holder is not None:
        return _held(draft)
    if event.content is None and draft.content is None:
        return _missing(draft)
    if event.lease and draft.holder is not None:
        draft.before_ms = draft.holder.deadline_ms
    return _publish_or_prepare(draft, event)


def _commit_prepared(draft: Draft, event: Event) -> Answer:
    """While a version waits to be published nobody else commits; the mismatch or the stale token is named first."""
    assert isinstance(event, Commit)
    denial = _check_token(draft, event) if event.lease else None
    return denial or _check_base(draft, event) or _held(draft)


def _check_token(draft: Draft, event: Commit) -> Denial | None:
    holder = draft.holder
    if holder is not None and _is_holder(draft, event.session, event.lease) and holder.fence == event.fence:
        return None
    return Denial(
        Reason.STALE_FENCE,
        "the write lease is not held any more",
        current=draft.current,
        cause=draft.cause_of(event.lease),
    )


def _check_base(draft: Draft, event: Commit) -> Denial | None:
    if event.base is Base.ANY:
        return None
    if event.base is Base.ABSENT:
        if draft.content is None:
            return None
        return Denial(Reason.ALREADY_EXISTS, "the artifact exists", current=draft.current)
    if event.base == draft.version:
        return None
    return Denial(Reason.VERSION_CONFLICT, "the artifact is at another version", current=draft.current)


def _publish_or_prepare(draft: Draft, event: Commit) -> Answer:
    facts = draft.facts
    version = Version(facts.incarnation, draft.version.n + 1)
    fence = draft.raise_fence()
    if event.content is not None:
        draft.content_guard = event.content.hash
    draft.tombstone_ms = 0
    if draft.strict:
        waits = tuple((s, facts.deadlines[s]) for s in sorted(draft.sharers) if _must_wait(s, event, facts))
        if waits:
            draft.log.append(Inv(version, fence, event.content, event.session, prepared=True))
            draft.deadlines = waits
            draft.pending = Pending(
                event.session, facts.request, facts.digest, event.content, version, fence, event.keep, waits
            )
            return Waiting()
    draft.version, draft.content = version, event.content
    draft.committed_ms = max(draft.committed_ms, facts.now_ms)
    draft.log.append(Inv(version, fence, event.content, event.session))
    if draft.strict:
        draft.unshare(lambda session, _: session != event.session)
    if event.content is not None:
        draft.share(event.session)
    else:
        draft.unshare(lambda session, _: session == event.session)
    return _after_commit(draft, event, fence)


def _must_wait(session: str, event: Commit, facts: Facts) -> bool:
    return session != event.session and facts.deadlines.get(session, 0) > facts.now_ms


def _after_commit(draft: Draft, event: Commit, fence: int) -> Done:
    holder = draft.holder
    if holder is None:
        return Done(draft.version)
    if event.keep:
        draft.holder = Holder(holder.session, holder.lease, fence, holder.deadline_ms, holder.ttl_ms)
        return Done(draft.version, fence, holder.ttl_ms)
    draft.end_lease(Cause.RELEASED)
    return Done(draft.version)


# --- what nobody asked for ----------------------------------------------------------------------------------------


def _ack(draft: Draft, event: Event) -> None:
    assert isinstance(event, InvAck)
    sessions = frozenset(event.sessions)
    dropped = draft.unshare(lambda session, n: session in sessions and n < event.n)
    if dropped:
        draft.log.append(Dropped(dropped))


def _ack_prepared(draft: Draft, event: Event) -> None:
    """An ack counts for the round it names; one of an earlier round must not publish this one."""
    assert isinstance(event, InvAck)
    pending = draft.pending
    assert pending is not None
    if event.fence == pending.fence:
        _wait_only_for(draft, pending, tuple((s, ms) for s, ms in pending.waits if s not in event.sessions))
    _ack(draft, event)


def _nothing(draft: Draft, event: Event) -> None:
    """Deadlines have lapsed already."""


def _end_session(draft: Draft, event: Event) -> None:
    """Its place in a wait-set stays: an ended session's process may still read its copies until they run out."""
    assert isinstance(event, EndSession)
    dropped = draft.unshare(lambda session, _: session == event.session)
    if dropped:
        draft.log.append(Dropped(dropped))
    leaving = [waiter for waiter in draft.waiters if waiter.session == event.session]
    if leaving:
        draft.waiters = tuple(waiter for waiter in draft.waiters if waiter.session != event.session)
        draft.log.extend(Refused(waiter.session, waiter.request) for waiter in leaving)
        draft.changed = True
    if draft.holder is not None and draft.holder.session == event.session:
        draft.end_lease(event.cause)


def _set_policy(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, SetPolicy)
    if draft.content is None:
        return _missing(draft)
    if draft.policy == event.policy:
        return Done(draft.version)
    level = event.policy.level if event.policy is not None else draft.facts.default.level
    if level is Level.STRICT and not draft.strict and draft.sharers:
        return Denial(Reason.HELD, "copies are out that do not expire; try again when they are gone", draft.current)
    draft.policy = event.policy
    draft.changed = True
    draft.log.append(PolicySet(event.policy))
    return Done(draft.version)


def _set_policy_prepared(draft: Draft, event: Event) -> Answer:
    return _held(draft)


# --- the table ----------------------------------------------------------------------------------------------------

_READ = Rule("grant a cacheable copy, add the sharer", _read)
_ACQUIRE = Rule("grant the write lease, fence + 1", _acquire)
_QUEUE = Rule("queue behind the writer, or deny HELD", _queue)
_COMMIT = Rule("check token and base; publish, or prepare when strict copies are out", _commit)
_PUT = Rule("end the lease or drop the copy", _put)
_ACK = Rule("drop acknowledged older copies", _ack)
_NO_LEASE = Rule("deny LEASE_LOST with the cause", _renew_none)
_RENEW = Rule("move the holder's deadline", _renew)
_LAPSE = Rule("deadlines only", _nothing)
_END = Rule("drop the session's copy, places in the queue and lease", _end_session)
_POLICY = Rule("set the policy", _set_policy)

_FREE: dict[type[Event], Rule] = {
    GetS: _READ,
    GetM: _ACQUIRE,
    Commit: _COMMIT,
    Put: _PUT,
    InvAck: _ACK,
    Renew: _NO_LEASE,
    Expire: _LAPSE,
    EndSession: _END,
    SetPolicy: _POLICY,
}
_WRITTEN: dict[type[Event], Rule] = {**_FREE, GetM: _QUEUE, Renew: _RENEW}
_PREPARED: dict[type[Event], Rule] = {
    **_WRITTEN,
    GetS: Rule("return the old version, not cacheable", _read_prepared),
    Commit: Rule("deny: stale token, other base, or HELD", _commit_prepared),
    InvAck: Rule("shrink the wait-set; publish when it is empty", _ack_prepared),
    SetPolicy: Rule("deny HELD", _set_policy_prepared),
}

RULES: dict[tuple[State, type[Event]], Rule] = {
    (state, event): rule
    for state, rules in (
        (State.I, _FREE),
        (State.S, _FREE),
        (State.E, _FREE),
        (State.M, _WRITTEN),
        (State.P, _PREPARED),
    )
    for event, rule in rules.items()
}


def check(entry: Entry) -> None:
    """Raise AssertionError where an entry breaks an invariant of its type."""
    assert entry.holder is None or entry.holder.fence <= entry.fence, "a token above the fence"
    assert entry.pending is None or entry.pending.fence <= entry.fence, "a round above the fence"
    assert entry.pending is None or entry.pending.waits, "pending with nobody to wait for"
    assert entry.pending is None or entry.pending.version.n == entry.version.n + 1, "pending is not the next version"
    assert all(n <= entry.version.n for n in entry.sharers.values()), "a sharer ahead of the committed version"
    assert not entry.waiters or entry.holder is not None or entry.pending is not None, "waiters before a free lease"
    keys = [(waiter.session, waiter.request) for waiter in entry.waiters]
    assert len(keys) == len(set(keys)), "a request waits twice"
    assert entry.tombstone_ms == 0 or entry.content is None, "a tombstone with content"
