"""Two ends of a connection in memory, and owners that write down what they hear."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from homenode_api.http2 import frames as f
from homenode_api.http2 import grpc as g
from homenode_api.http2.client import ClientEnd
from homenode_api.http2.connection import Bounds
from homenode_api.http2.grpc import Status
from homenode_api.http2.headers import Headers, encode
from homenode_api.http2.server import Request, ServerEnd
from homenode_api.http2.stream import Stream

POST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/M"),
    (":authority", "here"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
REQUEST = encode(POST)
SETTINGS = f.frame(f.SETTINGS, 0, 0)
OK = Status(0)


@dataclass
class Noted:
    """An owner. `keen`: takes messages as they come."""

    keen: bool = True
    stream: Stream | None = None
    request: Request | None = None
    messages: list[bytes] = field(default_factory=list)
    headers: Headers = ()
    status: Status | None = None
    ended: bool = False
    written: int = 0

    def started(self, headers: Headers) -> None:
        self.headers = headers

    def readable(self) -> None:
        if self.keen:
            self.take()

    def take(self) -> None:
        assert self.stream is not None
        while (message := self.stream.take()) is not None:
            self.messages.append(message)
        self.ended = self.stream.ended

    def writable(self) -> None:
        self.written += 1

    def over(self, status: Status) -> None:
        assert self.status is None, "told once"
        self.status = status
        if self.keen and self.stream is not None:
            self.take()


def _nothing() -> None:
    pass


class Served:
    """A server's end, and the calls that came."""

    def __init__(self, bounds: Bounds | None = None, *, keen: bool = True) -> None:
        self.calls: list[Noted] = []
        self._keen = keen
        self.end = ServerEnd(bounds or Bounds(), self._accept, _nothing)

    def _accept(self, stream: Stream, request: Request) -> Noted:
        call = Noted(self._keen, stream, request)
        self.calls.append(call)
        return call

    def begin(self) -> Served:
        """As if a client had greeted it."""
        self.end.receive(f.PREFACE + SETTINGS)
        self.end.taken()
        return self

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        """Frames since the last call: kind, flags, stream, payload."""
        return frames_in(take(self.end))


def take(end: ServerEnd | ClientEnd) -> bytes:
    """What an end has to send."""
    data = b"".join(end.out)
    end.taken()
    return data


def frames_in(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Frames of a run of bytes."""
    found, at = [], 0
    while at < len(data):
        high, low, kind, flags, number = f.HEAD.unpack_from(data, at)
        size = high << 8 | low
        found.append((kind, flags, number, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


class Pair:
    """A client and a server that are connected; `cut` says how what travels is cut up."""

    def __init__(
        self,
        client: Bounds | None = None,
        server: Bounds | None = None,
        *,
        keen: bool = True,
        cut: Callable[[bytes], Iterable[bytes]] = lambda data: [data],
    ) -> None:
        self.served = Served(server, keen=keen)
        self.server = self.served.end
        self.client = ClientEnd(client or Bounds(), _nothing, _nothing, _nothing)
        self._cut = cut

    def call(self, *, keen: bool = True, end: bool = False) -> Noted:
        """Open a call."""
        owner = Noted(keen)
        owner.stream = self.client.open(owner, REQUEST, end=end)
        return owner

    def run(self) -> None:
        """Carry bytes until neither has more."""
        going = True
        while going:
            going = False
            for one, other in ((self.client, self.server), (self.server, self.client)):
                while one.out:
                    going = True
                    for piece in self._cut(take(one)):
                        other.receive(piece)
                    one.pump()


def answer(call: Noted, *messages: bytes, status: Status = OK) -> None:
    """Answer a call on the server."""
    assert call.stream is not None
    call.stream.send_headers(g.RESPONSE)
    for message in messages:
        call.stream.send(message)
    call.stream.finish(g.trailers(status))
