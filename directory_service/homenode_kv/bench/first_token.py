"""Time to the first token of fully connected agents: dense, dense after a kept prefix, and reuse by anchors.

Agent i reads its own prefix, the input, and what agents 1 … i-1 wrote. The hit is forced: how often the gate opens, and
what that costs in quality, is in the rows `anchors/…`, of a trained model. Matching is in the time; the input's base is
computed by the first agent and is in its time; a base of an output is its writer's own and costs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from homenode_kv.anchors import Anchors, Settings, Slot
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.bench.shapes import random_engine, random_tokens
from homenode_kv.bench.timing import in_turns
from homenode_kv.engine import Engine, Forward

ANCHORS = 4
BYTES_MAX = 48 << 30


@dataclass(frozen=True, slots=True)
class Setting:
    """Tokens of a prompt's parts."""

    agents: int
    prefix: int
    input: int
    output: int
    task: int = 16


PAPER = Setting(5, 512, 1024, 512)
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


def reused(engine: Engine, agent: Agent, anchors: Anchors, first: bool) -> Forward:
    """The first token by anchors: match, estimate, place, and compute the task."""
    parts, at = [agent.prefix_kv], len(agent.prefix)
    for number, (segment, kept) in enumerate(zip(agent.segments, agent.bases, strict=True)):
        base = engine.prefill(segment).kv if first and not number else kept
        gate = anchors.gate(slot(number), base)
        parts.append(engine.rotation.shift(anchors.estimate(gate, base), at))
        at += len(segment)
    return engine.prefill(agent.task, torch.cat(parts, dim=2))


@group("first-token")
def first_token(bench: Bench) -> Iterator[Row]:
    """Rows `first-token/agent=I`: how many times sooner a forced hit is than dense."""
    cuda = bench.device.startswith("cuda")
    setting = PAPER if cuda else TINY if bench.quick else SMALL
    engine = random_engine(bench.shape, bench.device)
    repeats = 5 if cuda else 1 if bench.quick else 3
    for number in range(setting.agents):
        bench.tell(f"first token: agent {number + 1} of {setting.agents}")
        agent = agent_of(engine, number, setting)
        anchors = anchors_for(engine, agent)
        found = in_turns(
            {
                "dense": lambda a=agent: engine.prefill([*a.prefix, *a.rest]),  # type: ignore[misc]
                "prefix": lambda a=agent: engine.prefill(a.rest, a.prefix_kv),  # type: ignore[misc]
                "anchors": lambda a=agent, k=anchors, n=number: reused(engine, a, k, not n),  # type: ignore[misc]
            },
            repeats,
            bench.device,
        )
        yield bench.timed(
            f"first-token/agent={number + 1}",
            found["dense"] / found["anchors"],
            "times sooner than dense, hit forced",
            repeats,
            **{f"{name}_ms": ms for name, ms in found.items()},
            over_prefix=found["prefix"] / found["anchors"],
            prompt_tokens=len(agent.prefix) + len(agent.rest),
            anchors_per_segment=ANCHORS,
            anchor_bytes=anchors.bytes,
            cuda_graphs=0,
        )
