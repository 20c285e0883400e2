"""Time to the first token of fully connected agents: dense, dense after a kept prefix, and reuse by anchors.

Agent i reads its own prefix, the input, and what agents 1 … i-1 wrote. The hit is forced: how often the gate opens, and
what that costs in quality, is in the rows `anchors/…`, of a trained model. Matching is in the time; the input's base is
computed by the first agent and is in its time; a base of an output is its writer's own and costs nothing here.

On CUDA each way is taken twice, as ever and with the pass over the prompt, or what is left of it, as a CUDA graph; the
faster one counts. What a graph begins with (its own prefix) lies in its slots already, as in a server's pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from homenode_kv.anchors import Anchors, Settings, Slot
from homenode_kv.bench.graphs import Replayed
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.bench.shapes import random_engine, random_tokens
from homenode_kv.bench.timing import in_turns
from homenode_kv.engine import Engine

ANCHORS = 4
BYTES_MAX = 48 << 30
GRAPH = "_graph"
Ways = dict[str, Callable[[], Tensor]]
OFF_MAX = 0.05
"""Of a graph's logits: in bf16 other kernels round otherwise, and none is off by more than that."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Tokens of a prompt's parts."""

    agents: int
    prefix: int
    input: int
    output: int
    task: int = 16

    @classmethod
    def of_last(cls, tokens: int) -> Setting:
        """The paper's, with outputs so long that the last agent's prompt has about so many tokens."""
        output = (tokens - PAPER.prefix - PAPER.input - PAPER.task) // (PAPER.agents - 1)
        return cls(PAPER.agents, PAPER.prefix, PAPER.input, output)


PAPER = Setting(5, 512, 1024, 512)
LONG = (8192, 16_384, 32_768)
SMALL = Setting(5, 64, 128, 64)
TINY = Setting(2, 32, 64, 32)


@dataclass(eq=False, slots=True)
class Agent:
    """One agent's prompt, with what is kept of it."""

    prefix: tuple[int, ...]
    segments: list[tuple[int, ...]]
    task: tuple[int, ...]
    prefix_kv: Tensor
    bases: list[Tensor]

    @property
    def rest(self) -> list[int]:
        """What is after the prefix."""
        return [token for part in (*self.segments, self.task) for token in part]

    @property
    def tokens(self) -> list[int]:
        """The whole prompt."""
        return [*self.prefix, *self.rest]


def agent_of(engine: Engine, number: int, setting: Setting) -> Agent:
    """Agent `number`, from 0."""
    prefix = random_tokens(engine, setting.prefix, 100 + number)
    outputs = [random_tokens(engine, setting.output, 300 + other) for other in range(number)]
    segments = [random_tokens(engine, setting.input, 200), *outputs]
    bases = [engine.prefill(one).kv for one in segments]
    task = random_tokens(engine, setting.task, 400 + number)
    return Agent(prefix, segments, task, engine.prefill(prefix).kv, bases)


def slot(number: int) -> Slot:
    """The place of a segment."""
    return Slot("bench", "first token", str(number), "")


def anchors_for(engine: Engine, agent: Agent) -> Anchors:
    """For each segment anchors of other texts, so that the gate has to look at all of them."""
    anchors = Anchors(engine.geometry, engine.rotation, Settings(gamma=float("inf"), bytes_max=BYTES_MAX))
    for number, segment in enumerate(agent.segments):
        for other in range(ANCHORS):
            text = random_tokens(engine, len(segment), 10_000 + 100 * number + other)
            base = engine.prefill(text).kv
            real = engine.prefill(text, agent.prefix_kv).kv[:, :, len(agent.prefix) :]
            anchors.observe(slot(number), base, real, len(agent.prefix))
    return anchors


def estimates(engine: Engine, agent: Agent, anchors: Anchors, first: bool) -> Iterator[tuple[int, Tensor]]:
    """Each segment's KV by anchors, at its place: where it begins, and the KV."""
    at = len(agent.prefix)
    for number, (segment, kept) in enumerate(zip(agent.segments, agent.bases, strict=True)):
        base = engine.prefill(segment).kv if first and not number else kept
        gate = anchors.gate(slot(number), base)
        yield at, engine.rotation.shift(anchors.estimate(gate, base), at)
        at += len(segment)


def reused(engine: Engine, agent: Agent, anchors: Anchors, first: bool) -> Tensor:
    """The first token's logits by anchors: match, estimate, place, and compute the task."""
    parts = [agent.prefix_kv, *(kv for _, kv in estimates(engine, agent, anchors, first))]
    return engine.prefill(agent.task, torch.cat(parts, dim=2)).logits


def ways_of(engine: Engine, agent: Agent, anchors: Anchors, first: bool) -> Ways:
    """Each way to the first token's logits."""
    return {
        "dense": lambda: engine.prefill(agent.tokens).logits,
        "prefix": lambda: engine.prefill(agent.rest, agent.prefix_kv).logits,
        "anchors": lambda: reused(engine, agent, anchors, first),
    }


def graphs_of(
    engine: Engine, agent: Agent, anchors: Anchors, first: bool
) -> tuple[dict[str, Callable[[], Tensor]], str]:
    """The same ways with graphs, and what could not be captured, if anything."""
    prefix, rest, tokens = len(agent.prefix), agent.rest, agent.tokens
    dense, after = Replayed(engine, len(tokens)), Replayed(engine, len(rest), prefix)
    task = Replayed(engine, len(agent.task), len(tokens) - len(agent.task))
    for one in (after, task):
        one.kept[:, :, :prefix] = agent.prefix_kv

    def by_anchors() -> Tensor:
        for at, kv in estimates(engine, agent, anchors, first):
            task.kept[:, :, at : at + kv.shape[2]] = kv
        return task(agent.task)

    failures = {one.failure for one in (dense, after, task) if one.failure}
    return (
        {f"dense{GRAPH}": lambda: dense(tokens), f"prefix{GRAPH}": lambda: after(rest), f"anchors{GRAPH}": by_anchors},
        "; ".join(sorted(failures)),
    )


@group("first-token")
def first_token(bench: Bench) -> Iterator[Row]:
    """Rows `first-token/agent=I` and `first-token/tokens=T`: how many times sooner a forced hit is than dense."""
    cuda = bench.device.startswith("cuda")
    setting = PAPER if cuda else TINY if bench.quick else SMALL
    for number in range(setting.agents):
        bench.tell(f"first token: agent {number + 1} of {setting.agents}")
        yield _measured(bench, setting, number, f"first-token/agent={number + 1}")
    for tokens in LONG if cuda and not bench.quick else ():
        bench.tell(f"first token: a prompt of {tokens} tokens")
        yield _measured(bench, Setting.of_last(tokens), setting.agents - 1, f"first-token/tokens={tokens}")


def _measured(bench: Bench, setting: Setting, number: int, name: str) -> Row:
    engine, cuda = random_engine(bench.shape, bench.device), bench.device.startswith("cuda")
    agent = agent_of(engine, number, setting)
    anchors = anchors_for(engine, agent)
    ways, failure = ways_of(engine, agent, anchors, not number), "not on a CPU"
    if cuda:
        graphs, failure = graphs_of(engine, agent, anchors, not number)
        far = {way: _off(call(), ways[way.removesuffix(GRAPH)]()) for way, call in graphs.items()}
        wrong = {way: one for way, one in far.items() if not one <= OFF_MAX}
        failure = "; ".join([failure] * bool(failure) + [f"{way} is {far:.2g} off" for way, far in wrong.items()])
        ways |= {way: call for way, call in graphs.items() if way not in wrong}
    repeats = 1 if bench.quick else 5 if cuda else 3
    found = in_turns(ways, repeats, bench.device)
    best = {way: min(found[way], found.get(way + GRAPH, found[way])) for way in ("dense", "prefix", "anchors")}
    return bench.timed(
        name,
        best["dense"] / best["anchors"],
        "times sooner than dense, hit forced",
        repeats,
        **{f"{way}_ms": ms for way, ms in found.items()},
        over_prefix=best["prefix"] / best["anchors"],
        prompt_tokens=len(agent.tokens),
        anchors_per_segment=ANCHORS,
        anchor_bytes=anchors.bytes,
        cuda_graphs=failure or "yes",
    )


def _off(replayed: Tensor, plain: Tensor) -> float:
    return float((replayed.float() - plain.float()).norm() / plain.float().norm())
