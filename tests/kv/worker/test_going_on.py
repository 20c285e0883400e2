"""Who asks again after a round goes on from what the round left of it; masters hand over when they must go."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest

import homenode
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.kv.worker.parts import Caller, Text, artifact, refusal, text
from tests.support.ports import wait_until_async

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kv worker")]  # one worker for all

MEMBERS = ["anna", "ben", "cleo"]
ANY = pb.KvDemand(error_max=100.0)  # random weights: nothing is near what a prefill gives
Prompt = list[pb.PromptPart]


async def prompts(hn: homenode.Homenode, folder: str, own: bool = False) -> dict[str, Prompt]:
    """Of each member: a text of its own, two artifacts that all read, where `own` says so one that nobody else does."""
    both = [await hn.put(f"{folder}/{name}", f"In {name} stands what is to be read. " * 3) for name in "xy"]
    made = {}
    for name in MEMBERS:
        third = [await hn.put(f"{folder}/{name}", f"{name} has found {len(name)} things. " * 4)] if own else []
        made[name] = [
            text(f"I am {name}, of {folder}. "),
            *map(artifact, [both[0], *third]),
            text("Then: "),
            artifact(both[1]),
        ]
    return made


async def in_round(caller: Caller, round_id: str, asked: dict[str, Prompt], **fields: object) -> dict[str, Text]:
    await caller.stub.BeginRound(pb.BeginRoundRequest(round_id=round_id, members=list(asked), deadline_ms=20_000))
    fields = {"demand": ANY, **fields}
    calls = [
        caller.generate(*parts, text("Go on."), round_id=round_id, member=name, **fields)
        for name, parts in asked.items()
    ]
    return dict(zip(asked, await asyncio.gather(*calls), strict=True))


async def master_of(caller: Caller, round_id: str) -> str:
    report = (await caller.stub.CommitRound(pb.CommitRoundRequest(round_id=round_id))).report
    return str(report.groups[-1].master)


async def goes_on(caller: Caller, parts: Prompt, before: Text) -> None:
    """The same prompt, restored: its artifacts have the very KV of the round, so the same text comes of it."""
    again = await caller.generate(*parts, text("Go on."), demand=ANY)
    use = again.report.prompt
    artifacts = [part for part in again.report.parts if part.approximate_tokens]
    assert use.restored_tokens == use.approximate_tokens == sum(part.tokens for part in artifacts) > 0
    assert use.refreshed_tokens == 0 and again.report.provenance.kind == pb.KV_KIND_APPROXIMATE
    assert again.report.measured_error == before.report.measured_error
    assert again.tokens == before.tokens


async def test_who_asks_again_is_served_from_what_the_round_left(caller: Caller, hn: homenode.Homenode) -> None:
    asked = await prompts(hn, "again")
    before, restored = await in_round(caller, "again", asked), (await caller.stat()).restored_members
    for name, parts in asked.items():
        assert before[name].report.prompt.restored_tokens == 0
        await goes_on(caller, parts, before[name])
    assert (await caller.stat()).restored_members == restored + 3


async def test_a_round_about_other_text_looks_up_no_bases(caller: Caller, hn: homenode.Homenode) -> None:
    asked = await prompts(hn, "regroup")
    for number in range(3):
        for name, parts in asked.items():
            parts[0] = text(f"I am {name}, and was asked {number} times. ")
        written = await in_round(caller, f"regroup{number}", asked)
        report = (await caller.stub.CommitRound(pb.CommitRoundRequest(round_id=f"regroup{number}"))).report
        assert report.counts.lookups == (0 if number else 2)
        for one in written.values():
            use = one.report.prompt
            assert use.restored_tokens == (use.approximate_tokens if number else 0) and use.refreshed_tokens > 0
    for name, parts in asked.items():
        await goes_on(caller, parts, written[name])


async def test_who_allows_less_is_not_served_so(caller: Caller, hn: homenode.Homenode) -> None:
    asked = await prompts(hn, "strict")
    before = await in_round(caller, "strict", asked)
    error = before["ben"].report.measured_error
    for demand in (pb.KvDemand(exact=True), pb.KvDemand(judge=True), pb.KvDemand(error_max=error / 2)):
        again = (await caller.generate(*asked["ben"], demand=demand)).report
        if demand.HasField("error_max"):  # restored in place of bases, and repaired
            assert again.provenance.kind == pb.KV_KIND_EXACT or again.measured_error <= error / 2
        else:
            assert again.prompt.restored_tokens == 0 and again.provenance.kind == pb.KV_KIND_EXACT


async def test_the_next_round_goes_on_from_the_last(caller: Caller, hn: homenode.Homenode) -> None:
    asked = await prompts(hn, "next")
    written = await in_round(caller, "next1", asked)
    for number, round_id in enumerate(("next2", "next3")):
        news = artifact(await hn.put(f"next/news {number}", f"In {number} this and that was found. " * 2))
        for name, parts in asked.items():
            parts += [text(f"{written[name].text} And "), news]
        written = await in_round(caller, round_id, asked)
        for one in written.values():
            old, new = one.report.parts[:-2], one.report.parts[-2]
            assert [part.restored_tokens == part.tokens for part in old].count(True) == 2 + number
            assert new.restored_tokens == 0 and new.approximate_tokens + new.refreshed_tokens == new.tokens
        report = (await caller.stub.CommitRound(pb.CommitRoundRequest(round_id=round_id))).report
        assert report.counts.lookups == 1, "what was restored is neither looked up nor checked again"
    for name, parts in asked.items():
        await goes_on(caller, parts, written[name])


async def test_a_master_whose_agent_leaves_hands_over(caller: Caller, hn: homenode.Homenode) -> None:
    asked = await prompts(hn, "leaves")
    before, elections = await in_round(caller, "leaves", asked), (await caller.stat()).elections
    master = await master_of(caller, "leaves")
    for expected in (1, 2, 2):  # the last one has nobody to hand over to
        answer = await caller.stub.LeaveRound(pb.LeaveRoundRequest(round_id="leaves", member=master))
        del asked[master]
        assert answer.kept and (answer.master in asked or (not asked and not answer.master))
        assert (await caller.stat()).elections == elections + expected
        for name, parts in asked.items():
            await goes_on(caller, parts, before[name])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.stub.Materialize(pb.MaterializeRequest(round_id="leaves", member=master))
        assert refusal(caught.value).reason == t.ERROR_REASON_NOT_FOUND
        master = answer.master
    assert not (await caller.stub.LeaveRound(pb.LeaveRoundRequest(round_id="leaves", member="anna"))).kept


async def test_a_master_whose_version_dies_hands_over_to_those_that_hold(caller: Caller, hn: homenode.Homenode) -> None:
    asked = await prompts(hn, "dies", own=True)
    before = await in_round(caller, "dies", asked)
    stat, master = await caller.stat(), await master_of(caller, "dies")
    await hn.put(f"dies/{master}", f"{master} has found that it was not so", base=homenode.ANY)

    async def elected() -> bool:
        return (await caller.stat()).elections == stat.elections + 1

    await wait_until_async(elected, what="another master")
    assert (await caller.stat()).load.mirrors == stat.load.mirrors - 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.generate(*asked.pop(master), demand=ANY)
    assert refusal(caught.value).reason == t.ERROR_REASON_VERSION_CONFLICT
    for name, parts in asked.items():
        await goes_on(caller, parts, before[name])


async def test_a_member_that_leaves_is_not_waited_for(caller: Caller, hn: homenode.Homenode) -> None:
    asked = await prompts(hn, "waits")
    await caller.stub.BeginRound(pb.BeginRoundRequest(round_id="waits", members=["anna", "ben"], deadline_ms=50_000))
    waiting = asyncio.ensure_future(caller.generate(*asked["anna"], round_id="waits", member="anna", demand=ANY))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    answer = await caller.stub.LeaveRound(pb.LeaveRoundRequest(round_id="waits", member="ben"))
    assert not answer.kept
    assert (await waiting).report.round_members == 1


async def test_the_workers_own_bound_holds_in_rounds(caller: Caller, hn: homenode.Homenode) -> None:
    asked = await prompts(hn, "bound")
    loose = await in_round(caller, "bound1", asked)
    assert all(one.report.measured_error > 0.5 for one in loose.values()), "else this shows nothing"
    for name, one in (await in_round(caller, "bound2", asked, demand=pb.KvDemand())).items():
        kind = one.report.provenance.kind
        assert kind == pb.KV_KIND_EXACT or one.report.measured_error <= 0.5, name
    groups = [
        (await caller.stub.CommitRound(pb.CommitRoundRequest(round_id=round_id))).report.groups[0]
        for round_id in ("bound1", "bound2")
    ]
    assert groups[0].refreshed_blocks < groups[1].refreshed_blocks, "the group's, not each member's alone"
    bound = math.nextafter(min(one.report.measured_error for one in loose.values()), 0)
    for one in (await in_round(caller, "bound3", asked, demand=pb.KvDemand(error_max=bound))).values():
        assert one.report.measured_error <= bound
