"""One connection of a client: bytes between the socket and `ServerEnd`, and what a connection may cost over time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from homenode_api.http2 import grpc as g
from homenode_api.http2.connection import Bounds
from homenode_api.http2.frames import Code
from homenode_api.http2.grpc import Status, StatusCode
from homenode_api.http2.headers import encode
from homenode_api.http2.server import Request, ServerEnd
from homenode_api.http2.stream import Owner, Stream
from homenode_api.http2_socket import EndOnSocket
from homenode_directory.api.http2.call import ACCEPTED, inflate_for

if TYPE_CHECKING:
    from homenode_directory.api.http2.server import Http2Server

ENDING = 2  # times as many handlers as streams: some are at their end when their stream has made room
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


class Link(EndOnSocket):
    """See the module."""

    end: ServerEnd

    def __init__(self, server: Http2Server, bounds: Bounds, times: Times) -> None:
        super().__init__()
        self._server = server
        self._times = times
        self._peer = ""
        self.running = 0  # calls, those of vanished clients that have not come to their end among them
        self.end = ServerEnd(bounds, self._accept, self.wake)
        self._born = self._heard_at = self._used_at = self.loop.time()
        self._heard = 0
        self._asked_at = 0.0  # for a sign of life; 0: not
        self._age = times.age * random.uniform(0.9, 1.1)
        self._leave_by = 0.0

    def made(self, transport: asyncio.Transport) -> bool:
        """See `EndOnSocket`."""
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self._peer = f"ipv6:[{name[0]}]:{name[1]}" if ":" in name[0] else f"ipv4:{name[0]}:{name[1]}"
        else:
            self._peer = "unix:"
        return self._server.enter(self)

    def gone(self) -> None:
        """See `EndOnSocket`."""
        self._server.leave(self)

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
        if server.calls >= server.calls_max or self.running >= ENDING * self.end.bounds.streams:
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
        if self.transport is None or self.closing:
            return
        end.tick()
        if end.heard != self._heard:
            self._heard, self._heard_at, self._asked_at = end.heard, now, 0.0
        if end.streams:
            self._used_at = now
        if not end.settled:
            if now - self._born > times.greeting:
                self.abort()
        elif self._asked_at and now - self._asked_at > times.answer:
            self.abort()  # the other end is gone
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
