"""A gRPC server: addresses, TLS, methods, connections, the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from homenode_api.http2.connection import Bounds
from homenode_api.http2.grpc import metadata_of
from homenode_api.http2.server import Request
from homenode_directory.api.http2.call import Open, opener
from homenode_directory.api.http2.link import Link, Times

BACKLOG = 1_024
METHODS_MAX = 1_024  # paths that are remembered
HANDSHAKE_S = 10.0


class _Details(NamedTuple):
    """What generated handlers are asked with (`grpc.HandlerCallDetails`)."""

    method: str
    invocation_metadata: Any


class Http2Server:
    """See the module. Generated code registers its servicers here as with gRPC's own server.

    Args:
        calls_max: calls at once; connections_max: connections at once.

    Attributes:
        calls: calls under way.
    """

    def __init__(
        self, bounds: Bounds, times: Times, *, calls_max: int, connections_max: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self._bounds = bounds
        self._times = times
        self._tls = tls
        self.calls = 0
        self.calls_max = calls_max
        self._connections_max = connections_max
        self._generic: list[grpc.GenericRpcHandler] = []
        self._methods: dict[str, Open] = {}
        self._links: set[Link] = set()
        self._sockets: list[socket.socket] = []
        self._listening: list[asyncio.Server] = []
        self._ticker: asyncio.Task[None] | None = None
        self._unlink = ""

    # --- methods ----------------------------------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serve what these handlers know."""
        self._generic.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve these methods of a service."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = opener(handler)

    def method(self, request: Request) -> Open | None:
        """How a call is opened; None where there is no such method."""
        found = self._methods.get(request.path)
        if found is not None:
            return found
        details = _Details(request.path, metadata_of(request.headers))
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                if len(self._methods) < METHODS_MAX:
                    self._methods[request.path] = opener(handler)
                return opener(handler)
        return None

    # --- addresses --------------------------------------------------------------------------------------------------

    def bind(self, host: str, port: int, *, share_port: bool) -> int:
        """Take the address, of every family that `host` has; returns the port. Raises OSError."""
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        failure: OSError | None = None
        for family, _, _, _, address in dict.fromkeys(infos):
            try:
                listening = _bound(family, (address[0], port, *address[2:]), share_port)
            except OSError as error:
                failure = error
                continue
            port = listening.getsockname()[1]
            self._sockets.append(listening)
        if failure is not None and (not self._sockets or failure.errno == errno.EADDRINUSE):
            self._close_sockets()
            raise failure
        return port

    def bind_unix(self, path: str) -> int:
        """Take a socket in the file system, or an abstract one (`@name`). Raises OSError."""
        listening = socket.socket(socket.AF_UNIX)
        listening.setblocking(False)
        try:
            if path.startswith("@"):
                listening.bind("\0" + path[1:])
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                listening.bind(path)
                self._unlink = path
        except OSError:
            listening.close()
            raise
        self._sockets.append(listening)
        return 1

    def _close_sockets(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets = []

    # --- connections ------------------------------------------------------------------------------------------------

    def enter(self, link: Link) -> bool:
        """A connection begins. False where there are too many."""
        if len(self._links) >= self._connections_max:
            return False
        self._links.add(link)
        return True

    def leave(self, link: Link) -> None:
        """A connection is over."""
        self._links.discard(link)

    def _link(self) -> Link:
        return Link(self, self._bounds, self._times)

    async def start(self) -> None:
        """Serve from now on."""
        loop = asyncio.get_running_loop()
        handshake_s = HANDSHAKE_S if self._tls else None
        for one in self._sockets:
            if one.family == socket.AF_UNIX:
                server = await loop.create_unix_server(
                    self._link, sock=one, backlog=BACKLOG, ssl=self._tls, ssl_handshake_timeout=handshake_s
                )
            else:
                server = await loop.create_server(
                    self._link, sock=one, backlog=BACKLOG, ssl=self._tls, ssl_handshake_timeout=handshake_s
                )
            self._listening.append(server)
        self._sockets = []
        self._ticker = loop.create_task(self._ticks())

    async def _ticks(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._times.tick)
            now = loop.time()
            for link in list(self._links):
                link.tick(now)

    async def stop(self, grace_s: float) -> None:
        """Take no more connections or calls; calls under way have `grace_s`, then they are cut."""
        loop = asyncio.get_running_loop()
        self._close_sockets()
        for server in self._listening:
            server.close()
        self._listening = []
        by = loop.time() + grace_s
        for link in list(self._links):
            link.leave(by)
        while loop.time() < by and any(link.end.streams for link in self._links):
            await asyncio.sleep(0.01)
        for link in list(self._links):
            link.close()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None
        while self._links and loop.time() < by + 2.0:  # closing connections let go of their sockets
            await asyncio.sleep(0.005)
        while self.calls and loop.time() < by + 2.0:
            await asyncio.sleep(0.005)
        if self._unlink:
            with contextlib.suppress(OSError):
                os.unlink(self._unlink)
            self._unlink = ""


def _bound(family: int, address: tuple[Any, ...], share_port: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" is every address of the machine, of both families.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
