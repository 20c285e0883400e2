"""One end of an HTTP/2 connection that carries gRPC, without I/O.

`receive` takes what has come and calls the owners of streams; what is to be sent collects in `out`, and `wake` is told
of the first of it, so that everything of one tick of the event loop leaves in one write. A peer that breaks
the protocol shows as `Broken`, which says how to end the connection. What a peer could make grow has its bound in
`Bounds`, the number of frames that carry nothing (`calm`) included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from homenode_api.http2 import frames as f
from homenode_api.http2.frames import Broken, Code
from homenode_api.http2.grpc import RESET_STATUS, Status, StatusCode
from homenode_api.http2.headers import HeaderReader, Headers
from homenode_api.http2.stream import Stream

T = TypeVar("T")

#: What a frame without a message costs of `Bounds.calm`: it makes work, and some need an answer.
CHEAP, DEAR = 1, 10
_CONTINUATIONS_MAX = 64
_LOOKS = 128  # blocked streams that may be looked at for CHEAP


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may take.

    `stream_window`, `window`: bytes under way to us, of a stream and of all. `unfinished_bytes`: of messages that have
    not come to their end. `waiting_bytes`: of messages that the peer does not take. `out_bytes`: what is handed to the
    transport at once; more waits in its stream. `calm`: frames that carry nothing, at once; `tick` gives as many again.
    """

    streams: int = 1_024
    stream_window: int = 128 * 1024
    window: int = 8 << 20
    frame_bytes: int = f.FRAME_BYTES_DEFAULT
    header_bytes: int = 64 * 1024
    message_bytes: int = 4 << 20
    unfinished_bytes: int = 64 << 20
    waiting_bytes: int = 32 << 20
    out_bytes: int = 256 * 1024
    calm: int = 20_000


class Connection(Generic[T]):
    """What both ends have in common. `T`: what is made of a header block.

    Attributes:
        out: what is to be written; whoever writes it calls `taken`.
        paused: the transport has more than enough.
        window: what we may send on all streams together; peer_window, peer_frame: what the peer's settings allow.
        streams: those that are open; blocked: those that have something to send, and no window.
        unfinished: bytes of messages that have not come to their end; waiting: of those that have not left.
        heard: frames that have come, for who watches over silence.
    """

    def __init__(self, bounds: Bounds, make: Callable[[Headers], T], wake: Callable[[], None]) -> None:
        self.bounds = bounds
        self.out: list[bytes | memoryview] = []
        self.paused = False
        self.window = f.WINDOW_DEFAULT
        self.peer_window = f.WINDOW_DEFAULT
        self.peer_frame = f.FRAME_BYTES_DEFAULT
        self.peer_streams = f.WINDOW_MAX
        self.streams: dict[int, Stream] = {}
        self.blocked: dict[int, Stream] = {}
        self.unfinished = 0
        self.waiting = 0
        self.heard = 0
        self.last = 0  # the highest stream that was opened
        self._wake = wake
        self._out_bytes = 0
        self._reader = HeaderReader(make, bounds.header_bytes)
        self._rest = b""
        self._settled = False  # the peer's first SETTINGS have come
        self._left = bounds.window  # what the peer may send
        self._due = 0
        self._in_data = 0  # bytes missing of a DATA frame
        self._data_stream: Stream | None = None
        self._data_ends = False
        self._block: list[bytes] = []  # a header block that comes in pieces
        self._block_of = 0
        self._block_ends = False
        self._cheap = 0
        self._kinds = {
            f.HEADERS: self._headers,
            f.PRIORITY: self._priority,
            f.RST_STREAM: self._reset,
            f.SETTINGS: self._settings,
            f.PING: self._ping,
            f.GOAWAY: self._goaway,
            f.WINDOW_UPDATE: self._window_update,
            f.CONTINUATION: self._continuation,
        }

    # --- for subclasses ---------------------------------------------------------------------------------------------

    def opened(self, number: int, headers: T, end: bool) -> None:
        """Headers have come on a stream; `end`: nothing follows. Raises Broken."""
        raise NotImplementedError

    @property
    def peer_last(self) -> int:
        """The highest stream that the peer has opened."""
        return 0

    def idle(self, number: int) -> bool:
        """Whether nobody has opened the stream yet."""
        return number > self.last

    def left(self, last: int, code: int) -> None:
        """The peer opens or takes no streams above `last` any more."""

    # --- out --------------------------------------------------------------------------------------------------------

    def hello(self, preface: bytes = b"") -> None:
        """What a connection begins with."""
        values = {
            f.ENABLE_PUSH: 0,
            f.MAX_CONCURRENT_STREAMS: self.bounds.streams,
            f.INITIAL_WINDOW_SIZE: self.bounds.stream_window,
            f.MAX_FRAME_SIZE: self.bounds.frame_bytes,
            f.MAX_HEADER_LIST_SIZE: self.bounds.header_bytes,
        }
        if not preface:
            del values[f.ENABLE_PUSH]
        self.send(preface + f.settings(values))
        if self.bounds.window > f.WINDOW_DEFAULT:
            self.send(f.window_update(0, self.bounds.window - f.WINDOW_DEFAULT))

    def send(self, piece: bytes | memoryview) -> None:
        """Let something be written with what else there is in this tick."""
        if not self.out:
            self._wake()
        self.out.append(piece)
        self._out_bytes += len(piece)

    def taken(self) -> None:
        """`out` was written."""
        self.out.clear()
        self._out_bytes = 0

    def may_send(self, size: int) -> bool:
        """Whether a frame of that size can leave now."""
        return (
            size <= self.window
            and size <= self.peer_frame
            and self._out_bytes < self.bounds.out_bytes
            and not self.paused
        )

    def pump(self, only: Stream | None = None) -> None:
        """Send what windows and transport allow, of one stream, or of all in turn."""
        going = True
        while going and self.blocked:
            going = False
            for stream in list(self.blocked.values()) if only is None else (only,):
                if self.paused or self.window <= 0 or self._out_bytes >= self.bounds.out_bytes:
                    return
                going |= stream.pump()

    def tick(self) -> None:
        """Now and then: allow frames that carry nothing again."""
        self._cheap = 0

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.send(f.frame(f.PING, 0, 0, bytes(8)))

    def goodbye(self, code: Code) -> None:
        """Say that no further stream is looked at."""
        self.send(f.goaway(self.peer_last, code))

    def forget(self, stream: Stream) -> None:
        """A stream is over."""
        self.streams.pop(stream.number, None)
        self.blocked.pop(stream.number, None)
        if self._data_stream is stream:
            self._data_stream = None

    def lost(self, status: Status) -> None:
        """There is no connection any more: tell every owner."""
        for stream in list(self.streams.values()):
            stream.close()
            stream.owner.over(status)

    # --- in ---------------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether the peer has begun as it must."""
        return self._settled

    def receive(self, data: bytes) -> None:
        """What has come. Raises Broken."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, stop = 0, len(data)
        if self._in_data:
            at = self._more_data(data, at, stop)
        while stop - at >= f.HEAD_BYTES:
            high, low, kind, flags, number = f.HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > self.bounds.frame_bytes:
                raise Broken(Code.FRAME_SIZE_ERROR, "a frame is too large")
            self.heard += 1
            number &= f.WINDOW_MAX
            if kind == f.DATA and not flags & f.PADDED:
                at = self._data(number, flags, size, data, at + f.HEAD_BYTES, stop)
                continue
            if stop - at < f.HEAD_BYTES + size:
                break
            at += f.HEAD_BYTES
            if kind == f.DATA:
                self._padded(number, flags, data[at : at + size])
            else:
                self._control(kind, flags, number, data[at : at + size])
            at += size
        if at < stop:
            self._rest = data[at:]

    def _control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block and (kind != f.CONTINUATION or number != self._block_of):
            raise Broken(Code.PROTOCOL_ERROR, "a header block is interrupted")
        if not self._settled and kind != f.SETTINGS:
            raise Broken(Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        handle = self._kinds.get(kind)
        if handle is not None:
            handle(flags, number, payload)
        elif kind == f.PUSH_PROMISE:
            raise Broken(Code.PROTOCOL_ERROR, "nobody may push")
        else:
            self._count(CHEAP)  # unknown kinds are ignored

    def _count(self, cost: int) -> None:
        self._cheap += cost
        if self._cheap > self.bounds.calm:
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    # --- messages

    def _data(self, number: int, flags: int, size: int, data: bytes, at: int, stop: int) -> int:
        """The beginning of a DATA frame, or all of it; returns where to go on."""
        stream = self._charged(number, size)
        if stop - at < size:
            self._in_data, self._data_stream, self._data_ends = size, stream, bool(flags & f.END_STREAM)
            return self._more_data(data, at, stop)
        if not size and not flags & f.END_STREAM:
            self._count(CHEAP)
        if stream is not None:
            stream.take_in(data, at, at + size)
            if flags & f.END_STREAM and not stream.gone:
                stream.end_in()
        return at + size

    def _more_data(self, data: bytes, at: int, stop: int) -> int:
        size = min(self._in_data, stop - at)
        self._in_data -= size
        stream = self._data_stream
        if stream is not None:
            stream.take_in(data, at, at + size)
            if not self._in_data:
                self._data_stream = None
                if self._data_ends and not stream.gone:
                    stream.end_in()
        return at + size

    def _padded(self, number: int, flags: int, payload: bytes) -> None:
        if not payload or payload[0] >= len(payload):
            raise Broken(Code.PROTOCOL_ERROR, "padding is longer than its frame")
        stream = self._charged(number, len(payload))
        stop = len(payload) - payload[0]
        if stop == 1 and not flags & f.END_STREAM:
            self._count(CHEAP)
        if stream is not None:
            stream.take_in(payload, 1, stop)
            if not stream.gone:
                stream.waste(1 + payload[0])
                if flags & f.END_STREAM:
                    stream.end_in()

    def _charged(self, number: int, size: int) -> Stream | None:
        """The stream of a DATA frame, after flow control; None where it is over."""
        if self._block or not self._settled:
            raise Broken(Code.PROTOCOL_ERROR, "DATA in the wrong place")
        self._left -= size
        if self._left < 0:
            raise Broken(Code.FLOW_CONTROL_ERROR, "more data than the connection's window allows")
        self._due += size
        if self._due >= self.bounds.window // 2:
            self._left += self._due
            self.send(f.window_update(0, self._due))
            self._due = 0
        stream = self.streams.get(number)
        if stream is None:
            if not number or self.idle(number):
                raise Broken(Code.PROTOCOL_ERROR, "DATA on a stream that is not open")
            self._count(CHEAP)
            return None
        if stream.ended:
            self._end(stream, Code.STREAM_CLOSED)
        elif not stream.charge(size):
            self._end(stream, Code.FLOW_CONTROL_ERROR)
        else:
            return stream
        return None

    def _end(self, stream: Stream, code: Code) -> None:
        """The peer has broken a stream; the connection goes on."""
        self._count(DEAR)
        stream.reset(code)
        stream.owner.over(Status(StatusCode.INTERNAL, "the stream broke the protocol"))

    # --- headers

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise Broken(Code.PROTOCOL_ERROR, "HEADERS without a stream")
        start, stop = 0, len(payload)
        if flags & f.PADDED:
            start, stop = 1, stop - (payload[0] if payload else 0)
        if flags & f.WITH_PRIORITY:
            start += 5
        if start > stop:
            raise Broken(Code.PROTOCOL_ERROR, "padding is longer than its frame")
        block, ends = payload[start:stop], bool(flags & f.END_STREAM)
        if flags & f.END_HEADERS:
            self.opened(number, self._reader.read(block), ends)
        else:
            self._block, self._block_of, self._block_ends = [block], number, ends

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if not self._block:
            raise Broken(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block.append(payload)
        pieces = self._block
        if len(pieces) > _CONTINUATIONS_MAX or sum(map(len, pieces)) > self.bounds.header_bytes:
            raise Broken(Code.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & f.END_HEADERS:
            self._block = []
            self.opened(number, self._reader.read(b"".join(pieces)), self._block_ends)

    # --- the rest

    def _priority(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise Broken(Code.PROTOCOL_ERROR, "PRIORITY without a stream")
        if len(payload) != 5:
            raise Broken(Code.FRAME_SIZE_ERROR, "PRIORITY of the wrong size")
        self._count(CHEAP)

    def _reset(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(Code.FRAME_SIZE_ERROR, "RST_STREAM of the wrong size")
        if not number or self.idle(number):
            raise Broken(Code.PROTOCOL_ERROR, "RST_STREAM of a stream that is not open")
        self._count(DEAR)
        stream = self.streams.get(number)
        if stream is None:
            return
        code = f.NUMBER.unpack(payload)[0]
        stream.close()
        status = RESET_STATUS.get(code, StatusCode.INTERNAL)
        stream.owner.over(Status(status, "the other end has reset the stream"))

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Broken(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & f.ACK and payload):
            raise Broken(Code.FRAME_SIZE_ERROR, "SETTINGS of the wrong size")
        self._count(DEAR + len(payload) // f.SETTING.size)
        if flags & f.ACK:
            if not self._settled:
                raise Broken(Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            return
        self._settled = True
        window = self.peer_window
        for name, value in f.SETTING.iter_unpack(payload):
            self._setting(name, value)
        if self.peer_window != window:
            self._shift_windows(self.peer_window - window)
        self.send(f.frame(f.SETTINGS, f.ACK, 0))
        self.pump()

    def _setting(self, name: int, value: int) -> None:
        if name == f.INITIAL_WINDOW_SIZE:
            if value > f.WINDOW_MAX:
                raise Broken(Code.FLOW_CONTROL_ERROR, "the window is too large")
            self.peer_window = value
        elif name == f.MAX_FRAME_SIZE:
            if not f.FRAME_BYTES_DEFAULT <= value < 1 << 24:
                raise Broken(Code.PROTOCOL_ERROR, "the frame size is out of range")
            self.peer_frame = min(value, 2 << 20)
        elif name == f.MAX_CONCURRENT_STREAMS:
            self.peer_streams = value
        elif name == f.ENABLE_PUSH and value > 1:
            raise Broken(Code.PROTOCOL_ERROR, "a setting is out of range")

    def _shift_windows(self, more: int) -> None:
        """Once for all settings of a frame: it looks at every stream."""
        for stream in self.streams.values():
            stream.send_window += more
            if stream.send_window > f.WINDOW_MAX:
                raise Broken(Code.FLOW_CONTROL_ERROR, "a window is too large")

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Broken(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise Broken(Code.FRAME_SIZE_ERROR, "PING of the wrong size")
        self._count(DEAR)
        if not flags & f.ACK:  # an answer has done its part: something was heard
            self.send(f.frame(f.PING, f.ACK, 0, payload))

    def _goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Broken(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise Broken(Code.FRAME_SIZE_ERROR, "GOAWAY of the wrong size")
        self._count(DEAR)
        last, code = f.PAIR.unpack_from(payload)
        self.left(last & f.WINDOW_MAX, code)

    def _window_update(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of the wrong size")
        more = f.NUMBER.unpack(payload)[0] & f.WINDOW_MAX
        stream = self.streams.get(number)
        self._count(CHEAP if number else CHEAP + len(self.blocked) // _LOOKS)
        if not number:
            self.window += more
            if not more or self.window > f.WINDOW_MAX:
                raise Broken(Code.PROTOCOL_ERROR if not more else Code.FLOW_CONTROL_ERROR, "a window is out of range")
        elif stream is not None:
            stream.send_window += more
            if not more or stream.send_window > f.WINDOW_MAX:
                self._end(stream, Code.PROTOCOL_ERROR if not more else Code.FLOW_CONTROL_ERROR)
        elif self.idle(number):
            raise Broken(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that is not open")
        if not number:
            self.pump()
        elif number in self.blocked:
            self.pump(self.blocked[number])
