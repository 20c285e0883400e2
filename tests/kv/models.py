"""Tiny models of the shapes that the KV tier supports, with random weights: for exactness, never for quality."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers import LlamaForCausalLM as Llama
from transformers import MistralForCausalLM as Mistral
from transformers import Qwen2ForCausalLM as Qwen2
from transformers import Qwen3ForCausalLM as Qwen3

from homenode_kv.engine import Engine

SHAPES = ("llama", "qwen2", "qwen3", "mistral")
VOCABULARY = 97
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10_000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
_CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, Llama),
    "qwen2": (Qwen2Config, Qwen2),
    "qwen3": (Qwen3Config, Qwen3),
    "mistral": (MistralConfig, Mistral),
}


def model(shape: str = "llama", rope: str = "default", dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A causal language model of three layers, the same for the same arguments."""
    make_config, make = _CLASSES[shape]
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rope_parameters": ROPES[rope],
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }
    torch.manual_seed(11)
    return make(make_config(**settings)).to(dtype).eval()


@functools.cache
def engine(shape: str = "llama", rope: str = "default") -> Engine:
    """An engine over `model`, shared between tests: nothing changes it."""
    return Engine(model(shape, rope))


def tokens(count: int, seed: int = 1) -> list[int]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()


def deviation(ours: torch.Tensor, real: torch.Tensor) -> float:
    """Relative deviation of two tensors."""
    return float((ours.float() - real.float()).norm() / real.float().norm())
