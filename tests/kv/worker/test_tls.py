"""A worker whose port speaks TLS, for a directory that does: agents reach both with the same credentials."""

from __future__ import annotations

import argparse
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

import homenode
from homenode import Key
from homenode.cli import doctor_workers
from homenode_directory.api.server import ApiServer, Listen
from homenode_directory.config import Settings
from homenode_directory.server import build
from tests.kv.worker.parts import Caller, WorkerProcess
from tests.kv.worker.test_generate import PLAN, expected

pytestmark = pytest.mark.slow

TOKENS = 8


@pytest.fixture
async def directory_port(tls_files: tuple[str, str]) -> AsyncIterator[int]:
    cert, key = tls_files
    server = build(Settings(store="memory://", listen="localhost:0"))
    await server.start()
    api = ApiServer(server.endpoint, Listen("localhost:0", tls_cert=cert, tls_key=key))
    await api.start()
    yield api.port
    await api.stop()
    await server.close()


async def test_agents_and_a_worker_over_tls(
    directory_port: int, tls_files: tuple[str, str], model_folder: Path, own_tmp: Path
) -> None:
    cert, key = tls_files
    host = f"localhost:{directory_port}"
    flags = ("--tls-ca", cert, "--listen", "localhost:0", "--listen-cert", cert, "--listen-key", key)
    worker = WorkerProcess(model_folder, f"homenode://{host}/main", own_tmp, *flags)
    plain = None
    try:
        await worker.start()
        trusted = ssl.create_default_context(cafile=cert)
        async with homenode.connect(f"homenode://{host}/main", credentials=trusted) as hn:
            plan = await hn.put("plan.md", PLAN)
            generation = await hn.generate("", [Key("plan.md"), "What next?"], max_tokens=TOKENS, commit_to="next.md")
            assert (await generation.done()).report is not None
            assert generation._ids == expected(model_folder, PLAN + "What next?", TOKENS)
            assert generation.versions == {"plan.md": plan.version}
            assert (await hn.read("next.md")).text == generation.text
        args = argparse.Namespace(tls_ca=cert, tls_cert=None, tls_key=None, timeout=10.0)
        (told,) = [finding async for finding in doctor_workers.examine(args, [host], "main")]
        assert (told.level, told.host) == ("ok", worker.address)
        plain = Caller(worker.address)
        with pytest.raises(grpc.aio.AioRpcError):
            await plain.stat()
    finally:
        worker.kill()
        if plain is not None:
            await plain.close()
