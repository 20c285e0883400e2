"""A Redis with replicas: what it says of itself, and commits that wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from homenode_directory.server import await_replicas
from homenode_directory.store.base import Add, Commit, Equals, StoreError
from homenode_directory.store.redis_store import RedisStore
from tests.conftest import RedisFactory
from tests.support.ports import HOST, wait_until_async
from tests.support.redis_process import RedisProcess

pytestmark = pytest.mark.redis

COUNT = Commit(writes=(Add("k", "n", 1),), log=(b"x",))
LOOK = Commit((Equals("k", "n", "1"),))


@pytest.fixture
def primary(redis_factory: RedisFactory) -> RedisProcess:
    """A Redis that others may follow."""
    return redis_factory()


@pytest.fixture
def replica(redis_factory: RedisFactory, primary: RedisProcess) -> RedisProcess:
    """A Redis that follows it."""
    return redis_factory(settings={"replicaof": f"{HOST} {primary.port}"})


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., object]]:
    """Opens stores that are closed with the test."""
    stores: list[RedisStore] = []

    async def open_(server: RedisProcess, wait_replicas: int) -> RedisStore:
        store = RedisStore(server.url, wait_replicas=wait_replicas)
        await store.open()
        stores.append(store)
        return store

    yield open_
    for store in stores:
        await store.close()


def followed(primary: RedisProcess) -> bool:
    """Whether a replica is attached and has everything."""
    with primary.client() as client:
        info = client.info("replication")
        return info["connected_slaves"] == 1 and info["slave0"]["state"] == "online"


async def test_a_redis_is_weak_while_it_has_replicas_that_nobody_waits_for(
    primary: RedisProcess, redis_factory: RedisFactory, opened: Callable[..., object]
) -> None:
    alone, patient = await opened(primary, 0), await opened(primary, 1)  # type: ignore[misc]
    assert await alone.weakness() == ""
    redis_factory(settings={"replicaof": f"{HOST} {primary.port}"})
    await wait_until_async(lambda: followed(primary), what="a replica")
    assert "1 replicas" in await alone.weakness()
    assert await patient.weakness() == ""


async def test_a_commit_that_waits_is_in_the_replica_when_it_is_answered(
    primary: RedisProcess, replica: RedisProcess, opened: Callable[..., object]
) -> None:
    await wait_until_async(lambda: followed(primary), what="a replica")
    store = await opened(primary, 1)  # type: ignore[misc]
    token = (await store.adopt(0, 0)).token
    with replica.client() as client:
        for n in range(1, 50):
            await store.commit(0, token, [COUNT])
            assert client.hget("{hn:0}:k", "n") == str(n).encode()
    assert await store.heads({0: token}) == {0: 49}


async def test_without_its_replica_nothing_is_vouched_for_not_even_what_is_only_read(
    primary: RedisProcess, replica: RedisProcess, opened: Callable[..., object]
) -> None:
    await wait_until_async(lambda: followed(primary), what="a replica")
    store = await opened(primary, 1)  # type: ignore[misc]
    token = (await store.adopt(0, 0)).token
    await store.commit(0, token, [COUNT])
    replica.kill()
    for _ in range(2):
        with pytest.raises(StoreError, match="0 of 1 replicas"):
            await store.commit(0, token, [LOOK])
        with pytest.raises(StoreError, match="0 of 1 replicas"):
            await store.heads({0: token})
    replica.start()
    await wait_until_async(lambda: followed(primary), what="the replica again")
    assert (await store.commit(0, token, [LOOK]))[0].ok


async def test_a_server_does_not_start_without_the_replicas_that_it_waits_for(
    primary: RedisProcess, replica: RedisProcess, opened: Callable[..., object]
) -> None:
    await wait_until_async(lambda: followed(primary), what="a replica")
    store = await opened(primary, 1)  # type: ignore[misc]
    await await_replicas(store, 0)
    await await_replicas(store, 1)
    with pytest.raises(StoreError, match="wait_replicas is 3, but the Redis has 1 replicas"):
        await await_replicas(store, 3, within_s=0.5)
    replica.kill()
    await wait_until_async(lambda: not followed(primary), what="no replica")
    waiting = asyncio.ensure_future(await_replicas(store, 1, within_s=30))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    replica.start()
    await waiting
