"""Passes over kept KV against the model's own forward pass (kv-tier: rows of exactness)."""

from __future__ import annotations

import pytest
import torch

from homenode_kv.engine import Engine
from homenode_kv.errors import InvalidTokens, PromptTooLong, UnsupportedModel, WrongShape
from tests.kv.models import ROPES, SHAPES, VOCABULARY, deviation, engine, model, tokens

TEXT = tokens(75)
CLOSE = 1e-5


def forward(machine: Engine, text: list[int], **more: object) -> torch.Tensor:
    """Logits [T, vocabulary] of the model alone."""
    with torch.no_grad():
        return machine._model(input_ids=torch.tensor([text]), **more).logits[0]


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_plain_prefill_is_the_forward_pass_bit_for_bit(shape: str, rope: str) -> None:
    machine = engine(shape, rope)
    with torch.no_grad():
        real = machine._model(input_ids=torch.tensor([TEXT]), use_cache=True)
    ours = machine.prefill(TEXT, last=0)
    assert torch.equal(ours.logits, real.logits[0])
    for layer, kept in zip(ours.kv, real.past_key_values.layers, strict=True):
        assert torch.equal(layer[0].transpose(0, 1), kept.keys[0])
        assert torch.equal(layer[1].transpose(0, 1), kept.values[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prefill_over_given_kv_continues_it(shape: str) -> None:
    machine = engine(shape)
    dense = machine.prefill(TEXT, last=0)
    for cut in (1, 32, 74):
        part = machine.prefill(TEXT[cut:], machine.prefill(TEXT[:cut]).kv, last=0)
        assert deviation(part.kv, dense.kv) < CLOSE
        assert deviation(part.logits, dense.logits[cut:]) < CLOSE
        assert torch.equal(part.kv[:, :, :cut], machine.prefill(TEXT[:cut]).kv), "what was given stays"


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_refreshing_everything_is_dense_whatever_was_kept(shape: str, rope: str) -> None:
    machine = engine(shape, rope)
    dense = machine.prefill(TEXT, last=0)
    fresh = machine.refresh(TEXT, torch.full_like(dense.kv, 7.0), range(len(TEXT)), last=0)
    assert deviation(fresh.kv, dense.kv) < CLOSE
    assert deviation(fresh.logits, dense.logits) < CLOSE


def test_a_refresh_changes_the_chosen_positions_only_and_repairs_them() -> None:
    machine = engine()
    dense = machine.prefill(TEXT)
    broken = dense.kv.clone()
    chosen = [5, 6, 40, 74]
    broken[:, :, chosen] = 3.0
    before = broken.clone()
    ours = machine.refresh(TEXT, broken, chosen)
    assert torch.equal(broken, before), "what is given stays as it is"
    others = [at for at in range(len(TEXT)) if at not in chosen]
    assert torch.equal(ours.kv[:, :, others], dense.kv[:, :, others])
    assert deviation(ours.kv, dense.kv) < CLOSE, "what they look at was right, so they come out right"
    assert deviation(ours.logits, dense.logits) < CLOSE


def test_layer_0_does_not_depend_on_the_context() -> None:
    """So a moved segment is exact there: fresh keys and kept keys can be compared from layer 1 on."""
    machine, before = engine(), tokens(40, seed=5)
    alone, within = machine.prefill(TEXT).kv, machine.prefill(before + TEXT).kv[:, :, 40:]
    moved = machine.rotation.shift(alone, 40)
    assert deviation(moved[0], within[0]) < CLOSE
    assert deviation(moved[1], within[1]) > 1e-2


def test_isolated_segments_are_exact_by_mask() -> None:
    """Each segment's KV, computed alone and moved, is what the masked forward pass computes."""
    machine = engine()
    segments = [tokens(20, seed=2), tokens(30, seed=3)]
    text = segments[0] + segments[1] + TEXT[:8]
    which = torch.tensor([0] * 20 + [1] * 30 + [2] * 8)
    visible = (which[:, None] == which[None]) | (which[:, None] == 2)
    causal = torch.ones(len(text), len(text)).tril().bool()
    mask = torch.zeros(len(text), len(text)).masked_fill(~(visible & causal), torch.finfo(torch.float32).min)
    real = forward(machine, text, attention_mask=mask[None, None])

    parts = [machine.prefill(segment).kv for segment in segments]
    composed = torch.cat([parts[0], machine.rotation.shift(parts[1], 20)], dim=2)
    question = machine.prefill(TEXT[:8], composed, last=0)
    assert deviation(question.logits, real[50:]) < CLOSE

    every = machine.refresh(
        text, torch.zeros(machine.geometry.shape(len(text))), range(len(text)), last=0, visible=visible
    )
    assert deviation(every.logits, real) < CLOSE


@pytest.mark.parametrize("shape", SHAPES)
def test_a_greedy_decode_is_that_of_repeated_forward_passes(shape: str) -> None:
    machine = engine(shape)
    text, told = list(TEXT[:20]), []
    for _ in range(12):
        text.append(int(forward(machine, text)[-1].argmax()))
    ours = machine.decode(machine.prefill(TEXT[:20]), 12, told=told.append)
    assert list(ours.tokens) == told == text[20:]
    assert ours.start == 20
    assert deviation(ours.kv, machine.prefill(text).kv) < CLOSE, "the KV of what was written is the producer's own"


def test_a_decode_ends_at_its_end_token() -> None:
    prompt = engine().prefill(TEXT[:20])
    written = engine().decode(prompt, 12).tokens
    stopped = engine().decode(prompt, 12, end=[written[4]])
    assert stopped.tokens == written[: written.index(written[4])]
    assert stopped.kv.shape[2] == 20 + len(stopped.tokens)
    assert engine().decode(prompt, 0).tokens == ()


def test_bf16_prefills_over_given_kv_are_close() -> None:
    machine = Engine(model(dtype=torch.bfloat16))
    dense = machine.prefill(TEXT)
    part = machine.prefill(TEXT[32:], machine.prefill(TEXT[:32]).kv)
    assert part.kv.dtype is torch.bfloat16
    assert deviation(part.kv, dense.kv) < 0.02


def test_a_prompt_beyond_the_positions_or_the_window_is_refused() -> None:
    with pytest.raises(PromptTooLong) as refused:
        engine().prefill([5] * 513)
    assert (refused.value.tokens, refused.value.tokens_max) == (513, 512)
    windowed = Engine(model("mistral", sliding_window=40))
    assert windowed.tokens_max == 40
    with pytest.raises(PromptTooLong):
        windowed.prefill([5] * 30, windowed.prefill([5] * 11).kv)
    with pytest.raises(PromptTooLong):
        windowed.decode(windowed.prefill([5] * 30), 11)
    real = forward(windowed, TEXT[:40])
    assert torch.equal(windowed.prefill(TEXT[:40], last=0).logits, real), "within the window attention is full"


@pytest.mark.parametrize("bad", [[], [-1], [VOCABULARY]])
def test_token_ids_that_the_model_does_not_have_are_refused(bad: list[int]) -> None:
    with pytest.raises(InvalidTokens):
        engine().prefill(bad)


@pytest.mark.parametrize("positions", [[], [3, 3], [4, 2], [-1, 2], [75]])
def test_positions_to_refresh_rise_within_the_prompt(positions: list[int]) -> None:
    kv = engine().prefill(TEXT).kv
    with pytest.raises(WrongShape):
        engine().refresh(TEXT, kv, positions)


def test_kv_or_a_mask_of_another_shape_is_refused() -> None:
    kv = engine().prefill(TEXT).kv
    with pytest.raises(WrongShape):
        engine().refresh(TEXT, kv, [3, 4], visible=torch.ones(75, 75).bool())
    with pytest.raises(WrongShape):
        engine().refresh(TEXT[:-1], kv, [0])
    with pytest.raises(WrongShape):
        engine().prefill(TEXT, kv.half())


def test_layers_that_do_not_attend_to_everything_are_refused() -> None:
    chunked = model()
    chunked.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    with pytest.raises(UnsupportedModel, match="chunked_attention"):
        Engine(chunked)


def test_models_that_differ_in_one_weight_have_other_fingerprints() -> None:
    one, other = model(), model()
    assert Engine(one).fingerprint() == Engine(other).fingerprint() == engine().fingerprint()
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-3
    assert Engine(other).fingerprint() != Engine(one).fingerprint()
    assert Engine(one, tokenizer="t").fingerprint() != Engine(one).fingerprint()
    assert engine("llama", "linear").fingerprint() != engine().fingerprint()
