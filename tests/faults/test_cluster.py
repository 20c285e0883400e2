"""A store in a Redis Cluster: slices on several nodes, one that is moved under load, a primary that is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import homenode
from homenode.cli.doctor_store import examine_store
from homenode_directory.store.base import Commit, Equals, Put, StoreChanged, StoreError
from homenode_directory.store.open import open_store
from tests.client.server_process import ServerProcess
from tests.faults.conftest import Report
from tests.faults.fleet import url
from tests.support.cluster import Cluster
from tests.support.ports import HOST, wait_until_async

pytestmark = [pytest.mark.redis, pytest.mark.slow]

WAIT_S = 120.0
SLICES = 16


@pytest.fixture
def cluster(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three primaries, with replicas where the test asks for them."""
    some = Cluster(short_tmp, replicas=bool(getattr(request, "param", False)))
    try:
        yield some.start()
    finally:
        some.kill()


async def test_slices_lie_on_several_nodes_and_mean_the_same(cluster: Cluster) -> None:
    store, other = open_store(cluster.url), open_store(cluster.url)
    await store.open()
    await other.open()
    assert len({cluster.owner(cluster.slot_of(n)).port for n in range(SLICES)}) > 1
    tokens = {n: (await store.adopt(n, 0)).token for n in range(SLICES)}
    assert {n: (await other.adopt(n, 0)).token for n in range(SLICES)} == tokens
    heard: dict[int, int] = {}

    async def listen() -> None:
        async for slice_, head in other.hints():
            heard[slice_] = head

    listening = asyncio.create_task(listen())
    commit = Commit((Equals("k", "f", None),), (Put("k", "f", "1"),), (b"x",))

    async def heard_all() -> bool:
        for n, token in tokens.items():
            (outcome,) = await store.commit(n, token, [commit])
            (again,) = await store.commit(n, token, [Commit(log=(b"y",))])
            assert again.ok
            assert outcome.ok or outcome.found == "1"
        return len(heard) == SLICES

    await wait_until_async(heard_all, timeout_s=WAIT_S)
    listening.cancel()
    heads = await other.heads(tokens)
    for n, token in tokens.items():
        entries, head = await other.read_log(n, 0, 10_000, incarnation=token)
        assert head == heads[n] == len(entries)
        await store.put_blobs(n, [("b/x", b"data")])
        assert await other.get_blob(n, "b/x") == b"data"
        assert await other.load(n, ["k"]) == [{"f": "1"}]
    assert await store.heads({**tokens, 3: "another"}) == {**heads, 3: None}
    assert (await store.weakness()) == ""
    for one in (store, other):
        await one.close()


async def test_a_slice_that_is_moved_has_a_new_incarnation_and_all_its_data(cluster: Cluster) -> None:
    store = open_store(cluster.url)
    await store.open()
    before = await store.adopt(5, 0)
    await store.commit(5, before.token, [Commit(writes=(Put("k", "f", "1"),), log=(b"x",))])
    await asyncio.to_thread(cluster.move, cluster.slot_of(5))

    async def changed() -> bool:
        try:
            await store.commit(5, before.token, [Commit(writes=(Put("k", "f", "2"),))])
        except StoreChanged:
            return True
        except StoreError:
            return False  # it finds out where the slice is
        raise AssertionError("a commit was taken under the old incarnation")

    await wait_until_async(changed, timeout_s=WAIT_S)
    after = await store.adopt(5, 0)
    assert after.number > before.number
    assert await store.load(5, ["k"]) == [{"f": "1"}]
    assert (await store.read_log(5, 0, 10, incarnation=after.token))[0] == [(1, b"x")]
    await store.close()


async def count_on(hn: homenode.Homenode, stop: asyncio.Event, done: list[float]) -> int:
    """Increment a counter until told to stop; returns how many outcomes nobody knows."""
    unknown = 0
    while not stop.is_set():
        try:
            await hn.edit("n", lambda text: str(int(text or "0") + 1), default="")
            done.append(time.monotonic())
        except homenode.Unknown:
            unknown += 1
        except homenode.VersionConflict:
            pass
    return unknown


@pytest.mark.parametrize(("cluster", "how"), [(False, "moved"), (True, "killed")], indirect=["cluster"])
async def test_clients_go_on_when_their_slice_moves(
    cluster: Cluster, how: str, short_tmp: Path, report: Report
) -> None:
    """By a reshard nothing is lost or doubled; by a failover nothing silently."""
    servers = [await ServerProcess(cluster.url, short_tmp, bookmark_ms=200).start() for _ in range(2)]
    stop = asyncio.Event()
    try:
        async with (
            homenode.connect(url([s.port for s in servers]), agent="a", timeout_ms=60_000) as a,
            homenode.connect(url([s.port for s in servers]), agent="b", timeout_ms=60_000) as b,
        ):
            done: list[float] = []
            counting = [asyncio.create_task(count_on(hn, stop, done)) for hn in (a, b)]
            await wait_until_async(lambda: len(done) > 20, timeout_s=WAIT_S)
            before = await a.read("n", max_age_ms=0)
            slot = next(s for s in map(cluster.slot_of, range(SLICES)) if _holds(cluster, s))
            if how == "moved":
                await asyncio.to_thread(cluster.move, slot)
            else:
                cluster.owner(slot).kill()
            moment = time.monotonic()
            seen = len(done)
            await wait_until_async(lambda: len(done) > seen + 20, timeout_s=WAIT_S)
            stall_s = max(b - a for a, b in zip([moment, *done[seen:]], done[seen:], strict=False))
            stop.set()
            unknown = sum(await asyncio.gather(*counting))
            after = await b.read("n", max_age_ms=0)
            assert before.version is not None and after.version is not None
            assert after.version.incarnation > before.version.incarnation
            report(f"{how}: {len(done)} acknowledged, {unknown} unknown, counter {after.text}, stalled {stall_s:.1f} s")
            if how == "moved":
                assert len(done) <= int(after.text) <= len(done) + unknown
            else:
                assert int(after.text) <= len(done) + unknown
    finally:
        for server in servers:
            server.kill()


def _holds(cluster: Cluster, slot: int) -> bool:
    """Whether the workspace of the test lies there: only its slice has artifacts."""
    with cluster.owner(slot).client() as client:
        keys = client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1_000)
    return any(b":e/default/main/" in key for key in keys)


async def test_doctor_looks_at_the_nodes(cluster: Cluster) -> None:
    found = [finding async for finding in examine_store(cluster.url)]
    hosts = [f"{HOST}:{node.port}: " for node in cluster.nodes[:2]]
    assert [sum(finding.found.startswith(host) for finding in found) > 2 for host in hosts] == [True, True]
    assert not [finding for finding in found if finding.level == "FAULT"]


async def test_waiting_for_replicas_is_refused(cluster: Cluster) -> None:
    with pytest.raises(StoreError, match="cannot wait for replicas"):
        open_store(cluster.url, wait_replicas=1)
