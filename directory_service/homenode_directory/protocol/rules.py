"""The table of rules: what each event does in each state.

Every (state, event) pair is present in `RULES`. A rule gets a draft on which passed deadlines have taken effect already
(`transitions` says how a judgement goes); it either changes the draft and answers, or answers with a denial and changes
nothing. Rules of events for which nobody waits answer None.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from homenode_directory.protocol.draft import Draft
from homenode_directory.protocol.effects import (
    Answer,
    Denial,
    Done,
    Dropped,
    Inv,
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
    Handoff,
    Inherit,
    InvAck,
    Put,
    Renew,
    SetPolicy,
)
from homenode_directory.protocol.facts import outlasting
from homenode_directory.protocol.model import RESERVED, Cause, Holder, Level, Pending, Policy, State, Version, Waiter

Judge = Callable[[Draft, Event], Answer | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One cell of the table: what it does, in words, and the function that does it."""

    name: str
    judge: Judge


def proceed(draft: Draft, pending: Pending, gone: Container[str] = ()) -> None:
    """Publish a prepared version once no older copy is left: all `gone`, or certainly dead, and no quarantine."""
    facts = draft.facts
    waits = tuple(session for session in pending.waits if session not in gone)
    until_ms = pending.until_ms
    if not waits or until_ms <= facts.now_ms:
        if draft.calm:
            draft.publish(pending)
            return
        until_ms = facts.quarantine_ms
    if (waits, until_ms) != (pending.waits, pending.until_ms):
        draft.changed = True
        draft.pending = replace(pending, waits=waits, until_ms=until_ms)


def _prepare(draft: Draft, pending: Pending, quiet_ms: int, lease: str = "") -> Waiting:
    """Start a round: older copies are obsolete, none is handed out, and `pending` is published when they are gone.

    Every copy was granted before this commit, which takes place before `limit_ms`; `quiet_ms` later it is dead.
    """
    facts = draft.facts
    until_ms = facts.quarantine_ms
    if pending.waits:
        limit_ms = facts.now_max_ms + facts.terms.late_ms
        draft.not_after(limit_ms)
        draft.calm_guard = True  # or the clock that `limit_ms` is compared with may have been set anew
        until_ms = max(until_ms, limit_ms + quiet_ms)
    draft.pending = replace(pending, until_ms=until_ms)
    draft.log.append(
        Inv(pending.version, pending.fence, pending.content, pending.session, True, lease, pending.waits, until_ms)
    )
    return Waiting()


# --- reads --------------------------------------------------------------------------------------------------------


def missing(draft: Draft) -> Denial:
    """The denial for an artifact that does not exist."""
    return Denial(Reason.NOT_FOUND, "there is no such artifact", current=draft.current)


def _read(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, GetS)
    if event.strict and draft.facts.weakness:
        return _unsupported(draft)
    if draft.content is None:
        return missing(draft)
    beyond = event.strict and not draft.strict  # what the policy gives: linearizable only as long as it is not kept
    if event.share and draft.cacheable and not beyond and draft.share(event.session):
        draft.log.append(Shared(event.session, draft.version.n))
    grant = draft.grant()
    return replace(grant, level=Level.STRICT, cacheable=False) if beyond else grant


def _unsupported(draft: Draft) -> Denial:
    return Denial(Reason.UNSUPPORTED, f"strict cannot be kept: {draft.facts.weakness}", current=draft.current)


# --- the write lease ----------------------------------------------------------------------------------------------


def _acquire(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, GetM)
    if draft.content is None and not event.create:
        return missing(draft)
    return draft.give_lease(event.session, event.lease, event.ttl_ms)


def _held(draft: Draft) -> Denial:
    facts, holder = draft.facts, draft.holder
    until = holder.deadline_ms if holder is not None else facts.now_max_ms
    if draft.pending is not None:
        until = max(until, draft.pending.until_ms)
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
    if draft.pending is None and _is_holder(draft, event.session, RESERVED):
        draft.end_lease(Cause.HANDED_OFF)
        return draft.give_lease(event.session, event.lease, event.ttl_ms)
    if draft.content is None and not event.create:
        return missing(draft)
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


def _not_holder(draft: Draft, session: str, lease: str) -> Denial:
    cause = draft.cause_of(session, lease)
    return Denial(Reason.LEASE_LOST, "the write lease is not held any more", current=draft.current, cause=cause)


def _is_holder(draft: Draft, session: str, lease: str) -> bool:
    holder = draft.holder
    return holder is not None and (holder.session, holder.lease) == (session, lease)


def _renew(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, Renew)
    holder = draft.holder
    if holder is None or not _is_holder(draft, event.session, event.lease):
        return _not_holder(draft, event.session, event.lease)
    draft.not_after(holder.deadline_ms)
    deadline_ms = max(holder.deadline_ms, draft.facts.now_max_ms + event.ttl_ms)
    if deadline_ms != holder.deadline_ms:
        draft.holder = Holder(holder.session, holder.lease, holder.fence, deadline_ms, event.ttl_ms)
        draft.changed = True
    return draft.done(holder.fence, event.ttl_ms)


def _renew_none(draft: Draft, event: Event) -> Answer:
    assert isinstance(event, Renew)
    return _not_holder(draft, event.session, event.lease)


def _handoff(draft: Draft, event: Event) -> Answer:
    """The named successor comes before everybody who waits; it is asked for by nobody else, so nobody is put out."""
    assert isinstance(event, Handoff)
    denial = _check_token(draft, event)
    if denial is not None:
        return denial
    if draft.pending is not None:
        return _held(draft)
    if event.to in draft.facts.dead:
        return Denial(Reason.SUCCESSOR_LOST, "the successor's session is over", current=draft.current)
    assert draft.holder is not None
    draft.not_after(draft.holder.deadline_ms)
    draft.end_lease(Cause.HANDED_OFF)
    waits = [w for w in draft.waiters if w.session == event.to and (w.create or draft.content is not None)]
    if not waits:
        draft.give_lease(event.to, RESERVED, event.ttl_ms, by=event.session, agent=event.agent)
        return draft.done()
    waiter = waits[0]
    draft.waiters = tuple(other for other in draft.waiters if other is not waiter)
    grant = draft.give_lease(waiter.session, waiter.lease, waiter.ttl_ms, waiter.request, event.session, event.agent)
    draft.store_result(waiter.session, waiter.request, waiter.digest, grant)
    return draft.done()


def _put(draft: Draft, event: Event) -> Answer:
    """Give up the lease, or the shared copy. A prepared commit whose lease is given up is published without it."""
    assert isinstance(event, Put)
    if not event.lease:
        _leave(draft, event.session)
        return draft.done()
    if not _is_holder(draft, event.session, event.lease):
        return _not_holder(draft, event.session, event.lease)
    draft.end_lease(Cause.RELEASED)
    return draft.done()


def _leave(draft: Draft, session: str) -> None:
    """The session holds no copy any more: it leaves the sharers, and nobody waits for it."""
    dropped = draft.unshare(lambda sharer, _: sharer == session)
    if dropped:
        draft.log.append(Dropped(dropped))
    if draft.pending is not None:
        proceed(draft, draft.pending, (session,))


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
        return missing(draft)
    if event.lease and draft.holder is not None:
        draft.not_after(draft.holder.deadline_ms)
    return _publish_or_prepare(draft, event)


def _commit_prepared(draft: Draft, event: Event) -> Answer:
    """While a version waits to be published nobody else commits; the mismatch or the stale token is named first."""
    assert isinstance(event, Commit)
    denial = _check_token(draft, event) if event.lease else None
    return denial or _check_base(draft, event) or _held(draft)


def _check_token(draft: Draft, event: Commit | Handoff) -> Denial | None:
    holder = draft.holder
    if holder is not None and _is_holder(draft, event.session, event.lease) and holder.fence == event.fence:
        return None
    return Denial(
        Reason.STALE_FENCE,
        "the write lease is not held any more",
        current=draft.current,
        cause=draft.cause_of(event.session, event.lease),
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
    draft.come_to_be(event.content)
    if draft.strict:
        # What is created strict may have been deleted lazy: then the committer may have a copy that it still serves.
        waits = tuple(session for session in draft.copies() if session != event.session or draft.content is None)
        if waits or not draft.calm:
            pending = Pending(
                event.session, facts.request, facts.digest, event.content, version, fence, event.keep, waits
            )
            quiet_ms = _until_dead_ms(draft) if draft.content is None else facts.terms.quiet_ms
            return _prepare(draft, pending, quiet_ms, event.lease)
        draft.calm_guard = True
        draft.unshare(lambda session, _: session != event.session)
    elif event.content is None and draft.sharers:
        draft.outlast_ms = max(draft.outlast_ms, _age_ms(draft, draft.nearest))
    draft.version, draft.content = version, event.content
    draft.committed_ms = max(draft.committed_ms, facts.now_ms)
    push, base = draft.pushes
    draft.log.append(Inv(version, fence, event.content, event.session, lease=event.lease, push=push, base=base))
    if event.content is not None:
        draft.share(event.session)
    elif draft.strict:  # else it serves its copy until it hears of the delete, and says when that is
        draft.unshare(lambda session, _: session == event.session)
    return _after_commit(draft, event, fence)


def _after_commit(draft: Draft, event: Commit, fence: int) -> Done:
    holder = draft.holder
    if holder is None:
        return draft.done()
    if event.keep:
        draft.holder = Holder(holder.session, holder.lease, fence, holder.deadline_ms, holder.ttl_ms)
        return draft.done(fence, holder.ttl_ms)
    draft.end_lease(Cause.RELEASED)
    return draft.done()


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
    _ack(draft, event)  # first: the log says who acknowledged before it says that the version is published
    if event.fence == pending.fence:
        proceed(draft, pending, event.sessions)


def _nothing(draft: Draft, event: Event) -> None:
    """Deadlines have lapsed already."""


def _end_session(draft: Draft, event: Event) -> None:
    """Nobody waits for its copies: it closed itself and has dropped them, or its deadline passed and theirs before, or
    its memory is gone, and that is followed by a quarantine."""
    assert isinstance(event, EndSession)
    if draft.pending is not None and draft.pending.session == event.session:
        draft.pending = replace(draft.pending, shares=False)
        draft.changed = True
    _leave(draft, event.session)
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
        return missing(draft)
    nearest = event.policy or draft.inherited
    if draft.level_of(nearest) is Level.STRICT and draft.facts.weakness:
        return _unsupported(draft)
    if draft.policy == event.policy:
        return draft.done()
    if _needs_round(draft, nearest):
        return _held(draft) if draft.holder is not None else _prepare_policy(draft, event)
    draft.set_policy(event.policy, draft.inherited)
    return draft.done()


def _inherit(draft: Draft, event: Event) -> None:
    """As SetPolicy, of what is inherited. Where a round has to wait for a writer, the directory asks again."""
    assert isinstance(event, Inherit)
    if draft.content is None or draft.inherited == event.policy:
        return
    if _needs_round(draft, draft.policy or event.policy):
        if draft.holder is None:
            draft.policies_guard = True
            _prepare_policy(draft, event)
        return
    draft.policies_guard = True
    draft.set_policy(draft.policy, event.policy)


def _needs_round(draft: Draft, nearest: Policy | None) -> bool:
    """Whether copies have to go before that policy may hold."""
    if draft.level_of(nearest) is not draft.level_of(draft.nearest):
        if draft.copies() or not draft.calm:
            return True
        draft.calm_guard = True
    elif draft.copies() and _age_ms(draft, nearest) < _age_ms(draft, draft.nearest):
        # Copies that are out keep the age that they were given with, from each sign of life on: a change of level has
        # to outlast it, however much later it comes.
        draft.outlast_ms = max(draft.outlast_ms, _age_ms(draft, draft.nearest))
    return False


def _age_ms(draft: Draft, policy: Policy | None) -> int:
    """The greatest age of a lazy copy under a policy."""
    age_ms = (policy or draft.facts.default).max_age_ms
    return age_ms if age_ms is not None else draft.facts.terms.max_age_ms


def _until_dead_ms(draft: Draft) -> int:
    """In this time every copy dies, on the store's clock: a strict one, and a lazy one of an earlier policy."""
    quiet_ms = draft.facts.terms.quiet_ms
    return max(quiet_ms, outlasting(draft.outlast_ms)) if draft.outlast_ms else quiet_ms


def _prepare_policy(draft: Draft, event: SetPolicy | Inherit) -> Answer:
    """A change of level makes all copies obsolete, and only a version does that: one with the same content."""
    facts, content, inherits = draft.facts, draft.content, isinstance(event, Inherit)
    assert content is not None
    version = Version(facts.incarnation, draft.version.n + 1)
    draft.content_guard = content.hash
    draft.outlast_ms = max(draft.outlast_ms, _age_ms(draft, draft.nearest))
    pending = Pending(
        getattr(event, "session", ""), facts.request, facts.digest, content, version, draft.raise_fence(), False,
        draft.copies(), shares=False, sets_policy=not inherits, policy=event.policy, inherits=inherits,
    )  # fmt: skip
    return _prepare(draft, pending, _until_dead_ms(draft))


def _set_policy_prepared(draft: Draft, event: Event) -> Answer:
    return _held(draft)


# --- the table ----------------------------------------------------------------------------------------------------

_READ = Rule("grant a cacheable copy, add the sharer", _read)
_ACQUIRE = Rule("grant the write lease, fence + 1", _acquire)
_QUEUE = Rule("take what was handed over; queue behind the writer; or deny HELD", _queue)
_COMMIT = Rule("check token and base; publish, or prepare when strict copies are out", _commit)
_PUT = Rule("end the lease or drop the copy", _put)
_ACK = Rule("drop acknowledged older copies", _ack)
_NO_LEASE = Rule("deny LEASE_LOST with the cause", _renew_none)
_RENEW = Rule("move the holder's deadline", _renew)
_LAPSE = Rule("deadlines only", _nothing)
_END = Rule("drop the session's copy, places in the queue and lease", _end_session)
_POLICY = Rule("set the policy; prepare when the level changes and copies are out", _set_policy)

_NOT_HANDED = Rule("deny STALE_FENCE with the cause", _handoff)
_HANDOFF = Rule("end the lease, give it to the successor past the queue", _handoff)

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
    Inherit: Rule("as SetPolicy, of what is inherited; nothing while somebody writes and a round is needed", _inherit),
    Handoff: _NOT_HANDED,
}
_WRITTEN: dict[type[Event], Rule] = {**_FREE, GetM: _QUEUE, Renew: _RENEW, Handoff: _HANDOFF}
_PREPARED: dict[type[Event], Rule] = {
    **_WRITTEN,
    GetS: Rule("return the old version, not cacheable", _read),
    Commit: Rule("deny: stale token, other base, or HELD", _commit_prepared),
    InvAck: Rule("shrink the wait-set; publish when it is empty", _ack_prepared),
    SetPolicy: Rule("deny HELD", _set_policy_prepared),
    Inherit: Rule("nothing: it is asked again", _nothing),
    Handoff: Rule("deny: stale token, or HELD", _handoff),
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
