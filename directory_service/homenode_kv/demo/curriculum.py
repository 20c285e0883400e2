"""What each step of the training sees: short prompts, then far distances and many agents, then some long prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from homenode_kv.demo.examples import MOST_AGENTS, MOST_FACTS, Example, Question, Shape
from homenode_kv.demo.tasks import TASKS, make_example

ROWS = 32
FAR = 6000

_FAR_FROM = 0.4
_MANY_FROM = 0.5
_MANY_SHARE = 0.2
_LONG_FROM = 0.7
_LONG_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Drawn:
    """The prompts of a step, each with the questions it is asked, and how far positions may jump."""

    rows: list[tuple[Example, Sequence[Question]]]
    most_skipped: int


def rows_of_step(rng: random.Random, progress: float) -> Drawn:
    """The prompts of a step at this share of the training (0.0 to 1.0). All of a step have the same shape."""
    if progress < _FAR_FROM:
        return Drawn(_rows(rng, Shape(rng.randint(2, 4), rng.randint(1, 3), questions=None, filler=2), ROWS), 0)
    kind = rng.random()
    if progress >= _LONG_FROM and kind < _LONG_SHARE:
        tokens = rng.choice((128, 256, 512))
        shape = Shape(rng.randint(2, 4), rng.randint(2, MOST_FACTS), questions=None, segment_tokens=tokens)
        return Drawn(_rows(rng, shape, 2048 // tokens), 0)
    if progress >= _MANY_FROM and kind < _LONG_SHARE + _MANY_SHARE:
        shape = Shape(rng.randint(5, MOST_AGENTS), rng.randint(1, 4), questions=None, filler=4)
        return Drawn(_rows(rng, shape, ROWS // 4), _far(rng))
    shape = Shape(rng.randint(2, 4), rng.randint(1, 5), questions=None, filler=rng.choice((0, 2, 6)))
    return Drawn(_rows(rng, shape, ROWS), _far(rng))


def _far(rng: random.Random) -> int:
    return FAR if rng.random() < 0.5 else 0


def _rows(rng: random.Random, shape: Shape, count: int) -> list[tuple[Example, Sequence[Question]]]:
    made = [make_example(TASKS[at % len(TASKS)], rng.getrandbits(62), shape) for at in range(max(count, len(TASKS)))]
    return [(example, example.questions) for example in made]
