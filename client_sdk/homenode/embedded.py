"""`embedded://path`: the directory in this process, over an SQLite file. No server, no gRPC, the same API.

Of the SDK only this module and the CLI need the server's packages, and only when an embedded directory is opened.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from homenode.errors import HomenodeError, Unavailable, from_wire
from homenode.transport import Incoming, Outgoing
from homenode_api.v1 import directory_pb2 as pb

if TYPE_CHECKING:
    from homenode_directory.api.local import LocalEndpoint, LocalStream
    from homenode_directory.server import Server


def server_packages() -> Any:
    """The module `homenode_directory.server`. Raises HomenodeError where it cannot be imported, saying what to do."""
    try:
        from homenode_directory import server
    except ImportError as failure:
        raise HomenodeError(
            f"embedded:// needs the server's packages: pip install 'homenode[server]' (missing: {failure.name})"
        ) from None
    return server


@contextmanager
def _typed_errors() -> Iterator[None]:
    """The endpoint's refusals as ours."""
    from homenode_directory.api.errors import Rejected

    try:
        yield
    except Rejected as refusal:
        raise from_wire(refusal.error) from None


class EmbeddedStream:
    """A Session stream within the process."""

    def __init__(self, endpoint: LocalEndpoint) -> None:
        self._endpoint = endpoint
        self._stream: LocalStream | None = None
        self._failure: HomenodeError | None = None
        try:
            with _typed_errors():
                self._stream = endpoint.session()
        except HomenodeError as failure:
            self._failure = failure

    def _open(self) -> LocalStream:
        if self._stream is None:
            raise self._failure or Unavailable("the stream is over")
        return self._stream

    async def write(self, frame: pb.SessionRequest) -> None:
        """See `transport.Stream`."""
        stream = self._open()
        with _typed_errors():
            await stream.write(frame)

    async def read(self) -> pb.SessionResponse | None:
        """See `transport.Stream`."""
        stream = self._open()
        with _typed_errors():
            return await stream.read()

    def cancel(self) -> None:
        """See `transport.Stream`."""
        if self._stream is not None:
            self._stream.cancel()


class EmbeddedTransport:
    """A directory that lives as long as its transport. `endpoint` alone: somebody else's, which stays."""

    def __init__(self, endpoint: LocalEndpoint, server: Server | None = None) -> None:
        self._endpoint = endpoint
        self._server = server

    @classmethod
    async def open(cls, path: str) -> EmbeddedTransport:
        """Open the SQLite file `path`, made if missing; "" keeps everything in memory.

        Raises HomenodeError where the server's packages are missing, Unavailable where the file cannot be opened, such
        as when another process has it.
        """
        server_module = server_packages()
        from homenode_directory.api.local import LocalEndpoint
        from homenode_directory.config import Settings
        from homenode_directory.errors import ConfigError
        from homenode_directory.store.base import StoreError

        store = f"sqlite:///{os.path.abspath(path)}" if path else "memory://"
        try:
            server = server_module.build(Settings(store=store, metrics="off"), alone=not path)
            await server.start()
        except (ConfigError, StoreError) as failure:
            raise Unavailable(str(failure)) from failure
        return cls(LocalEndpoint(server.endpoint), server)

    @property
    def hosts(self) -> int:
        """See `transport.Transport`."""
        return 1

    def session(self) -> EmbeddedStream:
        """See `transport.Transport`."""
        return EmbeddedStream(self._endpoint)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """See `transport.Transport`."""
        with _typed_errors():
            return await self._endpoint.call(method, request, timeout_s)

    async def read_content(self, request: pb.ReadContentRequest, timeout_s: float) -> AsyncGenerator[Incoming, None]:
        """See `transport.Transport`."""
        with _typed_errors():
            async with aclosing(self._endpoint.read_content(request, timeout_s)) as responses:
                async for response in responses:
                    yield response

    async def write_content(self, requests: AsyncIterator[Outgoing], timeout_s: float) -> pb.WriteContentResponse:
        """See `transport.Transport`."""
        with _typed_errors():
            return await self._endpoint.write_content(requests, timeout_s)

    async def next_server(self) -> None:
        """There is one."""

    async def close(self) -> None:
        """Close the directory; what it acknowledged is in the file."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()
