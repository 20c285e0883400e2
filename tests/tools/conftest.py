"""Directories over every store: as agents see them, and from inside."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homenode_directory.config import Settings
from homenode_directory.directory import Directory
from homenode_directory.pins import PinLimits, Pins
from homenode_directory.place import Place
from homenode_directory.protocol.model import Content
from homenode_directory.server import Server, build
from homenode_directory.store.base import Store
from homenode_directory.sweeper import Rounds
from homenode_directory.together import Joint
from tests.client.server_process import ServerProcess
from tests.conftest import RedisFactory
from tests.store.beds import Bed, MemoryBed, RedisBed, SqliteBed

KINDS = ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)]
PLACE = Place("default", "main")


@pytest.fixture(params=KINDS)
async def url(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[str]:
    """The address of an empty directory: in this process over SQLite, else a server over memory or Redis."""
    if request.param == "sqlite":
        yield f"embedded://{short_tmp}/tools.sqlite3"
        return
    store = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    server = ServerProcess(store, short_tmp, keep_versions=4)
    try:
        yield (await server.start()).url
    finally:
        server.kill()


@pytest.fixture(params=KINDS)
async def brisk_url(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[str]:
    """A server over each store whose terms are short: what is strict waits for one after the start."""
    stores = {"memory": "memory://", "sqlite": f"sqlite:///{short_tmp}/brisk.sqlite3"}
    store = stores.get(request.param) or request.getfixturevalue("redis_url")
    server = ServerProcess(store, short_tmp, term_ms=1_000)
    try:
        yield (await server.start()).url
    finally:
        server.kill()


@pytest.fixture(params=KINDS)
async def bed(request: pytest.FixtureRequest, tmp_path: Path, redis_factory: RedisFactory) -> AsyncIterator[Bed]:
    """Where a store lives."""
    made: Bed
    if request.param == "redis":
        made = RedisBed(request.getfixturevalue("redis_server"), redis_factory, tmp_path)
    elif request.param == "sqlite":
        made = SqliteBed(tmp_path)
    else:
        made = MemoryBed()
    yield made
    await made.close()


@dataclass
class Inside:
    """A directory over a store, from inside. Nothing runs by itself but the slices' queues."""

    server: Server
    joint: Joint
    pins: Pins

    @property
    def directory(self) -> Directory:
        return self.server.directory

    @property
    def slice_(self) -> Any:
        return self.directory.slice_of(PLACE)

    async def session(self, ttl_ms: int = 30_000) -> str:
        return (await self.directory.open_session(PLACE, "s", ttl_ms)).session

    async def content(self, data: bytes) -> Content:
        """A stored content."""
        hash_ = hashlib.sha256(data).hexdigest()
        store = self.server.endpoint.parts.calls._bodies._content
        await store.store(self.slice_.number, hash_, len(data), inline=data)
        return Content(hash_, len(data))

    async def bytes_of(self, content: Content) -> bytes:
        return await self.server.endpoint.parts.calls._bodies._content.load(self.slice_.number, content.hash)

    async def sweep(self) -> None:
        """One round of the sweeper over the one slice that is used."""
        await self.server.sweeper._sweep_slice(self.slice_)

    async def collect(self) -> int:
        """Collect contents as if all had lain idle for long."""
        from homenode_directory.store.blobs import StoredBlobs

        return await StoredBlobs(self.server.store, self.directory.incarnations).collect(self.slice_.number, -1, 1_000)


Open = Callable[..., Any]


@pytest.fixture
async def inside(bed: Bed) -> AsyncIterator[Open]:
    """`await inside()` makes a directory over the bed's store; again, another one, as another server would be."""
    made: list[Inside] = []

    async def make(limits: PinLimits | None = None, **rounds: Any) -> Inside:
        store: Store = await bed.client()
        server = build(Settings(store="memory://"), store=store, threads=0)
        joint = Joint(server.directory)
        found = Inside(server, joint, Pins(server.directory, joint, limits))
        server.sweeper.rounds = Rounds(idle_every=1, **rounds)
        made.append(found)
        return found

    yield make
    for one in made:
        await one.directory.close()


@pytest.fixture
def fresh() -> Iterator[Callable[[], int]]:
    """Request ids."""
    numbers = iter(range(1, 1_000_000))
    yield lambda: next(numbers)
