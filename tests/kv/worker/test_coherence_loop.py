"""Clients commit and generate in a loop while streams are cut and held up: no dead version is used.

Two directories over one Redis, each behind a proxy that breaks connections, two workers, a lazy and a strict artifact.
Judged from what callers saw: a generation that was asked for after a strict commit was acknowledged used that version
or a later one; under lazy, none that was superseded for longer than the greatest age. One caller asks workers itself
for what it read a while ago, so that nothing but the worker's own look stands between. And the KV was that version's:
what was written is what the model writes after that version's text, computed afresh here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import homenode
from homenode import Key, Version
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.client.server_process import ServerProcess
from tests.faults.proxy import Proxy
from tests.kv.worker.parts import Caller, WorkerProcess, artifact, refusal, save_model, text

pytestmark = [pytest.mark.redis, pytest.mark.slow]

LOOP_S = 15.0
TERM_MS = 1_000
MAX_AGE_MS = 1_000
TOKENS = 4
TASK = "\nAnd now? "
LEVELS = ("lazy", "strict")


@dataclass(frozen=True)
class Committed:
    """A commit, and when it was known to be there."""

    version: Version
    acked_s: float


@dataclass(frozen=True)
class Generated:
    """A generation, and when it was asked for."""

    key: str
    version: Version
    asked_s: float
    text: str
    exact: bool
    reused: int
    worker: str


@dataclass
class Ledger:
    """What clients saw."""

    commits: dict[str, list[Committed]] = field(default_factory=dict)
    texts: dict[tuple[str, Version], str] = field(default_factory=dict)
    generated: list[Generated] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    late: int = 0

    def dead(self, one: Generated, slack_s: float) -> bool:
        """Whether a later version was acknowledged more than that before the generation was asked for."""
        return any(
            commit.version > one.version and commit.acked_s < one.asked_s - slack_s for commit in self.commits[one.key]
        )


def body(key: str, n: int) -> str:
    return f"{n * 7919 % 1000} is what {key} says in its version {n}. " + "It goes on for a while. " * 12


async def write(hn: homenode.Homenode, key: str, ledger: Ledger, until: float) -> None:
    n = 0
    while time.monotonic() < until:
        n += 1
        try:
            artifact = await hn.put(key, body(key, n), base=homenode.ANY)
        except homenode.HomenodeError as failure:
            ledger.failures[f"put {type(failure).__name__}"] += 1
        else:
            assert artifact.version is not None
            ledger.commits[key].append(Committed(artifact.version, time.monotonic()))
        await asyncio.sleep(0.6)


async def generate(hn: homenode.Homenode, ledger: Ledger, rng: random.Random, until: float) -> None:
    while time.monotonic() < until:
        key, asked_s = rng.choice(LEVELS), time.monotonic()
        try:
            async with asyncio.timeout(6):
                generation = await hn.generate("", [Key(key), TASK], max_tokens=TOKENS, on_loss="retry", stall_ms=3_000)
                await generation.done()
        except (homenode.HomenodeError, TimeoutError) as failure:
            ledger.failures[f"generate {type(failure).__name__}"] += 1
            await asyncio.sleep(0.05)
            continue
        report, version = generation.report, generation.versions[key]
        assert report is not None
        # The text is that of the version: the prompt was made of it.
        ledger.texts[key, version] = generation._prompt.parts[0].artifact.text
        exact = report.provenance.kind == "exact"
        ledger.generated.append(
            Generated(key, version, asked_s, generation.text, exact, report.prompt.reused, report.worker)
        )


async def generate_late(
    hn: homenode.Homenode, workers: list[WorkerProcess], ledger: Ledger, rng: random.Random, until: float
) -> None:
    """Asks workers themselves, for versions that were read a while ago: only their own look can refuse those."""
    callers = [Caller(worker.address) for worker in workers]
    while time.monotonic() < until:
        key, caller = rng.choice(LEVELS), rng.choice(callers)
        try:
            found = await hn.read(key)
            await asyncio.sleep(rng.uniform(0.0, 0.8))
            asked_s = time.monotonic()
            said = await caller.generate(artifact(found), text(TASK), tokens_max=TOKENS)
        except (homenode.HomenodeError, grpc.aio.AioRpcError) as failure:
            ledger.failures[f"late {refused(failure)}"] += 1
            await asyncio.sleep(0.05)
            continue
        assert found.version is not None
        ledger.texts[key, found.version] = found.text
        exact, use = said.report.provenance.kind == pb.KV_KIND_EXACT, said.report.prompt
        reused = use.exact_tokens + use.approximate_tokens
        ledger.late += 1
        ledger.generated.append(Generated(key, found.version, asked_s, said.text, exact, reused, "asked itself"))
    for caller in callers:
        await caller.close()


def refused(failure: homenode.HomenodeError | grpc.aio.AioRpcError) -> str:
    """Of a call to a worker, the reason."""
    if isinstance(failure, homenode.HomenodeError):
        return type(failure).__name__
    try:
        return t.ErrorReason.Name(refusal(failure).reason).removeprefix("ERROR_REASON_")
    except AssertionError:
        return failure.code().name


async def trouble(proxies: list[Proxy], rng: random.Random, until: float) -> None:
    """Cut, hold up and delay streams, one directory at a time."""
    while time.monotonic() < until:
        proxy = rng.choice(proxies)
        match rng.randrange(4):
            case 0:
                proxy.cut()
            case 1:
                proxy.down.open.clear()  # what the directory says does not arrive
            case 2:
                proxy.up.delay_s = proxy.down.delay_s = 0.03
            case 3:
                proxy.down.open.clear()
                proxy.up.open.clear()
        await asyncio.sleep(rng.uniform(0.2, 1.3))
        proxy.heal()
        await asyncio.sleep(rng.uniform(0.5, 1.2))


@contextlib.asynccontextmanager
async def fleet(
    redis_url: str, model: Path, folder: Path
) -> AsyncIterator[tuple[str, list[Proxy], list[WorkerProcess]]]:
    """The address of two directories through proxies, and the two workers that are there."""
    servers = [ServerProcess(redis_url, folder, term_ms=TERM_MS, max_age_ms=MAX_AGE_MS) for _ in range(2)]
    workers: list[WorkerProcess] = []
    try:
        for server in servers:
            await server.start()
        async with Proxy(servers[0].port) as first, Proxy(servers[1].port) as second:
            url = f"homenode://127.0.0.1:{first.port},127.0.0.1:{second.port}/main"
            workers = [WorkerProcess(model, url, folder, "--name", name) for name in ("w1", "w2")]
            await asyncio.gather(*(worker.start() for worker in workers))
            yield url, [first, second], workers
    finally:
        for process in (*workers, *servers):
            process.kill()


def written(model: Path, texts: list[str]) -> list[str]:
    """What the model writes after each text and the task, by plain means."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    found = []
    for one in texts:
        ids = [token for part in (one, TASK) for token in tokenizer(part, add_special_tokens=False).input_ids]
        with torch.no_grad():
            output = network.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
        new = output[0, len(ids) :].tolist()
        end = tokenizer.eos_token_id
        found.append(tokenizer.decode(new[: new.index(end)] if end in new else new))
    return found


async def test_no_dead_version_is_used_whatever_happens_to_streams(
    redis_url: str, tmp_path: Path, short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path, max_position_embeddings=1024)
    rng, ledger = random.Random(5), Ledger(commits={key: [] for key in LEVELS})
    async with fleet(redis_url, model, short_tmp) as (url, proxies, workers), contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(homenode.connect(url, agent=f"agent {n}", timeout_ms=5_000))
            for n in range(5)
        ]
        for key in LEVELS:
            await clients[0].put(key, body(key, 0), base=homenode.ABSENT)
            await clients[0].set_policy(key, consistency=key)
        until = time.monotonic() + LOOP_S
        async with asyncio.TaskGroup() as tasks:
            for key, client in zip(LEVELS, clients, strict=False):
                tasks.create_task(write(client, key, ledger, until))
            tasks.create_task(generate_late(clients[2], workers, ledger, random.Random(rng.random()), until))
            for client in clients[2:]:
                tasks.create_task(generate(client, ledger, random.Random(rng.random()), until))
            tasks.create_task(trouble(proxies, rng, until))
    done = Counter(one.key for one in ledger.generated)
    with capsys.disabled():
        commits = {key: len(commits) for key, commits in ledger.commits.items()}
        places = Counter(one.worker for one in ledger.generated)
        reused = sum(one.reused > 0 for one in ledger.generated)
        print(
            f"\ncommits {commits}, generations {dict(done)} at {dict(places)}, {reused} of them with reused KV, "
            f"cuts {sum(proxy.cuts for proxy in proxies)}, failures {dict(ledger.failures)}"
        )
    assert all(done[key] >= 5 and len(ledger.commits[key]) >= 5 for key in LEVELS)
    slack_s = {"strict": 0.0, "lazy": MAX_AGE_MS / 1_000}
    assert [one for one in ledger.generated if ledger.dead(one, slack_s[one.key])] == []
    assert ledger.late and ledger.failures["late VERSION_CONFLICT"] >= 3
    exact = rng.sample(with_kv := [one for one in ledger.generated if one.exact and one.reused], min(12, len(with_kv)))
    assert exact, "some were written over kept KV"
    expected = written(model, [ledger.texts[one.key, one.version] for one in exact])
    assert [one.text for one in exact] == expected
