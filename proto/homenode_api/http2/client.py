"""The client's end of a connection: opens streams, tells their owners how they are answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from homenode_api.http2 import frames as f
from homenode_api.http2.connection import Bounds, Connection
from homenode_api.http2.frames import Broken, Code
from homenode_api.http2.grpc import HTTP_STATUS, Status, StatusCode, status_of
from homenode_api.http2.headers import Headers
from homenode_api.http2.stream import Owner, Stream

_STREAMS_EVER = f.WINDOW_MAX - 2


class Caller(Owner, Protocol):
    """Who owns a client's stream; `over` also brings how the server ended the call."""

    def started(self, headers: Headers) -> None:
        """The initial headers have come, before any message."""


class ClientEnd(Connection[Headers]):
    """See the module.

    Args:
        on_leave: the connection takes no more calls: the server goes, or its numbers are used up.
        on_room: a stream has ended.
    """

    def __init__(
        self,
        bounds: Bounds,
        wake: Callable[[], None],
        on_leave: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        super().__init__(bounds, _as_they_are, wake)
        self.leaving = False
        self._on_leave = on_leave
        self._on_room = on_room
        self._number = -1
        self.hello(f.PREFACE)

    @property
    def full(self) -> bool:
        """Whether as many streams are open as the server allows."""
        return len(self.streams) >= self.peer_streams

    def open(self, owner: Caller, block: bytes, *, end: bool = False) -> Stream:
        """A new stream, with its request's headers on the way. Only while neither `leaving` nor `full`."""
        self._number = self.last = self._number + 2
        stream = Stream(self, self._number, owner)
        self.streams[self._number] = stream
        stream.send_headers(block, end=end)
        if self._number >= _STREAMS_EVER:
            self.left(self._number, Code.NO_ERROR)
        return stream

    def opened(self, number: int, headers: Headers, end: bool) -> None:
        """See `Connection.opened`."""
        stream = self.streams.get(number)
        if stream is None:
            if self.idle(number) or not number & 1:
                raise Broken(Code.PROTOCOL_ERROR, "HEADERS on a stream that is not open")
            return
        owner = cast(Caller, stream.owner)
        if end:
            stream.ended = True
            status = status_of(headers) or _of_http(headers)
            if stream._missing or stream._head:
                status = Status(StatusCode.INTERNAL, "the last message is incomplete")
            if not stream.closing or stream.number in self.blocked:
                stream.reset(Code.NO_ERROR)
            stream.close()
            owner.over(status)
            return
        values = dict(headers)
        http = values.get(":status", "")
        if http[:1] == "1":
            return
        if http != "200" or not values.get("content-type", "").startswith("application/grpc"):
            stream.reset(Code.CANCEL)
            owner.over(_of_http(headers))
        elif values.get("grpc-encoding", "identity") != "identity":
            stream.reset(Code.CANCEL)
            owner.over(Status(StatusCode.INTERNAL, "the answer is compressed in a way that was not offered"))
        else:
            owner.started(headers)

    def left(self, last: int, code: int) -> None:
        """See `Connection.left`. Calls that the server will not look at may be made again elsewhere."""
        if not self.leaving:
            self.leaving = True
            self._on_leave()
        for stream in [one for number, one in self.streams.items() if number > last]:
            stream.close()
            stream.owner.over(Status(StatusCode.UNAVAILABLE, "the server is about to stop"))

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        super()._settings(flags, number, payload)
        if payload:  # it may allow more streams than before
            self._on_room()

    def forget(self, stream: Stream) -> None:
        """See `Connection.forget`."""
        super().forget(stream)
        self._on_room()


def _as_they_are(headers: Headers) -> Headers:
    return headers


def _of_http(headers: Headers) -> Status:
    """The status of an answer that is not gRPC's, or lacks one."""
    http = dict(headers).get(":status", "")
    if http == "200" or not http:
        return Status(StatusCode.UNKNOWN, "the answer has no status")
    return Status(HTTP_STATUS.get(http, StatusCode.UNKNOWN), f"the other end answered with HTTP status {http[:3]}")
