"""Mirrors: members of a group as differences from one of them, restored bit for bit."""

from __future__ import annotations

import math

import pytest
import torch

from homenode_kv.diffs import Mirror, dirty_blocks
from homenode_kv.errors import WrongShape
from homenode_kv.layout import Geometry
from tests.kv.models import deviation, engine, tokens

GEOMETRY = Geometry(layers=3, heads=2, dim=4, dtype=torch.float32)


def kv(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(GEOMETRY.shape(count), generator=torch.Generator().manual_seed(seed)).to(dtype)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def touched(master: torch.Tensor, *places: tuple[int, int, int]) -> torch.Tensor:
    """A copy that differs at (layer, key or value, token)."""
    member = master.clone()
    for layer, part, token in places:
        member[layer, part, token, 1, 2] += 1
    return member


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(32, 32), (64, 64), (70, 70), (70, 100), (100, 70), (64, 70), (100, 32), (5, 9), (33, 1)]
)
def test_a_mirror_is_restored_bit_for_bit(ours: int, theirs: int, dtype: torch.dtype) -> None:
    master = kv(theirs, dtype=dtype)
    shared = min(ours, theirs)
    member = kv(ours, seed=1, dtype=dtype)
    member[:, :, : shared - shared // 3] = master[:, :, : shared - shared // 3]
    before = bits(master)
    assert bits(Mirror.of(member, master).restore(master)) == bits(member)
    assert bits(master) == before, "the master stays as it is"


def test_only_blocks_that_differ_are_kept_layer_by_layer() -> None:
    master = kv(96)
    member = touched(master, (0, 0, 31), (2, 1, 32), (2, 0, 95))
    assert dirty_blocks(member, master).tolist() == [[True, False, False], [False] * 3, [False, True, True]]
    mirror = Mirror.of(member, master)
    assert mirror.place.tolist() == [0, 7, 8]
    assert mirror.dirty_share == 3 / 9
    assert mirror.bytes == mirror.dense_bytes // 3 + 3 * 4


def test_an_equal_member_takes_nothing() -> None:
    mirror = Mirror.of(kv(70), kv(70))
    assert (mirror.bytes, mirror.dirty_share) == (0, 0.0)
    assert mirror.worthwhile
    assert torch.equal(mirror.restore(kv(70)), kv(70))


def test_equal_means_equal_in_every_bit() -> None:
    master = torch.zeros(GEOMETRY.shape(64))
    member = master.clone()
    member[0, 0, 0] = -0.0
    master[1, 1, 40] = member[1, 1, 40] = math.nan
    mirror = Mirror.of(member, master)
    assert mirror.place.tolist() == [0]
    assert bits(mirror.restore(master)) == bits(member)


def test_siblings_computed_densely_share_nothing_above_layer_0() -> None:
    """Which is why diffs need bytes that were reused: such a mirror is no gain, and says so."""
    machine, text = engine(), tokens(64)
    siblings = []
    for seed in (5, 6):
        before = tokens(32, seed)
        siblings.append(machine.rotation.shift(machine.prefill(before + text).kv[:, :, 32:], -32))
    mirror = Mirror.of(*siblings)
    assert dirty_blocks(*siblings)[1:].all()
    assert mirror.dirty_share >= 2 / 3
    exact = kv(64), kv(64, seed=1)
    assert not Mirror.of(*exact).worthwhile


def test_siblings_whose_blocks_were_reused_differ_where_they_were_refreshed() -> None:
    machine, text = engine(), tokens(160)
    base = machine.prefill(text).kv
    members = []
    for seed in (5, 6):
        before = tokens(32, seed)
        prompt = torch.cat([machine.prefill(before).kv, machine.rotation.shift(base, 32)], dim=2)
        chosen = range(32 + 64, 32 + 96)
        fresh = machine.refresh(before + text, prompt, chosen).kv[:, :, 96:128]
        member = base.clone()  # what is reused stays in the canonical frame, byte for byte
        member[:, :, 64:96] = machine.rotation.shift(fresh, -32)
        members.append(member)
    mirror = Mirror.of(members[1], members[0])
    assert mirror.dirty_share <= 1 / 5
    assert torch.equal(mirror.restore(members[0]), members[1])


def test_a_mirror_is_moved_to_its_position_after_it_is_restored() -> None:
    rotation = engine().rotation
    geometry = engine().geometry
    master = torch.randn(geometry.shape(64))
    member = master.clone()
    member[1, 0, 40] += 1
    mirror = Mirror.of(member, master)
    assert torch.equal(mirror.restore(master, rotation, 77), rotation.shift(member, 77))
    assert deviation(mirror.restore(master, rotation, 77), member) > 0.1


def test_a_mirror_of_another_shape_is_refused() -> None:
    with pytest.raises(WrongShape):
        Mirror.of(kv(64), kv(64)[:2])
    with pytest.raises(WrongShape):
        Mirror.of(kv(64), kv(64).half())
