"""Places where a store can live: memory, a SQLite file, a real Redis, each able to lose what it holds."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from homenode_directory.store.base import Store
from homenode_directory.store.memory_store import Memory, MemoryStore
from homenode_directory.store.redis_store import RedisStore
from homenode_directory.store.sqlite_store import SqliteStore
from tests.support.redis_process import RedisProcess

SLICES = 1_000_000  # so that each example of a property test has a slice of its own
NOW_MS = 1_700_000_000_000


class Bed(Protocol):
    """Where a store lives. A client that was open before `lose_all` and the like may have to be opened again."""

    async def client(self, **options: Any) -> Store:
        """An open store; each call gives another client where the store admits several."""

    async def close(self) -> None:
        """Close every client."""

    async def lose_all(self) -> None:
        """Come back empty."""

    async def save(self) -> None:
        """Remember what is stored now."""

    async def go_back(self) -> None:
        """Come back with what was saved."""


class MemoryBed:
    """Clock and ids are counters, so that tests repeat exactly."""

    def __init__(self) -> None:
        ids = itertools.count(1)
        clock = itertools.count(NOW_MS)
        self.memory = Memory(lambda: next(clock), lambda: f"id{next(ids)}", log_max=100_000)

    async def client(self, **options: Any) -> Store:
        store = MemoryStore(self.memory, slices=SLICES)
        await store.open()
        return store

    async def close(self) -> None:
        pass

    async def lose_all(self) -> None:
        self.memory.restart_empty()

    async def save(self) -> None:
        self._saved = self.memory.snapshot()

    async def go_back(self) -> None:
        self.memory.restore(self._saved)


class SqliteBed:
    """One process may open the file once, so all clients are one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "store" / "homenode.db"
        self._saved = folder / "saved"
        self._store: SqliteStore | None = None

    async def client(self, **options: Any) -> Store:
        if self._store is None:
            self._store = SqliteStore(self._file, slices=SLICES, **options)
            await self._store.open()
        return self._store

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
            self._store = None

    async def lose_all(self) -> None:
        await self.close()
        shutil.rmtree(self._file.parent)

    async def save(self) -> None:
        await self.close()
        shutil.copytree(self._file.parent, self._saved)

    async def go_back(self) -> None:
        await self.lose_all()
        shutil.copytree(self._saved, self._file.parent)


class RedisBed:
    """A name of its own in a shared server; what destroys data takes a server of the test's own."""

    _numbers = itertools.count(1)

    def __init__(self, shared: RedisProcess, make: Callable[[], RedisProcess], folder: Path) -> None:
        self._server = shared
        self._make = make
        self._own = False
        self._saved = folder / "saved"
        self._name = f"t{next(self._numbers)}"
        self._clients: list[RedisStore] = []

    def use_own_server(self) -> None:
        """Called before anything is stored, by tests that will lose it."""
        self._server, self._own = self._make(), True

    async def client(self, **options: Any) -> Store:
        store = RedisStore(self._server.url, name=self._name, slices=SLICES, **options)
        await store.open()
        self._clients.append(store)
        return store

    async def close(self) -> None:
        for store in self._clients:
            await store.close()
        self._clients.clear()

    async def lose_all(self) -> None:
        assert self._own
        self._server.restart(wipe=True)

    async def save(self) -> None:
        assert self._own
        self._server.stop()
        self._server.save_data(self._saved)
        self._server.start()

    async def go_back(self) -> None:
        assert self._own
        self._server.stop()
        self._server.load_data(self._saved)
        self._server.start()
