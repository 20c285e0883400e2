"""The demo model: a small Llama, its files, and its accuracy on the tasks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from homenode_kv.demo.batches import Batch, make_batch
from homenode_kv.demo.examples import Kind, Shape, TaskError
from homenode_kv.demo.tasks import make_example
from homenode_kv.demo.tokenizer import END_ID, PAD_ID, VOCABULARY

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of the model that comes with the package."""
ISOLATED = Path(__file__).parent / "isolated"
"""The folder of the one that was trained further with segments that do not see each other."""
CARD = "card.json"
LONGEST_CONTEXT = 16_384

_QUICK_PAIRS = 5
_LOOK_BACK = 6.0
_TURNING_PAIRS = 6
"""Pairs of a head's dimensions, quickest first: five tell near positions apart, all but six hardly turn."""


class ModelFilesError(ValueError):
    """A folder that holds no demo model, or one for another vocabulary."""


def make_config() -> LlamaConfig:
    """Four layers, 302,400 parameters, RoPE whose slow pairs hardly turn in 8K tokens.

    With biases on queries and keys a head can attend by position alone.
    """
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=LONGEST_CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        initializer_range=0.06,
        attention_bias=True,
        tie_word_embeddings=False,
        attention_dropout=0.0,
        pad_token_id=PAD_ID,
        bos_token_id=None,
        eos_token_id=END_ID,
    )


def make_model(seed: int) -> LlamaForCausalLM:
    """An untrained model, the same for the same seed, whose heads start where lookups need them.

    Heads of the first layer look one to four tokens back, and one of the second a token back; two heads in each of the
    upper layers look for tokens that are alike; the output begins as the input's words. Without its training such a
    model answers nothing; with random heads trials of some 1,700 steps had not come further than guessing.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(make_config())
        words = model.model.embed_tokens.weight
        words.normal_(0.0, 0.5)
        model.lm_head.weight.copy_(words * 0.12)
        first, second, *upper = (layer.self_attn for layer in model.model.layers)
        turns = model.model.rotary_emb.inv_freq
        for head, back in enumerate((1, 2, 3, 4)):
            _look_back(first, head, back, turns)
        _look_back(second, 0, 1, turns)
        for attention in upper:
            for head in (0, 1):
                _look_alike(attention, head)
    return model


def _look_back(attention: nn.Module, head: int, back: int, turns: torch.Tensor) -> None:
    """Biases by which a head prefers the token so many places back: the key's, turned back by as many positions."""
    half = len(turns)
    key = torch.zeros(half)
    key[:_QUICK_PAIRS] = _LOOK_BACK
    own = slice(head * 2 * half, (head + 1) * 2 * half)
    attention.k_proj.bias[own] = torch.cat([key, torch.zeros(half)])
    attention.q_proj.bias[own] = torch.cat([key * torch.cos(-back * turns), key * torch.sin(-back * turns)])


def _look_alike(attention: nn.Module, head: int) -> None:
    """The same weights for queries and keys, in the pairs that hardly turn: a token's best match is its like."""
    half = attention.head_dim // 2
    for begin in (head * 2 * half, head * 2 * half + half):
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[begin : begin + _TURNING_PAIRS] *= 0.1
        alike = torch.randn(half - _TURNING_PAIRS, attention.q_proj.in_features) * 0.2
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[begin + _TURNING_PAIRS : begin + half] = alike


def load_model(folder: Path = WEIGHTS) -> LlamaForCausalLM:
    """A trained model from a folder, ready to run. Raises ModelFilesError where there is none."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelFilesError(f"{folder} holds no {name}; `homenode kv train-demo --out FOLDER` makes one")
    logging.disable_progress_bar()
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    if model.config.vocab_size != VOCABULARY:
        raise ModelFilesError(f"{folder} is for a vocabulary of {model.config.vocab_size}, not {VOCABULARY}")
    return model.eval()


def save_model(model: LlamaForCausalLM, folder: Path, card: dict[str, Any]) -> None:
    """Writes weights (safetensors), config and card."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")


def answer_logits(model: LlamaForCausalLM, batch: Batch, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The logits [answers, vocabulary] from which the answer tokens of a batch are predicted, in row order."""
    return model.lm_head(_states(model, batch, mask).last_hidden_state[:, :-1][batch.answers[:, 1:]])


def logits_and_names(
    model: LlamaForCausalLM, batch: Batch, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`answer_logits`, and for training the logits of `batch.named`, read from the states after the second layer."""
    found = _states(model, batch, mask, output_hidden_states=True)
    answers = model.lm_head(found.last_hidden_state[:, :-1][batch.answers[:, 1:]])
    return answers, model.lm_head(model.model.norm(found.hidden_states[2][batch.named != PAD_ID]))


def _states(model: LlamaForCausalLM, batch: Batch, mask: torch.Tensor | None, **options: bool) -> Any:
    # A mask is always given: without one, transformers takes positions that jump for several sequences in a row.
    mask = torch.ones_like(batch.ids) if mask is None else mask
    return model.model(input_ids=batch.ids, position_ids=batch.positions, attention_mask=mask, **options)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of questions whose whole answer is right, token for token, and how many were asked."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """0.0 to 1.0; of no questions, 0.0."""
        return self.right / self.asked if self.asked else 0.0


@torch.inference_mode()
def measure(
    model: LlamaForCausalLM,
    task: str,
    seeds: range,
    shape: Shape | None = None,
    *,
    isolated: bool = False,
    rows: int = 32,
) -> dict[Kind, Accuracy]:
    """Accuracy on the prompts of these seeds, each question asked by itself, dense or with segments masked apart.

    Greedy decoding answers right exactly where each answer token is the likeliest after the right ones before it.
    """
    if not seeds:
        raise TaskError("accuracy needs at least one seed")
    asked = [
        (example, question)
        for seed in seeds
        for example in [make_example(task, seed, shape)]
        for question in example.questions
    ]
    right = dict.fromkeys(Kind, 0)
    for at in range(0, len(asked), rows):
        part = asked[at : at + rows]
        batch = make_batch([(example, [question]) for example, question in part])
        mask = batch.isolated_mask(torch.ones(len(part), dtype=torch.bool)) if isolated else None
        hit = answer_logits(model, batch, mask).argmax(-1) == batch.ids[:, 1:][batch.answers[:, 1:]]
        counts = batch.answers[:, 1:].sum(1).tolist()
        for (_, question), hits in zip(part, hit.split(counts), strict=True):
            right[question.kind] += bool(hits.all())
    return {kind: Accuracy(right[kind], sum(q.kind is kind for _, q in asked)) for kind in Kind}
