"""A client of the wire contract without the SDK's care: it says and repeats what it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as rpc
from tests.support.ports import HOST

TIMEOUT_S = 60.0


#: Take from the connection no more than the reader asks for: gRPC otherwise reads megabytes ahead.
NO_READ_AHEAD = (("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0))


@asynccontextmanager
async def stub(port: int, *options: tuple[str, int]) -> AsyncIterator[rpc.DirectoryServiceStub]:
    """The service on a port, over a connection of its own."""
    async with grpc.aio.insecure_channel(
        f"{HOST}:{port}", [("grpc.use_local_subchannel_pool", 1), *options]
    ) as channel:
        yield rpc.DirectoryServiceStub(channel)


async def open_session(service: rpc.DirectoryServiceStub, ttl_ms: int = 0) -> str:
    """A new session's id."""
    request = pb.OpenSessionRequest(workspace="main", name="raw", ttl_ms=ttl_ms)
    opened = await service.OpenSession(request, timeout=TIMEOUT_S)
    return str(opened.session_id)
