"""The fault campaign: real processes, real Redis, killed, paused, cut off and wiped.

`pytest tests/faults` runs the short form, part of `make test`; `pytest tests/faults --campaign` the long one, by hand.
Both print figures at the end: how much was done, how often it was killed, how long it took to come back.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.server_process import ServerProcess
from tests.conftest import RedisFactory
from tests.faults.processes import Script
from tests.support.redis_process import RedisProcess

Scale = Callable[[float, float], float]
Report = Callable[[str], None]
ServerFactory = Callable[..., ServerProcess]
ScriptFactory = Callable[..., Script]

FIGURE = "figure of the campaign"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The long form."""
    parser.addoption("--campaign", action="store_true", help="tests/faults: the long form, some twenty minutes")


def pytest_configure(config: pytest.Config) -> None:
    """The mark of what only the long form does."""
    config.addinivalue_line("markers", "campaign: only in the long form of tests/faults")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the long form does."""
    if not config.getoption("campaign", default=False):
        left_out = [item for item in items if item.get_closest_marker("campaign")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The figures of the campaign, from whichever process a test ran in."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
    figures = [line for one in reports for name, line in one.user_properties if name == FIGURE]
    if figures:
        terminalreporter.section("faults")
        for line in figures:
            terminalreporter.write_line(line)


@pytest.fixture
def campaign(pytestconfig: pytest.Config) -> bool:
    """Whether this is the long form."""
    return bool(pytestconfig.getoption("campaign", default=False))


@pytest.fixture
def scale(campaign: bool) -> Scale:
    """`scale(short, long)` gives the number for this form."""
    return lambda short, long: long if campaign else short


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """`report(text)` adds a line to the figures."""
    return lambda text: request.node.user_properties.append((FIGURE, f"{request.node.name}: {text}"))


@pytest.fixture
def rng() -> random.Random:
    """For random moments: what a run hits differs each time, on purpose."""
    return random.Random()


@pytest.fixture
def store_server(redis_factory: RedisFactory, short_tmp: Path) -> Iterator[ServerFactory]:
    """`store_server("sqlite", term_ms=1000)` or "redis": a server process with an empty store of its own, not started.

    `store_server(redis_process)` takes that Redis server.
    """
    made: list[ServerProcess] = []

    def make(store: str | RedisProcess, **flags: Any) -> ServerProcess:
        if store == "redis":
            store = redis_factory(settings={"appendfsync": "always"})
        url = store.url if isinstance(store, RedisProcess) else f"sqlite:///{short_tmp}/store{len(made)}.sqlite3"
        server = ServerProcess(url, short_tmp, **flags)
        made.append(server)
        return server

    yield make
    for server in made:
        server.kill()


@pytest.fixture
async def scripts(short_tmp: Path) -> AsyncIterator[ScriptFactory]:
    """`scripts("writer", url, …)` starts tests/faults/writer.py as a process; they end with the test.

    With `history` it records there, and not in a file of its own.
    """
    made: list[Script] = []

    def make(module: str, *args: object, history: Path | None = None) -> Script:
        script = Script(module, history or short_tmp / f"records{len(made)}", args)
        made.append(script)
        return script

    yield make
    for script in made:
        script.kill()
