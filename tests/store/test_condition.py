"""What a store says of its own state."""

from __future__ import annotations

import shutil

import pytest

from homenode_directory.store.base import Store
from homenode_directory.store.redis_store import RedisStore
from tests.conftest import RedisFactory
from tests.store.beds import Bed, MemoryBed
from tests.support.ports import wait_until_async


async def test_what_is_stored_takes_memory(store: Store, bed: Bed, token: str) -> None:
    before = await store.condition()
    assert (before.memory_limit_bytes, before.persistence_ok, before.replicas) == (0, True, 0)
    if not isinstance(bed, MemoryBed):
        await store.put_blobs(0, [("b/x", b"x" * 1_000_000)])
        assert (await store.condition()).memory_bytes >= before.memory_bytes + 900_000 > 900_000


@pytest.mark.redis
async def test_redis_tells_its_limit_its_replicas_and_a_save_that_failed(redis_factory: RedisFactory) -> None:
    server, replica = redis_factory(settings={"maxmemory": "64mb"}), redis_factory()
    store = RedisStore(server.url)
    await store.open()
    try:
        assert (await store.condition()).memory_limit_bytes == 64 << 20
        with replica.client() as client:
            client.replicaof("127.0.0.1", server.port)

        async def has_replica() -> bool:
            return (await store.condition()).replicas == 1

        async def failed() -> bool:
            return not (await store.condition()).persistence_ok

        await wait_until_async(has_replica, what="the replica is seen")
        shutil.rmtree(server.folder)  # so nothing can be written there
        with server.client() as client:
            client.bgsave()
        await wait_until_async(failed, what="the save has failed")
    finally:
        await store.close()
