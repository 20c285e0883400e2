"""The server's end of a connection: requests are checked and handed on, each with its stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from homenode_api.http2 import frames as f
from homenode_api.http2.connection import CHEAP, DEAR, Bounds, Connection
from homenode_api.http2.frames import Broken, Code
from homenode_api.http2.grpc import Status as GrpcStatus
from homenode_api.http2.grpc import StatusCode, only_trailers, timeout_s
from homenode_api.http2.headers import Headers, encode
from homenode_api.http2.stream import Owner, Stream

HEADER_LIST_BYTES = 16 * 1024  # of a request that is served; more is read, and refused
_ENTRY_BYTES = 32
_HOP = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
_PSEUDO = frozenset((":method", ":scheme", ":path", ":authority"))
_NOT_TAKEN = only_trailers(GrpcStatus(StatusCode.RESOURCE_EXHAUSTED, "the client does not take its answers"))


@dataclass(slots=True)
class Request:
    """What the headers of a call say.

    `timeout_s`: the client's own limit; `encoding`: of its compressed messages. `refusal`: what to answer at once, as a
    header block; `malformed`: the stream is reset instead.
    """

    path: str = ""
    timeout_s: float | None = None
    encoding: str = "identity"
    headers: Headers = ()
    refusal: bytes = b""
    malformed: bool = False


def request_of(headers: Headers) -> Request:
    """Never fails."""
    values = dict(headers)
    if not _well_formed(headers, values):
        return Request(malformed=True)
    request = Request(values[":path"], headers=headers, encoding=values.get("grpc-encoding", "identity"))
    content_type = values.get("content-type", "")
    if values[":method"] != "POST":
        request.refusal = encode([(":status", "405")])
    elif content_type.partition(";")[0].partition("+")[0] != "application/grpc":
        request.refusal = encode([(":status", "415")])
    elif sum(len(name) + len(value) + _ENTRY_BYTES for name, value in headers) > HEADER_LIST_BYTES:
        text = f"metadata may have {HEADER_LIST_BYTES} bytes"
        request.refusal = only_trailers(GrpcStatus(StatusCode.RESOURCE_EXHAUSTED, text))
    elif (limit := values.get("grpc-timeout")) is not None:
        request.timeout_s = timeout_s(limit)
        if request.timeout_s is None:
            request.refusal = only_trailers(GrpcStatus(StatusCode.INTERNAL, "grpc-timeout is malformed"))
    return request


def _well_formed(headers: Headers, values: dict[str, str]) -> bool:
    ordinary, pseudo = False, 0
    for name, _ in headers:
        if name[:1] == ":":
            pseudo += 1
            if ordinary or name not in _PSEUDO:
                return False
        else:
            ordinary = True
            if not name or name in _HOP or name != name.lower():
                return False
    named = sum(name in values for name in _PSEUDO)
    needed = ":method" in values and ":scheme" in values and values.get(":path", "")[:1] == "/"
    return needed and named == pseudo and values.get("te", "trailers") == "trailers"


class ServerEnd(Connection[Request]):
    """See the module.

    Args:
        accept: takes a new call; what it returns owns the stream. Must not raise.
    """

    def __init__(self, bounds: Bounds, accept: Callable[[Stream, Request], Owner], wake: Callable[[], None]) -> None:
        super().__init__(bounds, request_of, wake)
        self._accept = accept
        self._greeting = f.PREFACE  # what is missing of it
        self.leaving = False  # no new streams
        self.hello()

    def receive(self, data: bytes) -> None:
        """See `Connection.receive`."""
        missing = self._greeting
        if missing:
            size = min(len(missing), len(data))
            if data[:size] != missing[:size]:
                raise Broken(Code.PROTOCOL_ERROR, "this is no HTTP/2")
            self._greeting, data = missing[size:], data[size:]
            if not data:
                return
        super().receive(data)

    def opened(self, number: int, headers: Request, end: bool) -> None:
        """See `Connection.opened`."""
        if number <= self.last:
            self._trailers(number, end)
            return
        if not number & 1:
            raise Broken(Code.PROTOCOL_ERROR, "a client's streams are odd")
        self.last = number
        if headers.malformed:
            self._count(DEAR)
            self.send(f.reset(number, Code.PROTOCOL_ERROR))
        elif self.leaving or len(self.streams) >= self.bounds.streams:
            self._count(CHEAP)
            self.send(f.reset(number, Code.REFUSED_STREAM))
        elif headers.refusal or self.waiting > self.bounds.waiting_bytes:
            self._count(DEAR)
            self.send(f.header_frames(number, headers.refusal or _NOT_TAKEN, True, self.peer_frame))
            if not end:
                self.send(f.reset(number, Code.NO_ERROR))
        else:
            stream = Stream(self, number, _NOBODY)
            self.streams[number] = stream
            stream.owner = self._accept(stream, headers)
            if end and not stream.gone:
                stream.end_in()
            elif stream.messages:
                stream.owner.readable()

    def _trailers(self, number: int, end: bool) -> None:
        """Headers that end a request's messages."""
        stream = self.streams.get(number)
        if stream is None:
            self._count(CHEAP)
        elif not end or stream.ended:
            self._end(stream, Code.PROTOCOL_ERROR)
        else:
            stream.end_in()

    @property
    def peer_last(self) -> int:
        """See `Connection.peer_last`."""
        return self.last

    def leave(self) -> None:
        """Take no more streams; those that are open go on."""
        if not self.leaving:
            self.leaving = True
            self.goodbye(Code.NO_ERROR)


class _Nobody:
    """Owns a stream for as long as nobody else does."""

    def readable(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def over(self, status: GrpcStatus) -> None:
        pass


_NOBODY = _Nobody()
