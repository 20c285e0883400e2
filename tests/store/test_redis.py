"""What only the Redis store promises: lost memory is noticed, nothing runs twice, a full server still gives relief."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from homenode_directory.store.base import (
    Add,
    Commit,
    Delete,
    Equals,
    Exists,
    Incarnation,
    LogTrimmed,
    Outcome,
    Put,
    Rank,
    StoreChanged,
    StoreError,
    StoreFull,
)
from homenode_directory.store.redis_store import RedisStore
from tests.conftest import RedisFactory
from tests.store.cutting_proxy import CuttingProxy
from tests.support.ports import wait_until_async
from tests.support.redis_process import RedisProcess

pytestmark = pytest.mark.redis

Opener = Callable[..., "asyncio.Future[RedisStore]"]
COUNT = Commit(writes=(Add("k", "n", 1),), log=(b"x",))


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., object]]:
    """Opens stores that are closed with the test."""
    stores: list[RedisStore] = []

    async def open_(url: str, **options: object) -> RedisStore:
        store = RedisStore(url, **options)  # type: ignore[arg-type]
        await store.open()
        stores.append(store)
        return store

    yield open_
    for store in stores:
        await store.close()


async def commit_when_back(store: RedisStore, token: str, *commits: Commit) -> list[Outcome]:
    """Commit, past the errors of connections that died with their server."""
    answered: list[list[Outcome]] = []

    async def attempt() -> bool:
        try:
            answered.append(await store.commit(0, token, commits))
        except StoreChanged:
            raise
        except StoreError:
            return False
        return True

    await wait_until_async(attempt, what="an answer from Redis")
    return answered[0]


async def adopt_when_back(store: RedisStore, at_least: int) -> Incarnation:
    adopted: list[Incarnation] = []

    async def attempt() -> bool:
        with contextlib.suppress(StoreError):
            adopted.append(await store.adopt(0, at_least))
        return bool(adopted)

    await wait_until_async(attempt, what="an adoption")
    return adopted[0]


async def test_flushall_under_open_connections_is_noticed(redis_factory: RedisFactory, opened: Opener) -> None:
    server = redis_factory()
    store = await opened(server.url)
    before = await store.adopt(0, 0)
    await store.commit(0, before.token, [COUNT])
    server.flushall()
    with pytest.raises(StoreChanged):
        await store.commit(0, before.token, [COUNT])
    with pytest.raises(StoreChanged):
        await store.read_log(0, 1, 10, incarnation=before.token)
    after = await store.adopt(0, before.number + 1)
    assert after.number > before.number
    (outcome,) = await store.commit(0, after.token, [COUNT])
    assert outcome.head == 1
    assert (await opened(server.url, slices=3)).slices == store.slices


@pytest.mark.parametrize("kill", [True, False])
async def test_a_restart_with_all_data_is_a_new_incarnation(
    redis_factory: RedisFactory, opened: Opener, kill: bool
) -> None:
    server = redis_factory(settings={"appendfsync": "always"})
    store = await opened(server.url)
    before = await store.adopt(0, 0)
    await asyncio.gather(*(store.commit(0, before.token, [COUNT]) for _ in range(20)))
    server.restart(kill=kill)
    with pytest.raises(StoreChanged):
        await commit_when_back(store, before.token, COUNT)
    after = await store.adopt(0, 0)
    assert after.number > before.number
    assert await store.load(0, ["k"]) == [{"n": "20"}]
    (outcome,) = await commit_when_back(store, after.token, COUNT)
    assert outcome.head == 21
    assert len((await store.read_log(0, 0, 100, incarnation=after.token))[0]) == 21


async def test_an_empty_restart_and_an_older_file_are_noticed_by_open_clients(
    redis_factory: RedisFactory, opened: Opener, tmp_path: Path
) -> None:
    server = redis_factory()
    store, other = await opened(server.url), await opened(server.url)
    first = await store.adopt(0, 0)
    await store.commit(0, first.token, [COUNT])
    server.stop()
    server.save_data(tmp_path / "older")
    server.start()
    second = await adopt_when_back(store, 0)
    await commit_when_back(store, second.token, COUNT)
    server.stop()
    server.load_data(tmp_path / "older")
    server.start()
    for token in (first.token, second.token):
        with pytest.raises(StoreChanged):
            await commit_when_back(store, token, COUNT)
    third = await store.adopt(0, second.number + 1)
    server.restart(wipe=True)
    with pytest.raises(StoreChanged):
        await commit_when_back(store, third.token, COUNT)
    fourth = await adopt_when_back(other, third.number + 1)
    assert await adopt_when_back(store, 0) == fourth
    assert first.number < second.number < third.number < fourth.number
    assert await store.load(0, ["k"]) == [{}]


async def test_a_lost_script_cache_costs_nothing(redis_factory: RedisFactory, opened: Opener) -> None:
    server = redis_factory()
    store = await opened(server.url)
    token = (await store.adopt(0, 0)).token
    with server.client() as client:
        for n in range(1, 6):
            client.script_flush()
            (outcome,) = await store.commit(0, token, [COUNT], relief=n % 2 == 0)
            assert outcome.head == n
    assert await store.load(0, ["k"]) == [{"n": "5"}]


async def test_cut_connections_never_double_a_commit(redis_factory: RedisFactory, opened: Opener) -> None:
    server = redis_factory()
    proxy = CuttingProxy(server.port)
    port = await proxy.start()
    store = await opened(server.url.replace(str(server.port), str(port)), command_timeout_ms=2_000)
    token = (await store.adopt(0, 0)).token
    acknowledged: list[tuple[int, bytes]] = []
    unknown: list[bytes] = []
    rng = random.Random(3)

    async def work(worker: int) -> None:
        for n in range(60):
            name = b"%d-%d" % (worker, n)
            try:
                (outcome,) = await store.commit(0, token, [Commit(writes=(Add("k", "n", 1),), log=(name,))])
                acknowledged.append((outcome.head, name))
            except StoreChanged:
                raise
            except StoreError:
                unknown.append(name)

    async def harass(workers: asyncio.Future[object]) -> None:
        with server.client() as client:
            while not workers.done():
                await asyncio.sleep(rng.uniform(0.001, 0.01))
                match rng.randrange(3):
                    case 0:
                        proxy.cut()
                    case 1:
                        proxy.swallow_replies = not proxy.swallow_replies
                    case _:
                        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    workers = asyncio.gather(*(work(worker) for worker in range(6)))
    await asyncio.gather(workers, harass(workers))
    proxy.swallow_replies = False
    await proxy.stop()
    direct = await opened(server.url)
    entries, head = await direct.read_log(0, 0, 10_000)
    names = [data for _, data in entries]
    assert proxy.cuts > 10 and unknown and acknowledged
    assert len(set(names)) == len(names) == head
    assert set(acknowledged) <= set(entries)
    assert len(acknowledged) + len(unknown) == 360
    assert set(names) - {name for _, name in acknowledged} <= set(unknown)
    assert await direct.load(0, ["k"]) == [{"n": str(head)}]


async def test_a_silent_server_is_an_error_and_the_commit_runs_at_most_once(
    redis_factory: RedisFactory, opened: Opener
) -> None:
    server = redis_factory()
    store = await opened(server.url, command_timeout_ms=200, connect_timeout_ms=200)
    token = (await store.adopt(0, 0)).token
    server.pause()
    try:
        with pytest.raises(StoreError, match="unknown"):
            await store.commit(0, token, [COUNT])
        with pytest.raises(StoreError, match="not reachable"):
            await store.commit(0, token, [COUNT])
    finally:
        server.resume()
    (outcome,) = await commit_when_back(store, token, COUNT)
    assert await store.load(0, ["k"]) == [{"n": str(outcome.head)}]
    assert outcome.head <= 2


async def test_a_cancelled_commit_leaves_no_reply_for_the_next(redis_url: str, opened: Opener) -> None:
    store = await opened(redis_url, connections_max=1)
    token = (await store.adopt(0, 0)).token
    for n in range(20):
        task = asyncio.create_task(store.commit(0, token, [Commit(log=(b"x",) * 50)]))
        for _ in range(n % 5):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await store.load(0, ["meta"]) != [{}]
        (outcome,) = await store.commit(0, token, [Commit((Exists("none"),))])
        assert outcome.failed == 0


async def test_a_full_server_refuses_whole_and_gives_relief(redis_factory: RedisFactory, opened: Opener) -> None:
    server = redis_factory(settings={"maxmemory": "8mb", "appendonly": "no"})
    store = await opened(server.url)
    token = (await store.adopt(0, 0)).token
    with pytest.raises(StoreFull):
        for n in range(1_000):
            await store.commit(0, token, [Commit(writes=(Put(f"k{n}", "v", "x" * 30_000),), log=(b"x",))])
    stored, head = n, (await store.read_log(0, 0, 10_000))[1]
    assert head == stored > 50
    assert await store.load(0, [f"k{stored}"]) == [{}]
    with pytest.raises(StoreFull):
        await store.put_blobs(0, [("blob", b"x" * 1_000_000)])
    release = Commit((Equals("lease", "v", None),), (Put("lease", "v", "1"), Rank("due", "m", 1)), (b"released",))
    with pytest.raises(StoreFull):
        await store.commit(0, token, [release])
    (outcome,) = await store.commit(0, token, [release], relief=True)
    assert outcome.head == head + 1
    await store.adopt(1, 0)
    for n in range(stored):
        await store.commit(0, token, [Commit(writes=(Delete(f"k{n}"),))], relief=True)
    (outcome,) = await commit_when_back(store, token, Commit(writes=(Put("again", "v", "x" * 30_000),)))
    assert outcome.ok


async def test_no_script_call_carries_content(redis_factory: RedisFactory, opened: Opener) -> None:
    server = redis_factory()
    store = await opened(server.url)
    secret = "the-content-of-an-artifact"
    seen: list[str] = []
    with server.client() as client, client.monitor() as monitor:
        token = (await store.adopt(0, 0)).token
        await store.put_blobs(0, [("b/hash", secret.encode())])
        await store.commit(0, token, [Commit((Exists("b/hash"),), (Add("br/hash", "refs", 1),), (b"entry",))])
        assert await store.get_blob(0, "b/hash") == secret.encode()
        await store.load(0, ["the-end"])
        while not seen or "the-end" not in seen[-1]:
            seen.append(str(monitor.next_command()["command"]))
    carriers = [command.split()[0] for command in seen if secret in command]
    assert carriers == ["SET"]
    assert any(command.startswith("EVALSHA") for command in seen)


async def test_a_subscription_to_a_process_that_is_silent_ends(
    redis_factory: RedisFactory, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection on which nothing comes is asked for a sign of life, and given up where there is none."""
    monkeypatch.setattr("homenode_directory.store.redis_link.SILENT_S", 0.05)
    redis = redis_factory()
    store, other = await opened(redis.url), await opened(redis.url)
    token = (await store.adopt(0, 0)).token
    heard: list[tuple[int, int]] = []

    async def listen() -> None:
        async for hint in other.hints():
            heard.append(hint)

    listener = asyncio.create_task(listen())
    await asyncio.sleep(0.5)  # signs of life come and go
    assert not listener.done()

    async def heard_one() -> bool:
        await store.commit(0, token, [Commit(log=(b"x",))])
        return bool(heard)

    await wait_until_async(heard_one)
    redis.pause()
    try:
        with pytest.raises(StoreError):
            await asyncio.wait_for(listener, 30)
    finally:
        redis.resume()


async def test_nobody_hears_hints_of_what_it_appends_itself(redis_url: str, opened: Opener) -> None:
    store, other = await opened(redis_url), await opened(redis_url)
    token = (await store.adopt(0, 0)).token
    heard: dict[str, list[tuple[int, int]]] = {"own": [], "other": []}

    async def listen(client: RedisStore, into: str) -> None:
        async for hint in client.hints():
            heard[into].append(hint)

    listeners = [asyncio.create_task(listen(store, "own")), asyncio.create_task(listen(other, "other"))]

    async def heard_both() -> bool:
        await store.commit(0, token, [Commit(log=(b"x",))])
        await other.commit(0, token, [Commit(log=(b"x",))])
        return all(heard.values())

    await wait_until_async(heard_both)
    assert all(head % 2 == 0 for _, head in heard["own"]) and all(head % 2 == 1 for _, head in heard["other"])
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)


async def test_nothing_is_published_where_nobody_else_listens(redis_factory: RedisFactory, opened: Opener) -> None:
    server = redis_factory()
    store, other = await opened(server.url), await opened(server.url)
    token = (await store.adopt(0, 0)).token
    heard: list[tuple[int, int]] = []

    async def listen() -> None:
        async for hint in store.hints():
            heard.append(hint)

    listener = asyncio.create_task(listen())

    async def heard_other() -> bool:
        await other.commit(0, token, [Commit(log=(b"x",))])
        return bool(heard)

    await wait_until_async(heard_other)
    with server.client() as admin:
        admin.config_resetstat()
        (outcome,) = await store.commit(0, token, [Commit(log=(b"x",))])
        assert outcome.ok and "cmdstat_publish" not in admin.info("commandstats")
        await other.commit(0, token, [Commit(log=(b"x",))])
        assert admin.info("commandstats")["cmdstat_publish"]["calls"] == 1
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)


async def test_hints_tell_of_every_clients_appends(redis_url: str, opened: Opener) -> None:
    store, other = await opened(redis_url), await opened(redis_url)
    token = (await store.adopt(5, 0)).token
    heard: list[tuple[int, int]] = []

    async def listen() -> None:
        async for hint in other.hints():
            heard.append(hint)

    listener = asyncio.create_task(listen())

    async def heard_one() -> bool:
        await store.commit(5, token, [COUNT, Commit(log=(b"a", b"b"))])
        return bool(heard)

    await wait_until_async(heard_one)
    head = (await store.read_log(5, 0, 1))[1]
    await wait_until_async(lambda: (5, head) in heard)
    assert all(hint[0] == 5 and hint[1] % 3 == 0 for hint in heard)
    await store.commit(5, token, [Commit(writes=(Put("k", "silent", "1"),))])
    listener.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listener


async def test_a_log_is_trimmed_by_count(redis_url: str, opened: Opener) -> None:
    store = await opened(redis_url, log_max=200)
    token = (await store.adopt(0, 0)).token
    for _ in range(20):
        await store.commit(0, token, [Commit(log=(b"x",) * 100)])
    entries, head = await store.read_log(0, 1_800, 1_000)
    assert head == 2_000 and len(entries) == 200
    with pytest.raises(LogTrimmed):
        await store.read_log(0, 1_000, 10)


async def test_few_connections_serve_many_calls(redis_server: RedisProcess, opened: Opener) -> None:
    redis_server.flushall()
    store = await opened(redis_server.url, connections_max=3)
    tokens = {slice_: (await store.adopt(slice_, 0)).token for slice_ in range(8)}
    await asyncio.gather(*(store.commit(n % 8, tokens[n % 8], [COUNT]) for n in range(400)))
    for slice_ in tokens:
        assert await store.load(slice_, ["k"]) == [{"n": "50"}]
    with redis_server.client() as client:
        assert len(client.client_list()) <= 3 + 1


async def test_unfit_servers_are_refused_clearly(redis_factory: RedisFactory, opened: Opener) -> None:
    server = redis_factory(settings={"maxmemory-policy": "allkeys-lru"})
    with pytest.raises(StoreError, match="maxmemory-policy is allkeys-lru; set it to noeviction"):
        await opened(server.url)
    await opened(server.url, allow_eviction=True)
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.hset("hn#store", "format", "99")
    with pytest.raises(StoreError, match="format 99"):
        await opened(server.url)
    server.kill()
    with pytest.raises(StoreError, match="not reachable"):
        await opened(server.url)


async def test_unix_sockets_and_passwords(redis_factory: RedisFactory, opened: Opener, short_tmp: Path) -> None:
    socket = short_tmp / "redis.sock"
    server = redis_factory(settings={"unixsocket": str(socket)})
    with server.client() as client:
        client.acl_setuser(
            "homenode", enabled=True, passwords=["+p@ss"], keys=["*"], channels=["*"], commands=["+@all"]
        )
    for url in (f"unix://{socket}?db=1", f"redis://homenode:p%40ss@127.0.0.1:{server.port}/1"):
        store = await opened(url)
        token = (await store.adopt(0, 0)).token
        (outcome,) = await store.commit(0, token, [COUNT])
    assert outcome.head == 2
    with pytest.raises(StoreError):
        await opened(f"redis://homenode:wrong@127.0.0.1:{server.port}/1")


async def test_keys_of_a_slice_share_a_hash_tag(redis_factory: RedisFactory, opened: Opener) -> None:
    server = redis_factory()
    store = await opened(server.url, name="shop")
    token = (await store.adopt(3, 0)).token
    await store.put_blobs(3, [("b/{x}", b"x")])
    await store.commit(3, token, [Commit(writes=(Put("e/{other}", "v", "1"), Rank("due", "m", 1)), log=(b"x",))])
    with server.client() as client:
        keys = sorted(key.decode() for key in client.keys("*"))
    assert keys == [
        "shop#store",
        "{shop:3}#log",
        "{shop:3}:b/{x}",
        "{shop:3}:due",
        "{shop:3}:e/{other}",
        "{shop:3}:meta",
    ]
