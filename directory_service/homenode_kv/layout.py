"""Shapes of KV: what a model's KV looks like, in blocks and in bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homenode_kv.errors import WrongShape
from homenode_kv.ledger import BLOCK_TOKENS

KEYS, VALUES = 0, 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shape of one model's KV.

    Attributes:
        layers: L.
        heads: Hkv, key/value heads (fewer than query heads under grouped attention).
        dim: d, dimensions a head.
        dtype: of keys and values.
    """

    layers: int
    heads: int
    dim: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return self.layers * 2 * self.heads * self.dim * self.dtype.itemsize

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of 32 tokens."""
        return self.token_bytes * BLOCK_TOKENS

    def shape(self, tokens: int) -> tuple[int, int, int, int, int]:
        """[L, 2, T, Hkv, d]."""
        return self.layers, 2, tokens, self.heads, self.dim

    def check(self, kv: Tensor) -> int:
        """How many tokens `kv` holds. Raises WrongShape unless it is a KV of this geometry with at least one."""
        if kv.ndim != 5 or kv.shape[2] < 1 or tuple(kv.shape) != self.shape(kv.shape[2]) or kv.dtype != self.dtype:
            raise WrongShape(f"{tuple(kv.shape)} of {kv.dtype} is not {self.shape(0)} of {self.dtype}, T > 0")
        return int(kv.shape[2])


def blocks_of(tokens: int) -> int:
    """How many blocks of 32 hold `tokens` tokens."""
    return -(-tokens // BLOCK_TOKENS)


def as_bytes(tensor: Tensor) -> Tensor:
    """The same memory as integers of one byte: equal means equal bit for bit, NaN and -0.0 included."""
    return tensor.contiguous().view(torch.uint8)
