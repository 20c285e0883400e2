"""Quality against the share that is computed afresh: scattered tokens, whole blocks, predict-then-repair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from homenode_kv.bench.cases import Bases, Case, Score
from homenode_kv.bench.choosing import disagreeing, scattered, whole_blocks
from homenode_kv.bench.prompts import Prompt, prompts_of
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import TASKS
from homenode_kv.engine import Engine
from homenode_kv.planner import Settings

SEEDS_FROM = 1 << 41
"""Prompts of the bench: neither training nor the model's card has seen them."""
SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
FEW_SHARES = (0.15, 0.3)
ERRORS = (0.8, 0.6, Settings().error_max, 0.4, 0.2)
"""Among them what a worker allows unless it is told otherwise."""
FEW_ERRORS = (0.6, 0.2)
DENSE, NAIVE = "dense", "naive"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of computing a prompt: by which rule, how much, and on which layer it is decided."""

    rule: str
    amount: float = 0.0
    layer: int = 0

    @property
    def name(self) -> str:
        """For the row's id."""
        return self.rule if not self.layer else f"{self.rule}/layer={self.layer}/{self.amount:g}"


def ways_of(engine: Engine, quick: bool) -> list[Way]:
    """What is compared: on the first check layer a little, on the second, which costs more to look at, all."""
    found = [Way(DENSE), Way(NAIVE)]
    for layer in range(1, min(3, engine.geometry.layers)):
        few = quick or layer == 1
        for rule in ("scattered", "blocks"):
            found += [Way(rule, share, layer) for share in (FEW_SHARES if few else SHARES)]
        found += [Way("repair", error, layer) for error in (FEW_ERRORS if few else ERRORS)]
    return found


_RULES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "scattered": scattered,
    "blocks": whole_blocks,
    "repair": disagreeing,
}


def compare(
    engine: Engine, prompts: list[Prompt], ways: list[Way], told: Callable[[int], None] = lambda done: None
) -> dict[Way, Score]:
    """Each prompt, computed in each way."""
    scores: dict[Way, Score] = defaultdict(Score.new)
    for done, prompt in enumerate(prompts, 1):
        case = Case(engine, prompt, Bases(engine))
        off = {layer: case.deviation(layer) for layer in {way.layer for way in ways} - {0}}
        for way in ways:
            scores[way].add(prompt, case.answer(_chosen(case, way, off)))
        told(done)
    return dict(scores)


def _chosen(case: Case, way: Way, off: dict[int, Tensor]) -> Tensor:
    if way.rule in _RULES:
        return _RULES[way.rule](off[way.layer], case.blocks, way.amount)
    return torch.full_like(case.blocks, way.rule == DENSE, dtype=torch.bool)


@group("accuracy")
def accuracy(bench: Bench) -> Iterator[Row]:
    """Rows `accuracy/TASK/WAY`: the share of right answers to questions that need several blocks."""
    shape = Shape(questions=8, segment_tokens=128 if bench.quick else 512)
    count = 6 if bench.quick else 20
    ways = ways_of(bench.demo, bench.quick)
    for task in TASKS:
        bench.tell(f"accuracy: {task}")
        scores = compare(bench.demo, prompts_of(task, range(SEEDS_FROM, SEEDS_FROM + count), shape), ways)
        limits = {name: scores[Way(name)] for name in (DENSE, NAIVE)}
        for way, score in scores.items():
            yield bench.row(
                f"accuracy/{task}/{way.name}",
                score.accuracy(["cross"]),
                "share",
                score.asked["cross"],
                **{
                    f"{name}_{kind}": one.accuracy([kind])
                    for name, one in limits.items()
                    for kind in ("cross", "local")
                },
                **score.fields(),
                segment_tokens=shape.segment_tokens or 0,
            )
