"""Predict, then repair, on the trained model that comes with the package: the answers of dense, where plain reuse errs.

On random weights every approximation looks lossless; so this is asked of a model that has learnt something.
"""

from __future__ import annotations

import functools

import pytest

from homenode_kv.composer import Composer
from homenode_kv.demo.examples import Kind, Shape
from homenode_kv.demo.model import load_model
from homenode_kv.demo.tasks import TASKS, make_example
from homenode_kv.demo.tokenizer import encode
from homenode_kv.engine import Engine
from homenode_kv.ident import SegmentKey, Version
from homenode_kv.pages import Pages
from homenode_kv.parts import Part
from homenode_kv.planner import Demand, Way
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT
from homenode_kv.segments import Segments

SEEDS = range(1 << 42, (1 << 42) + 3)
SHAPE = Shape(questions=6, segment_tokens=128)


@functools.cache
def demo() -> Engine:
    return Engine(load_model())


def answered(task: str, demand: Demand) -> tuple[list[bool], float]:
    """Whether the first token of each cross-block answer is right, and the share of the segments' tokens reused."""
    right, reused, tokens = [], 0, 0
    for seed in SEEDS:
        example = make_example(task, seed, SHAPE)
        segments = Segments(Pool(Pages(demo().geometry, 64)))
        parts = [Part(tuple(encode(example.prefix)))]
        for block in example.blocks:
            text = encode(block.text)
            key = SegmentKey.of("demo", b"tenant", text, block.agent, Version(1, 1))
            segments.put(key, text, demo().prefill(text).kv, EXACT)
            parts.append(Part(tuple(text), key))
        for question in example.questions:
            if question.kind is Kind.CROSS:
                composer = Composer(demo(), segments, "demo")  # a new one, so that times of others decide nothing
                asked = [*parts, Part(tuple(encode(question.text)))]
                composed = composer.compose(asked, b"tenant", demand)
                assert Way.REUSE in composed.plan.ways or demand.exact
                right.append(int(composed.forward.logits[-1].argmax()) == encode(question.answer)[0])
                reused += composed.whole.reused
                tokens += sum(len(part.tokens) for part in parts[1:])
    return right, reused / tokens


@pytest.mark.parametrize("task", TASKS)
def test_repaired_prompts_are_answered_as_dense_ones(task: str) -> None:
    assert all(answered(task, Demand(exact=True))[0])
    right, reused = answered(task, Demand())
    assert all(right) and reused > 0.4


@pytest.mark.parametrize("task", ["bound", "sums"])
def test_without_repair_they_are_not(task: str) -> None:
    right, reused = answered(task, Demand(error_max=50.0))
    assert not all(right) and reused == 1.0
