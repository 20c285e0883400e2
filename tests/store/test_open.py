"""Addresses of stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from homenode_directory.store import open_store
from homenode_directory.store.base import StoreError
from homenode_directory.store.memory_store import MemoryStore
from homenode_directory.store.redis_store import RedisStore
from homenode_directory.store.sqlite_store import SqliteStore


def test_sqlite_addresses_are_relative_or_absolute() -> None:
    for url, path in (("sqlite:///a/b.db", "a/b.db"), ("sqlite:////a/b.db", "/a/b.db")):
        store = open_store(url, slices=4)
        assert isinstance(store, SqliteStore)
        assert (store.path, store.slices) == (Path(path), 4)


def test_memory_and_redis_addresses() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    for url in ("redis://localhost:1/2?name=x", "rediss://u:p@localhost", "unix:///a.sock?allow_eviction=1"):
        assert isinstance(open_store(url), RedisStore)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "http://x", "sqlite://", "sqlite:///", "sqlite:x", "redis://h:port", "redis://h?name={x}"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(StoreError):
        open_store(url)
