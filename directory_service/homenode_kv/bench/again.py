"""Rounds about other texts that go on from each other: what is refreshed from bases, and from what was left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from homenode_kv.bench.cases import Bases, Case, Score
from homenode_kv.bench.collective import kept
from homenode_kv.bench.prompts import Prompt, of_example
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.collector import Collected, collect
from homenode_kv.composing import Private, Request, Shared
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import TASKS, make_round
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.planner import Settings

SEEDS_FROM = 1 << 46
MEMBERS = 3


@group("again")
def again(bench: Bench) -> Iterator[Row]:
    """Rows `again/TASK/round=N`: share of the blocks that a round refreshes to keep to the worker's bound.

    The first starts from bases, each other one from what the master of the one before left; members and their own
    texts are others every time.
    """
    rounds, seeds = (2, 1) if bench.quick else (4, 3)
    shape = Shape(questions=4, segment_tokens=128 if bench.quick else 512)
    for task in TASKS[:1] if bench.quick else TASKS:
        bench.tell(f"rounds that go on: {task}")
        scores, shares = [Score.new() for _ in range(rounds)], [0.0] * rounds
        for seed in range(seeds):
            members = make_round(task, SEEDS_FROM + seed, shape, rounds * MEMBERS)
            prompts = [of_example(one) for one in members]
            segments, left = kept(bench.demo, prompts[0].segments)
            for at in range(rounds):
                mine = prompts[at * MEMBERS : (at + 1) * MEMBERS]
                requests = [Request(f"{number}", (Private(one.own), *left)) for number, one in enumerate(mine)]
                bound = Settings()
                done = collect(
                    bench.demo, segments, requests, share=0, error_max=bound.error_max, refresh_max=bound.refresh_max
                )
                _answer(bench, mine, done, scores[at])
                shares[at] += sum(map(len, done.plan.refreshed)) / done.blocks / seeds
                left = _left(done, left)
        for at, share in enumerate(shares):
            answers = {key: value for key, value in scores[at].fields().items() if key not in ("refreshed", "f")}
            yield bench.row(
                f"again/{task}/round={at + 1}",
                share,
                "of the blocks afresh",
                seeds,
                start="bases" if not at else "what the round before left",
                members=MEMBERS,
                segment_tokens=shape.segment_tokens or 0,
                error_max=Settings().error_max,
                **answers,
            )


def _answer(bench: Bench, prompts: Sequence[Prompt], done: Collected, score: Score) -> None:
    for number, prompt in enumerate(prompts):
        case = Case(bench.demo, prompt, Bases(bench.demo))
        nothing = torch.zeros_like(case.blocks, dtype=torch.bool)
        score.add(prompt, case.answer(nothing, done.forwards[f"{number}"].kv))


def _left(done: Collected, shared: Sequence[Shared]) -> list[Shared]:
    """The segments as the master has them."""
    whole, starts = done.composite(done.plan.master), done.starts

    def part(one: Shared) -> Tensor:
        return whole[:, :, starts[one.key.digest] * BLOCK_TOKENS :][:, :, : len(one.tokens)]

    return [Shared(one.key, one.tokens, part(one)) for one in shared]
