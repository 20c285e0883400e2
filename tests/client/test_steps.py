"""K: for how many of its own steps an agent may use a copy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import homenode
from homenode.view import STEPS_MAX, View
from tests.client.conftest import ServerFactory
from tests.client.server_process import ServerProcess


async def test_steps_bound_how_long_a_copy_serves(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        await a.put("k", "x")
        await a.set_policy("k", max_steps=1)
        with pytest.raises(homenode.InvalidArgument):
            await a.read("k")
        async with a.step():
            await a.read("k")
            assert a.read_cached("k") is not None
        served = 0
        for _ in range(10):  # far faster than bookmarks come
            async with a.step():
                served += a.read_cached("k") is not None
        assert served <= 2
        for _ in range(4):  # who asks knows: the copy serves for a step more
            async with a.step():
                misses = a.stats().misses
                await a.read("k")
            async with a.step():
                assert a.read_cached("k") is not None and a.stats().misses <= misses + 1


async def test_steps_fail_closed_where_the_directory_cannot_be_asked(short_tmp: Any) -> None:
    server = ServerProcess(f"sqlite:///{short_tmp}/steps.sqlite3", short_tmp, max_age_ms=60_000)
    await server.start()
    try:
        async with homenode.connect(server.url, agent="a") as a:
            await a.put("k", "x")
            await a.set_policy("k", max_steps=2)
            async with a.step():
                await a.read("k")
            server.pause()
            served = []
            for _ in range(5):
                async with a.step():
                    served.append(a.read_cached("k") is not None)
            assert served == [True, True, False, False, False]
            async with a.step():
                with pytest.raises(homenode.Stale):
                    await a.read("k", timeout_ms=300)
    finally:
        server.kill()


async def test_no_step_is_skipped_by_nesting_failing_or_running_at_once(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        await a.put("k", "x")
        await a.set_policy("k", max_steps=2)
        async with a.step():
            await a.read("k")
            with pytest.raises(ZeroDivisionError):
                async with a.step():
                    1 / 0  # noqa: B018
            assert a.read_cached("k") is not None
            async with a.step(), a.step():
                assert a.read_cached("k") is None
        other = a.agent("b")
        with pytest.raises(homenode.InvalidArgument):
            other.read_cached("k")
        async with other.step():
            await other.read("k")

        async def step(n: int) -> bool:
            async with other.step():
                await asyncio.sleep(0.001 * (5 - n))
                return other.read_cached("k") is not None

        assert not any(await asyncio.gather(*map(step, range(4)))), "four began before any of them reads"


def test_a_greater_k_than_steps_are_remembered_is_a_smaller_one() -> None:
    view = View("a", len)
    for moment in range(1, 3 * STEPS_MAX):
        view.begin_step(moment)
        assert view.within_steps(0, 10**6) == (moment < STEPS_MAX)
        assert view.within_steps(moment - 1, 1) and not view.within_steps(moment - 1, 0)


async def test_who_waits_for_the_answer_to_an_earlier_question_gets_none_that_is_too_old(
    server_factory: ServerFactory,
) -> None:
    """Agents that miss at once ask once; who comes several steps later asks for himself."""
    server = await server_factory().start()
    policies: dict[str, dict[str, Any]] = {"a": {"max_steps": 0}, "b": {"max_age_ms": 0}, "c": {"max_reads": 0}}
    async with homenode.connect(server.url, agent="a") as a:

        async def read(key: str) -> homenode.Artifact:
            async with a.step():
                return await a.read(key)

        for key, policy in policies.items():
            await a.put(key, "x")
            await a.set_policy(key, **policy)
            await read(key)
        server.pause()
        first = [asyncio.ensure_future(read(key)) for key in policies]
        await asyncio.sleep(0.05)
        for _ in range(3):
            async with a.step():
                pass
        began_ns = a.clock()
        second = [asyncio.ensure_future(read(key)) for key in policies]
        await asyncio.sleep(0.05)
        server.go_on()
        await asyncio.gather(*first)
        assert {one.key: one.fetched_ns >= began_ns for one in await asyncio.gather(*second)} == dict.fromkeys(
            "abc", True
        )
