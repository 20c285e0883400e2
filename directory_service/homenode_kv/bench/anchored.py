"""Reuse by anchors: quality against the share of calls that skip their dense prefill, over γ and over agents.

A call is one agent's prompt in a round. It is reused where the anchors of all its segments are near enough; otherwise
it is computed densely and its segments become anchors. So anchors come from earlier calls alone, and the calls that
warm them up count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from homenode_kv import planner
from homenode_kv.anchors import Anchors, Gate, Settings
from homenode_kv.bench import calibrating
from homenode_kv.bench.calibrating import (
    BYTES_MAX,
    CORPUS,
    ERROR_MAX,
    SEGMENT_TOKENS,
    Place,
    calls_of,
    gamma_of,
    places,
)
from homenode_kv.bench.cases import Bases, Case, Score
from homenode_kv.bench.choosing import disagreeing
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import TASKS
from homenode_kv.engine import Engine

SEEDS_FROM = 1 << 42
GAMMAS = (0.1, 0.3, 0.45, 0.6, 0.75, 0.9, 1.01)
"""Above 1 the gate is open as soon as there are two anchors."""
MANY_ANCHORS = 64
"""Of one a round, more than a slot gets in the default run."""
FEW_ANCHORS = (2, 5, 10)
OPEN_GAMMA = 0.9
"""Where most calls are reused, so that the number of anchors matters."""
PAPER_GAMMA = 0.3
REPAIR_ERRORS = (0.6, ERROR_MAX, 0.3)


@dataclass(eq=False)
class Reuse:
    """Anchors under one γ, and what came of the calls.

    Attributes:
        repair: blocks that deviate by more than this on the check layer are computed afresh; 0 for none.
        estimates: whether anchors correct what is reused; without, kept KV is taken as it is, in all calls.
    """

    anchors: Anchors
    repair: float = 0.0
    estimates: bool = True
    score: Score = field(default_factory=Score.new)
    calls: int = 0
    reused: int = 0
    tokens: int = 0
    reused_tokens: int = 0

    def call(self, agent: str, case: Case, real: Tensor, base: Bases) -> None:
        """One agent's prompt, whose dense KV is `real`."""
        parts = places(agent, case.prompt)
        gates = self._gates(parts, base)
        reused = gates is not None
        self.calls += 1
        self.reused += reused
        self.tokens += sum(len(segment) for _, segment, _ in parts)
        if gates is None:
            for slot, segment, at in parts:
                self.anchors.observe(slot, base(segment), real[:, :, at : at + len(segment)], at)
            self.score.add(case.prompt, case.answer(torch.ones_like(case.blocks, dtype=torch.bool)))
            return
        kept = case.kept.clone()
        for gate, (_, segment, at) in zip(gates, parts, strict=self.estimates):
            estimated = self.anchors.estimate(gate, base(segment))
            kept[:, :, at : at + len(segment)] = self.anchors.rotation.shift(estimated, at)
            self.anchors.used(gate)
        chosen = torch.zeros_like(case.blocks, dtype=torch.bool)
        if self.repair:
            chosen = disagreeing(case.deviation(planner.CHECK_LAYER, kept), case.blocks, self.repair)
        answered = case.answer(chosen, kept)
        self.reused_tokens += round(sum(len(segment) for _, segment, _ in parts) * (1 - answered.refreshed))
        self.score.add(case.prompt, answered)

    def _gates(self, parts: Sequence[Place], base: Bases) -> list[Gate] | None:
        """Of all segments, or None where one of them is too far from the anchors of its place."""
        gates = []
        for slot, segment, _ in parts if self.estimates else ():
            gate = self.anchors.gate(slot, base(segment))
            if not gate.shareable:
                return None
            gates.append(gate)
        return gates


def frontier(engine: Engine, task: str, seeds: range, shape: Shape, ways: Sequence[Reuse]) -> Score:
    """All calls in all ways; returns the score of dense ones."""
    dense = Score.new()
    base = Bases(engine)
    for agent, prompt in calls_of(task, seeds, shape):
        case = Case(engine, prompt, base)
        whole = case.answer(torch.ones_like(case.blocks, dtype=torch.bool))
        dense.add(prompt, whole)
        for way in ways:
            way.call(agent, case, whole.kv, base)
    return dense


def new(engine: Engine, gamma: float, repair: float = 0.0, anchors_max: int = 20) -> Reuse:
    """Anchors of no calls."""
    settings = Settings(gamma=gamma, anchors_max=anchors_max, bytes_max=BYTES_MAX)
    return Reuse(Anchors(engine.geometry, engine.rotation, settings), repair)


def _row(bench: Bench, name: str, way: Reuse, dense: Score, agents: int) -> Row:
    return bench.row(
        name,
        way.reused / max(1, way.calls),
        "share of calls",
        way.calls,
        tokens_reused=way.reused_tokens / max(1, way.tokens),
        accuracy=way.score.accuracy(),
        accuracy_dense=dense.accuracy(),
        gamma=way.anchors.settings.gamma,
        anchors_max=way.anchors.settings.anchors_max,
        anchor_bytes=way.anchors.bytes,
        agents=agents,
        **way.score.fields(),
    )


@group("anchors")
def gammas(bench: Bench) -> Iterator[Row]:
    """Rows `anchors/TASK/…`: the share of calls reused, with accuracy beside it, for each γ."""
    shape = Shape(agents=5, questions=4, corpus=CORPUS, segment_tokens=SEGMENT_TOKENS)
    rounds = bench.rounds or (4 if bench.quick else 1_000 if bench.full else 40)
    for task in TASKS:
        bench.tell(f"anchors: {task}")
        found = {
            f"gamma={gamma:g}": new(bench.demo, gamma)
            for gamma in ((PAPER_GAMMA, GAMMAS[-1]) if bench.quick else GAMMAS)
        }
        found[f"gamma={PAPER_GAMMA:g}/V={MANY_ANCHORS}"] = new(bench.demo, PAPER_GAMMA, anchors_max=MANY_ANCHORS)
        for most in () if bench.quick else (*FEW_ANCHORS, MANY_ANCHORS):
            found[f"gamma={OPEN_GAMMA:g}/V={most}"] = new(bench.demo, OPEN_GAMMA, anchors_max=most)
        calibration = range(calibrating.SEEDS_FROM, calibrating.SEEDS_FROM + (3 if bench.quick else calibrating.ROUNDS))
        gamma = gamma_of(bench.demo, calls_of(task, calibration, shape), ERROR_MAX).gamma
        found[f"calibrated+repair={ERROR_MAX:g}"] = new(bench.demo, gamma, ERROR_MAX)
        for error in REPAIR_ERRORS:
            found[f"always+repair={error:g}"] = new(bench.demo, GAMMAS[-1], error)
            found[f"none+repair={error:g}"] = replace(new(bench.demo, 0.0, error), estimates=False)
        dense = frontier(bench.demo, task, range(SEEDS_FROM, SEEDS_FROM + rounds), shape, list(found.values()))
        for name, way in found.items():
            yield _row(bench, f"anchors/{task}/{name}", way, dense, shape.agents)


@group("agents")
def over_agents(bench: Bench) -> Iterator[Row]:
    """Rows `agents/TASK/N`: the share of calls reused by N agents, who read what N wrote, at a wide γ."""
    rounds = 3 if bench.quick else 100 if bench.full else 20
    for task in ("bound", "retrieval") if bench.quick else TASKS:
        for agents in (2, 10) if bench.quick else (2, 4, 6, 8, 10):
            bench.tell(f"reuse against agents: {task}, {agents}")
            shape = Shape(agents=agents, questions=4, corpus=CORPUS, segment_tokens=SEGMENT_TOKENS)
            way = new(bench.demo, OPEN_GAMMA)
            dense = frontier(bench.demo, task, range(SEEDS_FROM, SEEDS_FROM + rounds), shape, [way])
            yield _row(bench, f"agents/{task}/{agents}", way, dense, agents)
