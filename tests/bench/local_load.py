"""What costs CPU in one process: hits, and the rule book."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from types import MappingProxyType

import redis
import redis.connection
from redis.cache import CacheConfig

import homenode
from homenode_directory.protocol.events import Commit, Event, GetM, GetS, InvAck
from homenode_directory.protocol.facts import Facts
from homenode_directory.protocol.model import Content, Entry, Version
from homenode_directory.protocol.transitions import step
from tests.bench.homenode_load import body
from tests.support.ports import HOST

# redis-py wants 7.4, "to maximize compatibility"; what it uses (CLIENT TRACKING) is in Debian's 7.0 all the same.
redis.connection.CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"

LOOPS = 20_000
ARTIFACTS = 1_000


def timed_ns(call: Callable[[int], object], loops: int) -> float:
    """Nanoseconds of this thread's CPU time that one of `loops` turns of `call(loops)` takes."""
    call(loops // 10)
    gc.disable()
    start = time.thread_time_ns()
    call(loops)
    spent = time.thread_time_ns() - start
    gc.enable()
    return spent / loops


async def _awaited_ns(call: Callable[[int], Awaitable[object]], loops: int) -> float:
    await call(loops // 10)
    gc.disable()
    start = time.thread_time_ns()
    await call(loops)
    spent = time.thread_time_ns() - start
    gc.enable()
    return spent / loops


class Hits:
    """Cached reads beside a look-up in a plain dictionary, and beside redis-py's client-side cache."""

    def __init__(self, hn: homenode.Homenode, cached: redis.Redis, keys: list[str]) -> None:
        self._hn = hn
        self._cached = cached
        self._plain = {key: hn.read_cached(key) for key in keys}
        self._key = keys[len(keys) // 2]
        self._misses = hn.stats().misses

    async def measure(self, seconds: float) -> dict[str, float]:
        """See `load.Measurable`; the time is fixed by the number of loops."""
        await asyncio.sleep(0.2)  # the stream lives on between the rounds
        figures = {
            "dict_ns": timed_ns(self._look_up, LOOPS * 5),
            "read_cached_ns": timed_ns(self._read_cached, LOOPS * 5),
            "await_ns": await _awaited_ns(self._read, LOOPS * 5),
            "csc_ns": timed_ns(self._client_side, LOOPS // 10),
            "n": LOOPS,
        }
        assert self._hn.stats().misses == self._misses, "a read was not a hit"
        return figures

    def _look_up(self, loops: int) -> None:
        plain, key = self._plain, self._key
        for _ in range(loops):
            plain[key]

    def _read_cached(self, loops: int) -> None:
        hn, key = self._hn, self._key
        for _ in range(loops):
            hn.read_cached(key)

    async def _read(self, loops: int) -> None:
        hn, key = self._hn, self._key
        for _ in range(loops):
            await hn.read(key)

    def _client_side(self, loops: int) -> None:
        client, key = self._cached, self._key
        for _ in range(loops):
            client.get(key)


async def hits(address: str, clients: int, redis_port: int) -> Hits:
    """Artifacts of 1 KiB in an embedded directory, and the same values in Redis."""
    hn = await homenode.connect("embedded://", agent="bench")
    cached = redis.Redis(host=HOST, port=redis_port, protocol=3, cache_config=CacheConfig())
    keys = [f"notes/{i}.md" for i in range(ARTIFACTS)]
    await asyncio.gather(*(hn.put(key, body(i)) for i, key in enumerate(keys)))
    await asyncio.gather(*(hn.read(key) for key in keys))
    cached.mset({key: body(i) for i, key in enumerate(keys)})
    cached.get(keys[ARTIFACTS // 2])
    assert cached.get_cache(), "redis-py does not cache"
    return Hits(hn, cached, keys)


class Steps:
    """`step` on an artifact of a working fleet: eight sharers, no writer.

    One turn is a read miss, a commit by compare-and-set, an acknowledgement of seven sharers, and the grant of a write
    lease.
    """

    def __init__(self) -> None:
        sharers = MappingProxyType({f"main~session-{i}": 40 - i % 2 for i in range(8)})
        content = Content("ab" * 32, 1_024)
        self._entry = Entry(
            rev=90, version=Version(7, 40), fence=55, content=content, committed_ms=9_000, sharers=sharers
        )
        newer = Content("cd" * 32, 1_030)
        self._events: list[Event] = [
            GetS("main~session-9"),
            Commit("main~session-1", newer, Version(7, 40)),
            InvAck(tuple(f"main~session-{i}" for i in range(1, 8)), 40, 55),
            GetM("main~session-2", "lease-1", 10_000),
        ]
        self._facts = Facts(now_ms=10_000, now_max_ms=10_050, incarnation=7, request=12, digest="d" * 16)

    async def measure(self, seconds: float) -> dict[str, float]:
        """See `load.Measurable`."""
        loops = 2_000
        return {"step_us": timed_ns(self._turns, loops) / len(self._events) / 1_000, "n": loops * len(self._events)}

    def _turns(self, loops: int) -> None:
        entry, events, facts = self._entry, self._events, self._facts
        for _ in range(loops):
            for event in events:
                step(entry, event, facts)


async def steps(address: str, clients: int) -> Steps:
    """The rule book alone."""
    return Steps()
