"""What the SDK needs of a way to the directory, and the addresses that name one."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from homenode.errors import InvalidArgument
from homenode_api.chunks import ChunkMessage
from homenode_api.v1 import directory_pb2 as pb

DEFAULT_PORT = 7400
DEFAULT_WORKSPACE = "main"
CHUNK_BYTES = 256 * 1024

Incoming = pb.ReadContentResponse | ChunkMessage
Outgoing = pb.WriteContentRequest | ChunkMessage

_WORKSPACE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HOSTS_MAX = 32


class Stream(Protocol):
    """One Session stream. Used by one writer and one reader."""

    async def write(self, frame: pb.SessionRequest) -> None:
        """Send a frame; waits while the other end does not take it. Raises HomenodeError."""

    async def read(self) -> pb.SessionResponse | None:
        """The next frame; None when the other end has finished. Raises HomenodeError."""

    def cancel(self) -> None:
        """End it at once; a read or write under way ends."""


class Transport(Protocol):
    """A way to one directory. Every method raises HomenodeError, and only that, for what goes wrong."""

    @property
    def hosts(self) -> int:
        """How many servers there are to choose from."""

    def session(self) -> Stream:
        """Open a Session stream to the current server. Failure shows in its first read."""

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """A unary call: its name in the service, its request; its response."""

    def read_content(self, request: pb.ReadContentRequest, timeout_s: float) -> AsyncGenerator[Incoming, None]:
        """Bodies that do not travel on the Session stream; chunks as `ChunkMessage`. `timeout_s`: for each of them."""

    async def write_content(self, requests: AsyncIterator[Outgoing], timeout_s: float) -> pb.WriteContentResponse:
        """The other direction. `timeout_s` holds for each message to be taken, and for the answer."""

    async def next_server(self) -> None:
        """The current server does not answer: use another from now on."""

    async def close(self) -> None:
        """Let everything go. Calls under way fail."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a directory is: `hosts` as host:port for gRPC, or `path` of an embedded one; and the workspace."""

    hosts: tuple[str, ...]
    path: str
    workspace: str

    @property
    def embedded(self) -> bool:
        """Whether the directory runs in this process."""
        return not self.hosts


def parse(url: str) -> Target:
    """Read an address.

    `homenode://host[,host…][:port][/workspace]`: the port of the last host holds for the hosts that name none; 7400 and
    workspace `main` where nothing is said. IPv6 in brackets. `embedded://path[?workspace=name]` or `embedded://` for a
    directory in memory of the process's life. Raises InvalidArgument.
    """
    if not isinstance(url, str):
        raise InvalidArgument(f"the address of a directory is a string, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "embedded":
        path, _, query = rest.partition("?")
        workspace = query.removeprefix("workspace=") if query else DEFAULT_WORKSPACE
        return Target((), path, _workspace(workspace, url))
    if not separator or scheme != "homenode":
        raise InvalidArgument(
            f"not an address of a directory: {url!r}; say homenode://host/workspace or embedded://path"
        )
    hosts, _, workspace = rest.partition("/")
    parts = [part.strip() for part in hosts.split(",")]
    if not all(parts) or len(parts) > _HOSTS_MAX:
        raise InvalidArgument(f"the address {url!r} needs 1 to {_HOSTS_MAX} hosts, separated by commas")
    split = [_host(part, url) for part in parts]
    port = split[-1][1] or DEFAULT_PORT
    return Target(
        tuple(f"{host}:{own or port}" for host, own in split), "", _workspace(workspace or DEFAULT_WORKSPACE, url)
    )


def _workspace(name: str, url: str) -> str:
    if not _WORKSPACE.fullmatch(name):
        raise InvalidArgument(f"the workspace in {url!r} must be 1-128 characters of A-Z a-z 0-9 . _ -")
    return name


def _host(part: str, url: str) -> tuple[str, int]:
    """(host, port or 0)"""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", part)
    if not match:
        raise InvalidArgument(f"not a host in {url!r}: {part!r}")
    port = int(match[2] or 0)
    if port > 65_535 or (match[2] and not port):
        raise InvalidArgument(f"not a port in {url!r}: {port}")
    return match[1], port
