"""A worker process answers as the model does, from what it keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import homenode
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.kv.worker.parts import Caller, WorkerProcess, artifact, refusal, text

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kv worker")]  # one worker for all

PLAN = "The plan: agents read, then write. " * 4


def expected(folder: Path, prompt: str, tokens: int) -> list[int]:
    """What transformers writes by itself."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
    with torch.no_grad():
        written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    new = written[0, ids.shape[1] :].tolist()
    return [token for token in new if token != tokenizer.eos_token_id]


async def test_text_is_what_transformers_writes_and_comes_in_pieces(
    caller: Caller, hn: homenode.Homenode, model_folder: Path
) -> None:
    plan = await hn.put("plan.md", PLAN)
    first = await caller.generate(artifact(plan), text("What next?"))
    assert first.tokens == expected(model_folder, PLAN + "What next?", 12)
    assert first.pieces > 1 and first.report.output_tokens == len(first.tokens)
    assert first.report.prompt.dense_tokens == first.report.prompt.tokens  # nothing was kept yet
    again = await caller.generate(artifact(plan), text("And what else?"))
    assert again.tokens == expected(model_folder, PLAN + "And what else?", 12)
    assert again.report.parts[0].exact_tokens == len(PLAN) == again.report.parts[0].tokens
    assert again.report.provenance.kind == pb.KV_KIND_EXACT
    assert again.report.flops_saved > 0 and again.report.ttft_ms > 0


async def test_what_is_drawn_follows_the_seed_and_without_temperature_nothing_is_drawn(
    caller: Caller, hn: homenode.Homenode, model_folder: Path
) -> None:
    likeliest = await caller.generate(text("Write."), tokens_max=24, temperature=0.0, seed=7)
    assert likeliest.tokens == expected(model_folder, "Write.", 24)
    drawn = [await caller.generate(text("Write."), tokens_max=24, temperature=1.0, seed=seed) for seed in range(4)]
    assert len({tuple(one.tokens) for one in drawn}) == 4  # of random weights: they are all but even
    assert likeliest.tokens not in [one.tokens for one in drawn]
    again = [await caller.generate(text("Write."), tokens_max=24, temperature=1.0, seed=seed) for seed in range(4)]
    assert [one.tokens for one in again] == [one.tokens for one in drawn]
    generation = await hn.generate("", ["Write."], max_tokens=24, temperature=1.0, seed=3)
    assert (await generation.done()).text == drawn[3].text
    cold = await caller.generate(text("Write."), tokens_max=24, temperature=0.001, seed=3)
    assert cold.tokens == likeliest.tokens


async def test_the_worker_reads_versions_that_come_without_text(caller: Caller, hn: homenode.Homenode) -> None:
    note = await hn.put("note.md", "Numbers: one, two, three. " * 3)
    told = await caller.generate(artifact(note), text("Sum?"))
    read = await caller.generate(artifact(note, with_text=False), text("Sum?"))
    assert read.tokens == told.tokens


async def test_prefill_builds_the_next_version_from_where_the_texts_part(
    caller: Caller, hn: homenode.Homenode, model_folder: Path
) -> None:
    old = await hn.put("long.md", "A line that stays as it is. " * 8)
    first = await caller.stub.Prefill(pb.PrefillRequest(artifacts=[artifact(old).artifact]))
    assert [(part.kept, part.computed_tokens == part.tokens) for part in first.parts] == [(True, True)]
    again = await caller.stub.Prefill(pb.PrefillRequest(artifacts=[artifact(old).artifact]))
    assert again.parts[0].computed_tokens == 0
    new = await hn.put("long.md", old.text + "And one that is new.")
    assert new.version is not None
    answer = await caller.stub.Prefill(pb.PrefillRequest(artifacts=[artifact(new).artifact]))
    # 0: the worker had heard of the new version, and built it already.
    assert answer.parts[0].computed_tokens in (0, len("And one that is new."))
    assert answer.parts[0].provenance.kind == pb.KV_KIND_EXACT
    written = await caller.generate(artifact(new), text("Go on."))
    assert written.tokens == expected(model_folder, new.text + "Go on.", 12)
    assert written.report.parts[0].exact_tokens == len(new.text)


async def test_the_next_version_goes_on_from_the_first_edit_in_the_middle_of_a_prompt(
    caller: Caller, hn: homenode.Homenode, model_folder: Path
) -> None:
    order, exactly = "Read this, all of it, and then answer: ", pb.KvDemand(exact=True)
    old = await hn.put("middle.md", "A line that stays as it is. " * 6)
    await caller.generate(text(order), artifact(old), text("Sum up."), demand=exactly)
    for n in range(2):
        new = await hn.put("middle.md", old.text + f"And {n} that is new.")
        written = await caller.generate(text(order), artifact(new), text("Sum up."), demand=exactly)
        assert written.tokens == expected(model_folder, order + new.text + "Sum up.", 12)
        alike = len(old.text) + len("And " if n else "")
        assert [part.exact_tokens for part in written.report.parts] == [len(order), alike, 0]
        assert written.report.parts[1].dense_tokens == len(new.text) - alike


async def test_a_superseded_version_is_refused_with_its_successor(caller: Caller, hn: homenode.Homenode) -> None:
    old = await hn.put("moving.md", "first " * 10)
    await caller.generate(artifact(old), text("?"))
    new = await hn.put("moving.md", "second " * 10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.generate(artifact(old), text("?"))
    error = refusal(caught.value)
    assert error.reason == t.ERROR_REASON_VERSION_CONFLICT
    assert (error.current.incarnation, error.current.n) == new.version
    await hn.delete("moving.md")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.generate(artifact(new), text("?"))
    assert refusal(caught.value).reason == t.ERROR_REASON_NOT_FOUND


async def test_an_output_becomes_the_base_of_the_version_that_was_committed(
    caller: Caller, hn: homenode.Homenode
) -> None:
    written = await caller.generate(text("Write a short text about agents."), keep_output=True, tokens_max=40)
    assert written.report.output_id
    answer = await hn.put("answer.md", written.text)
    assert answer.version is not None
    request = pb.AdoptOutputRequest(output_id=written.report.output_id, key="answer.md")
    request.version.incarnation, request.version.n = answer.version
    adopted = await caller.stub.AdoptOutput(request)
    # Text of random bytes need not be text: then it does not tokenise to what was written, and nothing is kept.
    assert adopted.adopted == ("\N{REPLACEMENT CHARACTER}" not in written.text)
    assert not (await caller.stub.AdoptOutput(request)).adopted  # once
    if adopted.adopted:
        kept = await caller.stub.Prefill(pb.PrefillRequest(artifacts=[artifact(answer).artifact]))
        assert kept.parts[0].computed_tokens == 0
        assert kept.parts[0].provenance.own_decode and kept.parts[0].provenance.kind == pb.KV_KIND_APPROXIMATE


async def test_what_cannot_be_served_is_refused_by_name(caller: Caller, worker: WorkerProcess) -> None:
    told = worker.told
    artifact_part = pb.ArtifactPart(key="never.md", version=t.Version(incarnation=1, n=1))
    cases = [
        (pb.GenerateRequest(model="other"), t.ERROR_REASON_NOT_FOUND),
        (pb.GenerateRequest(model="0" * 64), t.ERROR_REASON_MODEL_MISMATCH),
        (pb.GenerateRequest(epoch=told["epoch"] - 1), t.ERROR_REASON_STALE_FENCE),
        (pb.GenerateRequest(parts=[text("x" * 600)]), t.ERROR_REASON_TOO_LARGE),
        (pb.GenerateRequest(), t.ERROR_REASON_INVALID_ARGUMENT),
        (pb.GenerateRequest(parts=[pb.PromptPart()]), t.ERROR_REASON_INVALID_ARGUMENT),
        (pb.GenerateRequest(parts=[pb.PromptPart(tokens=pb.TokenIds(ids=[9_999]))]), t.ERROR_REASON_INVALID_ARGUMENT),
        (pb.GenerateRequest(parts=[pb.PromptPart(artifact=artifact_part)]), t.ERROR_REASON_NOT_FOUND),
        (pb.GenerateRequest(parts=[text("a")], temperature=-1), t.ERROR_REASON_INVALID_ARGUMENT),
    ]
    for request, reason in cases:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in caller.stub.Generate(request, timeout=30):
                pass
        assert refusal(caught.value).reason == reason, request
    fingerprint = await caller.generate(text("a"), model=told["fingerprint"], epoch=told["epoch"])
    assert fingerprint.report.worker.epoch == told["epoch"]


async def test_a_full_line_is_refused_with_a_time_and_callers_who_leave_free_it(caller: Caller) -> None:
    async def one() -> t.Error | None:
        try:
            await caller.generate(text("write long " * 10), tokens_max=300)
        except grpc.aio.AioRpcError as failure:
            return refusal(failure)
        return None

    outcomes = await asyncio.gather(*(one() for _ in range(24)))
    refused = [error for error in outcomes if error is not None]
    assert refused and {error.reason for error in refused} == {t.ERROR_REASON_OVERLOADED}
    assert all(error.retry_after_ms >= 50 for error in refused)
    calls = [caller.pieces(text("leave " * 20), tokens_max=380) for _ in range(4)]
    for call in calls:
        await call.read()  # type: ignore[attr-defined]
        break
    for call in calls:
        call.cancel()  # type: ignore[attr-defined]
    assert (await caller.generate(text("after"))).report.output_tokens >= 0
    load = (await caller.stat()).load
    assert load.queued == 0


async def test_two_hundred_mixed_calls_leak_nothing(caller: Caller, hn: homenode.Homenode) -> None:
    """Same work, again and again: what is kept settles, and so does memory in use."""
    notes = [await hn.put(f"mixed/{n}", f"note {n} says {n * n}. " * 6) for n in range(4)]
    settled = 0

    async def one(n: int) -> None:
        match n % 5:
            case 0:
                notes[n % 4] = await hn.edit(f"mixed/{n % 4}", lambda old: old[:-8] + f"{n:08d}")
            case 1:
                await caller.stub.Prefill(pb.PrefillRequest(artifacts=[artifact(notes[n % 4]).artifact]))
            case 2:
                await caller.generate(artifact(notes[n % 4]), text(f"Q{n}?"), tokens_max=4)
            case 3:
                call = caller.pieces(artifact(notes[n % 4]), text("leave"), tokens_max=50)
                await call.read()  # type: ignore[attr-defined]
                call.cancel()  # type: ignore[attr-defined]
            case _:
                await caller.generate(text(f"alone {n}"), tokens_max=4, keep_output=True)

    for n in range(200):
        await one(n)
        if n == 100:
            settled = (await caller.stat()).load.tiers[0].bytes
    async with asyncio.timeout(60):  # what a caller left ends with its next token
        while (stat := await caller.stat()).load.running or stat.load.queued:
            await asyncio.sleep(0.02)
    device = stat.load.tiers[0]
    assert settled > 0 and device.bytes <= device.bytes_max
    assert device.bytes < 3 * settled
