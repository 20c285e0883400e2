"""One conformance suite over every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from homenode_directory.store.base import Store
from tests.conftest import RedisFactory
from tests.store.beds import Bed, MemoryBed, RedisBed, SqliteBed

KINDS = ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)]


@pytest.fixture(params=KINDS)
async def bed(request: pytest.FixtureRequest, tmp_path: Path, redis_factory: RedisFactory) -> AsyncIterator[Bed]:
    """Where the store under test lives."""
    made: Bed
    if request.param == "redis":
        made = RedisBed(request.getfixturevalue("redis_server"), redis_factory, tmp_path)
    elif request.param == "sqlite":
        made = SqliteBed(tmp_path)
    else:
        made = MemoryBed()
    yield made
    await made.close()


@pytest.fixture
def mortal_bed(bed: Bed) -> Bed:
    """A bed that may lose what it holds."""
    if isinstance(bed, RedisBed):
        bed.use_own_server()
    return bed


@pytest.fixture
async def store(bed: Bed) -> Store:
    """An open store."""
    return await bed.client()


@pytest.fixture
async def token(store: Store) -> str:
    """Slice 0's incarnation."""
    return (await store.adopt(0, 0)).token
