"""A store that Sentinel moves: found again, with a new incarnation; what was lost is counted, and nothing silently."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import homenode
from homenode_directory.store.base import StoreError
from homenode_directory.store.open import open_store
from tests.client.server_process import ServerProcess
from tests.faults.conftest import Report, Scale
from tests.faults.fleet import url
from tests.support.ports import HOST, wait_until_async
from tests.support.redis_process import RedisProcess
from tests.support.sentinel import NAME, SentinelSet

pytestmark = [pytest.mark.redis, pytest.mark.slow]

WAIT_S = 120.0


@pytest.fixture
def watched(short_tmp: Path) -> Iterator[SentinelSet]:
    """A primary, its replica and three Sentinels."""
    some = SentinelSet(short_tmp)
    try:
        yield some.start()
    finally:
        some.kill()


async def strike(watched: SentinelSet, how: str) -> RedisProcess:
    """Let the primary go; returns what it was."""
    old = watched.primary
    if how == "asked for":
        watched.fail_over()
    elif how == "killed":
        old.kill()
    else:
        old.pause()
    await wait_until_async(lambda: watched.primary is not old, timeout_s=WAIT_S, what="another primary")
    return old


@pytest.mark.parametrize(
    ("how", "waiting"),
    [
        pytest.param("asked for", 0, marks=pytest.mark.campaign),
        ("asked for", 1),
        ("killed", 0),
        pytest.param("stopped", 0, marks=pytest.mark.campaign),
    ],
)
async def test_clients_go_on_at_the_new_primary(
    how: str, waiting: int, watched: SentinelSet, short_tmp: Path, scale: Scale, rng: random.Random, report: Report
) -> None:
    flags = {"bookmark_ms": 200, "wait_replicas": waiting}
    servers = [await ServerProcess(watched.url, short_tmp, **flags).start() for _ in range(2)]
    try:
        lost, unknown, longest_s = 0, 0, 0.0
        async with (
            homenode.connect(url([s.port for s in servers]), agent="a", timeout_ms=60_000) as a,
            homenode.connect(url([s.port for s in servers]), agent="b", timeout_ms=60_000) as b,
        ):
            for _ in range(int(scale(1, 5))):
                before = await a.put("k", "before", base=homenode.ANY)
                acked = [await a.put(f"n{n}", str(n), base=homenode.ANY) for n in range(rng.randrange(5, 50))]
                assert (await b.read("k")).version == before.version is not None
                old = await strike(watched, how)
                moment = time.monotonic()
                after = before
                while after.version.incarnation == before.version.incarnation:  # the old primary may take some still
                    try:
                        after = await a.put("k", "after", base=homenode.ANY)
                    except homenode.Unknown:  # it was under way, and what the new primary lacks nobody can ask for
                        unknown += 1
                longest_s = max(longest_s, time.monotonic() - moment)
                assert after.version > before.version

                async def seen(after: homenode.Artifact = after) -> bool:
                    return (await b.read("k")).version == after.version

                await wait_until_async(seen, timeout_s=WAIT_S, what="the new version at the other client")
                with pytest.raises(homenode.VersionConflict):
                    await b.put("k", "x", base=before.version)
                present = [await b.read(artifact.key, default="", max_age_ms=0) for artifact in acked]
                lost += sum(artifact.version != there.version for artifact, there in zip(acked, present, strict=True))
                if how == "stopped":
                    old.resume()
                elif how == "killed":
                    old.settings["replicaof"] = f"{HOST} {watched.primary.port}"
                    old.start()
                await asyncio.to_thread(_whole, watched, old)
        report(
            f"{how}: {lost} acknowledged versions lost, all told by a new incarnation; {unknown} outcomes unknown; "
            f"back after {longest_s:.1f} s"
        )
        assert not (waiting and lost), "with the replica waited for, nothing may be lost"
    finally:
        for server in servers:
            server.kill()


def _whole(watched: SentinelSet, old: RedisProcess) -> None:
    """The old primary is the replica now, so that there can be another failover."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            with old.client() as client:
                role = client.execute_command("ROLE")
            if role[0] == b"slave" and role[3] == b"connected" and watched._knows_all():
                return
        except redis.RedisError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the old primary does not follow the new one")


async def test_a_primary_that_nobody_knows_is_an_error_that_says_so(watched: SentinelSet) -> None:
    store = open_store(watched.url.replace(NAME, "another"))
    with pytest.raises(StoreError, match="no Sentinel says where the primary 'another' is"):
        await store.open()
    await store.close()


async def test_some_sentinels_may_be_gone(watched: SentinelSet) -> None:
    address = watched.url.replace(f"{HOST}:{watched.ports[0]}", f"{HOST}:1,{HOST}:2,{HOST}:{watched.ports[0]}")
    store = open_store(address)
    await store.open()
    assert (await store.adopt(0, 0)).number > 0
    await store.close()


@pytest.mark.parametrize("wrong", ["redis+sentinel://h:1", "redis+sentinel:///NAME/0", "redis+sentinel://h:1/"])
def test_an_address_without_hosts_or_a_name_is_refused(wrong: str) -> None:
    with pytest.raises(StoreError, match="redis\\+sentinel://HOST"):
        open_store(wrong)
