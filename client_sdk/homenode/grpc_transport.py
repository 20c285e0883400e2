"""The directory over gRPC: one connection for the Session stream and calls, a second one for large contents."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import DecodeError

from homenode.channel import EAGER, PATIENT, Call, Channel
from homenode.clock import Clock, boot_clock
from homenode.errors import DeadlineExceeded, HomenodeError, InternalError, SessionLost, Unavailable
from homenode.servers import Servers
from homenode.transport import Incoming, Outgoing
from homenode_api.chunks import CHUNK_BYTES, ChunkMessage, chunk_in, chunk_message
from homenode_api.http2.connection import Bounds
from homenode_api.v1 import directory_pb2 as pb

MESSAGE_BYTES_MAX = 16 << 20
GRACE_S = 1.0
_SERVICE = pb.DESCRIPTOR.services_by_name["DirectoryService"]
_METHODS = {
    method.name: (f"/{_SERVICE.full_name}/{method.name}", getattr(pb, method.output_type.name))
    for method in _SERVICE.methods
}


def _kv_methods() -> dict[str, tuple[str, Any]]:
    """Loaded by who sends prompts to KV workers only."""
    from homenode_api.v1 import kv_tier_pb2 as kv

    service = kv.DESCRIPTOR.services_by_name["KvRoutingService"]
    answers = {"Route": kv.RouteResponse, "Admit": kv.AdmitResponse}
    return {name: (f"/{service.full_name}/{name}", answer) for name, answer in answers.items()}


_CALM = 1_000_000  # the server is trusted more than its clients are by it

_BOUNDS = (
    Bounds(stream_window=1 << 20, window=16 << 20, message_bytes=MESSAGE_BYTES_MAX, calm=_CALM),
    # Contents come in few large frames; the connection carries nothing that could wait behind one.
    Bounds(
        stream_window=4 * CHUNK_BYTES,
        window=16 << 20,
        frame_bytes=CHUNK_BYTES + 1_024,
        message_bytes=MESSAGE_BYTES_MAX,
        out_bytes=CHUNK_BYTES,
        calm=_CALM,
    ),
)


def _incoming(data: bytes) -> Incoming:
    message = chunk_message(data)
    if message is not None:
        return message
    try:
        other = pb.ReadContentResponse.FromString(data)
    except DecodeError:
        raise InternalError("the server sent something that is no message") from None
    return chunk_in(other.chunk) or other


def _encoded(message: Outgoing) -> bytes:
    return message.encode() if isinstance(message, ChunkMessage) else message.SerializeToString()


class GrpcStream:
    """A Session stream."""

    def __init__(self, call: Call, answered: Callable[[], None] = lambda: None) -> None:
        self._call = call
        self._answered: Callable[[], None] | None = answered

    async def write(self, frame: pb.SessionRequest) -> None:
        """See `transport.Stream`."""
        await self._call.write(frame.SerializeToString())

    async def read(self) -> pb.SessionResponse | None:
        """See `transport.Stream`."""
        data = await self._call.read()
        if data is None:
            return None
        if self._answered is not None:
            self._answered()
            self._answered = None
        return _decoded(pb.SessionResponse, data)

    def cancel(self) -> None:
        """See `transport.Stream`."""
        self._call.cancel()


def _decoded(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InternalError("the server sent something that is no message") from None


@contextmanager
def _in_time() -> Iterator[None]:
    """A time limit of our own as ours."""
    try:
        yield
    except TimeoutError:
        raise DeadlineExceeded("no progress in time") from None


class GrpcTransport:
    """A directory behind one or more servers that share a store.

    Args:
        hosts: `host:port` of each.
        credentials: for TLS; None: plain text. Its protocols become HTTP/2.
        clock, rng: for the choice among several servers.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        credentials: ssl.SSLContext | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.servers = Servers(hosts, clock=clock or boot_clock(), rng=rng or random.Random())
        if credentials is not None:
            credentials.set_alpn_protocols(["h2"])
        self._credentials = credentials
        self._channels: list[Channel | None] = [None, None]
        self._aside = ""  # server for contents, where the way to the current one fails for them alone
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def hosts(self) -> int:
        """How many servers there are to choose from."""
        return len(self.servers)

    def _channel(self, which: int) -> Channel:
        channel = self._channels[which]
        if channel is None:
            host = (self._aside if which else "") or self.servers.current
            # A server that stands still is left soon where there are others: its silence makes reads ask.
            patience = EAGER if which == 0 and self.hosts > 1 else PATIENT
            channel = self._channels[which] = Channel(host, self._credentials, _BOUNDS[which], patience)
        return channel

    def session(self) -> GrpcStream:
        """See `transport.Transport`."""
        return GrpcStream(self._channel(0).open(_METHODS["Session"][0]), self.servers.answered)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """See `transport.Transport`."""
        path, kind = _METHODS.get(method) or _kv_methods()[method]
        return _decoded(kind, await self._channel(0).unary(path, request.SerializeToString(), timeout_s))

    async def read_content(self, request: pb.ReadContentRequest, timeout_s: float) -> AsyncGenerator[Incoming, None]:
        """See `transport.Transport`."""
        call = self._channel(1).open(_METHODS["ReadContent"][0], request=request.SerializeToString())
        try:
            while True:
                with self._turning_aside(), _in_time():
                    async with asyncio.timeout(timeout_s):
                        response = await call.read()
                if response is None:
                    return
                yield _incoming(response)
        finally:
            call.cancel()

    async def write_content(self, requests: AsyncIterator[Outgoing], timeout_s: float) -> pb.WriteContentResponse:
        """See `transport.Transport`."""
        call = self._channel(1).open(_METHODS["WriteContent"][0])
        try:
            with self._turning_aside(), _in_time():
                # Whatever ends the call before everything is sent, its status says why.
                with contextlib.suppress(HomenodeError):
                    async for request in requests:
                        if call.begun:  # the server has decided before it has everything
                            break
                        async with asyncio.timeout(timeout_s):
                            await call.write(_encoded(request))
                call.end()
                async with asyncio.timeout(timeout_s):
                    answer = await call.read()
                if answer is None:
                    raise InternalError("the server has ended a call without an answer")
                return _decoded(pb.WriteContentResponse, answer)
        finally:
            call.cancel()

    async def next_server(self) -> None:
        """Use another server, over new connections; with one server, keep its connection, if it is alive.

        Calls under way have GRACE_S to come to their end.
        """
        if self.servers.next():
            self._aside = ""
            self._retire(0)
            self._retire(1)
        elif (channel := self._channels[0]) is not None:
            channel.ask()

    @contextmanager
    def _turning_aside(self) -> Iterator[None]:
        """After a call for contents has failed, the next one goes to another server: each has them all."""
        try:
            yield
        except SessionLost:
            raise
        except (Unavailable, DeadlineExceeded):
            if len(self.servers) > 1:
                self._aside = self.servers.other(self._aside or self.servers.current)
                self._retire(1)
            raise

    def _retire(self, which: int) -> None:
        """Let a channel end its calls, and take another one for the next."""
        channel, self._channels[which] = self._channels[which], None
        if channel is not None:
            task = asyncio.ensure_future(channel.close(GRACE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close both channels."""
        channels, self._channels = self._channels, [None, None]
        for channel in channels:
            if channel is not None:
                await channel.close()
        await asyncio.gather(*self._closing, return_exceptions=True)
