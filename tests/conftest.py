"""Fixtures for all tests: free ports, short temporary folders, real Redis servers."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.ports import free_port
from tests.support.redis_process import RedisProcess

RedisFactory = Callable[..., RedisProcess]

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("homenode", deadline=None)
settings.load_profile("homenode")


def pytest_configure() -> None:
    """Makes runs alike: tools on PATH as make does, Ctrl-C heard in background jobs too, no noise of gRPC's."""
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("asyncio").addFilter(_not_grpc_poller)


def _not_grpc_poller(record: logging.LogRecord) -> bool:
    """grpc.aio's one poller reports to an event loop that an earlier test of the same process has closed."""
    return "PollerCompletionQueue" not in record.getMessage()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no worker is left with it at the end while the others have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None and item.get_closest_marker("tlc") is None)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(name="free_port")
def free_port_fixture() -> Callable[[], int]:
    """`free_port()` gives a loopback TCP port that is free now."""
    return free_port


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary folder with a short path: a Unix socket's may have 107 bytes, and pytest's `tmp_path` is long."""
    folder = Path(tempfile.mkdtemp(prefix="hn-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisProcess]:
    """One redis-server for the whole run. Tests share it: don't kill it, and take `redis_url` for an empty one."""
    with tempfile.TemporaryDirectory(prefix="hn-redis-", ignore_cleanup_errors=True) as folder:
        server = RedisProcess(Path(folder) / "data")
        try:
            yield server.start()
        finally:
            server.kill()


@pytest.fixture
def redis_url(redis_server: RedisProcess) -> str:
    """The shared server's address, emptied first."""
    redis_server.flushall()
    return redis_server.url


@pytest.fixture
def redis_factory() -> Iterator[RedisFactory]:
    """Makes Redis servers that the test may kill, pause, restart and wipe; they end with the test.

    `redis_factory()` is running; `redis_factory(start=False, settings={"appendfsync": "always"})` is not yet.
    """
    made: list[RedisProcess] = []
    with tempfile.TemporaryDirectory(prefix="hn-redis-", ignore_cleanup_errors=True) as folder:

        def make(*, start: bool = True, settings: dict[str, str] | None = None) -> RedisProcess:
            server = RedisProcess(Path(folder) / f"data{len(made)}", settings)
            made.append(server)
            return server.start() if start else server

        try:
            yield make
        finally:
            for server in made:
                server.kill()
