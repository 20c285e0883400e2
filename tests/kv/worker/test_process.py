"""The worker as a process: killed and started again, told of changes, heard by its directory, watched by Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import urllib.request
from pathlib import Path

import grpc
import pytest

import homenode
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_kv.calibration import FILE, Calibrated
from tests.client.server_process import ServerProcess
from tests.conftest import RedisFactory
from tests.kv.worker.parts import Caller, WorkerProcess, artifact, refusal, text

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kv worker")]  # one worker for all

#: Of the tests' model: [3 layers, 2, 32 tokens, 2 heads, 16] of float32.
BLOCK_BYTES = 3 * 2 * 32 * 2 * 16 * 4


async def test_what_is_on_disk_outlives_a_kill_and_an_end(model_folder: Path, short_tmp: Path) -> None:
    server = await ServerProcess(f"sqlite:///{short_tmp}/store.sqlite3", short_tmp).start()
    flags = ("--pool-bytes", str(12 * BLOCK_BYTES), "--disk", str(short_tmp / "kv"), "--disk-bytes", "16M")
    folder = shutil.copytree(model_folder, short_tmp / "model")
    worker = WorkerProcess(folder, server.url, short_tmp, *flags, "--name", "one")
    try:
        async with homenode.connect(server.url, agent="test") as hn:
            notes = [await hn.put(f"note{n}", f"note {n}: " + "words that fill a page. " * 9) for n in range(4)]
            await worker.start()
            caller, epoch = Caller(worker.address), worker.told["epoch"]
            assert (worker.told["gamma"], worker.told["calibrated"]) == (0.3, False)
            Calibrated(0.75, 0.5, 0.1, 0.2, 40, 30, worker.told["fingerprint"]).write(folder / FILE)
            for note in notes:
                await caller.stub.Prefill(pb.PrefillRequest(artifacts=[artifact(note).artifact]))
            stat = await caller.stat()
            assert {tier.tier: tier.bytes for tier in stat.load.tiers}[pb.KV_TIER_DISK] > 0
            worker.kill()  # what was on the device is lost
            await caller.close()
            await worker.start()
            assert worker.told["epoch"] > epoch
            assert (worker.told["gamma"], worker.told["calibrated"]) == (0.75, True)
            caller = Caller(worker.address)
            assert 0 < (await caller.stat()).entries < 4
            answers = [
                await caller.stub.Prefill(pb.PrefillRequest(artifacts=[artifact(note).artifact])) for note in notes
            ]
            computed = [answer.parts[0].computed_tokens for answer in answers]
            assert 0 in computed and any(computed)  # some came from disk, the others had to be computed
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.generate(text("a"), epoch=epoch)
            assert refusal(caught.value).reason == t.ERROR_REASON_STALE_FENCE
            await caller.close()
            assert await worker.stop() == 0  # an end in peace takes what fits to disk
            assert len(list((short_tmp / "kv").glob("*/*.kv"))) >= 4
    finally:
        worker.kill()
        server.kill()


async def test_no_dead_version_is_used_after_a_strict_acknowledgement(
    model_folder: Path, short_tmp: Path, redis_factory: RedisFactory
) -> None:
    """Writers commit in a loop while callers generate, strict and lazy; the directory stands still for a while."""
    redis = redis_factory(settings={"appendfsync": "always"})
    server = await ServerProcess(redis.url, short_tmp).start()
    worker = WorkerProcess(model_folder, server.url, short_tmp, "--waiting", "32")
    acknowledged: dict[str, int] = {}
    used: list[tuple[str, int, int]] = []  # key, version used, version acknowledged before the call began
    over = asyncio.Event()

    async def write(key: str) -> None:
        async with homenode.connect(server.url, agent=f"writer {key}") as hn:
            while not over.is_set():
                with contextlib.suppress(homenode.HomenodeError):
                    done = await hn.put(key, f"{key} {len(used)} " + "stays the same. " * 6, base=homenode.ANY)
                    assert done.version is not None
                    acknowledged[key] = max(acknowledged.get(key, 0), done.version.n)
                await asyncio.sleep(0.05)

    async def ask(caller: Caller, key: str) -> None:
        async with homenode.connect(server.url, agent=f"reader {key}") as hn:
            while not over.is_set():
                with contextlib.suppress(homenode.HomenodeError, grpc.aio.AioRpcError):
                    found = await hn.read(key)
                    before = acknowledged.get(key, 0)
                    assert found.version is not None
                    await caller.generate(artifact(found), text("?"), tokens_max=2)
                    used.append((key, found.version.n, before))
                await asyncio.sleep(0.01)

    try:
        async with homenode.connect(server.url, agent="test") as hn:
            for key in ("strict", "lazy"):
                await hn.put(key, f"{key} " + "stays the same. " * 6)
            await hn.set_policy("strict", consistency="strict")
            await worker.start()
            caller = Caller(worker.address)
            async with asyncio.TaskGroup() as tasks:
                for key in ("strict", "lazy"):
                    tasks.create_task(write(key))
                    tasks.create_task(ask(caller, key))
                    tasks.create_task(ask(caller, key))
                await asyncio.sleep(3)
                server.pause()
                await asyncio.sleep(1)
                server.go_on()
                await asyncio.sleep(3)
                over.set()
            assert {key for key, _, _ in used} == {"strict", "lazy"} and len(used) > 10
            assert max(acknowledged.values()) > 5
            dead = [one for one in used if one[1] < one[2]]
            assert not dead
            # A caller that holds on to a version that it read long ago is refused as soon as a successor is committed.
            for key in ("strict", "lazy"):
                old = await hn.read(key)
                await hn.put(key, "at last", base=homenode.ANY)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await caller.generate(artifact(old), text("?"), tokens_max=2)
                assert refusal(caught.value).reason == t.ERROR_REASON_VERSION_CONFLICT
            server.kill()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.generate(artifact(old), text("?"), tokens_max=2)
            assert refusal(caught.value).reason == t.ERROR_REASON_UNAVAILABLE
            assert (
                await caller.generate(text("Without artifacts it goes on."), tokens_max=2)
            ).report.output_tokens >= 0
            await caller.close()
    finally:
        over.set()
        worker.kill()
        server.kill()


async def test_metrics_count_what_was_done(caller: Caller, worker: WorkerProcess, hn: homenode.Homenode) -> None:
    plan = await hn.put("measured.md", "measured twice, cut once. " * 4)
    for question in ("one?", "two?"):
        await caller.generate(artifact(plan), text(question), tokens_max=3)
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.generate(text("a"), epoch=1)
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(worker.told["metrics"], timeout=10).read().decode())
    figures = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[0] != "#"}
    assert figures['homenode_kv_prompt_tokens_total{source="exact"}'] >= len(plan.text)
    assert figures['homenode_kv_prompts_total{provenance="exact"}'] >= 1
    assert figures["homenode_kv_flops_saved_total"] > 0
    assert figures['homenode_kv_pool_events_total{event="write_failures"}'] == 0
    assert figures["homenode_kv_ttft_seconds_count"] >= 2
    assert figures['homenode_kv_bytes{tier="device"}'] > 0
    assert figures['homenode_kv_calls_total{method="generate",outcome="stale_fence"}'] >= 1
    assert figures["homenode_kv_round_members_count"] >= 2
