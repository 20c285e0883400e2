"""One run: a directory over a memory store, agents with sessions of their own, virtual time, everything from a seed.

A step: what was told since the last one arrives; then each agent acts, in fixed order, and has its answers at once.
So agents learn of each other's commits one step later, unless they ask.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import homenode
from homenode.change import estimate_tokens
from homenode.cli.simulate.agents import Agent, Truth
from homenode.cli.simulate.edits import fresh
from homenode.cli.simulate.loop import run
from homenode.cli.simulate.paper import SIGNAL_TOKENS
from homenode.cli.simulate.wire import SteppedTransport
from homenode.cli.simulate.workload import STEP_MS, Workload
from homenode_api.patch import common_prefix

if TYPE_CHECKING:
    from homenode_directory.server import Server

URL = "homenode://simulated/main"
EPOCH_MS = 1_700_000_000_000
#: What a token costs that a provider finds in its cache of prompt prefixes, in parts of one that it does not.
CACHED_PRICE = 0.1
_TAKEN_IN_S = 0.001


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. Tokens are what entered prompts, signals included; fetches and bounds are by artifact.

    Attributes:
        broadcast, prefix, pull: tokens of the baselines: everything to everybody after each step; the same, where the
            unchanged beginning of what is sent costs CACHED_PRICE; each access by itself.
        fetches: contents shown, asked for or pushed; bounds: the most that there may be.
        shown: tokens without signals; shown_max: the most that there may be, by the sizes of versions or of changes.
        wire_bytes: of contents, both ways.
    """

    tokens: int
    broadcast: int
    prefix: float
    pull: int
    fetches: tuple[int, ...]
    bounds: tuple[int, ...]
    shown: int
    shown_max: int
    accesses: int
    hits: int
    reads: int
    stale: int
    oldest_steps: int
    conflicts: int
    signals: int
    wire_bytes: int

    @property
    def saving(self) -> float:
        """Against broadcast."""
        return 1 - self.tokens / self.broadcast

    @property
    def in_bounds(self) -> bool:
        """Whether no artifact was fetched more often than is proved."""
        return all(fetched <= bound for fetched, bound in zip(self.fetches, self.bounds, strict=True))


def simulate(workload: Workload, seed: int) -> Outcome:
    """Run it. The same seed gives the same outcome."""
    return run(_simulate(workload, seed))


def _server(workload: Workload, seed: int) -> Server:
    from homenode_directory.config import Settings
    from homenode_directory.server import build
    from homenode_directory.store.memory_store import Memory, MemoryStore

    loop, rng = asyncio.get_running_loop(), random.Random(f"{seed} ids")

    def ids() -> str:
        return f"{rng.getrandbits(64):016x}"

    memory = Memory(lambda: EPOCH_MS + int(loop.time() * 1_000), ids)
    settings = Settings(bookmark_ms=workload.bookmark_ms, metrics="off")
    store = MemoryStore(memory, slices=1)
    return build(settings, store=store, clock=lambda: loop.time() * 1_000, ids=ids, threads=0, alone=True)


async def _simulate(workload: Workload, seed: int) -> Outcome:
    from homenode_directory.api.local import LocalEndpoint

    loop = asyncio.get_running_loop()
    server = _server(workload, seed)
    await server.start()
    endpoint = LocalEndpoint(server.endpoint)

    async def connect(name: str) -> tuple[homenode.Homenode, SteppedTransport]:
        transport = SteppedTransport(endpoint)
        clock_seed = random.Random(f"{seed} {name}").getrandbits(32)
        hn = await homenode.connect(
            URL, agent=name, transport=transport, clock=lambda: int((loop.time() + 1_000) * 1e9), seed=clock_seed
        )
        transport.session_id = hn.session_id
        return hn, transport

    keys = [f"artifact-{number}" for number in range(workload.artifacts)]
    texts = random.Random(f"{seed} texts")
    truth = Truth(workload.shows)
    founder, _ = await connect("founder")
    for key in keys:
        truth.committed(await founder.put(key, fresh(texts, 4 * workload.tokens)))
        if workload.policy:
            await founder.set_policy(key, **workload.policy)
    await founder.close()
    actions = random.Random(seed)
    connected = [await connect(f"agent-{number}") for number in range(workload.agents)]
    agents = [Agent(hn, workload, truth, actions, texts) for hn, _ in connected]
    transports = [transport for _, transport in connected]
    outcome = await _steps(workload, keys, truth, agents, transports, random.Random(f"{seed} losses"))
    for hn, _ in connected:
        await hn.close()
    await server.close()
    return outcome


async def _steps(
    workload: Workload,
    keys: list[str],
    truth: Truth,
    agents: list[Agent],
    transports: list[SteppedTransport],
    losses: random.Random,
) -> Outcome:
    loop = asyncio.get_running_loop()
    baselines = _Baselines(workload.agents)
    for transport in transports:
        transport.holding, transport.signals = True, 0
    start_s = loop.time()
    for step in range(workload.steps):
        truth.step = step
        await asyncio.sleep(start_s + step * STEP_MS / 1_000 - loop.time())
        for transport in transports:
            transport.deliver(lost=workload.lost > 0 and losses.random() < workload.lost)
        await asyncio.sleep(_TAKEN_IN_S)
        if workload.pushes:
            for agent in agents:
                agent.take_pushed(keys)
        for agent in agents:
            await agent.act(keys)
        baselines.end_step([truth.texts[key] for key in keys])
    return _outcome(workload, keys, truth, agents, sum(transport.signals for transport in transports), baselines)


class _Baselines:
    """What the same run would have cost without coherence."""

    def __init__(self, agents: int) -> None:
        self._agents = agents
        self._sent = ""
        self.broadcast = 0
        self.prefix = 0.0

    def end_step(self, texts: list[str]) -> None:
        """Everything is sent to everybody, in fixed order."""
        text = "".join(texts)
        tokens = estimate_tokens(text)
        known = estimate_tokens(text[: common_prefix(self._sent, text)]) if self._sent else 0
        self.broadcast += self._agents * tokens
        self.prefix += self._agents * (tokens - known + CACHED_PRICE * known)
        self._sent = text


def _outcome(
    workload: Workload, keys: list[str], truth: Truth, agents: list[Agent], signals: int, baselines: _Baselines
) -> Outcome:
    bounds = truth.bounds(workload.agents)
    stats = [agent.hn.stats() for agent in agents]
    return Outcome(
        tokens=truth.tokens + SIGNAL_TOKENS * signals,
        broadcast=baselines.broadcast,
        prefix=baselines.prefix,
        pull=truth.pull_tokens,
        fetches=tuple(truth.fetches[key] + truth.pushes[key] for key in keys),
        bounds=tuple(bounds[key] for key in keys),
        shown=truth.tokens,
        shown_max=truth.tokens_max(workload.agents),
        accesses=truth.accesses.total(),
        hits=truth.hits,
        reads=truth.reads,
        stale=truth.stale,
        oldest_steps=truth.oldest_steps,
        conflicts=truth.conflicts,
        signals=signals,
        wire_bytes=sum(one.fetched_bytes + one.sent_bytes + one.pushed_bytes for one in stats),
    )
