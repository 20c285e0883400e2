"""What a session has under way: every request until its answer, whatever happens to the stream meanwhile."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable
from enum import Enum
from typing import TYPE_CHECKING, Any

from homenode.clock import NS_PER_MS
from homenode.errors import HomenodeError, Unavailable, from_wire
from homenode.link import Link
from homenode.pending import OnAnswer, OnError, Pending
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t

if TYPE_CHECKING:
    from homenode.traces import Spans

OVERLOADED_TRIES = 5
ORPHANS_MAX = 256
#: Refusals after which the same request is sent again.
TRANSIENT = (t.ERROR_REASON_UNAVAILABLE, t.ERROR_REASON_UNKNOWN, t.ERROR_REASON_OVERLOADED)


class Phase(Enum):
    """Where a session is in its life."""

    NEW = "new"
    LIVE = "live"
    LOST = "lost"
    CLOSED = "closed"


class Requests:
    """The requests of one session. `Session` extends it.

    Attributes:
        id: the session's; number: on the link's stream.
        pending: requests without an answer, by id, oldest first.
        ready: whether the session is attached to the current stream: only then anything is sent.
        attach_id: names the last attach.
        spans: makes spans of requests, where somebody wants them.
    """

    def __init__(self, link: Link, timeout_ms: int) -> None:
        self.link = link
        self.timeout_ms = timeout_ms
        self.loop = asyncio.get_running_loop()
        self.number = 0
        self.id = ""
        self.phase = Phase.NEW
        self.pending: dict[int, Pending] = {}
        self.ready = False
        self.attach_id = 0
        self.spans: Spans | None = None
        self._request_id = 0
        self._orphans: OrderedDict[int, tuple[str, str]] = OrderedDict()

    def request(
        self,
        kind: str,
        message: Any,
        *,
        effect: bool = False,
        timeout_ms: int | None = None,
        on_answer: OnAnswer | None = None,
        on_error: OnError | None = None,
    ) -> Awaitable[tuple[Any, Pending]]:
        """Send a request and wait: the answer's message, and how it went.

        Cancelling the wait does not cancel the request: its answer is still applied (`on_answer`), or its failure
        (`on_error`). Raises HomenodeError; for an effect of which nobody knows whether it happened, Unknown.
        """
        self._check_open()
        if self.link.places.take():
            return self._begin(kind, message, effect, timeout_ms, on_answer, on_error)
        return self._request_in_turn(kind, message, effect, timeout_ms, on_answer, on_error)

    async def _request_in_turn(
        self,
        kind: str,
        message: Any,
        effect: bool,
        timeout_ms: int | None,
        on_answer: OnAnswer | None,
        on_error: OnError | None,
    ) -> tuple[Any, Pending]:
        try:
            await self.link.places.enter()
            if self.phase is Phase.CLOSED:
                self.link.places.leave()
                self._check_open()
        except BaseException:
            if on_error is not None:
                on_error(Unavailable("it was not sent"))
            raise
        return await self._begin(kind, message, effect, timeout_ms, on_answer, on_error)

    def _begin(
        self,
        kind: str,
        message: Any,
        effect: bool,
        timeout_ms: int | None,
        on_answer: OnAnswer | None,
        on_error: OnError | None,
    ) -> asyncio.Future[tuple[Any, Pending]]:
        """Send a request that has its place among those under way; `finish` gives the place back."""
        future: asyncio.Future[tuple[Any, Pending]] = self.loop.create_future()
        deadline_ns = self.link.clock() + (self.timeout_ms if timeout_ms is None else timeout_ms) * NS_PER_MS
        pending = Pending(self.next_id(), kind, message, effect, deadline_ns, future, on_answer, on_error)
        if self.spans is not None:
            pending.span = self.spans.request(kind)
        self._register(pending)
        return future

    def background(
        self,
        kind: str,
        message: Any,
        *,
        effect: bool = False,
        on_answer: OnAnswer | None = None,
        on_error: OnError | None = None,
        request_id: int = 0,
    ) -> None:
        """Send a request for which nobody waits."""
        if self.phase is not Phase.CLOSED:
            deadline_ns = self.link.clock() + self.timeout_ms * NS_PER_MS
            self._register(
                Pending(request_id or self.next_id(), kind, message, effect, deadline_ns, None, on_answer, on_error)
            )

    def _check_open(self) -> None:
        if self.phase is Phase.CLOSED:
            raise Unavailable("the connection is closed")

    def next_id(self) -> int:
        """A request id that was not used before."""
        self._request_id += 1
        return self._request_id

    def _register(self, pending: Pending) -> None:
        self.pending[pending.request_id] = pending
        if self.ready:
            self.transmit(pending)

    def transmit(self, pending: Pending) -> None:
        if not pending.sent_ns:
            pending.sent_ns = self.link.clock()
        elif pending.session_id:
            pending.resent = True
        pending.session_id, pending.attach_id = self.id, self.attach_id
        operation = pb.Operation(session=self.number, request_id=pending.request_id, **{pending.kind: pending.message})
        if pending.span is not None:
            operation.traceparent = pending.span.traceparent
        self.link.send(operation)

    def finish(self, pending: Pending) -> Pending:
        """Take a request off the list; its place among those under way is free."""
        if self.pending.pop(pending.request_id, None) is not None and pending.waited:
            self.link.places.leave()
        return pending

    def resolve(self, pending: Pending, answer: pb.Answer, what: str | None) -> None:
        """The answer to a request is known; `what` names its member."""
        if what == "error":
            failure = from_wire(answer.error)
            failure.about(getattr(pending.message, "key", ""))
            self.finish(pending).fail(failure)
        elif what is not None:
            self.finish(pending).answer(getattr(answer, what))

    def give_up(self, pending: Pending, failure: HomenodeError) -> None:
        """A request has failed for good."""
        self.finish(pending).fail(failure)

    @property
    def settled_below(self) -> int:
        """Every request id below this is answered, or will not be asked again."""
        return next(iter(self.pending), self._request_id + 1)

    def expire(self, pending: Pending) -> None:
        if pending.kind == "acquire" and pending.sent_ns:
            self._orphans[pending.request_id] = (pending.message.key, pending.message.lease_id)
            if len(self._orphans) > ORPHANS_MAX:
                self._orphans.popitem(last=False)
        self.give_up(pending, pending.out_of_time(connected=self.ready))

    def try_again(self, pending: Pending, error: t.Error) -> bool:
        """After a transient refusal the same request is sent again, a little later, until its time is up."""
        pending.tries += 1
        if error.reason == t.ERROR_REASON_OVERLOADED and pending.tries > OVERLOADED_TRIES:
            return False
        pending.failure = from_wire(error)
        wait_s = min(2.0, 0.02 * 2 ** min(pending.tries, 7)) * (0.5 + self.link.rng.random() / 2)
        self.loop.call_later(max(wait_s, error.retry_after_ms / 1000), self._send_again, pending, self.id)
        return True

    def _send_again(self, pending: Pending, session_id: str) -> None:
        if self.ready and self.id == session_id and self.pending.get(pending.request_id) is pending:
            self.transmit(pending)

    def release_orphan(self, request_id: int) -> None:
        """A lease was granted to somebody who has given up waiting."""
        orphan = self._orphans.pop(request_id, None)
        if orphan is not None:
            self.release_later(*orphan)

    def release_later(self, key: str, lease_id: str) -> None:
        """Give up a lease without waiting for the answer."""
        self.background("release", pb.ReleaseRequest(key=key, lease_id=lease_id), effect=True)
