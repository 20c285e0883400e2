"""One routing index for the processes that share a port: the first keeps it, the others ask it.

A KV worker's stream, like a caller's question, reaches any of the processes. So that each of them knows every worker,
one of them keeps the index, and the others hand streams and questions on, word for word, over a socket that only the
server's own user can open. What is sent to a worker counts as its load for all of them. While the first process is away
there is no routing: workers and callers try again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
from google.rpc import status_pb2

from homenode_api.http2.connection import Bounds
from homenode_api.v1 import kv_tier_pb2 as kv
from homenode_api.v1 import types_pb2 as t
from homenode_api.v1.kv_tier_pb2_grpc import KvRoutingServiceStub
from homenode_directory.api.errors import DETAILS_KEY, Rejected, rejected
from homenode_directory.api.http2.link import Times
from homenode_directory.api.http2.server import Http2Server
from homenode_directory.api.hub import Hub
from homenode_directory.api.kv import KvEndpoint
from homenode_directory.api.servicer import kv_handlers
from homenode_directory.errors import ConfigError

ROUTE_S = 2.0
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
CALLS_MAX = 16_384
SIBLINGS_MAX = 64
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),
)


class Index:
    """The routing index of this process, for the other ones of the server."""

    def __init__(self, endpoint: KvEndpoint, path: str) -> None:
        """Raises ConfigError."""
        bounds = Bounds(streams=CALLS_MAX, message_bytes=MESSAGE_BYTES_MAX)
        self._server = Http2Server(bounds, Times(), calls_max=CALLS_MAX, connections_max=SIBLINGS_MAX)
        self._server.add_generic_rpc_handlers((kv_handlers(endpoint),))
        try:
            self._server.bind_unix(path)
        except OSError as error:
            raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from None

    async def start(self) -> None:
        """Serve from now on."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop now."""
        await self._server.stop(0)


class Relayed:
    """A worker's stream that another process takes."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()

    def evict(self, session: str) -> None:
        """See `hub.Owner`: it carries no session's events."""

    def load(self) -> tuple[int, int, float]:
        """See `hub.Owner`."""
        return 0, 0, 0.0

    def drain(self, within_ms: int) -> None:
        """See `hub.Owner`."""
        self.draining.set()


class KvRelay:
    """The methods of `KvEndpoint`, answered by the process that keeps the index; who may call is known here as well."""

    def __init__(self, own: KvEndpoint, hub: Hub, path: str) -> None:
        self.admit = own.admit
        self._own = own
        self._hub = hub
        self._channel = grpc.aio.insecure_channel(f"unix://{path}", options=_CHANNEL)
        self._stub = KvRoutingServiceStub(self._channel)

    async def close(self) -> None:
        """Calls under way fail."""
        await self._channel.close()

    async def route(self, m: kv.RouteRequest) -> kv.RouteResponse:
        """See `KvEndpoint`. Raises Rejected."""
        try:
            answer: kv.RouteResponse = await self._stub.Route(m, timeout=ROUTE_S)
            return answer
        except grpc.aio.AioRpcError as failure:
            raise _as_told(failure) from None

    def placement(self, requests: AsyncIterator[kv.PlacementRequest]) -> AsyncGenerator[kv.PlacementResponse, None]:
        """See `KvEndpoint`. Raises Rejected."""
        self._own.require_room()
        return self._relayed(requests)

    async def _relayed(
        self, requests: AsyncIterator[kv.PlacementRequest]
    ) -> AsyncGenerator[kv.PlacementResponse, None]:
        relayed = Relayed()
        self._hub.enter(relayed)
        call = self._stub.Placement()
        leaving = asyncio.ensure_future(relayed.draining.wait())
        sending = asyncio.ensure_future(_send(call, requests))
        try:
            while True:
                reading = asyncio.ensure_future(call.read())
                waiting = [one for one in (reading, leaving, sending) if one is reading or not one.done()]
                while not reading.done() and not relayed.draining.is_set():
                    _, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if sending.done():
                        sending.result()
                    waiting = list(left)
                if relayed.draining.is_set():
                    reading.cancel()
                    end = t.Error(reason=t.ERROR_REASON_UNAVAILABLE, message="the server is about to stop")
                    yield kv.PlacementResponse(refused=end)
                    return
                response = await reading
                if response is grpc.aio.EOF:
                    return
                yield response
        except grpc.aio.AioRpcError as failure:
            raise _as_told(failure) from None
        finally:
            for task in (leaving, sending):
                task.cancel()
            call.cancel()
            await asyncio.gather(leaving, sending, return_exceptions=True)
            self._hub.leave(relayed)


async def _send(call: Any, requests: AsyncIterator[kv.PlacementRequest]) -> None:
    """Raises what taking the requests raises; that the call is over is for its reader to see."""
    async for request in requests:
        try:
            await call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.done_writing()


def _as_told(failure: grpc.aio.AioRpcError) -> Rejected:
    """The other process's refusal."""
    for key, value in failure.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                error = t.Error()
                if detail.Unpack(error):
                    return Rejected(error)
    message = "the process that knows the KV workers is being started"
    return rejected(t.ERROR_REASON_UNAVAILABLE, message, retry_after_ms=200)
