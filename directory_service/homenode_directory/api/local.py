"""The service in this process, without gRPC: for `embedded://`, the simulation and tests.

The same streams and calls as over gRPC, on the same messages. What goes wrong is raised as `errors.Rejected`, whose
`error` is what a gRPC client would find in the status.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api.endpoint import Endpoint
from homenode_directory.api.errors import Rejected, error_of
from homenode_directory.api.transfers import Incoming, Outgoing


class LocalStream:
    """One Session stream. Used by one writer and one reader."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._stream = endpoint.open_stream()
        self._failure: Rejected | None = None

    async def write(self, frame: pb.SessionRequest) -> None:
        """Send a frame; waits while too many answers are not read. A frame that breaks the rules ends the stream."""
        await self._stream.room()
        if self._stream.closed or self._failure is not None:
            return
        copy = pb.SessionRequest.FromString(frame.SerializeToString())  # the sender may change its own afterwards
        try:
            self._stream.receive(copy)
        except Rejected as failure:
            self._failure = failure
            self._stream.outbox.close()

    async def read(self) -> pb.SessionResponse | None:
        """The next frame; None when the stream has ended. Raises Rejected where a frame broke the rules."""
        frame = await self._stream.outbox.next_frame()
        if frame is not None:
            return pb.SessionResponse.FromString(frame)
        self._stream.close()
        if self._failure is not None:
            raise self._failure
        return None

    def finish(self) -> None:
        """Send no more; answers still come."""
        self._stream.finish()

    def cancel(self) -> None:
        """End it at once."""
        self._stream.close()


class LocalEndpoint:
    """A directory in this process, as a transport sees one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def session(self) -> LocalStream:
        """Open a Session stream. Raises Rejected."""
        return LocalStream(self._endpoint)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """A unary call by its name in the service. Raises Rejected."""
        call = self._endpoint.kv.route if method == "Route" else self._endpoint.unary[method][1]
        try:
            async with asyncio.timeout(timeout_s):
                return await call(request)
        except Exception as failure:
            raise Rejected(error_of(failure, during=method)) from None

    async def read_content(self, request: pb.ReadContentRequest, timeout_s: float) -> AsyncGenerator[Outgoing, None]:
        """A content's header and data, each message within `timeout_s`. Raises Rejected."""
        try:
            async with aclosing(self._endpoint.read_content(request)) as messages:
                while True:
                    async with asyncio.timeout(timeout_s):
                        message = await anext(messages, None)
                    if message is None:
                        return
                    yield message
        except Exception as failure:
            raise Rejected(error_of(failure, during="ReadContent")) from None

    async def write_content(self, requests: AsyncIterator[Incoming], timeout_s: float) -> pb.WriteContentResponse:
        """Keep a content for a commit to come; `timeout_s` without a further request ends it. Raises Rejected."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s) as limit:

                async def messages() -> AsyncIterator[Incoming]:
                    async for request in requests:
                        limit.reschedule(loop.time() + timeout_s)
                        yield request

                return await self._endpoint.write_content(messages())
        except Exception as failure:
            raise Rejected(error_of(failure, during="WriteContent")) from None

    async def watch(self, request: pb.WatchRequest) -> AsyncIterator[pb.WatchResponse]:
        """Changes under a prefix. Raises Rejected."""
        try:
            async for response in self._endpoint.watch(request):
                yield response
        except Exception as failure:
            raise Rejected(error_of(failure, during="Watch")) from None
