"""Keys move by one rotation: a context that is shifted is what the model computes at the shifted positions."""

from __future__ import annotations

import pytest
import torch

from homenode_kv.engine import Engine
from homenode_kv.errors import UnsupportedModel, UnsupportedRope
from homenode_kv.rope import Rotation
from homenode_kv.slots import Slots
from tests.kv.models import ROPES, SHAPES, deviation, engine, model, tokens

TOKENS = 70


def computed(machine: Engine, text: list[int], shift: int) -> torch.Tensor:
    """KV of `text` with its first token at position `shift` and nothing before it, by the model."""
    slots = Slots(machine.geometry, len(text), machine.device)
    machine._pass(slots, machine._ids(text, 0), torch.arange(len(text)), len(text), plain=True, shift=shift)
    return slots.kv(len(text))


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shifted_context_is_the_context_computed_at_the_shifted_positions(shape: str, rope: str) -> None:
    machine, text = engine(shape, rope), tokens(TOKENS)
    canonical = computed(machine, text, 0)
    for shift in (1, 33, 400):
        ours, real = machine.rotation.shift(canonical, shift), computed(machine, text, shift)
        assert deviation(ours[:, 0], real[:, 0]) < 1e-5
        assert torch.equal(ours[:, 1], canonical[:, 1])
        assert deviation(canonical[:, 0], real[:, 0]) > 0.05, "the shift changes keys, or this test shows nothing"


@pytest.mark.parametrize("rope", ROPES)
def test_back_at_canonical_positions_keys_are_what_they_were(rope: str) -> None:
    machine = engine("llama", rope)
    canonical = computed(machine, tokens(TOKENS), 0)
    there = machine.rotation.shift(canonical, 117)
    assert deviation(machine.rotation.shift(there, -117), canonical) < 1e-6


def test_by_nothing_means_bit_for_bit() -> None:
    kv = torch.randn(engine().geometry.shape(9))
    for delta in (0, torch.zeros(9)):
        assert torch.equal(engine().rotation.shift(kv, delta), kv)


def test_one_turn_from_the_canonical_copy_beats_many_small_ones_in_bf16() -> None:
    kv = torch.randn(engine().geometry.shape(64))
    rotation, low = engine().rotation, kv.bfloat16()
    once, often = rotation.shift(low, 200), low
    for _ in range(20):
        often = rotation.shift(often, 10)
    real = rotation.shift(low.float(), 200)
    assert once.dtype is torch.bfloat16
    assert deviation(once[:, 0], real[:, 0]) < 3e-3 < deviation(often[:, 0], real[:, 0])


def test_a_group_is_turned_at_once_each_member_by_its_own_delta() -> None:
    group = torch.randn(3, *engine().geometry.shape(8))
    deltas = torch.tensor([0, 5, 300])
    turned = engine().rotation.shift(group, deltas[:, None, None])
    for member, delta, ours in zip(group, deltas, turned, strict=True):
        assert deviation(ours, engine().rotation.shift(member, int(delta))) < 1e-6


def test_rope_that_changes_with_the_length_is_refused() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    with pytest.raises(UnsupportedRope, match="dynamic") as refused:
        Rotation.of(model(rope_parameters=dynamic))
    assert refused.value.kind == "dynamic"


def test_a_model_without_rotary_embedding_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no rotary"):
        Rotation.of(torch.nn.Linear(2, 2))


def test_a_model_whose_keys_do_not_move_by_this_rotation_is_refused() -> None:
    other = model()
    other.model.rotary_emb.forward = lambda x, position_ids: (
        torch.ones(1, x.shape[1], 16) * position_ids[..., None].cos(),
        torch.zeros(1, x.shape[1], 16),
    )
    with pytest.raises(UnsupportedModel, match="do not move"):
        Engine(other)
