"""A write lease handed to a named successor, over every store."""

from __future__ import annotations

import asyncio

import pytest

import homenode


async def test_a_lease_is_handed_to_another_process_past_the_queue(url: str) -> None:
    async with (
        homenode.connect(url, agent="planner") as a,
        homenode.connect(url, agent="critic") as b,
        homenode.connect(url, agent="other") as c,
    ):
        await a.put("plan", "v1")
        lease = await a.lease("plan")
        assert isinstance(lease, homenode.WriteLease)
        waiting = asyncio.ensure_future(c.lease("plan", wait_ms=20_000).__aenter__())
        while (await a.stat("plan")).waiters == 0:
            await asyncio.sleep(0.01)
        async with b.watch("plan") as events:
            await a.handoff(lease, to=b.session_id, agent="critic")
            event = await asyncio.wait_for(anext(events), 10)
        assert (event.kind, event.key, event.by, event.agent) == ("handoff", "plan", a.session_id, "critic")
        assert (lease.state, lease.cause) == ("I", "handed_off")
        assert (await a.stat("plan")).holder == b.session_id
        with pytest.raises(homenode.LeaseLost) as lost:
            await lease.commit("too late")
        assert lost.value.cause == "handed_off"
        with pytest.raises(homenode.LeaseDenied):
            await a.put("plan", "past it")
        async with b.write("plan") as draft:
            assert draft.lease.fence > lease.fence
            draft.text += " by critic"
        theirs = await asyncio.wait_for(waiting, 10)
        assert isinstance(theirs, homenode.WriteLease) and theirs.artifact is not None
        assert theirs.artifact.text == "v1 by critic"
        await theirs.release()


async def test_a_successor_that_waits_is_granted_at_once(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("plan", "none yet")
        async with a.write("plan") as draft:
            draft.text = "first"
            ahead = asyncio.ensure_future(a.agent("eager").lease("plan", wait_ms=20_000).__aenter__())
            while (await a.stat("plan")).waiters < 1:
                await asyncio.sleep(0.01)
            waiting = asyncio.ensure_future(b.lease("plan", wait_ms=20_000).__aenter__())
            while (await a.stat("plan")).waiters < 2:
                await asyncio.sleep(0.01)
            await a.handoff(draft, to=b.session_id)
            assert draft.committed is not None and draft.committed.text == "first"
            lease = await asyncio.wait_for(waiting, 10)
        assert isinstance(lease, homenode.WriteLease) and lease.artifact is not None
        assert lease.artifact.text == "first"
        assert not ahead.done()
        await lease.commit("second", keep=False)
        await (await asyncio.wait_for(ahead, 10)).release()


async def test_a_draft_is_handed_to_an_agent_of_the_same_connection(url: str) -> None:
    async with homenode.connect(url, agent="planner") as planner:
        critic = planner.agent("critic")
        async with planner.write("plan", create=True) as draft:
            draft.text = "draft"
            await planner.handoff(draft, to=critic)
        async with critic.write("plan") as draft:
            draft.text += ", reviewed"
        assert (await planner.read("plan")).text == "draft, reviewed"


async def test_refusals_of_a_handoff_are_typed(url: str) -> None:
    async with homenode.connect(url, agent="a") as a:
        gone = await homenode.connect(url, agent="gone")
        await gone.put("plan", "v1")
        session = gone.session_id
        await gone.close()
        async with a.lease("plan") as lease:
            assert isinstance(lease, homenode.WriteLease)
            with pytest.raises(homenode.SuccessorLost):
                await a.handoff(lease, to=session)
            assert lease.state == "M"
            for wrong in ("", "nobody", "elsewhere~abc"):
                with pytest.raises(homenode.InvalidArgument):
                    await a.handoff(lease, to=wrong)
            await lease.commit("still mine")
        with pytest.raises(homenode.LeaseLost) as lost:
            await a.handoff(lease, to=a.session_id)
        assert lost.value.cause == "released"
        async with a.lease("plan", "read") as read:
            with pytest.raises(homenode.InvalidArgument):
                await a.handoff(read, to=a.session_id)  # type: ignore[arg-type]


async def test_a_lease_that_its_successor_does_not_take_is_free_again(url: str) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("plan", "v1")
        async with a.lease("plan") as lease:
            await a.handoff(lease, to=b.session_id, ttl_ms=1_000)  # type: ignore[arg-type]
        async with a.write("plan", wait_ms=20_000) as draft:
            draft.text += "2"
        assert (await b.read("plan")).text == "v12"


def test_blocking_handoff(short_tmp: object) -> None:
    with homenode.connect_sync(f"embedded://{short_tmp}/sync.sqlite3", agent="a") as a:
        critic = a.agent("critic")
        lease = a.lease("plan", create=True)
        lease.commit("one")
        a.handoff(lease, critic)
        with critic.lease("plan") as taken:
            assert taken.version == lease.version
