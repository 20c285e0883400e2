"""A request under way: what it takes to send it again, and to settle it whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from homenode.errors import DeadlineExceeded, HomenodeError, Unavailable, Unknown

if TYPE_CHECKING:
    from homenode_api.traces import RecordedSpan

#: Called in stream order with the answer's message, before whoever waits runs.
OnAnswer = Callable[[Any, "Pending"], None]
#: Called when it has failed for good, before whoever waits runs.
OnError = Callable[[HomenodeError], None]


class Pending:
    """One request of a session.

    Attributes:
        request_id: names it; the same id is sent again after a reconnect.
        kind: field of Operation; `message` is its value.
        effect: whether it changes something in the directory, so that its outcome must be resolved, not guessed.
        sent_ns: when it was first sent, on the session's clock; 0: not yet. Permissions count from here.
        resent: whether it was sent on more than one stream: its answer may be older than the stream.
        session_id: under which session it was sent last; attach_id: under which of its attaches.
        deadline_ns: when it is given up.
        failure: the last transient refusal, to be told if time runs out.
        span: records it, where somebody wants that.
        waited: whether it takes a place among the link's operations under way.
    """

    __slots__ = (
        "attach_id", "deadline_ns", "effect", "failure", "future", "kind", "message", "on_answer", "on_error",
        "request_id", "resent", "sent_ns", "session_id", "span", "tries", "waited",
    )  # fmt: skip

    def __init__(
        self,
        request_id: int,
        kind: str,
        message: Any,
        effect: bool,
        deadline_ns: int,
        future: asyncio.Future[Any] | None,
        on_answer: OnAnswer | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self.request_id = request_id
        self.kind = kind
        self.message = message
        self.effect = effect
        self.deadline_ns = deadline_ns
        self.future = future
        self.on_answer = on_answer
        self.on_error = on_error
        self.sent_ns = 0
        self.resent = False
        self.session_id = ""
        self.attach_id = 0
        self.failure: HomenodeError | None = None
        self.tries = 0
        self.waited = future is not None
        self.span: RecordedSpan | None = None

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.future is None or self.future.done()

    def answer(self, message: Any) -> None:
        """It has been answered."""
        if self.span is not None:
            self.span.end()
        if self.on_answer is not None:
            self.on_answer(message, self)
        future, self.future = self.future, None  # which has this object in its result
        if future is not None and not future.done():
            future.set_result((message, self))

    def fail(self, failure: HomenodeError) -> None:
        """It has failed for good."""
        if self.span is not None:
            self.span.end(type(failure).__name__)
        if self.on_error is not None:
            self.on_error(failure)
        if self.future is not None and not self.future.done():
            self.future.set_exception(failure)

    def unknown(self) -> Unknown:
        """That nobody can say whether the effect took place."""
        return Unknown(
            f"the outcome of this {self.kind} is not known; read the artifact to see",
            session_id=self.session_id,
            request_id=self.request_id,
        )

    def out_of_time(self, *, connected: bool) -> HomenodeError:
        """What to tell when its deadline has passed."""
        if self.effect and self.sent_ns and self.kind not in ("acquire", "release"):  # those undo themselves
            return self.unknown()
        if self.failure is not None and not isinstance(self.failure, Unknown):
            return self.failure
        if connected and self.sent_ns:
            return DeadlineExceeded(f"no answer to this {self.kind} in time")
        return Unavailable("the directory cannot be reached")
