"""The directory over gRPC: one channel for the Session stream and calls, a second one for large contents."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

# A forked child must not touch the parent's connection, and the SDK sees to that. gRPC's own handlers for fork crash
# the child (SIGSEGV) when one of its threads is at work in the parent. The variable is read once, when gRPC starts.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from homenode.clock import Clock, boot_clock
from homenode.errors import DeadlineExceeded, InternalError, SessionLost, Unavailable, from_rpc
from homenode.servers import Servers
from homenode.transport import Incoming, Outgoing
from homenode_api.chunks import ChunkMessage, chunk_message
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as pb_grpc

MESSAGE_BYTES_MAX = 16 << 20
_SERVICE = pb.DESCRIPTOR.services_by_name["DirectoryService"].full_name
READ_CONTENT, WRITE_CONTENT = f"/{_SERVICE}/ReadContent", f"/{_SERVICE}/WriteContent"
GRACE_S = 1.0

_OPTIONS = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # How long an attempt to connect may take, in truth: a server may be far away, or busy.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A connection of its own for each channel: a large content holds up no invalidation.
    ("grpc.use_local_subchannel_pool", 1),
]
# Contents come in few large frames; the connection carries nothing that could wait behind one.
_CONTENT_OPTIONS = [("grpc.http2.max_frame_size", 1 << 20)]


class _TypedErrors:
    """In `with`: gRPC's exceptions as ours. A class, because every frame passes here and a generator costs more."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(failure, grpc.aio.AioRpcError):
            raise from_rpc(failure) from None
        if isinstance(failure, grpc.aio.UsageError | asyncio.InvalidStateError):  # call or channel ended in between
            raise Unavailable("the connection is over") from failure
        if isinstance(failure, asyncio.CancelledError):
            # grpc.aio raises this too when the call, and not the waiting task, was cancelled.
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise Unavailable("the call was ended") from None


_typed_errors = _TypedErrors()


def _incoming(data: bytes) -> Incoming:
    message = chunk_message(data)
    if message is not None:
        return message
    try:
        other = pb.ReadContentResponse.FromString(data)
    except DecodeError:
        raise InternalError("the server sent something that is no message") from None
    form = other.chunk.WhichOneof("form")
    return other if form is None else ChunkMessage(other.chunk.index, getattr(other.chunk, form), form == "zstd")


def _encoded(message: Outgoing) -> bytes:
    return message.encode() if isinstance(message, ChunkMessage) else message.SerializeToString()


@contextmanager
def _in_time() -> Iterator[None]:
    """A time limit of our own as ours."""
    try:
        yield
    except TimeoutError:
        raise DeadlineExceeded("no progress in time") from None


class GrpcStream:
    """A Session stream of grpc.aio."""

    def __init__(self, call: grpc.aio.StreamStreamCall, answered: Callable[[], None] = lambda: None) -> None:
        self._call = call
        self._answered: Callable[[], None] | None = answered

    async def write(self, frame: pb.SessionRequest) -> None:
        """See `transport.Stream`."""
        with _typed_errors:
            await self._call.write(frame)

    async def read(self) -> pb.SessionResponse | None:
        """See `transport.Stream`."""
        with _typed_errors:
            frame = await self._call.read()
        if frame is grpc.aio.EOF:
            return None
        if self._answered is not None:
            self._answered()
            self._answered = None
        return frame

    def cancel(self) -> None:
        """See `transport.Stream`."""
        self._call.cancel()


class GrpcTransport:
    """A directory behind one or more servers that share a store.

    Args:
        hosts: `host:port` of each.
        credentials: for TLS; None: plain text.
        clock, rng: for the choice among several servers.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        credentials: grpc.ChannelCredentials | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.servers = Servers(hosts, clock=clock or boot_clock(), rng=rng or random.Random())
        self._credentials = credentials
        self._channels: list[grpc.aio.Channel | None] = [None, None]
        self._aside = ""  # server for contents, where the way to the current one fails for them alone
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def hosts(self) -> int:
        """How many servers there are to choose from."""
        return len(self.servers)

    def _stub(self, which: int) -> pb_grpc.DirectoryServiceStub:
        return pb_grpc.DirectoryServiceStub(self._channel(which))

    def _channel(self, which: int) -> grpc.aio.Channel:
        channel = self._channels[which]
        if channel is None:
            host = (self._aside if which else "") or self.servers.current
            options = _OPTIONS + _CONTENT_OPTIONS if which else _OPTIONS
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(host, options)
            else:
                channel = grpc.aio.secure_channel(host, self._credentials, options)
            self._channels[which] = channel
        return channel

    def session(self) -> GrpcStream:
        """See `transport.Transport`."""
        return GrpcStream(self._stub(0).Session(), self.servers.answered)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """See `transport.Transport`."""
        with _typed_errors:
            return await getattr(self._stub(0), method)(request, timeout=timeout_s)

    async def read_content(self, request: pb.ReadContentRequest, timeout_s: float) -> AsyncGenerator[Incoming, None]:
        """See `transport.Transport`."""
        call = self._channel(1).unary_stream(READ_CONTENT, pb.ReadContentRequest.SerializeToString)(request)
        try:
            while True:
                with self._turning_aside(), _typed_errors, _in_time():
                    async with asyncio.timeout(timeout_s):
                        response = await call.read()
                if response is grpc.aio.EOF:
                    return
                yield _incoming(response)
        finally:
            call.cancel()

    async def write_content(self, requests: AsyncIterator[Outgoing], timeout_s: float) -> pb.WriteContentResponse:
        """See `transport.Transport`."""
        call = self._channel(1).stream_unary(WRITE_CONTENT, None, pb.WriteContentResponse.FromString)()
        decided = asyncio.ensure_future(call.initial_metadata())  # it comes before the answer where that is known early
        try:
            with self._turning_aside(), _typed_errors, _in_time():
                # Whatever ends the call before everything is sent, its status says why.
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    async for request in requests:
                        if decided.done():
                            break
                        async with asyncio.timeout(timeout_s):
                            await call.write(_encoded(request))
                    await call.done_writing()
                try:
                    async with asyncio.timeout(timeout_s):
                        return await call
                except grpc.aio.AioRpcError as failure:
                    # So grpc.aio names a write into a broken connection; a server's own error comes with details.
                    if failure.code() is grpc.StatusCode.INTERNAL and not failure.trailing_metadata():
                        raise Unavailable("the connection broke while a content was sent") from None
                    raise
        finally:
            decided.cancel()
            call.cancel()

    async def next_server(self) -> None:
        """Use another server, over new connections; with one server, keep its channel, which reconnects itself.

        Calls under way have GRACE_S to come to their end.
        """
        if self.servers.next():
            self._aside = ""
            self._retire(0)
            self._retire(1)

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
