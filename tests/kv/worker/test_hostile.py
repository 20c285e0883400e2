"""What no SDK sends: no messages at all, names and numbers beyond bounds. All is refused by name, and nothing leaks."""

from __future__ import annotations

import contextlib

import grpc
import pytest

import homenode
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.kv.worker.parts import Caller, WorkerProcess, artifact, refusal, text
from tests.support.ports import wait_until_async

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kv worker")]  # one worker for all

GARBAGE = b"\xff\xff\xff\xff\x01garbage"


async def reason_of(call: object) -> t.Error:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call  # type: ignore[misc]
    return refusal(caught.value)


async def test_what_is_no_message_is_refused_without_a_word_of_python(worker: WorkerProcess) -> None:
    async with grpc.aio.insecure_channel(worker.address) as channel:
        path = "/homenode_api.v1.KvTierService/"
        for call in (
            channel.unary_unary(path + "Prefill")(GARBAGE, timeout=30),
            channel.unary_stream(path + "Generate")(GARBAGE, timeout=30),
        ):
            error = await reason_of(call)
            assert error.reason == t.ERROR_REASON_INVALID_ARGUMENT
            assert "is no" in error.message and "Error" not in error.message


async def test_next_to_no_temperature_is_the_likeliest_token(caller: Caller) -> None:
    likeliest = await caller.generate(text("Write."), tokens_max=4)
    for temperature in (1e-45, 1e-38, 1e-6):
        assert (await caller.generate(text("Write."), tokens_max=4, temperature=temperature)).tokens == likeliest.tokens


async def test_names_and_numbers_beyond_bounds_are_refused_before_any_work(
    caller: Caller, worker: WorkerProcess
) -> None:
    one = t.Version(incarnation=1, n=1)
    artifacts = [pb.ArtifactPart(key=f"k{n}", version=one) for n in range(101)]
    parts = [pb.PromptPart(artifact=part) for part in artifacts]
    stub = caller.stub
    for call in (
        stub.Generate(pb.GenerateRequest(parts=parts), timeout=30),
        stub.Prefill(pb.PrefillRequest(artifacts=artifacts), timeout=30),
        stub.Prefill(pb.PrefillRequest(artifacts=artifacts[:1] * 101), timeout=30),
        stub.Generate(pb.GenerateRequest(parts=[text("a")], consumer="c" * 513), timeout=30),
        stub.BeginRound(pb.BeginRoundRequest(round_id="r", members=[f"m{n}" for n in range(10_000)]), timeout=30),
        stub.BeginRound(pb.BeginRoundRequest(round_id="r", members=[""]), timeout=30),
        stub.BeginRound(pb.BeginRoundRequest(round_id="r", members=["m" * 513]), timeout=30),
        stub.BeginRound(pb.BeginRoundRequest(round_id="r", members=["m"], deadline_ms=2**32 - 1), timeout=30),
    ):
        assert (await reason_of(call)).reason == t.ERROR_REASON_INVALID_ARGUMENT
    # One token stands for ten characters at most: this text is not even tokenised.
    too_long = await reason_of(stub.Generate(pb.GenerateRequest(parts=[text("x" * (8 << 20))]), timeout=30))
    assert too_long.reason == t.ERROR_REASON_TOO_LARGE
    log = worker.log
    assert "Traceback" not in log and "internal error" not in log


async def test_as_many_rounds_as_may_be_open_is_a_refusal_with_a_time(caller: Caller) -> None:
    for number in range(65):
        begin = pb.BeginRoundRequest(round_id=f"open{number}", members=["m"], deadline_ms=2_000)
        try:
            await caller.stub.BeginRound(begin, timeout=30)
        except grpc.aio.AioRpcError as failure:
            error = refusal(failure)
            assert error.reason == t.ERROR_REASON_OVERLOADED and error.retry_after_ms > 0
            break
    else:
        raise AssertionError("there is no bound")
    for number in range(65):
        try:
            await caller.stub.CommitRound(pb.CommitRoundRequest(round_id=f"open{number}"), timeout=30)
        except grpc.aio.AioRpcError as failure:
            assert refusal(failure).reason == t.ERROR_REASON_NOT_FOUND

    async def room() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await caller.stub.BeginRound(pb.BeginRoundRequest(round_id="room", members=["m"], deadline_ms=1))
            return True
        return False

    await wait_until_async(room, timeout_s=30)  # nobody came, and for as long nobody may: other tests need the worker


async def test_an_artifact_that_is_gone_is_called_so(caller: Caller, hn: homenode.Homenode) -> None:
    found = await hn.put("vanishes.md", "soon gone")
    await hn.delete("vanishes.md")
    error = await reason_of(caller.pieces(artifact(found)))
    assert error.reason == t.ERROR_REASON_NOT_FOUND and "not there" in error.message
