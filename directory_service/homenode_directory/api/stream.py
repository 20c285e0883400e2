"""One Session stream, without gRPC: frames of operations in, frames of answers and events out.

Many sessions share a stream. Operations of a frame start in the same tick of the event loop, so the directory commits
them together; their answers leave in the order in which they are known, many a frame. Every queue is bounded:
operations in flight (an operation counts until its answer has left; one too many is answered OVERLOADED), events
waiting to be sent (`outbox`), and frames read ahead (`room`: a client that does not read is not read from either).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import frames, validate, wire
from homenode_directory.api.acks import Acks
from homenode_directory.api.calls import Asked, Caller, Hearing, Step
from homenode_directory.api.carried import Carried, SessionSink
from homenode_directory.api.errors import Rejected, error_of, invalid, outcome_name, rejected
from homenode_directory.api.outbox import Outbox
from homenode_directory.api.parts import Parts
from homenode_directory.place import Position
from homenode_directory.tracing import CURRENT, Span


class Ticket(Hearing):
    """An operation under way: what its answer needs, and the way there, until it is answered."""

    __slots__ = ("_stream", "finish", "name", "number", "request_id", "span", "started")

    def __init__(self, stream: Stream, number: int, request_id: int, name: str) -> None:
        self._artifact = ""  # as in Hearing
        self._stream: Stream | None = stream
        self.number = number
        self.request_id = request_id
        self.name = name
        self.started = stream._loop.time()
        self.span: Span | None = None
        self.finish: Callable[[Any], Any] = _as_is

    def answered(self, reply: Any) -> None:
        """The directory has answered: make the message."""
        if self._stream is None:
            return
        try:
            message = self.finish(reply)
            if isinstance(message, Coroutine):  # of whatever type: those of compiled modules have their own
                self._stream._run(self, message)
                return
        except BaseException as failure:
            self.failed(failure)
            return
        self._leave("ok", self.name, message)

    def succeeded(self, message: Any) -> None:
        """The answer's message is there."""
        self._leave("ok", self.name, message)

    def failed(self, failure: BaseException) -> None:
        """The answer is an error."""
        error = error_of(failure, during=self.name)
        if self._stream is not None and (error.holder or error.keys):
            self._stream._parts.calls.names.fill(error)
        self._leave(outcome_name(error), "error", error)

    def _leave(self, outcome: str, field: str, message: Any) -> None:
        stream, self._stream = self._stream, None
        self.finish = _as_is
        if stream is not None:
            stream._answered(self, outcome, frames.answer(self.number, self.request_id, field, message))


def _as_is(message: Any) -> Any:
    return message


class Stream:
    """The server's end of one stream. `receive` takes frames, `outbox` gives them (`ready`: see there)."""

    def __init__(self, parts: Parts, ready: Callable[[], None] | None = None) -> None:
        self._parts = parts
        self._limits = parts.limits
        self._tracer = parts.tracer
        self.outbox = Outbox(parts.queues, parts.observer, ready)
        self._sessions: dict[int, Carried] = {}
        self._numbers: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waits: set[Ticket] = set()  # for a write lease; nobody misses them
        self._pending = 0  # operations accepted and not answered
        self._aside = 0  # attaches, signs of life and acks under way: bounded by the sessions, and no reason to refuse
        self._acks = Acks(parts.directory, parts.limits.pending_acks)
        self._received = 0
        self._finished = False
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._special = {
            "attach": self._attach,
            "detach": self._detach,
            "ping": self._ping,
            "ack": self._ack,
            "unwatch": self._unwatch,
        }
        parts.hub.enter(self)

    # --- life -------------------------------------------------------------------------------------------------------

    def receive(self, frame: pb.SessionRequest) -> None:
        """Start everything in a frame. Raises Rejected where the stream must end."""
        if len(frame.operations) > self._limits.frame_operations:
            raise invalid(f"a frame may have {self._limits.frame_operations} operations, not {len(frame.operations)}")
        if frame.number:
            self._received += 1
            if frame.number != self._received:
                message = f"frame {frame.number} came where {self._received} was due; attach again on a new stream"
                raise rejected(t.ERROR_REASON_UNAVAILABLE, message)
        for operation in frame.operations:
            self._operation(operation)
        if self._acks.due:
            self._spawn(self._acks.send())

    async def room(self) -> None:
        """Wait until another frame should be read: a client has to take its answers first."""
        await self.outbox.room(2 * self._limits.in_flight)

    @property
    def has_room(self) -> bool:
        """Whether another frame should be read; see `room`."""
        return self.outbox.has_room(2 * self._limits.in_flight)

    @property
    def idle_limit_s(self) -> float:
        """How long the stream may carry no session."""
        return self._limits.idle_s

    @property
    def idle(self) -> bool:
        """Whether the stream carries no session."""
        return not self._sessions and not self._pending and not self._aside

    def finish(self) -> None:
        """The client sends no more: end when everything is answered."""
        self._finished = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._finished and not self._pending and not self._aside:
            self.outbox.close()

    def close(self) -> None:
        """The client is gone. Effects under way are finished, mere waiting is given up."""
        if self.closed:
            return
        self.closed = True
        for number in list(self._sessions):
            self._drop(number)
        self.outbox.close()
        self._parts.hub.leave(self)
        for wait in list(self._waits):
            wait.failed(asyncio.CancelledError())

    def drain(self, within_ms: int) -> None:
        """See `hub.Owner`."""
        self.outbox.notice(frames.draining(within_ms))

    def load(self) -> tuple[int, int, float]:
        """See `hub.Owner`."""
        return len(self.outbox), self._pending + self._aside, self.outbox.behind_s

    def evict(self, session: str) -> None:
        """See `hub.Owner`."""
        number = self._numbers.get(session)
        if number is not None:
            self._forget(number)

    def over(self, number: int) -> None:
        """The session has ended; its last event is queued."""
        self._loop.call_soon(self._drop, number)

    # --- operations -------------------------------------------------------------------------------------------------

    def _operation(self, operation: pb.Operation) -> None:
        name = operation.WhichOneof("what")
        if name == "attach":
            self._attach(operation)
            return
        session = self._sessions.get(operation.session)
        if name is None:
            self._refuse(operation, "unknown", invalid("the operation is missing or unknown to this server"))
        elif session is None:
            self._refuse(operation, name, invalid(f"no session is attached as number {operation.session}"))
        elif session.backlog is None and name in self._special:
            # Never refused for load: signs of life and acks are bounded in themselves, and they make the load less.
            try:
                self._special[name](operation)
            except Rejected as refusal:
                self._refuse(operation, name, refusal)
        elif self.outbox.full or self._pending + self.outbox.answers >= self._limits.in_flight:
            busy = rejected(t.ERROR_REASON_OVERLOADED, "too many operations in flight", retry_after_ms=50)
            self._refuse(operation, name, busy)
        elif session.backlog is not None:
            self._pending += 1
            session.backlog.append(operation)
        else:
            self._start(session, operation, name)

    def _start(self, session: Carried, operation: pb.Operation, name: str) -> None:
        message, request_id = getattr(operation, name), operation.request_id
        ticket = Ticket(self, operation.session, request_id, name)
        calls, caller = self._parts.calls, session.caller
        if self._tracer is not None:
            if caller.slice_ is None:
                caller.slice_ = self._parts.directory.slice_of(caller.place)
            ticket.span = self._parts.begin_span(name, message, operation.traceparent, caller.slice_.number)
        self._pending += 1
        try:
            if name == "watch":
                step: Step = self._watch(session, request_id, message)
            else:
                step = calls.by_name[name](caller, request_id, message)
            if type(step) is Asked:
                ticket.finish = step.finish
                calls.ask(caller, step, ticket)
            else:
                self._run(ticket, step)  # type: ignore[arg-type]
        except Exception as failure:
            ticket.failed(failure)
            return
        finally:
            if ticket.span is not None:
                CURRENT.set("")
        if name == "acquire" and message.wait_ms:
            self._waits.add(ticket)

    def _run(self, ticket: Ticket, call: Coroutine[Any, Any, Any], then: Callable[[], None] = lambda: None) -> None:
        """Finish an operation in a task; `then` runs behind its answer."""
        task = self._loop.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ran, ticket))
        task.add_done_callback(lambda _: then())

    def _ran(self, ticket: Ticket, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        if failure is not None:
            ticket.failed(failure)
        else:
            ticket.succeeded(task.result())

    def _answered(self, ticket: Ticket, outcome: str, piece: bytes) -> None:
        """An operation's answer is known."""
        if ticket.name == "attach":
            self._aside -= 1
        else:
            self._pending -= 1
        self._waits.discard(ticket)
        self.outbox.answer(ticket.number, piece)
        span = ticket.span
        if span is not None:
            span.end(outcome)
        seconds = self._loop.time() - ticket.started
        self._parts.observer.request(ticket.name, outcome, seconds, span.trace_id if span is not None else "")
        if self._finished:
            self._end_if_done()

    def _refuse(self, operation: pb.Operation, name: str, refusal: Rejected) -> None:
        self.outbox.answer(
            operation.session, frames.answer(operation.session, operation.request_id, "error", refusal.error)
        )
        self._parts.observer.request(name, outcome_name(refusal.error), 0.0)

    def _spawn(self, call: Any) -> None:
        """Run something that has no answer; it handles its own failures."""
        self._aside += 1
        task = self._loop.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._aside -= 1
        if not task.cancelled() and (failure := task.exception()) is not None:
            error_of(failure, during="stream")  # logs what is unexpected
        self._end_if_done()

    # --- sessions ---------------------------------------------------------------------------------------------------

    def _attach(self, operation: pb.Operation) -> None:
        number, message = operation.session, operation.attach
        try:
            if number in self._sessions:
                raise invalid(f"number {number} is in use on this stream")
            if message.session_id in self._numbers:
                raise invalid("the session is attached to this stream already")
            if len(self._sessions) >= self._limits.stream_sessions:
                raise rejected(t.ERROR_REASON_QUOTA_EXCEEDED, f"{self._limits.stream_sessions} sessions a stream")
            place = validate.session(self._parts.tenant, message.session_id)
            holdings = validate.holdings(message.holdings)
            validate.exact(message.number, "number")
            resume = wire.position_in(message.resume, "resume") if message.HasField("resume") else None
        except Rejected as refusal:
            self._refuse(operation, "attach", refusal)
            return
        session = Carried(
            Caller(place, message.session_id), SessionSink(self.outbox, number, self.over, self._parts.calls.names.of)
        )
        self._sessions[number] = session
        self._numbers[message.session_id] = number
        self._parts.hub.claim(message.session_id, self)
        self._aside += 1
        ticket = Ticket(self, number, operation.request_id, "attach")
        attached = self._attached(number, session, message.number, holdings, resume)
        self._run(ticket, attached, lambda: self._begin(session))

    async def _attached(
        self, number: int, session: Carried, attach: int, holdings: dict[str, int], resume: Position | None
    ) -> pb.AttachResponse:
        caller, parts = session.caller, self._parts
        try:
            wire.alive(await parts.liveness.keep_alive(caller.place, caller.session, 0))
            if attach and not await parts.directory.note_attach(caller.place, caller.session, attach):
                raise rejected(t.ERROR_REASON_UNAVAILABLE, "the session has attached elsewhere since")
            async with parts.hub.moving(caller.session):
                if self._sessions.get(number) is not session:
                    raise rejected(t.ERROR_REASON_UNAVAILABLE, "the session has left this stream")
                session.sink.position = resume or Position(0, 0)
                attached = await parts.delivery.attach(caller.place, caller.session, session.sink, holdings, resume)
            if self._sessions.get(number) is not session and parts.hub.owner(caller.session) is None:
                parts.delivery.detach(caller.session)  # it went while it came
            session.sink.position = max(session.sink.position, attached.position)
            if attach:
                keys = () if attached.resync else holdings
                await parts.directory.redeclare(caller.place, caller.session, keys, attach)
        except BaseException:  # its client may try again under the same number
            if self._sessions.get(number) is session:
                self._drop(number)
            raise
        return pb.AttachResponse(position=wire.position(attached.position), resync=attached.resync)

    def _begin(self, session: Carried) -> None:
        """The attach is answered: let events and operations that waited for it go on."""
        if self._sessions.get(session.sink.number) is session:
            session.sink.begin()
        backlog, session.backlog = session.backlog or [], None
        self._pending -= len(backlog)
        for operation in backlog:
            self._operation(operation)
        if self._acks.due:
            self._spawn(self._acks.send())
        self._end_if_done()

    def _detach(self, operation: pb.Operation) -> None:
        self._drop(operation.session)

    def _drop(self, number: int) -> None:
        """A session leaves the stream."""
        session = self._forget(number)
        if session is not None and self._parts.hub.release(session.caller.session, self):
            self._parts.delivery.detach(session.caller.session)

    def _forget(self, number: int) -> Carried | None:
        session = self._sessions.pop(number, None)
        if session is not None:
            del self._numbers[session.caller.session]
            self.outbox.forget(number)
        return session

    # --- what has no answer of its own ------------------------------------------------------------------------------

    def _ping(self, operation: pb.Operation) -> None:
        session = self._sessions[operation.session]
        settled = validate.exact(operation.ping.settled_below, "settled_below")
        session.ping = (operation.ping.sent_at, settled)
        if operation.ping.HasField("usage"):
            usage, place = validate.usage(operation.ping.usage), session.caller.place
            self._parts.observer.usage(usage, place.workspace)
            self._parts.savings.note(place, usage.saved)
            self._parts.measure_acks(session.caller, operation.ping.usage.replaced[: validate.USAGE_REPLACED_MAX])
        if not session.keeping_alive:
            session.keeping_alive = True
            self._spawn(self._keep_alive(session))

    async def _keep_alive(self, session: Carried) -> None:
        """Renew the session for its last ping, and only then ask for the bookmark: its head must not be older."""
        try:
            while session.ping is not None:
                (sent_at, settled), session.ping = session.ping, None
                lease_ms = 0
                try:
                    lease_ms = await self._renewed(session, settled)
                finally:
                    self._parts.delivery.ping(session.caller.session, sent_at, lease_ms)
        finally:
            session.keeping_alive = False

    async def _renewed(self, session: Carried, settled: int) -> int:
        """Keep a session alive; the lease on strict copies that this earns it."""
        caller, liveness = session.caller, self._parts.liveness
        answer = await liveness.keep_alive(caller.place, caller.session, settled)
        over = wire.session_over(caller.session, answer)
        if over is None:
            return await liveness.lease_ms(caller.place, caller.session)
        if self._sessions.get(session.sink.number) is session:
            session.sink.push(over)
        return 0

    def _ack(self, operation: pb.Operation) -> None:
        caller = self._sessions[operation.session].caller
        self._acks.add(caller, operation.ack)
        self._parts.measure_acks(caller, operation.ack.keys)

    async def _watch(self, session: Carried, watch: int, m: pb.WatchRequest) -> pb.WatchAck:
        prefix, watch = validate.prefix(m.prefix), validate.request_id(watch)
        after = wire.position_in(m.after, "after") if m.HasField("after") else None
        if watch in session.watches:
            raise invalid("a watch has this request id already")
        if len(session.watches) >= self._limits.session_watches:
            raise rejected(t.ERROR_REASON_QUOTA_EXCEEDED, f"{self._limits.session_watches} watches a session")
        session.watches.add(watch)
        try:
            position = await self._parts.watch(session.caller.session, watch, prefix, after, session.sink)
        except BaseException:
            session.watches.discard(watch)
            raise
        return pb.WatchAck(position=wire.position(position))

    def _unwatch(self, operation: pb.Operation) -> None:
        session = self._sessions[operation.session]
        session.watches.discard(operation.unwatch.watch_id)
        self._parts.delivery.unwatch(session.caller.session, operation.unwatch.watch_id)
