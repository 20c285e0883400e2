"""DirectoryService over gRPC: a table of handlers, each a few lines around what `calls`, `stream` and others do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from homenode_api.chunks import ChunkMessage, chunk_in, chunk_message
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import kv_tier_pb2 as kv
from homenode_directory.api import transfers
from homenode_directory.api.endpoint import Endpoint
from homenode_directory.api.errors import malformed
from homenode_directory.api.http2.call import Call, Direct
from homenode_directory.api.session_call import SessionCall
from homenode_directory.tracing import CURRENT

SERVICE = pb.DESCRIPTOR.services_by_name["DirectoryService"].full_name
KV_SERVICE = kv.DESCRIPTOR.services_by_name["KvRoutingService"].full_name
CALL_LIMIT_S = 30.0  # for a unary call, beside what it asks to wait
WAIT_FOR_COPIES = ("Commit", "SetPolicy", "Resolve")  # may wait until strict copies are dead
TRACEPARENT = "traceparent"  # metadata of a call
M = TypeVar("M", bound=Message)


def _decoded(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise malformed() from None


def _unary(
    kind: type[Any], call: Callable[[Any], Awaitable[Message]], wait_ms: int, traced: bool
) -> grpc.RpcMethodHandler:
    async def handle(data: bytes, context: Call) -> bytes:
        message = _decoded(kind, data)
        if traced:
            said = (str(value) for name, value in context.invocation_metadata() if name == TRACEPARENT)
            CURRENT.set(next(said, ""))
        limit_s = CALL_LIMIT_S + (getattr(message, "wait_ms", 0) + wait_ms) / 1_000
        async with asyncio.timeout(limit_s):
            return (await call(message)).SerializeToString()

    return grpc.unary_unary_rpc_method_handler(handle)


def _server_stream(kind: type[Any], call: Callable[[Any], AsyncIterator[Message]]) -> grpc.RpcMethodHandler:
    async def handle(data: bytes, context: Call) -> AsyncIterator[bytes]:
        async for message in call(_decoded(kind, data)):
            yield message.SerializeToString()

    return grpc.unary_stream_rpc_method_handler(handle)


def _read_content(endpoint: Endpoint) -> grpc.RpcMethodHandler:
    async def handle(data: bytes, context: Call) -> None:
        """A reader has to take each message in time: until then the transfer holds a part of the budget."""
        request = _decoded(pb.ReadContentRequest, data)
        async with (
            asyncio.timeout(transfers.SHORTEST_S) as whole,
            contextlib.aclosing(endpoint.read_content(request)) as messages,
        ):
            async for message in messages:
                if isinstance(message, ChunkMessage):
                    encoded = message.encode()
                else:
                    encoded = message.SerializeToString()
                    if message.HasField("header"):
                        ends = asyncio.get_running_loop().time() + transfers.limit_s(message.header.size)
                        whole.reschedule(ends)
                async with asyncio.timeout(transfers.STALL_S):
                    await context.write(encoded)

    return grpc.unary_stream_rpc_method_handler(handle)


def _incoming(data: bytes) -> transfers.Incoming:
    message = chunk_message(data)
    if message is not None:
        return message
    other = _decoded(pb.WriteContentRequest, data)
    return chunk_in(other.chunk) or other


def _write_content(endpoint: Endpoint) -> grpc.RpcMethodHandler:
    async def handle(received: AsyncIterator[bytes], context: Call) -> bytes:
        left = True

        async def messages() -> AsyncIterator[transfers.Incoming]:
            nonlocal left
            async for data in received:
                yield _incoming(data)
            left = False

        try:
            answer = await endpoint.write_content(messages())
        except TimeoutError:  # it is the writer that does not go on
            raise
        except Exception:
            if left:
                await _drain(received, context)
            raise
        if left:
            await _drain(received, context)
        return answer.SerializeToString()

    return grpc.stream_unary_rpc_method_handler(handle)


async def _drain(received: AsyncIterator[bytes], context: Call) -> None:
    """The answer is known before everything has come. A client that is cut while it sends would not see it, so it is
    told to stop, by the initial metadata, and gets some time to."""
    await context.send_initial_metadata()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(transfers.DRAIN_S):
            async for _ in received:
                pass


def handlers(endpoint: Endpoint) -> grpc.GenericRpcHandler:
    """The service's methods."""

    traced = endpoint.parts.tracer is not None
    table: dict[str, grpc.RpcMethodHandler | Direct] = {
        name: _unary(kind, call, 2 * endpoint.parts.bounds.term_ms if name in WAIT_FOR_COPIES else 0, traced)
        for name, (kind, call) in endpoint.unary.items()
    }
    table["Session"] = Direct(partial(SessionCall, endpoint))
    table["Watch"] = _server_stream(pb.WatchRequest, endpoint.watch)
    table["ReadContent"] = _read_content(endpoint)
    table["WriteContent"] = _write_content(endpoint)
    return grpc.method_handlers_generic_handler(SERVICE, table)


class KvMethods(Protocol):
    """KvRoutingService on messages: `KvEndpoint`, or what hands them on to another process's."""

    def placement(self, requests: AsyncIterator[kv.PlacementRequest]) -> AsyncGenerator[kv.PlacementResponse, None]:
        """A worker's stream."""

    async def route(self, m: kv.RouteRequest) -> kv.RouteResponse:
        """Where to send a prompt."""

    async def admit(self, m: kv.AdmitRequest) -> kv.AdmitResponse:
        """Who may call a worker."""


def kv_handlers(endpoint: KvMethods) -> grpc.GenericRpcHandler:
    """The methods of KvRoutingService."""

    async def placement(received: AsyncIterator[bytes], context: Call) -> AsyncIterator[bytes]:
        requests = (_decoded(kv.PlacementRequest, data) async for data in received)
        async with contextlib.aclosing(endpoint.placement(requests)) as responses:
            async for response in responses:
                yield response.SerializeToString()

    table = {
        "Route": _unary(kv.RouteRequest, endpoint.route, 0, False),
        "Admit": _unary(kv.AdmitRequest, endpoint.admit, 0, False),
        "Placement": grpc.stream_stream_rpc_method_handler(placement),
    }
    return grpc.method_handlers_generic_handler(KV_SERVICE, table)
