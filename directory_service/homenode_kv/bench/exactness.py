"""What is exact by construction, as figures: how far it is from what the model computes itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from homenode_kv.anchors import Anchors, Settings, Slot
from homenode_kv.bench.cases import Bases, Case
from homenode_kv.bench.prompts import prompts_of
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import TASKS
from homenode_kv.diffs import Mirror

SEEDS_FROM = 1 << 44
SHIFT = 777
_SLOT = Slot("demo", "exactness", "0", "0")


def off(ours: Tensor, real: Tensor) -> float:
    """Relative deviation."""
    return float((ours.float() - real.float()).norm() / real.float().norm().clamp_min(1e-12))


@group("exactness")
def exactness(bench: Bench) -> Iterator[Row]:
    """Rows `exactness/…`: relative deviation, 0 where it is bit for bit."""
    engine, worst = bench.demo, dict[str, float]()
    shape, count = Shape(segment_tokens=128), 2 if bench.quick else 10
    prompts = [one for task in TASKS for one in prompts_of(task, range(SEEDS_FROM, SEEDS_FROM + count), shape)]
    bench.tell("exactness")
    for prompt in prompts:
        case = Case(engine, prompt, Bases(engine))
        everything = torch.ones_like(case.blocks, dtype=torch.bool)
        tokens, whole = prompt.context, engine.prefill(prompt.context).kv
        moved = torch.full((len(tokens),), SHIFT)
        shifted = engine.refresh(tokens, whole, range(len(tokens)), moved=moved).kv
        found = {
            "shift-of-a-whole-context": off(engine.rotation.shift(whole, SHIFT), shifted),
            "moved-segments-on-layer-0": off(case.kept[0], whole[0]),
            "refresh-of-everything": off(case.answer(everything).kv, whole),
            "own-anchor": _own_anchor(bench, prompt.segments[-1], whole),
            "mirror-restored": _mirror(case.kept, whole),
        }
        for name, value in found.items():
            worst[name] = max(worst.get(name, 0.0), value)
    for name, value in worst.items():
        yield bench.row(f"exactness/{name}", value, "relative deviation, worst", len(prompts))


def _own_anchor(bench: Bench, segment: tuple[int, ...], whole: Tensor) -> float:
    """The estimate of a sample by itself, with another one beside it."""
    engine = bench.demo
    anchors = Anchors(engine.geometry, engine.rotation, Settings(gamma=float("inf"), tau=1e-3))
    start = whole.shape[2] - len(segment)
    base, real = engine.prefill(segment).kv, whole[:, :, start:]
    anchors.observe(_SLOT, base, real, start)
    other = engine.prefill(segment[::-1]).kv
    anchors.observe(_SLOT, other, other, 0)
    estimated = anchors.estimate(anchors.gate(_SLOT, base), base)
    return off(engine.rotation.shift(estimated, start), real)


def _mirror(member: Tensor, master: Tensor) -> float:
    return 0.0 if torch.equal(Mirror.of(member, master).restore(master), member) else 1.0
