"""The rule book: `step(entry, event, facts) -> Decision`.

Theory of operation. A judgement has three parts, always in this order:

  1. *lapse*: deadlines that have passed take effect first, so that every rule below may trust what it sees. A
     prepared version whose wait-set is empty or run out is published, an overdue lease ends, overdue waiters are
     refused, and a lease that has become free goes to the first waiter, ahead of whoever asks now.
  2. the *rule* of (state, event) from `rules.RULES`.
  3. *settle*: what follows from the change. A free write lease goes to the first live waiter; an artifact without
     content and without anybody interested becomes a tombstone.

Lazy and strict differ in one place, `rules._publish_or_prepare`. A lazy commit publishes at once: other sharers stay in
the set with the old version number until they acknowledge, because until then they may still hold it. A strict commit
prepares: version and wait-set are fixed, readers get the old version uncached, and the version is published when
every copy is acknowledged gone or certainly dead. It is never aborted. A change between lazy and strict is such a round
too, of the content that is there. While the slice is in quarantine nothing is published: `rules.proceed` puts it off.

Tokens. The fence rises with every grant, commit, release and expiry, so a token is valid in one round only.
"""

from __future__ import annotations

from typing import TypeVar

from homenode_directory.protocol.draft import Draft
from homenode_directory.protocol.effects import (
    Answer,
    Decision,
    Denial,
    Done,
    Grant,
    Guards,
    Reason,
    Refused,
    Waiting,
)
from homenode_directory.protocol.events import (
    Commit,
    EndSession,
    Event,
    Expire,
    GetM,
    Handoff,
    Put,
    SetPolicy,
)
from homenode_directory.protocol.facts import Facts, outlasting
from homenode_directory.protocol.model import Cause, Entry, state_of
from homenode_directory.protocol.rules import RULES, missing, proceed

A = TypeVar("A", bound=Answer)

# Looked up by type: `isinstance` of a union makes the union anew each time, which takes longer than most rules.
_EFFECTS = frozenset({GetM, Commit, SetPolicy, Put, Handoff})  # their answers are stored
_WRITERS = frozenset({GetM, Commit, SetPolicy})  # would get ahead of those who have waited

_STORED = frozenset({Grant, Done, Denial})

SETTLED = Denial(Reason.INVALID_ARGUMENT, "this request was settled; its answer is forgotten")


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
        return Decision(entry, repeated(facts.stored.digest, facts.digest, facts.stored.answer))
    if 0 < facts.request < facts.settled_below:
        return Decision(entry, SETTLED)
    draft = Draft(entry, facts)
    session = getattr(event, "session", "")
    _lapse(draft, event)
    answer = _under_way(draft, session)
    if answer is None:
        if session and not isinstance(event, EndSession):
            if session in facts.dead:
                return Decision(entry, Denial(Reason.SESSION_LOST, "the session is over"))
            draft.live.append(session)
        state = state_of(draft.pending, draft.holder, draft.sharers)
        answer = RULES[state, type(event)].judge(draft, event)
        if facts.request and type(event) in _EFFECTS and type(answer) in _STORED:
            draft.store_result(session, facts.request, facts.digest, answer)  # type: ignore[arg-type]
    return _settle(draft, event, answer)


def repeated(stored_digest: str, digest: str, answer: A) -> A | Denial:
    """The same request gets the same answer; the same id with another request is a mistake."""
    if stored_digest == digest:
        return answer
    return Denial(Reason.INVALID_ARGUMENT, "this request id was used for another request")


def _under_way(draft: Draft, session: str) -> Answer | None:
    """The answer to a repeated request that waits, is prepared, or was answered by a deadline that has just passed.

    Whether its session is over makes no difference: what is prepared will be published.
    """
    facts, pending = draft.facts, draft.pending
    if not (session and facts.request):
        return None
    named = (session, facts.request)
    for result in draft.results:
        if (result.session, result.request) == named:
            return repeated(result.digest, facts.digest, result.answer)
    for waiter in draft.waiters:
        if (waiter.session, waiter.request) == named:
            return repeated(waiter.digest, facts.digest, Waiting())
    if pending is not None and (pending.session, pending.request) == named:
        return repeated(pending.digest, facts.digest, Waiting())
    return None


# --- lapse and settle ---------------------------------------------------------------------------------------------


def _lapse(draft: Draft, event: Event) -> None:
    now = draft.facts.now_ms
    pending = draft.pending
    if pending is not None:
        proceed(draft, pending)
    holder = draft.holder
    if holder is not None and holder.deadline_ms <= now:
        draft.end_lease(Cause.EXPIRED)
    if not draft.waiters:
        return
    overdue = [waiter for waiter in draft.waiters if waiter.deadline_ms <= now]
    if overdue:
        draft.waiters = tuple(waiter for waiter in draft.waiters if waiter.deadline_ms > now)
        for waiter in overdue:
            draft.refuse_waiter(waiter, _waited(draft))
    if type(event) in _WRITERS:
        _serve_queue(draft)


def _waited(draft: Draft) -> Denial:
    holder = draft.holder.session if draft.holder is not None else ""
    return Denial(
        Reason.WAIT_TIMEOUT, "the write lease did not become free in time", current=draft.current, holder=holder
    )


def _serve_queue(draft: Draft) -> None:
    """A free write lease goes to the first live waiter."""
    while draft.holder is None and draft.pending is None and draft.waiters:
        waiter, draft.waiters = draft.waiters[0], draft.waiters[1:]
        draft.changed = True
        if waiter.session in draft.facts.dead:
            draft.log.append(Refused(waiter.session, waiter.request))
            continue
        if draft.content is None and not waiter.create:
            draft.refuse_waiter(waiter, missing(draft))
            continue
        grant = draft.give_lease(waiter.session, waiter.lease, waiter.ttl_ms, waiter.request)
        draft.store_result(waiter.session, waiter.request, waiter.digest, grant)


def _settle(draft: Draft, event: Event, answer: Answer | None) -> Decision:
    facts = draft.facts
    if draft.waiters:
        _serve_queue(draft)
    idle = draft.content is None and draft.holder is None and draft.pending is None
    if idle and (draft.changed or draft.old.rev):
        if draft.tombstone_ms == 0:
            # Longer than copies that were given before it was deleted: what is made again strict must know of them.
            draft.tombstone_ms = facts.now_max_ms + max(facts.terms.tombstone_ms, outlasting(draft.outlast_ms))
            draft.changed = True
        elif isinstance(event, Expire) and draft.tombstone_ms <= facts.now_ms and not draft.log:
            return _drop(draft)
    return draft.decide(answer)


def _drop(draft: Draft) -> Decision:
    """Forget a tombstone. The slice's floor keeps its versions, fences and revs from coming back."""
    floor = max(draft.facts.floor, draft.version.n, draft.fence, draft.old.rev)
    return Decision(None, guards=Guards(floor=draft.facts.floor), floor=floor)


def check(entry: Entry) -> None:
    """Raise AssertionError where an entry breaks an invariant of its type."""
    assert entry.holder is None or entry.holder.fence <= entry.fence, "a token above the fence"
    assert entry.pending is None or entry.pending.fence <= entry.fence, "a round above the fence"
    assert entry.pending is None or entry.pending.version.n == entry.version.n + 1, "pending is not the next version"
    assert all(n <= entry.version.n for n in entry.sharers.values()), "a sharer ahead of the committed version"
    assert not entry.waiters or entry.holder is not None or entry.pending is not None, "waiters before a free lease"
    keys = [(waiter.session, waiter.request) for waiter in entry.waiters]
    assert len(keys) == len(set(keys)), "a request waits twice"
    assert entry.tombstone_ms == 0 or entry.content is None, "a tombstone with content"
