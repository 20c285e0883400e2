"""Directories for the adapters' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.server_process import ServerProcess


@pytest.fixture
async def server_url(short_tmp: Path) -> Iterator[str]:
    """The address of an empty directory in a process of its own."""
    server = ServerProcess(f"sqlite:///{short_tmp}/store.sqlite3", short_tmp)
    try:
        yield (await server.start()).url
    finally:
        server.kill()


@pytest.fixture
def embedded_url(short_tmp: Path) -> str:
    """The address of an empty directory in this process."""
    return f"embedded://{short_tmp}/embedded.sqlite3"
