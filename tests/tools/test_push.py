"""Content that follows its invalidation by itself, over every store."""

from __future__ import annotations

import asyncio
import os

import pytest

import homenode
from homenode import pushed
from homenode_api.patch import compress
from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.protocol.events import SetPolicy
from homenode_directory.protocol.model import Policy, Push
from homenode_directory.sinks import Invalidation
from tests.client.scripted import until
from tests.directory.world import World


def has(hn: homenode.Homenode, key: str, text: str) -> bool:
    """Whether this process may serve that text right now, without asking."""
    artifact = hn.read_cached(key)
    return artifact is not None and artifact.text == text


async def test_sharers_get_the_next_version_without_a_fetch(url: str) -> None:
    text = os.urandom(6_000).hex()
    async with (
        homenode.connect(url, agent="a") as a,
        homenode.connect(url, agent="b") as b,
        homenode.connect(url, agent="c") as c,
    ):
        await a.put("plan", text)
        await a.set_policy("plan", push="sharers")
        assert (await a.stat("plan")).policy.push == "sharers"
        await b.read("plan")
        before = b.stats()
        for n in range(3):
            await a.put("plan", f"{n}{text}")
            await until(lambda n=n: has(b, "plan", f"{n}{text}"))  # type: ignore[misc]
        after = b.stats()
        assert (after.misses, after.fetched_bytes) == (before.misses, before.fetched_bytes), "nothing was asked for"
        assert 0 < after.pushed_bytes < 1_000, "patches came, and not the whole"
        assert c.read_cached("plan") is None and c.stats().pushed_bytes == 0, "who holds nothing is sent nothing"
        assert (await a.stat("plan")).sharers == 2
        await a.put("plan", "the last")  # what was pushed is invalidated like what was read
        await until(lambda: has(b, "plan", "the last"))


async def test_push_all_reaches_every_session_of_the_workspace(url: str) -> None:
    elsewhere = url.replace("/main", "/elsewhere") if url.startswith("homenode") else ""
    async with (
        homenode.connect(url, agent="a") as a,
        homenode.connect(url, agent="b") as b,
        homenode.connect(elsewhere or url, agent="c") as c,
    ):
        await a.put("plan", "one")
        await a.set_policy("plan", push="all")
        await a.put("plan", "two")
        await until(lambda: has(b, "plan", "two"))
        assert b.stats().misses == 0
        assert (await a.stat("plan")).sharers == (2 if elsewhere else 3)
        if elsewhere:
            assert c.stats().pushed_bytes == 0
        await a.set_policy("plan", push="none")
        await a.put("plan", "three")
        await until(lambda: b.read_cached("plan") is None)
        assert (await b.read("plan")).text == "three"


async def test_what_is_too_large_for_a_frame_is_fetched(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("plan", "small")
        await a.set_policy("plan", push="all")
        assert (await b.read("plan")).text == "small"
        large = os.urandom(60_000).hex()
        await a.put("plan", large)
        await until(lambda: b.read_cached("plan") is None)
        await asyncio.sleep(0.05)
        assert b.stats().pushed_bytes == 0
        assert (await b.read("plan")).text == large


async def test_a_copy_that_is_given_up_does_not_come_back_stale(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("plan", "0")
        await a.set_policy("plan", push="sharers")
        for n in range(1, 30):
            lease = await b.lease("plan", "read")
            release = asyncio.ensure_future(lease.release())
            await a.put("plan", f"{n}")
            await release
        await a.set_policy("plan", push="none")
        await a.put("plan", "end")
        await until(lambda: b.read_cached("plan") is None)
        assert (await b.read("plan")).text == "end"


async def test_a_late_push_is_not_kept_where_something_newer_may_have_been_forgotten(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        first = await a.put("plan", "one")
        await b.read("plan")
        old = b._core.session.position
        await a.put("plan", "two")
        await until(lambda: b.read_cached("plan") is None)
        assert first.version is not None
        late = pb.Pushed(key="plan")
        late.read.version.incarnation, late.read.version.n = first.version
        late.read.as_of.incarnation, late.read.as_of.sequence = old
        late.read.content.hash, late.read.content.size = first.hash, 3
        late.read.content.snapshot = compress(b"one")
        late.read.cacheable = True
        pushed.keep(b._core, late)
        assert b.read_cached("plan") is None, "older than what is known"
        await until(lambda: b._core.session.position > old)
        del b._core.cache._lines["plan"]  # as if other artifacts had taken its place
        pushed.keep(b._core, late)
        assert b.read_cached("plan") is None, "nobody knows any more what else there was"
        late.read.as_of.sequence = b._core.session.position.sequence
        pushed.keep(b._core, late)
        assert b.read_cached("plan") is not None


async def test_the_invalidation_comes_first_even_to_those_who_held_nothing() -> None:
    server = await World().process()
    writer, bystander = await server.session(), await server.session()
    inbox = await server.attach(bystander)
    await server.commit(writer, "h1")
    await server.answer("k", SetPolicy(writer, Policy(push=Push.ALL)), server.world.new_request())
    told: list[list[str]] = []
    server.delivery.pushing = lambda audience, artifact, event, members: told.append([m.session for m in members])
    version = await server.commit(writer, "h2")
    assert told == [[bystander]]
    assert [item.version for item in inbox.of(Invalidation)] == [version]  # type: ignore[attr-defined]
    await server.close()


async def test_a_burst_of_versions_ends_with_the_last_one(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("plan", "start")
        await a.set_policy("plan", push="sharers")
        await b.read("plan")
        seen: list[int] = []

        async def look() -> None:
            while not seen or seen[-1] < 99:
                artifact = b.read_cached("plan")
                if artifact is not None and artifact.text.isdecimal():
                    seen.append(int(artifact.text))
                await asyncio.sleep(0.001)

        looking = asyncio.ensure_future(look())
        for n in range(100):
            await a.put("plan", f"{n}")
        await asyncio.wait_for(looking, 20)
        assert seen == sorted(seen), "a copy went back"


async def test_versions_that_follow_each_other_quickly_come_as_patches(url: str) -> None:
    text = os.urandom(6_000).hex()
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("plan", text)
        await a.set_policy("plan", push="sharers")
        await b.read("plan")
        for n in range(4):
            await a.put("plan", f"{n}{text}")
        await until(lambda: has(b, "plan", f"3{text}"))
        assert 0 < b.stats().pushed_bytes < 1_000 and b.stats().misses == 1


@pytest.mark.parametrize("push", ["sharers", "all"])
async def test_strict_content_comes_only_once_it_is_published(brisk_url: str, push: str) -> None:
    async with homenode.connect(brisk_url, agent="a") as a, homenode.connect(brisk_url, agent="b") as b:
        await a.put("plan", "one")
        await a.set_policy("plan", consistency="strict", push=push)
        assert (await b.read("plan")).level == (await a.read("plan")).level == "strict"
        for n in range(3):
            await a.put("plan", f"v{n}")
            assert (await b.read("plan")).text == f"v{n}", "a strict read is never old"
        await until(lambda: has(b, "plan", "v2"))
