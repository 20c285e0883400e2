"""Calls to one server over one HTTP/2 connection, which is made when it is needed and again when it was lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from homenode.errors import from_status
from homenode_api.http2.client import ClientEnd
from homenode_api.http2.connection import Bounds
from homenode_api.http2.frames import Code
from homenode_api.http2.grpc import CONTENT_TYPE, Status, StatusCode, timeout_text
from homenode_api.http2.headers import Headers, encode
from homenode_api.http2.stream import Stream
from homenode_api.http2_socket import EndOnSocket

LOG = logging.getLogger("homenode")

CONNECT_S = 5.0  # until the server's greeting has come
ADDRESS_S = 1.0  # for one of many addresses, at least
WAITING_MAX = 65_536  # calls that wait for a connection or a place on it


@dataclass(frozen=True, slots=True)
class Patience:
    """A server that was silent for `silent_s` is asked for a sign of life, and has `answer_s` to give it."""

    silent_s: float
    answer_s: float


PATIENT = Patience(20.0, 5.0)
#: Where others would serve instead: the way to them, and the session's attach there, fit into two seconds.
EAGER = Patience(0.3, 0.7)

_CUT = Status(StatusCode.CANCELLED, "the call was ended")
_LATE = Status(StatusCode.DEADLINE_EXCEEDED, "no answer in time")


class Call:
    """One call, from before there is a connection for it. Used by one writer and one reader.

    Attributes:
        status: how it ended; None while it goes on.
        begun: the server's initial headers have come, or the end.
    """

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.status: Status | None = None
        self.begun = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # --- for its user -----------------------------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """The next message; None at the end of a call that went well. Raises HomenodeError."""
        while True:
            if self.stream is not None and (message := self.stream.take()) is not None:
                return message
            if self.status is not None:
                if self.status.code:
                    raise from_status(self.status)
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader

    async def write(self, message: bytes) -> None:
        """Send a message; returns when it has left. Raises HomenodeError."""
        while self.stream is None and self.status is None:
            await self._turn()
        if self.stream is not None and self.status is None and not self.stream.send(message):
            await self._turn()
        if self.status is not None and self.status.code:
            raise from_status(self.status)

    async def _turn(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()
        await self._writer

    def end(self) -> None:
        """Send no more."""
        if self.stream is not None:
            self.stream.end()

    def cancel(self, status: Status = _CUT) -> None:
        """End the call; a read or write under way ends."""
        if self.status is None:
            if self.stream is not None:
                self.stream.reset(Code.CANCEL)
            self.over(status)

    def late(self) -> None:
        """Its time is over."""
        self.cancel(_LATE)

    # --- for its stream ---------------------------------------------------------------------------------------------

    def opened(self, stream: Stream) -> None:
        """There is a stream for it."""
        self.stream = stream
        self.writable()

    def started(self, headers: Headers) -> None:
        """See `client.Caller`."""
        self.begun = True

    def readable(self) -> None:
        """See `Owner`."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def writable(self) -> None:
        """See `Owner`."""
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def over(self, status: Status) -> None:
        """See `Owner`."""
        if self.status is None:
            if self.stream is not None and not self.stream.gone:
                self.stream.reset(Code.CANCEL)
            self.status, self.begun = status, True
            self.readable()
            self.writable()


@dataclass(slots=True)
class _Waiting:
    """A call that waits for a connection, or for a place on it."""

    call: Call
    path: str
    timeout_s: float | None
    request: bytes | None


class Connection(EndOnSocket):
    """One connection. `ready` is done when the server has greeted; `on_room` hears of ends of streams."""

    end: ClientEnd

    def __init__(self, bounds: Bounds, patience: Patience, on_room: Callable[[], None]) -> None:
        super().__init__()
        self._patience = patience
        self.end = ClientEnd(bounds, self.wake, self._left, self._room)
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self._on_room = on_room
        self._heard = 0
        self._heard_at = self.loop.time()
        self._asked_at = 0.0  # 0: not
        self._looking_at = self._heard_at
        self._timer: asyncio.TimerHandle | None = None

    def made(self, transport: asyncio.Transport) -> bool:
        """See `EndOnSocket`."""
        self._look_in(self._patience.silent_s / 4)
        return True

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if not self.ready.done() and self.end.settled:
            self.ready.set_result(None)

    def gone(self) -> None:
        """See `EndOnSocket`."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("the connection was closed before a greeting"))
            self.ready.exception()  # nobody may wait for it
        self._on_room()

    @property
    def usable(self) -> bool:
        """Whether it takes calls."""
        return not self.closing and not self.end.leaving

    def _left(self) -> None:
        self._room()

    def _room(self) -> None:
        if self.end.leaving and not self.end.streams:
            self.loop.call_soon(self.close)
        self._on_room()

    def ask(self) -> None:
        """Ask for a sign of life; without one the connection is given up."""
        if not self._asked_at and not self.closing:
            self._note()
            self._ask()

    def _ask(self) -> None:
        self._asked_at = self.loop.time()
        self.end.ping()
        self._look_in(self._patience.answer_s)

    def _note(self) -> None:
        if self.end.heard != self._heard:
            self._heard, self._heard_at, self._asked_at = self.end.heard, self.loop.time(), 0.0

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looking_at = self.loop.time() + seconds
        self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        if self.closing:
            return
        self.end.tick()
        self._note()
        now, patience = self.loop.time(), self._patience
        if self._asked_at:
            if now - self._looking_at <= patience.answer_s / 4:
                self.abort()
            else:  # this process stood still, and may not have read yet what has come
                self._look_in(patience.answer_s)
        elif self.end.streams and now - self._heard_at >= patience.silent_s:
            self._ask()
        else:
            self._look_in(patience.silent_s / 4)


class Channel:
    """See the module.

    Args:
        host: `host:port`.
        tls: None: plain text.
        bounds: of the connection.
        patience: with a silent server.
    """

    def __init__(self, host: str, tls: ssl.SSLContext | None, bounds: Bounds, patience: Patience = PATIENT) -> None:
        name, _, port = host.rpartition(":")
        self._name, self._port = name.removeprefix("[").removesuffix("]"), int(port)
        self._authority = host
        self._tls = tls
        self._bounds = bounds
        self._patience = patience
        self._connection: Connection | None = None
        self._former: list[Connection] = []  # that let calls come to their end
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._blocks: dict[str, bytes] = {}
        self.closed = False

    # --- calls ------------------------------------------------------------------------------------------------------

    def open(self, path: str, *, timeout_s: float | None = None, request: bytes | None = None) -> Call:
        """A call; with `request` that is the only message of it. What fails shows in its first read."""
        call = Call()
        if self.closed:
            call.over(Status(StatusCode.UNAVAILABLE, "the connection is over"))
        elif len(self._waiting) >= WAITING_MAX:
            call.over(Status(StatusCode.RESOURCE_EXHAUSTED, "too many calls wait for the server"))
        else:
            self._waiting.append(_Waiting(call, path, timeout_s, request))
            self._serve()
        return call

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """One request, one answer. Raises HomenodeError."""
        call = self.open(path, timeout_s=timeout_s, request=request)
        timer = asyncio.get_running_loop().call_later(timeout_s, call.late)
        try:
            answer = await call.read()
            if answer is None or await call.read() is not None:
                raise from_status(Status(StatusCode.INTERNAL, "a call has one answer"))
            return answer
        finally:
            timer.cancel()
            call.cancel()

    def _serve(self) -> None:
        """Let waiting calls begin, as many as there is room for."""
        connection = self._connection
        if connection is not None and not connection.usable:
            self._former = [one for one in (*self._former, connection) if not one.closing]
            connection = self._connection = None
        if connection is None:
            if self._waiting and self._connecting is None and not self.closed:
                self._connecting = asyncio.ensure_future(self._connect())
            return
        end = connection.end
        while self._waiting and not end.full and not end.leaving:
            one = self._waiting.popleft()
            if one.call.status is None:
                stream = end.open(one.call, self._block(one.path, one.timeout_s))
                one.call.opened(stream)
                if one.request is not None:
                    stream.send(one.request, end=True)

    def _block(self, path: str, timeout_s: float | None) -> bytes:
        """The request's headers: those that are always the same, and the time limit."""
        block = self._blocks.get(path)
        if block is None:
            scheme = "https" if self._tls else "http"
            always = ((":method", "POST"), (":scheme", scheme), (":path", path), (":authority", self._authority))
            block = self._blocks[path] = encode((*always, ("te", "trailers"), CONTENT_TYPE))
        return block if timeout_s is None else block + encode([("grpc-timeout", timeout_text(timeout_s))])

    # --- the connection ---------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._first()
        except BaseException as failure:
            self._connecting = None
            expected = isinstance(failure, OSError | asyncio.CancelledError)  # TimeoutError is one of the former
            why = "no answer"
            if isinstance(failure, OSError) and not isinstance(failure, TimeoutError):
                why = failure.strerror or str(failure)
            self._fail(Status(StatusCode.UNAVAILABLE, f"{self._authority} cannot be reached: {why}"))
            if not expected:
                LOG.exception("no connection can be made")
            return
        self._connecting = None
        if connection.usable:
            self._connection = connection
            self._serve()
        else:  # not tried again here: callers know how long to wait before they do
            self._fail(Status(StatusCode.UNAVAILABLE, f"{self._authority} takes no calls"))

    async def _first(self) -> Connection:
        """A connection to the first address of the host that greets. Raises OSError.

        Each but the last has a part of the time only: an address where nobody is may be silent.
        """
        infos = await asyncio.get_running_loop().getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):  # TimeoutError is one of them
                async with asyncio.timeout(max(CONNECT_S / len(addresses), ADDRESS_S)):
                    return await self._greeted(address)
        return await self._greeted(addresses[-1] if len(addresses) > 1 else self._name)

    async def _greeted(self, address: str) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._bounds, self._patience, self._serve),
            address,
            self._port,
            ssl=self._tls,
            server_hostname=self._name if self._tls else None,
        )
        try:
            await connection.ready
        except BaseException:
            connection.abort()
            raise
        return connection

    def _fail(self, status: Status) -> None:
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.call.over(status)

    def ask(self) -> None:
        """Find out whether the server is still there."""
        if self._connection is not None:
            self._connection.ask()

    async def close(self, grace_s: float = 0.0) -> None:
        """Take no more calls; those under way have `grace_s`, then they are cut."""
        self.closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
            self._connecting = None
        self._fail(Status(StatusCode.UNAVAILABLE, "the connection is over"))
        connections = [one for one in (*self._former, self._connection) if one is not None and not one.closing]
        loop = asyncio.get_running_loop()
        by = loop.time() + grace_s
        while loop.time() < by and any(one.end.streams for one in connections):
            await asyncio.sleep(0.02)
        for one in connections:
            one.close()
        self._connection = None
