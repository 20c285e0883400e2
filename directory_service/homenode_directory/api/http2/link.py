"""One connection of a client: bytes between the socket and `ServerEnd`, and what a connection may cost over time."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from homenode_api.http2 import grpc as g
from homenode_api.http2.connection import Bounds
from homenode_api.http2.frames import Broken, Code
from homenode_api.http2.grpc import Status, StatusCode
from homenode_api.http2.headers import encode
from homenode_api.http2.server import Request, ServerEnd
from homenode_api.http2.stream import Owner, Stream
from homenode_directory.api.http2.call import ACCEPTED, inflate_for

if TYPE_CHECKING:
    from homenode_directory.api.http2.server import Http2Server

LOG = logging.getLogger("homenode.api")

JOIN_BYTES = 64 * 1024  # less is copied into one piece for the socket
UNREAD_BYTES_MAX = 4 << 20  # what may wait in the socket's buffer: answers without messages take no window
_UNKNOWN_METHOD = g.only_trailers(Status(StatusCode.UNIMPLEMENTED, "there is no such method"))
_BUSY = g.only_trailers(Status(StatusCode.RESOURCE_EXHAUSTED, "too many calls are under way"))
_ENCODING = encode(
    [(":status", "200"), g.CONTENT_TYPE, ("grpc-status", "12"), ("grpc-message", "unknown grpc-encoding"), ACCEPTED]
)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. A connection that says nothing for `silent` is asked for a sign of life and has `answer` to give it."""

    greeting: float = 10.0
    silent: float = 20.0
    answer: float = 10.0
    idle: float = 900.0  # without a call
    age: float = 4 * 3_600.0
    grace: float = 60.0  # for calls of a connection that is too old
    tick: float = 1.0


class Link(asyncio.Protocol):
    """See the module."""

    def __init__(self, server: Http2Server, bounds: Bounds, times: Times) -> None:
        self._server = server
        self._times = times
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flushing = False
        self._closing = False
        self._peer = ""
        self.running = 0  # calls, those of vanished clients that have not come to their end among them
        self.end = ServerEnd(bounds, self._accept, self._wake)
        self._born = self._heard_at = self._used_at = self._loop.time()
        self._heard = 0
        self._asked_at = 0.0  # for a sign of life; 0: not
        self._age = times.age * random.uniform(0.9, 1.1)
        self._leave_by = 0.0

    # --- the socket -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        if not self._server.enter(self) or (tls is not None and tls.selected_alpn_protocol() != "h2"):
            self._closing = True
            transport.abort()
            return
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self._peer = f"ipv6:[{name[0]}]:{name[1]}" if ":" in name[0] else f"ipv4:{name[0]}:{name[1]}"
        else:
            self._peer = "unix:"
        transport.set_write_buffer_limits(high=self.end.bounds.out_bytes)
        self._wake()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._closing:
            return
        try:
            self.end.receive(data)
        except Broken as broken:
            LOG.debug("a connection broke the protocol", extra={"reason": str(broken)})
            self.close(broken.code)
        except Exception:
            LOG.exception("internal error in a connection")
            self.close(Code.INTERNAL_ERROR)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        return False

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.end.paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.end.paused = False
        self.end.pump()

    def connection_lost(self, failure: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._closing = True
        self._server.leave(self)
        self.end.lost(Status(StatusCode.CANCELLED, "the connection is lost"))

    def _wake(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what has come together in this tick."""
        self._flushing = False
        end, transport = self.end, self._transport
        if transport is None:
            return
        if transport.is_closing():
            end.taken()
            return
        while end.out:
            write(transport, end.out)
            end.taken()
            self._flushing = True  # what is pumped goes with this loop
            end.pump()
            self._flushing = False
        if end.paused and transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            transport.abort()

    def close(self, code: Code = Code.NO_ERROR) -> None:
        """Say goodbye, and close; calls under way are cut."""
        if self._closing or self._transport is None:
            return
        self._closing = True
        self.end.goodbye(self.end.last, code)
        self._flush()
        self._transport.close()
        self._loop.call_later(1.0, self._transport.abort)
        self.end.lost(Status(StatusCode.CANCELLED, "the connection is closed"))

    # --- calls ------------------------------------------------------------------------------------------------------

    def _accept(self, stream: Stream, request: Request) -> Owner:
        server = self._server
        open = server.method(request)
        try:
            stream.inflate = inflate_for(request.encoding)
        except KeyError:
            return _refuse(stream, _ENCODING)
        if open is None:
            return _refuse(stream, _UNKNOWN_METHOD)
        if server.calls >= server.calls_max or self.running >= self.end.bounds.streams:
            return _refuse(stream, _BUSY)
        server.calls += 1
        self.running += 1
        return open(stream, request, self._peer, self._released)

    def _released(self) -> None:
        self._server.calls -= 1
        self.running -= 1

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """About once a second."""
        end, times = self.end, self._times
        if self._transport is None or self._closing:
            return
        end.tick()
        if end.heard != self._heard:
            self._heard, self._heard_at, self._asked_at = end.heard, now, 0.0
        if end.streams:
            self._used_at = now
        if not end.settled:
            if now - self._born > times.greeting:
                self._transport.abort()
        elif self._asked_at and now - self._asked_at > times.answer:
            self._transport.abort()  # the other end is gone
        elif not self._asked_at and now - self._heard_at > times.silent:
            self._asked_at = now
            end.ping()
        if now - self._born > self._age or now - self._used_at > times.idle:
            self.leave(now + times.grace)
        if end.leaving and (not end.streams or now > self._leave_by):
            self.close()

    def leave(self, by: float) -> None:
        """Take no more calls; those under way have until `by`."""
        if not self.end.leaving:
            self._leave_by = by
            self.end.leave()


def write(transport: asyncio.WriteTransport, pieces: list[bytes | memoryview]) -> None:
    """Hand pieces to a transport; small ones as one."""
    if len(pieces) == 1:
        transport.write(pieces[0])
    elif sum(map(len, pieces)) <= JOIN_BYTES:
        transport.write(b"".join(pieces))
    else:
        transport.writelines(pieces)


class _Nobody:
    """Owns the stream of a refused call."""

    def readable(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def over(self, status: Status) -> None:
        pass


_NOBODY = _Nobody()


def _refuse(stream: Stream, block: bytes) -> Owner:
    stream.send_headers(block, end=True)
    if not stream.gone and not stream.ended:
        stream.reset(Code.NO_ERROR)
    return _NOBODY
