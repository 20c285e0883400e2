"""How a change spreads: from a commit to who must hear of it, ours and the peers'.

Each load changes one thing again and again and notes how long it takes until the last of N has heard. Figures: n
changes, p50_ms, p99_ms.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import Awaitable, Callable

import redis
import redis.connection
from redis.cache import CacheConfig

import homenode
from tests.bench.etcd import EtcdClient, M
from tests.bench.homenode_load import body, on_one_stream, run_name, sessions
from tests.bench.load import latencies
from tests.support.ports import HOST

redis.connection.CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"  # see local_load

HEARD_WITHIN_S = 30.0


class Spread:
    """Changes one after another.

    Args:
        prepare: everybody is interested again; not timed.
        change: makes the change and waits until the last has heard; returns nanoseconds from its start to then.
    """

    def __init__(self, prepare: Callable[[], Awaitable[object]], change: Callable[[], Awaitable[int]]) -> None:
        self._prepare = prepare
        self._change = change

    async def measure(self, seconds: float) -> dict[str, float]:
        """See `load.Measurable`."""
        took_s = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(took_s) < 3:
            await self._prepare()
            took_s.append(await asyncio.wait_for(self._change(), HEARD_WITHIN_S) / 1e9)
        return {"n": len(took_s), **latencies(took_s)}


class Countdown:
    """Notes when the last of so many has heard."""

    def __init__(self) -> None:
        self._left = 0
        self._done = asyncio.Event()
        self.at_ns = 0

    def begin(self, count: int) -> None:
        """Wait for `count` of them from now on."""
        self._left = count
        self._done.clear()

    def heard(self) -> None:
        """One of them has heard."""
        self._left -= 1
        if self._left == 0:
            self.at_ns = time.perf_counter_ns()
            self._done.set()

    async def wait(self) -> int:
        """When the last has heard."""
        await self._done.wait()
        return self.at_ns


# --- ours -------------------------------------------------------------------------------------------------------------


async def homenode_sharers(address: str, clients: int, per_stream: int = 64) -> Spread:
    """`clients` sessions share a copy, `per_stream` of them on a stream; another commits; the copies are dropped."""
    key = f"{run_name()}/shared"
    writer = (await sessions(address, 1))[0]
    text = body(0)
    await writer.put(key, text)
    sharers: list[homenode.Homenode] = []
    while len(sharers) < clients:
        count = min(per_stream, clients - len(sharers))
        sharers += await on_one_stream(address, count)
    countdown, count = Countdown(), 0
    for hn in sharers:
        _tell_when_dropped(hn, key, countdown)

    async def prepare() -> None:
        left = sharers
        for _ in range(20):
            await asyncio.gather(*(hn.read(key, max_age_ms=0) for hn in left))
            left = [hn for hn in left if hn._core.cache.copy(key) is None]
            if not left:
                return
        raise RuntimeError(f"{len(left)} readers get no copy that they may keep")

    async def change() -> int:
        nonlocal count
        count += 1
        countdown.begin(len(sharers))
        started = time.perf_counter_ns()
        _, ended = await asyncio.gather(writer.put(key, f"{text[:500]}{count:08d}{text[508:]}"), countdown.wait())
        return ended - started

    return Spread(prepare, change)


def _tell_when_dropped(hn: homenode.Homenode, key: str, countdown: Countdown) -> None:
    """Look at the session's own cache: the copy is gone when its window is closed for ever."""
    cache = hn._core.cache
    take = cache.invalidate

    def invalidate(named: str, version: homenode.Version) -> None:
        held = cache.copy(key) is not None
        take(named, version)
        if held and named == key and cache.copy(key) is None:
            countdown.heard()

    cache.invalidate = invalidate  # type: ignore[method-assign]


# --- peers ------------------------------------------------------------------------------------------------------------


async def etcd_watchers(address: str, clients: int, own_streams: bool = False) -> Spread:
    """`clients` watches of one key, on one stream or each with a connection of its own; another client puts."""
    key, value = b"bench/shared", body(0).encode()
    writer = EtcdClient(address)
    await writer.put(key, value)
    countdown = Countdown()
    readers = [EtcdClient(address, own=True) for _ in range(clients if own_streams else 1)]
    streams = [reader.watch() for reader in readers]
    for stream in streams:
        for _ in range(clients // len(streams)):
            await stream.write(M["WatchRequest"](create_request=M["WatchCreateRequest"](key=key)))
    tasks = []
    for stream in streams:
        for _ in range(clients // len(streams)):
            assert (await stream.read()).created
        tasks.append(asyncio.create_task(_read(stream, countdown)))

    async def change() -> int:
        countdown.begin(clients)
        started = time.perf_counter_ns()
        _, ended = await asyncio.gather(writer.put(key, value), countdown.wait())
        return ended - started

    spread = Spread(_nothing, change)
    spread.tasks = tasks  # type: ignore[attr-defined]  # they end with the process
    return spread


async def _nothing() -> None:
    pass


async def _read(stream: object, countdown: Countdown) -> None:
    while True:
        response = await stream.read()  # type: ignore[attr-defined]
        for _ in response.events:
            countdown.heard()


async def redis_subscribers(address: str, clients: int, redis_port: int) -> Spread:
    """`clients` bare connections that subscribe to one channel, read by one loop over epoll; another publishes."""
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        subscriber = socket.create_connection((HOST, redis_port))
        subscriber.sendall(b"SUBSCRIBE changes\r\n")
        subscriber.recv(256)
        subscriber.setblocking(False)
        selector.register(subscriber, selectors.EVENT_READ, subscriber)
    writer = socket.create_connection((HOST, redis_port))
    message = b'{"key":"bench/shared","version":[1795333950425,17]}'
    publish = b"*3\r\n$7\r\nPUBLISH\r\n$7\r\nchanges\r\n$%d\r\n%s\r\n" % (len(message), message)

    async def change() -> int:
        started = time.perf_counter_ns()
        writer.sendall(publish)
        left = clients
        while left:
            for found, _ in selector.select():
                assert message in found.data.recv(512)  # one message is out at a time
                left -= 1
        ended = time.perf_counter_ns()
        assert writer.recv(64) == b":%d\r\n" % clients
        return ended - started

    return Spread(_nothing, change)


async def redis_cache(address: str, clients: int, redis_port: int) -> Spread:
    """One client of redis-py writes; another, which caches, reads until it gets what was written."""
    writer = redis.Redis(host=HOST, port=redis_port)
    reader = redis.Redis(host=HOST, port=redis_port, protocol=3, cache_config=CacheConfig())
    key, text, count = "bench/shared", body(0), 0
    writer.set(key, text)

    async def prepare() -> None:
        reader.get(key)

    async def change() -> int:
        nonlocal count
        count += 1
        value = f"{text[:500]}{count:08d}{text[508:]}".encode()
        started = time.perf_counter_ns()
        writer.set(key, value)
        while reader.get(key) != value:
            pass
        return time.perf_counter_ns() - started

    return Spread(prepare, change)
