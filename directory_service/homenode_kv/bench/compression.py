"""Siblings of a round stored as differences: both ratios, with f and the accuracy of the very same run."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from homenode_kv.bench.cases import Bases, Case, Score
from homenode_kv.bench.collective import kept
from homenode_kv.bench.prompts import of_example
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.collector import collect
from homenode_kv.composing import Private, Request
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import TASKS, make_round
from homenode_kv.diffs import Ratios
from homenode_kv.families import Families
from homenode_kv.layout import blocks_of
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.sheets import sheet_geometry

SEEDS_FROM = 1 << 45
SHARES = (0.05, 0.1, 0.15, 0.3)


@group("compression")
def ratios(bench: Bench) -> Iterator[Row]:
    """Rows `compression/TASK/share=S`: dense bytes over bytes of a mirror, private history left out."""
    members, rounds = (3, 1) if bench.quick else (10, 2)
    shape = Shape(questions=4, segment_tokens=128 if bench.quick else 512)
    for task in TASKS[:1] if bench.quick else TASKS:
        bench.tell(f"compression: {task}")
        shares = SHARES[1:3] if bench.quick else SHARES
        found: dict[float, list[tuple[Ratios, Score]]] = {share: [] for share in shares}
        for seed in range(rounds):
            prompts = [of_example(one) for one in make_round(task, SEEDS_FROM + seed, shape, members)]
            cases = [Case(bench.demo, prompt, Bases(bench.demo)) for prompt in prompts]
            for share in shares:
                found[share].append(_round(bench, cases, share))
        for share, each in found.items():
            yield _row(bench, f"compression/{task}/share={share:g}", each, members, shape.segment_tokens or 0)


def _round(bench: Bench, cases: list[Case], share: float) -> tuple[Ratios, Score]:
    """One call for all members: their composites as a family, and what they then answer."""
    segments, shared = kept(bench.demo, cases[0].prompt.segments)
    requests = [Request(f"{at}", (Private(case.prompt.own), *shared)) for at, case in enumerate(cases)]
    done = collect(bench.demo, segments, requests, share=share, chosen_by="union")
    score = Score.new()
    for request, case in zip(requests, cases, strict=True):
        nothing = torch.zeros_like(case.blocks, dtype=torch.bool)
        score.add(case.prompt, case.answer(nothing, done.forwards[request.member].kv))
    composites = {request.member: done.composite(request.member) for request in requests}
    geometry, blocks = bench.demo.geometry, len(requests) * blocks_of(next(iter(composites.values())).shape[2])
    sheets = Pool(Pages(sheet_geometry(geometry), geometry.layers * blocks))
    families = Families(Pool(Pages(geometry, blocks)), sheets, share_max=1.0)
    return families.put("round", composites, done.plan.deviation), score


def _row(bench: Bench, name: str, found: list[tuple[Ratios, Score]], members: int, tokens: int) -> Row:
    score = Score.new()
    for _, each in found:
        score.merge(each)
    mean = {
        name: sum(getattr(one, name) for one, _ in found) / len(found)
        for name in ("per_mirror", "per_group", "dirty_share")
    }
    answers = {key: value for key, value in score.fields().items() if key not in ("refreshed", "f")}
    return bench.row(
        name,
        mean["per_mirror"],
        "times, per mirror",
        len(found),
        per_group=mean["per_group"],
        f=mean["dirty_share"],
        members=members,
        segment_tokens=tokens,
        **answers,
    )
