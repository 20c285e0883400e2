"""The byte budget, the byte cache, the locks by key, and work in threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from homenode_directory.content.bounds import ByteBudget, ByteCache, KeyLocks, Workers
from homenode_directory.errors import Overloaded


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_work_beyond_the_budget_waits_in_order() -> None:
    budget = ByteBudget(10)
    done: list[str] = []

    async def work(name: str, size: int) -> None:
        await budget.acquire(size)
        done.append(name)

    await work("first", 6)
    tasks = [asyncio.create_task(work("large", 8)), asyncio.create_task(work("small", 1))]
    await settle()
    assert (done, budget.used_bytes) == (["first"], 6)  # the small one fits but does not overtake
    budget.release(6)
    await asyncio.gather(*tasks)
    assert (done, budget.used_bytes) == (["first", "large", "small"], 9)


async def test_work_larger_than_the_budget_runs_alone() -> None:
    budget = ByteBudget(10)
    await budget.acquire(99)
    assert budget.used_bytes == 10
    budget.release(99)
    assert budget.used_bytes == 0


async def test_too_many_waiters_are_refused() -> None:
    budget = ByteBudget(10, waiters_max=1)
    await budget.acquire(10)
    waiting = asyncio.create_task(budget.acquire(1))
    await settle()
    with pytest.raises(Overloaded):
        await budget.acquire(1)
    budget.release(10)
    await waiting


async def test_a_cancelled_waiter_takes_nothing_and_blocks_nobody() -> None:
    budget = ByteBudget(10)
    await budget.acquire(5)
    large, small = asyncio.create_task(budget.acquire(9)), asyncio.create_task(budget.acquire(5))
    await settle()
    large.cancel()
    await small
    assert budget.used_bytes == 10


async def test_a_waiter_cancelled_after_its_turn_came_gives_it_back() -> None:
    budget = ByteBudget(10)
    await budget.acquire(10)
    waiting = asyncio.create_task(budget.acquire(4))
    await settle()
    budget.release(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.used_bytes == 0


def test_the_cache_drops_what_was_used_least_recently() -> None:
    cache: ByteCache[str] = ByteCache(10)
    for key in "abc":
        cache.put(key, key, 3)
    assert cache.get("a") == "a"
    cache.put("d", "d", 4)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    assert cache.used_bytes == 10
    cache.put("a", "A", 1)
    cache.put("huge", "x", 11)
    cache.drop("c")
    assert [cache.get(key) for key in ("a", "c", "d", "huge")] == ["A", None, "d", None]
    assert cache.used_bytes == 5


async def test_one_worker_per_key() -> None:
    locks = KeyLocks()
    running: list[str] = []

    async def work(key: str) -> None:
        async with locks.hold(key):
            assert key not in running
            running.append(key)
            await settle()
            running.remove(key)

    await asyncio.gather(*(work(key) for key in "aabba"))
    assert not locks._locks


async def test_cancelled_work_keeps_its_share_until_its_thread_ends() -> None:
    with ThreadPoolExecutor(1) as pool:
        workers = Workers(pool, 1 << 20)
        entered, go_on = threading.Event(), threading.Event()

        def work() -> None:
            entered.set()
            go_on.wait(10)

        task = asyncio.create_task(workers.run(1 << 19, work))
        await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        await settle()
        assert task.cancelled() and workers.budget.used_bytes == 1 << 19
        go_on.set()
    await settle()
    assert workers.budget.used_bytes == 0


async def test_without_an_executor_work_runs_in_place() -> None:
    assert await Workers(None, 1).run(1 << 30, threading.get_ident) == threading.get_ident()


async def test_large_work_runs_in_a_thread_and_its_errors_arrive() -> None:
    with ThreadPoolExecutor(1) as pool:
        workers = Workers(pool, 1 << 20)
        assert await workers.run(1 << 19, threading.get_ident) != threading.get_ident()
        assert await workers.run(10, threading.get_ident) == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await workers.run(1 << 19, lambda: 1 // 0)
    await settle()
    assert workers.budget.used_bytes == 0
    with pytest.raises(RuntimeError):
        await workers.run(1 << 19, work := lambda: None)
    assert work() is None and workers.budget.used_bytes == 0
