"""A prompt over kept KV: dense is the model's own pass, questions do not see each other, ways differ as they should."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch

from homenode_kv.bench.accuracy import DENSE, NAIVE, Way, compare
from homenode_kv.bench.anchored import frontier, new
from homenode_kv.bench.calibrating import calls_of, gamma_of
from homenode_kv.bench.cases import Bases, Case
from homenode_kv.bench.choosing import disagreeing, scattered, whole_blocks
from homenode_kv.bench.prompts import Prompt, prompts_of
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.model import load_model
from homenode_kv.engine import Engine

SEEDS = range(1 << 55, (1 << 55) + 6)
SHAPE = Shape(segment_tokens=64)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def engine() -> Engine:
    return Engine(load_model())


def case_of(prompt: Prompt) -> Case:
    return Case(engine(), prompt, Bases(engine()))


def test_everything_afresh_is_the_models_own_pass_and_each_question_is_asked_by_itself() -> None:
    (prompt,) = prompts_of("bound", SEEDS[:1], SHAPE)
    case = case_of(prompt)
    answered = case.answer(torch.ones_like(case.blocks, dtype=torch.bool))
    assert (answered.refreshed, answered.dirty) == (1.0, 1.0)
    assert float(answered.kl.abs().max()) < 1e-6
    plain = engine().prefill(prompt.context)
    assert torch.allclose(answered.kv, plain.kv, atol=1e-4)
    logits, _ = case._logits(case.kept, torch.ones_like(case.blocks, dtype=torch.bool))
    at = 0
    for asked in prompt.asked:
        alone = engine().prefill([*asked.question, *asked.answer], plain.kv, last=0).logits
        expected = alone[len(asked.question) - 1 : -1]
        assert torch.allclose(logits[at : at + len(asked.answer)], expected, atol=1e-3)
        at += len(asked.answer)


def test_a_readers_own_text_is_exact_and_never_chosen() -> None:
    (prompt,) = prompts_of("edits", SEEDS[:1], SHAPE)
    case = case_of(prompt)
    own = len(prompt.own)
    assert torch.equal(case.kept[:, :, :own], engine().prefill(prompt.own).kv)
    assert (case.blocks[:own] == -1).all()
    assert case.blocks[own:].tolist() == [at // 32 for at in range(3 * 64)]
    assert float(case.deviation(2)[:own].max()) < 1e-5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_as_much_is_chosen_as_asked(share: float) -> None:
    blocks = torch.tensor([-1] * 3 + [0] * 32 + [1] * 32 + [2] * 16)
    off = torch.rand(len(blocks), generator=torch.Generator().manual_seed(1))
    off[40] = 2.0
    tokens = scattered(off, blocks, share)
    assert int(tokens.sum()) == -int(-share * 80 // 1) and not tokens[:3].any()
    whole = whole_blocks(off, blocks, share)
    assert set(blocks[whole].tolist()) == set(blocks[blocks >= 0].tolist()) if share == 1 else not whole[:3].any()
    if 0 < share < 0.5:
        assert tokens[40] and whole[40] and int(whole.sum()) == 32


def test_blocks_that_disagree_are_chosen_for_one_token() -> None:
    blocks = torch.tensor([-1, *[0] * 32, *[1] * 32])
    off = torch.zeros(65)
    off[0], off[50] = 9.0, 0.3
    assert disagreeing(off, blocks, 0.2).nonzero().flatten().tolist() == list(range(33, 65))
    assert not disagreeing(off, blocks, 0.3).any()


def test_the_adversarial_task_tells_ways_apart_on_the_trained_model() -> None:
    ways = [Way(DENSE), Way(NAIVE), Way("scattered", 0.2, 2), Way("scattered", 0.2, 1)]
    dense, naive, good, blind = (
        compare(engine(), prompts_of("bound", SEEDS, SHAPE), ways)[way].accuracy(["cross"]) for way in ways
    )
    assert dense >= 0.9
    assert naive <= 0.4
    assert good >= dense - 0.1
    assert blind <= 0.7  # the first check layer does not yet know what a block says of its neighbour


def test_anchors_come_from_earlier_calls_alone() -> None:
    shape = Shape(agents=2, questions=2, segment_tokens=32)
    shut, open_ = new(engine(), 0.0), new(engine(), 1.01)
    dense = frontier(engine(), "edits", SEEDS[:4], shape, [shut, open_])
    assert (shut.calls, shut.reused, shut.score.fields()["kl"]) == (8, 0, pytest.approx(0, abs=1e-6))
    assert shut.score.accuracy() == dense.accuracy()
    assert open_.reused == 8 - 2 * 2  # each agent's first two calls became the anchors
    assert open_.reused_tokens == open_.reused * 2 * 32
    found = gamma_of(engine(), calls_of("edits", SEEDS[:4], shape), 0.0)
    assert (found.samples, found.afresh, found.gamma) == ((8 - 2 * 2) * 2, 1.0, 0.0)
