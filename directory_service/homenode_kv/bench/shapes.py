"""Models with random weights of real shapes: for time and bytes, never for quality."""

from __future__ import annotations

import random
from functools import cache

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from homenode_kv.engine import Engine

_COMMON = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
SHAPES: dict[str, dict[str, int | float]] = {
    "random-tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 16_384,
    },
    "random-16m": {
        "vocab_size": 8192,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 16_384,
    },
    "random-100m": {
        "vocab_size": 32_000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 16_384,
    },
    "random-135m-deep": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "max_position_embeddings": 16_384,
    },
    "llama-3.1-8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
    },
}
_THETA = 500_000.0


@cache
def random_engine(shape: str, device: str) -> Engine:
    """An engine of this shape, its weights made on the device: bf16 on CUDA, fp32 on a CPU."""
    config = LlamaConfig(**SHAPES[shape], **_COMMON, rope_parameters={"rope_type": "default", "rope_theta": _THETA})
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.startswith("cuda") else torch.float32)
    try:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return Engine(model)


def random_tokens(engine: Engine, count: int, seed: int) -> tuple[int, ...]:
    """Token ids, the same for the same seed."""
    rng = random.Random(seed)
    return tuple(rng.randrange(3, engine.vocabulary) for _ in range(count))
