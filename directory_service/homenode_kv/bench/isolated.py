"""Exact by mask: a model that was trained with segments apart, reused as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from homenode_kv.bench.accuracy import DENSE, NAIVE, Way, compare
from homenode_kv.bench.cases import Bases, Case
from homenode_kv.bench.exactness import off
from homenode_kv.bench.prompts import Prompt, prompts_of
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.model import ISOLATED, load_model
from homenode_kv.demo.tasks import TASKS
from homenode_kv.engine import Engine

SEEDS_FROM = 1 << 46
MODEL = "demo-302k-isolated"


@group("isolated")
def isolated(bench: Bench) -> Iterator[Row]:
    """Rows `isolated/TASK`: right answers across blocks over segments that are reused as they are."""
    engine = Engine(load_model(ISOLATED).to(bench.device))
    shape = Shape(questions=8, segment_tokens=128 if bench.quick else 512)
    count = 6 if bench.quick else 24
    for task in TASKS:
        bench.tell(f"isolated: {task}")
        prompts = prompts_of(task, range(SEEDS_FROM, SEEDS_FROM + count), shape)
        scores = compare(engine, prompts, [Way(DENSE), Way(NAIVE)])
        dense, reused = scores[Way(DENSE)], scores[Way(NAIVE)]
        row = bench.row(
            f"isolated/{task}",
            reused.accuracy(["cross"]),
            "share",
            reused.asked["cross"],
            local=reused.accuracy(["local"]),
            dense_cross=dense.accuracy(["cross"]),
            dense_local=dense.accuracy(["local"]),
            off_from_masked_forward=max(_off(engine, prompt) for prompt in prompts),
            segment_tokens=shape.segment_tokens or 0,
        )
        yield replace(row, model=MODEL)


def _off(engine: Engine, prompt: Prompt) -> float:
    """Kept KV against that of one pass over the whole prompt under the mask."""
    case = Case(engine, prompt, Bases(engine))
    lengths = [len(prompt.own), *map(len, prompt.segments)]
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visible = segment[:, None] == segment[None, :]
    whole = engine.refresh(prompt.context, case.kept, range(len(segment)), visible=visible).kv
    return off(case.kept, whole)
