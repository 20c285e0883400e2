"""How much: `pytest tests/history --histories 50000` compares the judges on that many."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The number of random histories."""
    parser.addoption("--histories", type=int, default=3_000, help="tests/history: random histories to be judged")


@pytest.fixture
def histories(pytestconfig: pytest.Config) -> int:
    """How many random histories are to be judged."""
    return int(pytestconfig.getoption("histories", default=3_000))
