"""Sessions with a connection each. (Sessions of one event loop otherwise share a stream.)"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import homenode
from homenode.grpc_transport import GrpcStream, GrpcTransport
from tests.support.ports import HOST


class CountingTransport(GrpcTransport):
    """Counts the streams that were opened: more than one means that the first was lost."""

    streams = 0

    def session(self) -> GrpcStream:
        """See `homenode.transport.Transport`."""
        self.streams += 1
        return super().session()


async def connect(port: int, name: str, **settings: Any) -> tuple[homenode.Homenode, CountingTransport]:
    """A session over a connection of its own."""
    transport = CountingTransport([f"{HOST}:{port}"])
    options = {"timeout_ms": 30_000, **settings}
    return await homenode.connect(
        f"homenode://{HOST}:{port}/main", agent=name, transport=transport, **options
    ), transport


@asynccontextmanager
async def sessions(port: int, count: int, **settings: Any) -> AsyncIterator[list[homenode.Homenode]]:
    """That many of them."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context((await connect(port, f"s{i}", **settings))[0]) for i in range(count)]
