"""One stream of a connection: gRPC messages in both directions, and what flow control lets through of them.

What comes in waits in `messages` until the owner takes it, and only then may the peer send that much more: a stream has
one window of bytes that nobody has taken, and beyond it the rest of the one message that the owner waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from homenode_api.http2 import frames as f
from homenode_api.http2.grpc import Status, StatusCode

if TYPE_CHECKING:
    from homenode_api.http2.connection import Connection

Inflate = Callable[[bytes, int], bytes | None]


class _Packed(bytes):
    """A compressed message, which stays so until somebody takes it: then its plain form needs no bound of its own."""


class Owner(Protocol):
    """Whose stream it is. No method blocks or raises."""

    def readable(self) -> None:
        """A message has come, or the end of the messages."""

    def writable(self) -> None:
        """Everything that was sent has left."""

    def over(self, status: Status) -> None:
        """The call is at its end: by the peer's word, or because of what it did. Called once, if at all."""


class Stream:
    """See the module.

    Attributes:
        number: HTTP/2's.
        owner: hears of what happens.
        messages: what has come and was not taken.
        ended: the peer sends no more messages.
        gone: the stream is closed in both directions; what is sent is dropped.
        inflate: for compressed messages; None: there may be none.
    """

    __slots__ = (
        "_body",
        "_deaf",
        "_due",
        "_half",
        "_head",
        "_last",
        "_left",
        "_link",
        "_missing",
        "_packed",
        "_pending",
        "_quiet",
        "closing",
        "ended",
        "gone",
        "inflate",
        "messages",
        "number",
        "owner",
        "send_window",
    )

    def __init__(self, link: Connection[Any], number: int, owner: Owner) -> None:
        self._link = link
        self.number = number
        self.owner = owner
        self.messages: deque[bytes] = deque()
        self.ended = False
        self.gone = False
        self.closing = False  # our last frame is sent or waits behind messages
        self.inflate: Inflate | None = None
        self.send_window = link.peer_window
        self._left = link.bounds.stream_window  # what the peer may still send
        self._half = link.bounds.stream_window // 2
        self._due = 0  # what was taken, and not yet given back to it
        self._head = b""  # of a message's prefix, less than all of it
        self._missing = 0  # bytes of the message that comes
        self._packed = False
        self._body: list[bytes | memoryview] = []
        self._pending: deque[memoryview] = deque()  # for which there was no window
        self._quiet = False
        self._deaf = False  # what comes is no messages any more
        self._last: bytes | None = None  # trailers behind them; empty: the end of the last message

    # --- in ---------------------------------------------------------------------------------------------------------

    def charge(self, size: int) -> bool:
        """Account for a DATA frame. False where the peer had no window for it."""
        self._left -= size
        return self._left >= 0

    def waste(self, size: int) -> None:
        """Bytes that carry nothing: padding."""
        self._give(size)

    def take_in(self, data: bytes, at: int, stop: int) -> None:
        """Bytes of DATA."""
        if self._deaf:
            self._give(stop - at)
            return
        while at < stop and not self.gone:
            missing = self._missing
            if missing:
                size = min(missing, stop - at)
                # A piece keeps all that came with it in memory until its message is whole.
                far = size * 4 < len(data)
                self._body.append(data[at : at + size] if far else memoryview(data)[at : at + size])
                at += size
                self._missing = missing - size
                self._link.unfinished += size
                if size == missing:
                    body, self._body = self._body, []
                    message = b"".join(body)
                    self._link.unfinished -= len(message)
                    self._whole(message)
                continue
            if self._head or stop - at < f.PREFIX_BYTES:
                head = self._head + data[at : min(stop, at + f.PREFIX_BYTES - len(self._head))]
                at += len(head) - len(self._head)
                self._head = head
                if len(head) < f.PREFIX_BYTES:
                    return
                packed, size = f.PREFIX.unpack(head)
                self._head = b""
            else:
                packed, size = f.PREFIX.unpack_from(data, at)
                at += f.PREFIX_BYTES
            if not self._acceptable(packed, size):
                return
            self._packed = packed == 1
            if stop - at >= size:
                self._whole(data[at : at + size])
                at += size
            else:
                self._missing = size
                self._widen()

    def _acceptable(self, packed: int, size: int) -> bool:
        bounds = self._link.bounds
        if size > bounds.message_bytes:
            text = f"a message may have {bounds.message_bytes} bytes, not {size}"
            self.fail(Status(StatusCode.RESOURCE_EXHAUSTED, text))
        elif packed and (packed > 1 or self.inflate is None):
            self.fail(Status(StatusCode.INTERNAL, "a message is compressed in a way that was not announced"))
        elif size + self._link.unfinished > bounds.unfinished_bytes and size > self._left:
            self.fail(Status(StatusCode.RESOURCE_EXHAUSTED, "too many large messages at once on this connection"))
        else:
            return True
        return False

    def _whole(self, message: bytes) -> None:
        self.messages.append(_Packed(message) if self._packed else message)
        self.owner.readable()

    def take(self) -> bytes | None:
        """The next message; None where none is there, or none that can be read: the owner has heard of that."""
        if not self.messages:
            return None
        message = self.messages.popleft()
        if not self.ended:
            self._give(len(message) + f.PREFIX_BYTES)
            if self._missing and not self.messages:
                self._widen()
        return self._plain(message) if type(message) is _Packed else message

    def _plain(self, packed: bytes) -> bytes | None:
        assert self.inflate is not None
        message = self.inflate(packed, self._link.bounds.message_bytes)
        if message is None:
            self.fail(Status(StatusCode.INTERNAL, "a compressed message is malformed or too large"))
        return message

    def _give(self, size: int) -> None:
        """Let the peer send `size` bytes more, once there is enough of them."""
        self._due = due = self._due + size
        if due >= self._half and not self.ended and not self.gone:
            self._left += due
            self._due = 0
            self._link.send(f.window_update(self.number, due))

    def _widen(self) -> None:
        """Let the message come to its end, if it is the one that the owner waits for."""
        more = self._missing - self._left
        if more > 0 and not self.messages and not self.ended:
            self._left += more
            self._due -= more
            self._link.send(f.window_update(self.number, more))

    def end_in(self) -> None:
        """The peer has sent its last message."""
        self.ended = True
        if self._missing or self._head:
            self.fail(Status(StatusCode.INTERNAL, "the last message is incomplete"))
        else:
            self.owner.readable()
            self._done()

    def fail(self, status: Status) -> None:
        """What has come cannot be gone on with."""
        self._deaf = True
        self.messages.clear()
        self._head = b""
        self._drop_body()
        self.owner.over(status)

    def _drop_body(self) -> None:
        self._link.unfinished -= sum(len(part) for part in self._body)
        self._body, self._missing = [], 0

    # --- out --------------------------------------------------------------------------------------------------------

    def send_headers(self, block: bytes, *, end: bool = False) -> None:
        """Headers, at once; before any message."""
        if not self.gone:
            self._link.send(f.header_frames(self.number, block, end, self._link.peer_frame))
            if end:
                self.closing = True
                self._done()

    def send(self, message: bytes | memoryview, *, end: bool = False) -> bool:
        """A message; True if all of it has left, else the owner hears when it has. `end`: it is the last one."""
        if self.gone or self.closing:
            return True
        link, size = self._link, len(message)
        whole = size + f.PREFIX_BYTES
        if not self._pending and whole <= self.send_window and link.may_send(whole):
            link.window -= whole
            self.send_window -= whole
            flags = f.END_STREAM if end else 0
            link.send(f.HEAD_AND_PREFIX.pack(whole >> 8, whole & 0xFF, f.DATA, flags, self.number, 0, size))
            if size:
                link.send(message)
            if end:
                self.closing = True
                self._done()
            return True
        self._pending.append(memoryview(f.PREFIX.pack(0, size)))
        if size:
            self._pending.append(memoryview(message))
        link.waiting += whole
        if end:
            self.closing, self._last = True, b""
        link.blocked[self.number] = self
        self._quiet = True  # whoever sends sees what has left
        link.pump(self)
        self._quiet = False
        return self.gone or not self._pending

    def end(self) -> None:
        """No more messages from us."""
        if self.gone or self.closing:
            return
        self.closing = True
        if self._pending:
            self._last = b""
        else:
            self._link.send(f.frame(f.DATA, f.END_STREAM, self.number))
            self._done()

    def finish(self, block: bytes) -> None:
        """Trailers, behind what waits; the stream is over then, whether or not the peer has sent everything."""
        if self.gone or self.closing:
            return
        self.closing = True
        if self._pending:
            self._last = block
        else:
            self._end(block)

    def _end(self, block: bytes) -> None:
        link = self._link
        if block:
            link.send(f.header_frames(self.number, block, True, link.peer_frame))
            if not self.ended:
                link.send(f.reset(self.number, f.Code.NO_ERROR))
                self.close()
                return
        self._done()

    def pump(self) -> bool:
        """Send one frame of what waits. False where the stream has no window, or nothing waits."""
        link = self._link
        room = min(self.send_window, link.window, link.peer_frame)
        if room <= 0 or not self._pending:
            return False
        parts, size = [], 0
        while self._pending and size < room:
            part = self._pending[0]
            if len(part) > room - size:
                parts.append(part[: room - size])
                self._pending[0] = part[room - size :]
            else:
                parts.append(self._pending.popleft())
            size += len(parts[-1])
        self.send_window -= size
        link.window -= size
        link.waiting -= size
        done = not self._pending
        flags = f.END_STREAM if done and self._last == b"" else 0
        link.send(f.HEAD.pack(size >> 8, size & 0xFF, f.DATA, flags, self.number))
        for part in parts:
            link.send(part)
        if done:
            del link.blocked[self.number]
            if self._last is not None:
                self._end(self._last)
            if not self.gone and not self._quiet:
                self.owner.writable()
        return True

    # --- the end ----------------------------------------------------------------------------------------------------

    def _done(self) -> None:
        if self.ended and self.closing and not self._pending:
            self.close()

    def close(self) -> None:
        """Forget the stream; its number stays known as used."""
        if not self.gone:
            self.gone = True
            self._link.waiting -= sum(len(part) for part in self._pending)
            self._pending.clear()
            self._drop_body()
            self._link.forget(self)

    def reset(self, code: f.Code) -> None:
        """End it at once; the owner is not told."""
        if not self.gone:
            self._link.send(f.reset(self.number, code))
            self.close()
