"""A directory and a worker as real processes, shared by all tests that only ask: a start takes seconds."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import homenode
from tests.api.conftest import tls_files as tls_files
from tests.client.server_process import ServerProcess
from tests.kv.worker.parts import Caller, WorkerProcess, save_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def own_tmp() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hnkv-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def directory(own_tmp: Path) -> Iterator[str]:
    server = asyncio.run(ServerProcess(f"sqlite:///{own_tmp}/store.sqlite3", own_tmp).start())
    yield server.url
    server.kill()


@pytest.fixture(scope="session")
def worker(model_folder: Path, directory: str, own_tmp: Path) -> Iterator[WorkerProcess]:
    process = asyncio.run(WorkerProcess(model_folder, directory, own_tmp, "--waiting", "4").start())
    yield process
    process.kill()


@pytest.fixture
async def caller(worker: WorkerProcess) -> AsyncIterator[Caller]:
    made = Caller(worker.address)
    yield made
    await made.close()


@pytest.fixture
async def hn(directory: str) -> AsyncIterator[homenode.Homenode]:
    async with homenode.connect(directory, agent="test") as connected:
        yield connected
