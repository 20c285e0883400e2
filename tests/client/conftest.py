"""Directories for the SDK's tests: embedded, and as real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.server_process import ServerProcess

ServerFactory = Callable[..., ServerProcess]


@pytest.fixture
def server_factory(short_tmp: Path) -> Iterator[ServerFactory]:
    """Makes servers over one SQLite file each, or over `store`; they end with the test.

    `await server_factory().start()`
    """
    made: list[ServerProcess] = []

    def make(store: str = "", **flags: Any) -> ServerProcess:
        server = ServerProcess(store or f"sqlite:///{short_tmp}/store{len(made)}.sqlite3", short_tmp, **flags)
        made.append(server)
        return server

    yield make
    for server in made:
        server.kill()


@pytest.fixture(params=["embedded", "server"])
async def url(request: pytest.FixtureRequest, short_tmp: Path, server_factory: ServerFactory) -> AsyncIterator[str]:
    """The address of an empty directory: once in this process, once behind gRPC."""
    if request.param == "embedded":
        yield f"embedded://{short_tmp}/embedded.sqlite3"
    else:
        yield (await server_factory().start()).url
