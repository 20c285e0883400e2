"""One run: what agents do, drawn from a seed in the published order, and what came of it; in virtual time.

A step: what was told since the last one arrives; then each agent acts, in fixed order, and has its answers at once.
So agents learn of each other's commits one step later, unless they ask.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import homenode
from homenode.cli.simulate.agents import Agent, Deed, key_of
from homenode.cli.simulate.corpus import load
from homenode.cli.simulate.edits import HISTORY, fresh
from homenode.cli.simulate.loop import run
from homenode.cli.simulate.paper import ACT_PROBABILITY, SIGNAL_TOKENS
from homenode.cli.simulate.truth import Truth
from homenode.cli.simulate.wire import SteppedTransport
from homenode.cli.simulate.workload import STEP_MS, Workload
from homenode.embedded import EmbeddedTransport

if TYPE_CHECKING:
    from homenode_directory.server import Server

URL = "homenode://simulated/main"
EPOCH_MS = 1_700_000_000_000
_TAKEN_IN_S = 0.001


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. Tokens are what entered prompts, signals included; fetches and bounds are by artifact.

    Attributes:
        broadcast, prefix, pull: tokens of the baselines; see `Truth`.
        fetches: contents shown, asked for or pushed; bounds: the most that there may be.
        shown: tokens of what was new to the agent; shown_max: the most that there may be, by the sizes of versions or
            of changes.
        first: of what was shown, tokens of first looks; changed: tokens of the changed places alone.
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
    first: int
    changed: int
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


class Stage(Protocol):
    """Where agents act: in this process, or each in its own."""

    async def begin_step(self, lost: Sequence[bool]) -> list[Deed]:
        """What was told since the last step arrives at each agent, or is lost; what came with it unasked."""

    async def act(self, agent: int, key: str | None, *, writes: bool) -> Deed | None:
        """An agent's step."""

    async def totals(self) -> tuple[int, int]:
        """Signals sent, and bytes of contents on the wire, of all agents."""


async def play(workload: Workload, seed: int, truth: Truth, stage: Stage) -> Outcome:
    """All steps of a run whose artifacts are there. Raises HomenodeError."""
    actions, losses = random.Random(seed), random.Random(f"{seed} losses")
    keys = list(truth.newest)
    for _ in range(workload.steps):
        lost = [workload.lost > 0 and losses.random() < workload.lost for _ in range(workload.agents)]
        for deed in await stage.begin_step(lost):
            truth.note(deed)
        for agent in range(workload.agents):
            key, writes = None, False
            if actions.random() < ACT_PROBABILITY:
                key, writes = keys[actions.randrange(len(keys))], actions.random() < workload.volatility
            done = await stage.act(agent, key, writes=writes)
            if done is not None:
                truth.note(done)
        truth.end_step()
    signals, wire_bytes = await stage.totals()
    return Outcome(
        tokens=truth.shown + truth.repeated + SIGNAL_TOKENS * signals,
        broadcast=truth.broadcast,
        prefix=truth.prefix,
        pull=truth.pull,
        fetches=tuple(truth.fetches[key] for key in keys),
        bounds=tuple(truth.bounds()),
        shown=truth.shown,
        shown_max=truth.shown_max,
        first=truth.first,
        changed=truth.changed,
        accesses=truth.accesses,
        hits=truth.hits,
        reads=truth.reads,
        stale=truth.stale,
        oldest_steps=truth.oldest_steps,
        conflicts=truth.conflicts,
        signals=signals,
        wire_bytes=wire_bytes,
    )


async def found(hn: homenode.Homenode, workload: Workload, seed: int, keys: Sequence[str]) -> Truth:
    """Make the artifacts, under the workload's policy. Raises HomenodeError."""
    truth, texts = Truth(workload), random.Random(f"{seed} first texts")
    histories = load(workload.corpus, workload.artifacts).texts if workload.edit == HISTORY else ()
    for number, key in enumerate(keys):
        text = histories[number][0] if histories else fresh(texts, 4 * workload.tokens)
        made = await hn.put(key, text)
        assert made.version is not None
        truth.found(key, made.version, text)
        if workload.policy:
            await hn.set_policy(key, **workload.policy)
    return truth


def texts_of(seed: int, agent: int) -> random.Random:
    """What an agent writes in a run."""
    return random.Random(f"{seed} texts {agent}")


def wire_bytes(hn: homenode.Homenode) -> int:
    """Bytes of contents that came and went."""
    stats = hn.stats()
    return stats.fetched_bytes + stats.sent_bytes + stats.pushed_bytes


# --- in virtual time --------------------------------------------------------------------------------------------------


def simulate(workload: Workload, seed: int) -> Outcome:
    """Run it in virtual time. The same seed gives the same outcome."""
    return run(_simulate(workload, seed))


async def _simulate(workload: Workload, seed: int) -> Outcome:
    server = _server(workload, seed)
    await server.start()
    founder, _ = await _connect(server, seed, "founder")
    truth = await found(founder, workload, seed, [key_of("artifact", number) for number in range(workload.artifacts)])
    await founder.close()
    connected = [await _connect(server, seed, f"agent-{number}") for number in range(workload.agents)]
    agents = [Agent(hn, workload, texts_of(seed, number)) for number, (hn, _) in enumerate(connected)]
    stage = _VirtualStage(list(truth.newest), agents, [transport for _, transport in connected])
    outcome = await play(workload, seed, truth, stage)
    for hn, _ in connected:
        await hn.close()
    await server.close()
    return outcome


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


async def _connect(server: Server, seed: int, name: str) -> tuple[homenode.Homenode, SteppedTransport]:
    from homenode_directory.api.local import LocalEndpoint

    loop = asyncio.get_running_loop()
    transport = SteppedTransport(EmbeddedTransport(LocalEndpoint(server.endpoint)))
    jitter = random.Random(f"{seed} {name}").getrandbits(32)
    hn = await homenode.connect(
        URL, agent=name, transport=transport, clock=lambda: int((loop.time() + 1_000) * 1e9), seed=jitter
    )
    transport.session_id = hn.session_id
    return hn, transport


class _VirtualStage:
    """All agents in this process; time passes only between steps."""

    def __init__(self, keys: list[str], agents: list[Agent], transports: list[SteppedTransport]) -> None:
        self._keys = keys
        self._agents = agents
        self._transports = transports
        self._loop = asyncio.get_running_loop()
        self._next_s = self._loop.time()
        for transport in transports:
            transport.holding, transport.signals = True, 0

    async def begin_step(self, lost: Sequence[bool]) -> list[Deed]:
        """See `Stage`."""
        await asyncio.sleep(self._next_s - self._loop.time())
        self._next_s += STEP_MS / 1_000
        for transport, gone in zip(self._transports, lost, strict=True):
            transport.deliver(lost=gone)
        await asyncio.sleep(_TAKEN_IN_S)
        return [deed for agent in self._agents for deed in agent.take_pushed(self._keys)]

    async def act(self, agent: int, key: str | None, *, writes: bool) -> Deed | None:
        """See `Stage`."""
        return await self._agents[agent].act(key, writes=writes)

    async def totals(self) -> tuple[int, int]:
        """See `Stage`."""
        sent = sum(transport.signals for transport in self._transports)
        return sent, sum(wire_bytes(agent.hn) for agent in self._agents)
