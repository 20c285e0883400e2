"""A server in this process, over real gRPC on loopback."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as rpc
from homenode_directory.api.server import ApiServer, Listen
from homenode_directory.config import Settings
from homenode_directory.server import Server, build
from tests.api.client import StreamClient

SETTINGS = Settings(store="memory://", listen="127.0.0.1:0")


@dataclass
class Served:
    """A running server and a way to it."""

    server: Server
    api: ApiServer
    channel: grpc.aio.Channel
    stub: rpc.DirectoryServiceStub

    async def open(self, workspace: str = "main", **more: Any) -> str:
        """A new session's id."""
        opened = await self.stub.OpenSession(pb.OpenSessionRequest(workspace=workspace, **more), timeout=20)
        return opened.session_id

    def stream(self) -> StreamClient:
        """A new stream."""
        return StreamClient(self.stub)


@asynccontextmanager
async def serve(**settings: Any) -> AsyncIterator[Served]:
    """Run a server with these settings."""
    chosen = replace(SETTINGS, **settings)
    server = build(chosen)
    await server.start()
    api = ApiServer(server.endpoint, Listen(chosen.listen))
    await api.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{api.port}")
    try:
        yield Served(server, api, channel, rpc.DirectoryServiceStub(channel))
    finally:
        await channel.close()
        await api.stop()
        await server.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server on the memory store."""
    async with serve() as one:
        yield one


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Certificate and key of `localhost`, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder: Path = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)
