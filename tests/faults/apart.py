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


class PartedTransport(GrpcTransport):
    """Session stream, unary calls and large contents each over a way of its own, so that each may fail alone."""

    def __init__(self, port: int, *, stream: int = 0, contents: int = 0) -> None:
        super().__init__([f"{HOST}:{port}"])
        self._stream_way = GrpcTransport([f"{HOST}:{stream or port}"])
        self._contents_way = GrpcTransport([f"{HOST}:{contents or port}"])
        self.read_content = self._contents_way.read_content  # type: ignore[method-assign]
        self.write_content = self._contents_way.write_content  # type: ignore[method-assign]

    def session(self) -> GrpcStream:
        """See `homenode.transport.Transport`."""
        return self._stream_way.session()

    async def close(self) -> None:
        """See `homenode.transport.Transport`."""
        await super().close()
        await self._stream_way.close()
        await self._contents_way.close()


async def connect_parted(
    port: int, name: str, *, stream: int = 0, contents: int = 0, **settings: Any
) -> tuple[homenode.Homenode, PartedTransport]:
    """A session whose stream goes to the port `stream`, and whose large contents to `contents`."""
    transport = PartedTransport(port, stream=stream, contents=contents)
    options = {"timeout_ms": 30_000, **settings}
    url = f"homenode://{HOST}:{port}/main"
    return await homenode.connect(url, agent=name, transport=transport, **options), transport


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
