"""Redis at its memory limit: writes are refused by name, what frees room goes on, and room brings writes back."""

from __future__ import annotations

import asyncio

import pytest

import homenode
from tests.conftest import RedisFactory
from tests.faults.conftest import Report, ScriptFactory, ServerFactory
from tests.support.ports import wait_until_async
from tests.support.redis_process import RedisProcess

pytestmark = pytest.mark.redis

WAIT_S = 60.0


def fill(redis: RedisProcess) -> None:
    """No room any more."""
    with redis.client() as client:
        client.config_set("maxmemory", 1)


def make_room(redis: RedisProcess) -> None:
    """Room again."""
    with redis.client() as client:
        client.config_set("maxmemory", 0)


async def refusal(awaitable: object) -> type[Exception] | None:
    """The error that it ends with; None where it goes well."""
    try:
        await awaitable  # type: ignore[misc]
    except homenode.HomenodeError as failure:
        return type(failure)
    return None


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000], ids=["small", "large", "chunks"])
async def test_a_full_redis_refuses_writes_and_releases_leases(
    size: int, redis_factory: RedisFactory, store_server: ServerFactory, scripts: ScriptFactory, report: Report
) -> None:
    redis = redis_factory(settings={"appendfsync": "always"})
    server = await store_server(redis).start()
    text = "".join(chr(33 + (n * 7919) % 90) for n in range(size))
    async with homenode.connect(server.url, agent="a", timeout_ms=20_000) as hn:
        for key in ("put", "held", "killed"):
            await hn.put(key, "before")
        lease = await hn.lease("held", "write", ttl_ms=60_000)
        assert isinstance(lease, homenode.WriteLease)
        killed = scripts("holder", server.url, "killed", 1_000, 5_000)
        await wait_until_async(lambda: killed.records, timeout_s=WAIT_S, what="the holder's lease")
        fill(redis)
        killed.kill()
        for _ in range(3):
            assert await refusal(hn.put("put", text, base=homenode.ANY)) is homenode.QuotaExceeded
            assert await refusal(lease.commit(text)) is homenode.QuotaExceeded
        assert (await hn.read("put", max_age_ms=0)).text == "before"
        assert lease.cause is None
        await lease.release()

        async def free(key: str) -> bool:
            return (await hn.stat(key)).state != "M"

        await wait_until_async(lambda: free("held"), timeout_s=WAIT_S, what="the released lease is free")
        await wait_until_async(lambda: free("killed"), timeout_s=WAIT_S, what="the dead writer's lease is free")
        assert hn.connected
        make_room(redis)
        await wait_until_async(lambda: written(hn, "put", text), timeout_s=WAIT_S, what="a write, once there is room")
        for key in ("held", "killed"):
            async with hn.write(key, wait_ms=20_000) as draft:
                draft.text = draft.text + "+"
            assert (await hn.read(key)).text == "before+"
        newest = await hn.stat("put")
        assert newest.version.n == 2, "a refused write took effect"


async def written(hn: homenode.Homenode, key: str, text: str) -> bool:
    """Whether a write succeeds now."""
    return await refusal(hn.put(key, text, base=homenode.ANY)) is None


async def test_sessions_outlive_a_full_redis(redis_factory: RedisFactory, store_server: ServerFactory) -> None:
    """Signs of life take no room: a session does not end because there is none, and reads go on."""
    redis = redis_factory(settings={"appendfsync": "always"})
    server = await store_server(redis).start()
    async with homenode.connect(server.url, agent="a", session_ttl_ms=5_000, timeout_ms=20_000) as hn:
        await hn.put("k", "before")
        session = hn.session_id
        fill(redis)
        for _ in range(14):
            await asyncio.sleep(0.5)
            assert (await hn.read("k", timeout_ms=20_000)).text == "before"
        make_room(redis)
        await wait_until_async(lambda: written(hn, "k", "after"), timeout_s=WAIT_S, what="a write")
        assert hn.session_id == session
