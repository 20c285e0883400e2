"""One call: the owner of its stream, and the `context` of its handler.

No exception text leaves; nothing runs on for a client that has gone or whose own time limit has passed. Handlers are
cancelled then, which undoes nothing: what a request does is done by the directory, and handlers only wait for it. One
log line a call (of level debug; what is unexpected is an error) has method, outcome and duration; never an id that a
client chose, never content.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from homenode_api.http2 import grpc as g
from homenode_api.http2.frames import Code
from homenode_api.http2.grpc import Metadata, Status, StatusCode
from homenode_api.http2.headers import encode
from homenode_api.http2.server import Request
from homenode_api.http2.stream import Stream
from homenode_directory.api.errors import error_of, malformed, outcome_name, status_of

LOG = logging.getLogger("homenode.api")

_LATE = Status(StatusCode.DEADLINE_EXCEEDED, "the client's time limit passed")
_NOT_ONE = Status(StatusCode.INTERNAL, "the call has one request")

Released = Callable[[], None]


class Abort(Exception):
    """Ends a handler whose call was given a status."""


class Served:
    """What every call has, however it is handled.

    Args:
        released: called once, when the call takes no more of the server's time.
    """

    def __init__(self, stream: Stream, request: Request, peer: str, released: Released) -> None:
        self.stream = stream
        self.request = request
        self._peer = peer
        self._released: Released | None = released
        self._begun = False
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if request.timeout_s is not None:
            self._timer = self._loop.call_later(request.timeout_s, self._late)

    def begin(self) -> None:
        """Send the initial headers, if they are not sent."""
        if not self._begun:
            self._begun = True
            self.stream.send_headers(g.RESPONSE)

    def finish(self, status: Status) -> None:
        """End the call. Without an answer before it, the status is the whole response."""
        if not self._begun and status.code:
            self.stream.send_headers(g.only_trailers(status), end=True)
            if not self.stream.gone and not self.stream.ended:
                self.stream.reset(Code.NO_ERROR)
        else:
            self.begin()
            self.stream.finish(g.trailers(status))

    def fail(self, failure: BaseException) -> None:
        """End the call with what may be said of a failure."""
        error = error_of(failure, during=self.request.path)
        self.log(outcome_name(error))
        code, message, trailing = status_of(error)
        self.finish(Status(code.value[0], message, trailing))

    def log(self, outcome: str) -> None:
        """The call's line in the log."""
        if LOG.isEnabledFor(logging.DEBUG):
            took_ms = int((self._loop.time() - self._started) * 1_000)
            LOG.debug("call", extra={"method": self.request.path, "outcome": outcome, "took_ms": took_ms})

    def over(self, status: Status) -> None:
        """See `Owner`."""
        if not self.stream.gone:  # it is the request that cannot be gone on with
            self.finish(status)
        self.stop()

    def _late(self) -> None:
        self.log("deadline_exceeded")
        self.finish(_LATE)
        self.stop()

    def readable(self) -> None:
        """See `Owner`."""
        raise NotImplementedError

    def writable(self) -> None:
        """See `Owner`."""
        raise NotImplementedError

    def stop(self) -> None:
        """There is nobody any more to work for."""
        raise NotImplementedError

    def release(self) -> None:
        """The server's part is done."""
        if self._timer is not None:
            self._timer.cancel()
        released, self._released = self._released, None
        if released is not None:
            released()


class Call(Served):
    """A call whose handler is a coroutine, or an asynchronous generator, as generated code expects them."""

    def __init__(
        self, handler: grpc.RpcMethodHandler, stream: Stream, request: Request, peer: str, released: Released
    ) -> None:
        super().__init__(stream, request, peer, released)
        self._handler = handler
        self._task: asyncio.Task[None] | None = None
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._trailing: Metadata = ()
        if handler.request_streaming:
            self._start(self._messages())

    def _start(self, request: Any) -> None:
        self._task = self._loop.create_task(self._run(request))
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.fail(failure)
        self._task = None
        self.release()

    async def _run(self, request: Any) -> None:
        handler = self._handler
        try:
            if not handler.request_streaming:
                request = self._decoded(request)
            if handler.response_streaming:
                await self._stream_out((handler.stream_stream or handler.unary_stream)(request, self))
            else:
                answer = await (handler.stream_unary or handler.unary_unary)(request, self)
                self.begin()
                self.stream.send(self._encoded(answer))
            self.log("ok")
            self.finish(Status(StatusCode.OK, "", self._trailing))
        except Abort:
            return
        except asyncio.CancelledError:
            if not self.stream.gone and not self.stream.closing:
                self.finish(Status(StatusCode.UNAVAILABLE, "the call was cancelled"))
            raise
        except BaseException as failure:
            self.fail(failure)

    async def _stream_out(self, responses: Any) -> None:
        """Run a handler of either kind: one that yields its responses, or one that writes them itself."""
        if not hasattr(responses, "__aiter__"):
            await responses
            return
        async with contextlib.aclosing(responses):
            async for response in responses:
                await self.write(response)

    def _decoded(self, data: bytes) -> Any:
        if self._handler.request_deserializer is None:
            return data
        try:
            return self._handler.request_deserializer(data)
        except DecodeError:
            raise malformed() from None

    def _encoded(self, message: Any) -> bytes:
        serializer = self._handler.response_serializer
        encoded: bytes = message if serializer is None else serializer(message)
        return encoded

    async def _messages(self) -> AsyncIterator[Any]:
        while True:
            message = self.stream.take()
            if message is not None:
                yield self._decoded(message)
            elif self.stream.ended:
                return
            else:
                self._readable = self._loop.create_future()
                await self._readable

    # --- of the stream ----------------------------------------------------------------------------------------------

    def readable(self) -> None:
        """See `Owner`."""
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)
        elif self._task is None and not self._handler.request_streaming:
            if len(self.stream.messages) > 1 or (self.stream.ended and not self.stream.messages):
                self.finish(_NOT_ONE)
                self.release()
            elif self.stream.ended and (message := self.stream.take()) is not None:
                self._start(message)

    def writable(self) -> None:
        """See `Owner`."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def stop(self) -> None:
        """See `Served`."""
        if self._task is not None:
            self._task.cancel()
        else:
            self.release()

    # --- the context of a handler -----------------------------------------------------------------------------------

    async def write(self, message: Any) -> None:
        """Send a message; returns when all of it has left."""
        self.begin()
        if not self.stream.send(self._encoded(message)):
            self._writable = self._loop.create_future()
            await self._writable
        if self.stream.gone:
            raise asyncio.CancelledError  # there is nobody to write to any more

    async def send_initial_metadata(self, metadata: Metadata = ()) -> None:
        """Send the initial headers now."""
        if not self._begun:
            self._begun = True
            self.stream.send_headers(g.RESPONSE + encode(g.encoded_metadata(tuple(metadata))))

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Metadata that goes with the status."""
        self._trailing = tuple(metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with a status, and the handler."""
        if trailing_metadata:
            self._trailing = tuple(trailing_metadata)
        self.log(code.name.lower())
        self.finish(Status(code.value[0], details, self._trailing))
        raise Abort

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """The same, with everything in one."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def invocation_metadata(self) -> Metadata:
        """What the client sent beside its request."""
        return g.metadata_of(self.request.headers)

    def peer(self) -> str:
        """The client's address."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Seconds of the client's own time limit; None: it has none."""
        limit_s = self.request.timeout_s
        return None if limit_s is None else max(0.0, self._started + limit_s - self._loop.time())

    def cancel(self) -> None:
        """End the call."""
        self.finish(Status(StatusCode.CANCELLED, "the call was cancelled"))
        self.stop()


def inflate_for(encoding: str) -> Callable[[bytes, int], bytes | None] | None:
    """How messages of a known encoding become plain; None for `identity`. Raises KeyError."""
    return {"identity": None, "gzip": g.gunzip}[encoding]


ACCEPTED = ("grpc-accept-encoding", "identity,gzip")

Open = Callable[[Stream, Request, str, Released], Served]


class Direct:
    """A method that handles its calls without a task: `open` makes the owner of a stream."""

    def __init__(self, open: Open) -> None:
        self.open = open


def opener(handler: Any) -> Open:
    """How calls of a method are opened."""
    return handler.open if isinstance(handler, Direct) else partial(Call, handler)
