"""From a lost session to the next one, without doing anything twice.

The directory ends a session when it has not heard of it for too long, or when its memory changed. Requests of that
session take no effect any more, but some may have before it ended. So the directory is asked (`Resolve`, which also
ends the session for certain), and only what has never run is sent again, under the next session. A read is just read
again. What rested on a write lease is not sent again: the lease went with the session.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from homenode.errors import DeadlineExceeded, HomenodeError, LeaseLost, Overloaded, SessionLost, Unavailable
from homenode.link import Backoff
from homenode.pending import Pending
from homenode_api.v1 import directory_pb2 as pb

if TYPE_CHECKING:
    from homenode.session import Session

LOG = logging.getLogger("homenode")

CALL_TIMEOUT_S = 5.0
FIRST_TIMEOUT_S = 2.5  # for an answer of a server that has not said anything yet, where there are others
RESOLVE_MAX = 512
TRIES_HERE = 3
_WORTH_RETRYING = (Unavailable, Overloaded, DeadlineExceeded)


async def open_session(session: Session) -> None:
    """Open a session, however long it takes; the caller bounds it. Raises HomenodeError for a refusal."""
    backoff, tries = Backoff(session.link.rng), 0
    while True:
        request = pb.OpenSessionRequest(
            workspace=session.workspace,
            name=session.name,
            ttl_ms=session.ttl_ms,
            seen_incarnation=session.position.incarnation,
        )
        try:
            limit_s = FIRST_TIMEOUT_S if _may_be_deaf(session) else CALL_TIMEOUT_S
            opened = await session.link.transport.call("OpenSession", request, limit_s)
        except _WORTH_RETRYING as failure:
            session.last_failure = failure
            tries += 1
            _try_elsewhere(session, tries, failure)
            await asyncio.sleep(backoff.next_s())
        else:
            session.begin(opened)
            return


def _try_elsewhere(session: Session, tries: int, failure: HomenodeError) -> None:
    """A server that does not answer, or does and cannot reach the store, is left for another one."""
    deaf = isinstance(failure, DeadlineExceeded) and _may_be_deaf(session)
    if (deaf or tries % TRIES_HERE == 0) and session.link.transport.hosts > 1:
        session.link.restart()


def _may_be_deaf(session: Session) -> bool:
    """Nothing has come from this server, and there are others. Without a session the link does not notice silence."""
    return session.link.transport.hosts > 1 and not session.link.heard


async def reopen(session: Session) -> None:
    """Resolve what was under way in the lost session, then open another one."""
    backoff = Backoff(session.link.rng)
    while True:
        try:
            await _reopen(session)
            return
        except Exception:  # a mistake, but nobody else would open another session
            LOG.exception("no other session could be opened; trying again")
        await asyncio.sleep(backoff.next_s())


async def _reopen(session: Session) -> None:
    old_id = session.id
    sent = [p for p in session.pending.values() if p.effect and p.sent_ns and p.session_id == old_id]
    for start in range(0, len(sent), RESOLVE_MAX):
        await _resolve(session, old_id, sent[start : start + RESOLVE_MAX])
    for pending in [p for p in session.pending.values() if p.kind == "renew"]:
        session.give_up(pending, LeaseLost("the session was lost", cause="session_lost"))
    for pending in session.pending.values():
        pending.sent_ns, pending.session_id, pending.resent = 0, "", False
    backoff = Backoff(session.link.rng)
    while True:
        try:
            await open_session(session)
            return
        except HomenodeError as failure:  # a refusal may be lifted; callers learn of it as their time runs out
            session.last_failure = failure
            for pending in session.pending.values():
                pending.failure = failure
            await asyncio.sleep(backoff.next_s())


async def _resolve(session: Session, old_id: str, asked: list[Pending]) -> None:
    request = pb.ResolveRequest(session_id=old_id, request_ids=[p.request_id for p in asked])
    backoff, tries = Backoff(session.link.rng), 0
    outcomes: dict[int, pb.Outcome] = {}
    while any(p.request_id in session.pending for p in asked):
        try:
            response = await session.link.transport.call("Resolve", request, CALL_TIMEOUT_S)
        except _WORTH_RETRYING as failure:
            if isinstance(failure, SessionLost):
                break  # the directory remembers nothing of it
            tries += 1
            _try_elsewhere(session, tries, failure)
            await asyncio.sleep(backoff.next_s())
        except HomenodeError:
            break
        else:
            outcomes = {outcome.request_id: outcome for outcome in response.outcomes}
            break
    for pending in asked:
        if pending.request_id in session.pending:
            _settle(session, pending, outcomes.get(pending.request_id))


def _settle(session: Session, pending: Pending, outcome: pb.Outcome | None) -> None:
    if pending.kind == "release":
        session.resolve(pending, pb.Answer(release=pb.ReleaseResponse()), "release")
    elif pending.kind in ("acquire", "snapshot"):
        return  # whatever was granted went with the session; it is asked for again
    elif outcome is not None and outcome.HasField("answer"):
        session.resolve(pending, outcome.answer, outcome.answer.WhichOneof("what"))
    elif outcome is not None and outcome.never:
        if _rests_on_a_lease(pending):
            session.give_up(pending, LeaseLost("the session was lost before the commit", cause="session_lost"))
        # else it is sent again, under the next session
    else:
        session.give_up(pending, pending.unknown())


def _rests_on_a_lease(pending: Pending) -> bool:
    """Whether the request was made under a write lease, which went with its session."""
    if pending.kind == "commit_many":
        return any(item.HasField("token") for item in pending.message.items)
    return pending.kind in ("commit", "handoff") and pending.message.HasField("token")
