"""Policies of artifacts, prefixes and workspaces, over every store: the nearest holds, and changes are safe."""

from __future__ import annotations

import asyncio

import pytest

import homenode
from homenode import Policy


async def nearest(hn: homenode.Homenode, key: str) -> Policy:
    return (await hn.stat(key)).nearest


async def test_the_nearest_policy_holds_for_what_is_there_and_what_comes(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("notes/old.md", "old")
        assert await a.set_policy(prefix="", max_age_ms=2_000) == 0
        assert await b.set_policy(prefix="notes/", strategy="lease", max_age_ms=500) == 0
        assert await a.set_policy(prefix="notes/deep/", strategy="access_count") == 0
        await b.put("notes/new.md", "new")
        await b.put("notes/deep/new.md", "new")
        await b.put("plan.md", "plan")
        await b.put("notes/own.md", "own")
        await b.set_policy("notes/own.md", strategy="eager")
        assert (await nearest(a, "notes/old.md")).max_age_ms == 500
        assert (await nearest(a, "notes/new.md")).max_age_ms == 500
        assert (await nearest(a, "notes/deep/new.md")).max_reads == 8
        assert (await nearest(a, "plan.md")).max_age_ms == 2_000
        own = await a.stat("notes/own.md")
        assert (own.nearest, own.policy.push, own.inherited) == (
            own.policy,
            "sharers",
            Policy(push="none", max_age_ms=500),
        )
        assert set(await a.policies()) == {"", "notes/", "notes/deep/"}

        await b.set_policy("notes/own.md")  # back to what its prefix says
        assert (await nearest(b, "notes/own.md")).max_age_ms == 500
        assert await b.set_policy(prefix="notes/deep/") == 0  # back to the shorter prefix
        assert (await nearest(b, "notes/deep/new.md")).max_age_ms == 500
        for prefix in await a.policies():
            await a.set_policy(prefix=prefix)
        assert await nearest(b, "notes/deep/new.md") == Policy()
        assert await a.policies() == {}


async def test_limits_of_a_prefix_are_kept_by_readers(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.set_policy(prefix="notes/", max_reads=2)
        await a.put("notes/1.md", "text")
        await b.read("notes/1.md")
        assert [b.read_cached("notes/1.md") is not None for _ in range(3)] == [True, True, False]
        await a.set_policy(prefix="notes/", push="all")
        await a.put("notes/2.md", "pushed")
        async with asyncio.timeout(10):
            while b.read_cached("notes/2.md") is None:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("by_prefix", [False, True], ids=["artifact", "prefix"])
async def test_copies_that_are_out_follow_at_once(url: str, by_prefix: bool) -> None:
    """Whoever reads, and whoever writes and keeps what he wrote; also after a break in which the news were sent."""
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("notes/1.md", "text")
        await b.read("notes/1.md")
        await b.put("notes/1.md", "own text")
        which = {"prefix": "notes/"} if by_prefix else {"key": "notes/1.md"}

        async def served() -> list[bool]:
            async with b.step():
                return [b.read_cached("notes/1.md") is not None for _ in range(3)]

        assert await served() == [True] * 3
        await a.set_policy(**which, max_reads=2)
        async with asyncio.timeout(5):
            while b.read_cached("notes/1.md") is not None:
                await asyncio.sleep(0)
        await b.put("notes/1.md", "own text again")
        assert await served() == [False] * 3, "nobody said under which policy that is"
        await b.read("notes/1.md")
        assert await served() == [True, True, False]
        await b.put("notes/1.md", "now it is known")
        assert await served() == [True, True, False]

        await a.set_policy(**which)
        await b.read("notes/1.md", max_age_ms=0)
        b._core.session.link.restart()  # another stream goes on from where this one ended
        await a.set_policy(**which, max_steps=0)
        async with asyncio.timeout(10):
            while not b.connected or b.read_cached("notes/1.md") is not None:
                await asyncio.sleep(0.01)
        async with b.step():
            await b.read("notes/1.md")
            assert b.read_cached("notes/1.md") is not None
        async with b.step():
            pass
        async with b.step():
            assert b.read_cached("notes/1.md") is None


async def test_a_prefix_becomes_strict_and_lazy_again_under_load(brisk_url: str) -> None:
    """Nobody reads strictly what was there before a commit that was answered, whatever level holds meanwhile."""
    keys = [f"notes/{number}.md" for number in range(4)]
    written = dict.fromkeys(keys, 0)  # what is committed for sure
    over = asyncio.Event()

    async def write(hn: homenode.Homenode, key: str) -> None:
        n = 0
        while not over.is_set():
            n += 1
            await hn.edit(key, lambda text, n=n: str(n), default="0")
            written[key] = n
            await asyncio.sleep(0.005)

    async def read(hn: homenode.Homenode, found: list[str]) -> None:
        while not over.is_set():
            for key in keys:
                least = written[key]
                artifact = await hn.read(key, default="0")
                if artifact.level == "strict":
                    found.append(key)
                    assert int(artifact.text) >= least
            await asyncio.sleep(0.002)

    async with (
        homenode.connect(brisk_url, agent="w") as w,
        homenode.connect(brisk_url, agent="r") as r,
        homenode.connect(brisk_url, agent="p") as p,
    ):
        strict: list[str] = []
        for key in keys[:2]:
            await w.put(key, "0")
        working = [asyncio.ensure_future(write(w.agent(key), key)) for key in keys]
        working += [asyncio.ensure_future(read(r, strict))]
        for level in ("strict", "lazy", "strict"):
            assert await p.set_policy(prefix="notes/", consistency=level) == 0
            assert {(await p.stat(key)).nearest.consistency for key in keys} == {level}
            await asyncio.sleep(0.2)
        over.set()
        await asyncio.gather(*working)
        assert set(strict) == set(keys)


async def test_what_is_being_written_follows_when_the_writer_is_done(brisk_url: str) -> None:
    async with homenode.connect(brisk_url, agent="a") as a, homenode.connect(brisk_url, agent="b") as b:
        await a.put("notes/1.md", "one")
        await b.read("notes/1.md")
        async with a.write("notes/1.md") as draft:
            assert await b.set_policy(prefix="notes/", consistency="strict", timeout_ms=20_000) == 1
            assert (await b.read("notes/1.md")).level == "lazy"
            draft.text = "two"
        async with asyncio.timeout(20):  # a sweeper sees to it
            while (await b.stat("notes/1.md")).nearest.consistency != "strict":
                await asyncio.sleep(0.05)
        assert (await b.read("notes/1.md")).text == "two"


async def test_what_was_deleted_lazily_is_made_again_strictly(brisk_url: str) -> None:
    async with homenode.connect(brisk_url, agent="a") as a, homenode.connect(brisk_url, agent="b") as b:
        await a.put("notes/1.md", "one")
        await b.read("notes/1.md")
        await a.delete("notes/1.md")
        await a.set_policy(prefix="notes/", consistency="strict")
        made = await a.put("notes/1.md", "two")
        assert made.level == "strict"
        assert (await b.read("notes/1.md")).text == "two"


async def test_mistakes_are_told(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        for bad in ({}, {"key": "k", "prefix": "k"}):
            with pytest.raises(homenode.InvalidArgument):
                await a.set_policy(**bad, push="all")
        for wrong in ("3", 1.5, -1, 2**32):
            with pytest.raises(homenode.InvalidArgument, match="max_steps"):
                await a.set_policy("k", max_steps=wrong)
        with pytest.raises(homenode.InvalidArgument, match="strategy"):
            await a.set_policy("k", strategy="hasty")
        for number in range(64):
            await a.set_policy(prefix=f"{number}/", push="all")
        with pytest.raises(homenode.QuotaExceeded, match="64"):
            await a.set_policy(prefix="another/", push="all")
        await a.set_policy(prefix="5/", push="sharers")  # one that is there may change
        assert (await a.policies())["5/"] == Policy(push="sharers")
