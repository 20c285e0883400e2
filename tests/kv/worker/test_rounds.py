"""Rounds over the wire: members are computed together, late and exact ones apart, dead versions refused."""

from __future__ import annotations

import asyncio

import grpc
import pytest

import homenode
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.kv.worker.parts import Caller, artifact, refusal, text
from tests.support.ports import wait_until_async

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kv worker")]  # one worker for all

MEMBERS = ["anna", "ben", "cleo"]
ANY = pb.KvDemand(error_max=100.0)  # random weights: nothing is near what a prefill gives


async def outputs(hn: homenode.Homenode, folder: str) -> list[homenode.Artifact]:
    return [await hn.put(f"{folder}/{name}", f"{name} found {len(name)} things. " * 4) for name in MEMBERS]


async def test_members_of_a_round_are_computed_together(caller: Caller, hn: homenode.Homenode) -> None:
    found = await outputs(hn, "together")
    shared = [artifact(one) for one in found]
    before = (await caller.stat()).load
    await caller.stub.BeginRound(pb.BeginRoundRequest(round_id="r1", members=MEMBERS, deadline_ms=20_000))
    written = await asyncio.gather(
        *(
            caller.generate(text(f"I am {name}. "), *shared, text("Go on."), round_id="r1", member=name, demand=ANY)
            for name in MEMBERS
        )
    )
    for one in written:
        use, report = one.report.prompt, one.report
        assert report.round_members == 3 and report.provenance.kind == pb.KV_KIND_APPROXIMATE
        parts = use.exact_tokens, use.approximate_tokens, use.refreshed_tokens, use.dense_tokens
        assert sum(parts) == use.tokens and use.approximate_tokens > use.refreshed_tokens > 0
        assert report.HasField("measured_error")
    committed = await caller.stub.CommitRound(pb.CommitRoundRequest(round_id="r1"))
    (group,) = committed.report.groups
    assert sorted(group.members) == MEMBERS and group.master in MEMBERS and len(group.deviation) == 3
    assert (committed.report.counts.lookups, committed.report.counts.rotations) == (3, 1)
    assert committed.report.counts.passes == 2 and 0 < group.refreshed_blocks < group.blocks
    assert 0 < group.bytes < group.dense_bytes
    load = (await caller.stat()).load
    assert (load.masters - before.masters, load.mirrors - before.mirrors) == (1, 2)
    mirror = next(name for name in MEMBERS if name != group.master)
    whole = await caller.stub.Materialize(pb.MaterializeRequest(round_id="r1", member=mirror))
    assert whole.tokens and whole.bytes
    assert (await caller.stat()).load.mirrors - before.mirrors == 1
    await hn.put("together/anna", "anna changes her mind")  # what is kept of the round is out of date

    async def gone() -> bool:
        return (await caller.stat()).load.masters == before.masters

    await wait_until_async(gone, what="the round's masters to go")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.stub.Materialize(pb.MaterializeRequest(round_id="r1", member=mirror))
    assert refusal(caught.value).reason == t.ERROR_REASON_NOT_FOUND


async def test_a_members_own_history_is_computed_once(caller: Caller, hn: homenode.Homenode) -> None:
    history = text("I am ben, and this is all that I have said and heard so far in the rounds before. ")
    counts = []
    for turn in range(2):
        note = await hn.put("history.md", f"In round {turn} anna says what she says. " * 3, base=homenode.ANY)
        await caller.stub.BeginRound(pb.BeginRoundRequest(round_id=f"own{turn}", members=["ben"]))
        one = await caller.generate(history, artifact(note), text("?"), round_id=f"own{turn}", member="ben")
        use = one.report.parts[0]
        assert use.exact_tokens + use.dense_tokens == use.tokens
        counts.append(use.exact_tokens)
    assert counts == [0, len(history.text)]


async def test_a_round_goes_without_those_who_do_not_come_and_exact_ones_go_apart(
    caller: Caller, hn: homenode.Homenode
) -> None:
    found = await outputs(hn, "without")
    parts = [text("Hello. "), artifact(found[0]), text("Go on.")]
    await caller.stub.BeginRound(pb.BeginRoundRequest(round_id="r2", members=MEMBERS, deadline_ms=30_000))
    exact = await caller.generate(*parts, round_id="r2", member="anna", demand=pb.KvDemand(exact=True))
    assert exact.report.round_members == 1 and exact.report.provenance.kind == pb.KV_KIND_EXACT
    waiting = asyncio.ensure_future(caller.generate(*parts, round_id="r2", member="ben"))
    await asyncio.sleep(0.5)
    committed = await caller.stub.CommitRound(pb.CommitRoundRequest(round_id="r2"))
    assert [list(group.members) for group in committed.report.groups] == [["ben"]]
    assert (await waiting).report.round_members == 1


async def test_at_its_deadline_a_round_goes_without_those_who_did_not_come(
    caller: Caller, hn: homenode.Homenode
) -> None:
    parts = [text("Hello. "), artifact((await outputs(hn, "deadline"))[0]), text("Go on.")]
    for deadline_ms in (50_000, 300):  # the shorter one was begun later
        begin = pb.BeginRoundRequest(round_id=f"d{deadline_ms}", members=MEMBERS[:2], deadline_ms=deadline_ms)
        await caller.stub.BeginRound(begin)
    one = await caller.generate(*parts, round_id="d300", member="anna")
    late = await caller.generate(*parts, round_id="d300", member="ben")
    assert one.report.round_members == late.report.round_members == 1
    committed = await caller.stub.CommitRound(pb.CommitRoundRequest(round_id="d300"))
    assert [list(group.members) for group in committed.report.groups] == [["anna"], ["ben"]]


async def test_a_member_with_a_dead_version_is_refused_and_the_others_go_on(
    caller: Caller, hn: homenode.Homenode
) -> None:
    found = await outputs(hn, "dead")
    await caller.stub.BeginRound(pb.BeginRoundRequest(round_id="r3", members=MEMBERS[:2], deadline_ms=20_000))
    old = asyncio.ensure_future(caller.generate(artifact(found[0]), text("?"), round_id="r3", member="anna"))
    await asyncio.sleep(0.3)
    await hn.put("dead/anna", "anna thinks again")
    good = await caller.generate(artifact(found[1]), text("?"), round_id="r3", member="ben")
    assert good.report.round_members == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await old
    assert refusal(caught.value).reason == t.ERROR_REASON_VERSION_CONFLICT


async def test_rounds_that_make_no_sense_are_refused(caller: Caller) -> None:
    begin, commit = caller.stub.BeginRound, caller.stub.CommitRound
    cases = [
        (begin(pb.BeginRoundRequest(round_id="", members=["a"])), t.ERROR_REASON_INVALID_ARGUMENT),
        (begin(pb.BeginRoundRequest(round_id="r", members=[])), t.ERROR_REASON_INVALID_ARGUMENT),
        (begin(pb.BeginRoundRequest(round_id="r", members=["a", "a"])), t.ERROR_REASON_INVALID_ARGUMENT),
        (
            begin(pb.BeginRoundRequest(round_id="r", members=["a"], deadline_ms=99_999_999)),
            t.ERROR_REASON_INVALID_ARGUMENT,
        ),
        (commit(pb.CommitRoundRequest(round_id="never")), t.ERROR_REASON_NOT_FOUND),
    ]
    for call, reason in cases:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert refusal(caught.value).reason == reason
    for fields in ({"round_id": "never", "member": "a"}, {"round_id": "never"}):
        with pytest.raises(grpc.aio.AioRpcError):
            await caller.generate(text("a"), **fields)
