"""A world with one process in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.directory.world import Process, World


@pytest.fixture
def world() -> World:
    """Memory and clock."""
    return World()


@pytest.fixture
async def server(world: World) -> AsyncIterator[Process]:
    """A directory process."""
    process = await world.process()
    yield process
    await process.close()


@pytest.fixture
async def other(world: World) -> AsyncIterator[Process]:
    """A second process over the same memory."""
    process = await world.process()
    yield process
    await process.close()
