"""A Session call: `Stream` on the way of its HTTP/2 stream, without a task in between.

Frames are taken as they come, while the stream has room; the next frame is made when the one before has left, so a
client that does not read costs one frame beyond the bounded queue.
"""

from __future__ import annotations

import asyncio

from google.protobuf.message import DecodeError

from homenode_api.http2 import stream as http2
from homenode_api.http2.grpc import Status, StatusCode
from homenode_api.http2.server import Request
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api.endpoint import Endpoint
from homenode_directory.api.errors import Rejected, malformed, rejected
from homenode_directory.api.http2.call import Released, Served
from homenode_directory.api.stream import Stream

_OK = Status(StatusCode.OK)


class SessionCall(Served):
    """See the module."""

    def __init__(
        self, endpoint: Endpoint, stream: http2.Stream, request: Request, peer: str, released: Released
    ) -> None:
        super().__init__(stream, request, peer, released)
        self._pumping = False
        self._frames = 0  # that have come
        self._idle: asyncio.TimerHandle | None = None
        self._session: Stream | None = None
        self._failure: Exception | None = None  # what the call ends with, behind what is queued
        try:
            self._session = endpoint.open_stream(self._wake)
        except Rejected as refusal:
            self._failure = refusal
            self._end()
            return
        self._watch_idle(0)

    # --- in ---------------------------------------------------------------------------------------------------------

    def readable(self) -> None:
        """See `Owner`."""
        session = self._session
        if session is None or self._failure is not None:
            return
        try:
            while session.has_room and (data := self.stream.take()) is not None:
                self._frames += 1
                try:
                    frame = pb.SessionRequest.FromString(data)
                except DecodeError:
                    raise malformed() from None
                session.receive(frame)
        except Exception as failure:
            self._break(failure)
            return
        if self.stream.ended and not self.stream.messages:
            session.finish()

    def _go_on(self) -> None:
        """Answers have left: take what waited for room."""
        if self.stream.messages:
            self.readable()

    # --- out --------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Something is to be sent: with what else comes in this tick of the event loop."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def writable(self) -> None:
        """See `Owner`."""
        self._pump()

    def _pump(self) -> None:
        session = self._session
        if session is None:
            return
        outbox = session.outbox
        self._pumping = True  # what comes while it goes on goes with it
        self._go_on()
        while (frame := outbox.next_now()) is not None:
            self.begin()
            if not self.stream.send(frame):
                return  # until it has left
            self._go_on()
        self._pumping = False
        if outbox.ended:
            self._end()

    # --- the end ----------------------------------------------------------------------------------------------------

    def _watch_idle(self, frames: int) -> None:
        """A stream has to carry sessions."""
        session = self._session
        if session is None:
            return
        if session.idle and frames == self._frames and self._idle is not None:
            self._break(rejected(t.ERROR_REASON_DEADLINE_EXCEEDED, "no session was attached to the stream"))
        else:
            self._idle = self._loop.call_later(session.idle_limit_s, self._watch_idle, self._frames)

    def _break(self, failure: Exception) -> None:
        """The client has broken the rules: nothing more is taken from it."""
        self._failure = failure
        if self._session is not None:
            self._session.outbox.close()

    def _end(self) -> None:
        if self._failure is not None:
            self.fail(self._failure)
        else:
            self.log("ok")
            self.finish(_OK)
        self.stop()

    def stop(self) -> None:
        """See `Served`."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        if self._idle is not None:
            self._idle.cancel()
        self.release()
