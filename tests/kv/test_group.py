"""Passes of several prompts at once, against the same passes one by one."""

from __future__ import annotations

import math

import pytest
import torch

from homenode_kv.errors import InvalidTokens, WrongShape
from homenode_kv.layout import KEYS
from tests.kv.models import SHAPES, deviation, engine, tokens

CLOSE = 1e-5
PROMPTS = [tokens(75, seed=1), tokens(40, seed=2), tokens(61, seed=3)]
CHOSEN = [[3, 4, 20, 74], [39], list(range(10, 61))]


def group(kvs: list[torch.Tensor], filler: float = 0.0) -> torch.Tensor:
    """[L, 2, N, T, Hkv, d] of KVs of unequal length."""
    longest = max(kv.shape[2] for kv in kvs)
    rows = []
    for kv in kvs:
        row = torch.full((*kv.shape[:2], longest, *kv.shape[3:]), filler)
        row[:, :, : kv.shape[2]] = kv
        rows.append(row)
    return torch.stack(rows, dim=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_group_is_refreshed_as_each_alone(shape: str) -> None:
    machine = engine(shape)
    kept = [torch.randn(machine.geometry.shape(len(prompt))) for prompt in PROMPTS]
    together = group(kept, filler=5.0)
    before = together.clone()
    ours = machine.refresh_group(PROMPTS, together, CHOSEN)
    assert torch.equal(together, before), "what is given stays as it is"
    for at, (prompt, kv, chosen) in enumerate(zip(PROMPTS, kept, CHOSEN, strict=True)):
        one = ours.member(at, len(prompt))
        alone = machine.refresh(prompt, kv, chosen)
        assert one.kv.shape == alone.kv.shape
        assert deviation(one.kv, alone.kv) < CLOSE
        assert deviation(one.logits, alone.logits) < CLOSE
        others = [at for at in range(len(prompt)) if at not in chosen]
        assert torch.equal(one.kv[:, :, others], kv[:, :, others]), "what fills the rows is written nowhere"


def test_a_group_computed_whole_is_each_ones_prefill() -> None:
    machine = engine()
    nothing = torch.full((3, 2, 3, 75, 2, 16), 9.0)
    ours = machine.refresh_group(PROMPTS, nothing, [range(len(prompt)) for prompt in PROMPTS])
    for at, prompt in enumerate(PROMPTS):
        one, dense = ours.member(at, len(prompt)), machine.prefill(prompt)
        assert deviation(one.kv, dense.kv) < CLOSE
        assert deviation(one.logits, dense.logits) < CLOSE


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_deviation_compares_kept_keys_with_those_of_a_dense_prefill(shape: str, layer: int) -> None:
    """With all positions computed, the keys of any check layer are the dense ones."""
    machine = engine(shape)
    kept = [torch.randn(machine.geometry.shape(len(prompt))) for prompt in PROMPTS]
    every = [range(len(prompt)) for prompt in PROMPTS]
    off = machine.deviation(PROMPTS, group(kept), every, layer)
    for prompt, kv, ours in zip(PROMPTS, kept, off, strict=True):
        real = machine.prefill(prompt).kv[layer, KEYS].flatten(1)
        theirs = (real - kv[layer, KEYS].flatten(1)).norm(dim=1) / real.norm(dim=1)
        assert torch.allclose(ours, theirs, rtol=1e-4)


def test_what_is_right_deviates_by_nothing_and_moved_bases_deviate() -> None:
    machine, before = engine(), tokens(40, seed=5)
    text = PROMPTS[0]
    moved = machine.rotation.shift(machine.prefill(text).kv, 40)
    dense = machine.prefill(before + text).kv
    composed = torch.cat([dense[:, :, :40], moved], dim=2)
    off = machine.deviation([before + text], composed[:, :, None], [range(40, 115)])[0]
    assert off.shape == (75,)
    assert off.mean() > 1e-2
    assert machine.deviation([before + text], dense[:, :, None], [range(40, 115)])[0].max() < 1e-4


def test_a_check_computes_no_layer_above_it() -> None:
    machine, counted = engine(), []
    hooks = [
        layer.register_forward_hook(lambda *_, at=at: counted.append(at))
        for at, layer in enumerate(machine._model.model.layers)
    ]
    machine.deviation(PROMPTS[:1], torch.zeros(3, 2, 1, 75, 2, 16), [range(75)])
    for hook in hooks:
        hook.remove()
    assert counted == [0]


def test_memory_that_nobody_wrote_is_never_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are not cleared. What is no number, masked or not, would spread."""
    real = torch.empty

    def poisoned(*size: object, **more: object) -> torch.Tensor:
        made = real(*size, **more)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)
    machine = engine()
    kept = [torch.randn(machine.geometry.shape(len(prompt))) for prompt in PROMPTS]
    ours = machine.refresh_group(PROMPTS, group(kept), CHOSEN)
    for at, prompt in enumerate(PROMPTS):
        one = ours.member(at, len(prompt))
        assert one.kv.isfinite().all() and one.logits.isfinite().all()
    assert all(row.isfinite().all() for row in machine.deviation(PROMPTS, group(kept), CHOSEN))
    past = machine.prefill(PROMPTS[0][:40])
    whole = machine.prefill(PROMPTS[0][40:], past.kv)
    written = machine.decode(whole, 5)
    assert past.kv.isfinite().all() and whole.kv.isfinite().all() and written.kv.isfinite().all()
    assert machine.refresh(PROMPTS[0], kept[0], CHOSEN[0]).kv.isfinite().all()


def test_groups_that_do_not_fit_are_refused() -> None:
    machine, kv = engine(), torch.zeros(3, 2, 3, 75, 2, 16)
    with pytest.raises(WrongShape, match="last position"):
        machine.refresh_group(PROMPTS, kv, [[3], [39], [60]])
    with pytest.raises(WrongShape, match="rise"):
        machine.refresh_group(PROMPTS, kv, [[74], [40], [60]])
    with pytest.raises(WrongShape):
        machine.refresh_group(PROMPTS, kv[:, :, :2], CHOSEN)
    with pytest.raises(WrongShape):
        machine.deviation(PROMPTS, kv, CHOSEN, layer=0)
    with pytest.raises(InvalidTokens):
        machine.refresh_group([[1, 2], []], torch.zeros(3, 2, 2, 2, 2, 16), [[1], [0]])
