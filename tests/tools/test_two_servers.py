"""Agents on two servers over one Redis: what one does reaches the other as if they shared a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import homenode
from tests.client.scripted import until
from tests.client.server_process import ServerProcess

pytestmark = pytest.mark.redis


@pytest.fixture
async def urls(redis_url: str, short_tmp: Path) -> AsyncIterator[tuple[str, str]]:
    """The same workspace through two servers."""
    servers = [ServerProcess(redis_url, short_tmp) for _ in range(2)]
    try:
        for server in servers:
            await server.start()
        yield servers[0].url, servers[1].url
    finally:
        for server in servers:
            server.kill()


async def test_snapshots_joint_commits_and_gates_meet(urls: tuple[str, str]) -> None:
    async with homenode.connect(urls[0], agent="a") as a, homenode.connect(urls[1], agent="b") as b:
        await a.commit_many({"x": "0", "y": "0"})

        async def write(hn: homenode.Homenode, name: str) -> int:
            done = 0
            for n in range(15):
                try:
                    await hn.commit_many({"x": f"{name}{n}", "y": f"{name}{n}"}, base=homenode.ANY)
                    done += 1
                except homenode.Contended:
                    continue
            return done

        async def look(hn: homenode.Homenode) -> None:
            for _ in range(15):
                try:
                    async with hn.snapshot(["x", "y"]) as snap:
                        assert snap["x"].text == snap["y"].text, "part of a joint commit"
                        assert snap.versions["x"].n == snap.versions["y"].n
                except homenode.Contended:
                    continue

        done = await asyncio.gather(write(a, "a"), write(b, "b"), look(a), look(b))
        assert done[0] and done[1]
        x = await a.read("x", max_age_ms=0)
        await b.gate([x])
        await b.put("x", "moved", base=homenode.ANY)
        with pytest.raises(homenode.GateClosed):
            await a.gate([x])


async def test_a_lease_is_handed_from_server_to_server(urls: tuple[str, str]) -> None:
    async with homenode.connect(urls[0], agent="planner") as a, homenode.connect(urls[1], agent="critic") as b:
        await a.put("plan", "v1")
        async with b.watch("plan") as events:
            async with a.lease("plan") as lease:
                assert (await b.stat("plan")).holder_name == "planner", "opened at the other server"
                await a.handoff(lease, to=b.session_id)  # type: ignore[arg-type]
            event = await asyncio.wait_for(anext(events), 20)
            if event.kind == "change":  # of "v1": this server may hear of it only now
                event = await asyncio.wait_for(anext(events), 20)
            assert (event.kind, event.by) == ("handoff", a.session_id)
        async with b.write("plan") as draft:
            waiting = asyncio.ensure_future(a.lease("plan", wait_ms=20_000).__aenter__())
            while (await b.stat("plan")).waiters == 0:
                await asyncio.sleep(0.01)
            draft.text += ", v2"
            await b.handoff(draft, to=a.session_id)
            lease = await asyncio.wait_for(waiting, 20)
        assert isinstance(lease, homenode.WriteLease) and lease.artifact is not None
        assert lease.artifact.text == "v1, v2"
        await lease.release()


async def test_content_is_pushed_from_server_to_server(urls: tuple[str, str]) -> None:
    async with homenode.connect(urls[0], agent="a") as a, homenode.connect(urls[1], agent="b") as b:
        await a.put("plan", "v1")
        await a.set_policy("plan", push="all")
        for n in range(2, 6):
            await a.put("plan", f"v{n}")
            await until(lambda n=n: (copy := b.read_cached("plan")) is not None and copy.text == f"v{n}")  # type: ignore[misc]
        assert b.stats().misses == 0
