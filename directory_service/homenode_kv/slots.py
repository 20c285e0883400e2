"""A transformers cache whose layers write into given slots: the one mechanism behind every kind of forward pass.

The model's attention calls `update(keys, values)` with those of the tokens it is given, and attends to what comes back.
Here the new ones are written into the slots of those tokens, and everything up to the prompt's length comes back. With
slots at the end it is a prefill or a decode step over given KV; with slots in the middle it is the selective
recomputation of CacheBlend (arXiv 2405.16444, section 4.2): chosen tokens are computed afresh, layer by layer, over the
kept KV of the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from homenode_kv.layout import KEYS, VALUES, Geometry


class SlotLayer(DynamicLayer):
    """One layer's keys and values [1, Hkv, capacity, d], written at `slots`."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.slots: Tensor = torch.empty(0, dtype=torch.long)
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes into the slots; all keys and values of the prompt come back."""
        self.keys.index_copy_(2, self.slots, key_states)
        self.values.index_copy_(2, self.slots, value_states)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Tokens before those of this pass. Only the model's own masks ask; otherwise a mask is given."""
        return self.length - self.slots.numel()


class Slots:
    """KV of one prompt in the layout of the model's attention, with room to grow.

    Args:
        geometry: of the model.
        capacity: most tokens.
        kv: [L, 2, T, Hkv, d] to begin with, copied; None for nothing.
    """

    def __init__(self, geometry: Geometry, capacity: int, device: torch.device, kv: Tensor | None = None) -> None:
        g = geometry
        self._data = torch.zeros(g.layers, 2, 1, g.heads, capacity, g.dim, dtype=g.dtype, device=device)
        self._layers = [SlotLayer(layer[KEYS], layer[VALUES]) for layer in self._data]
        if kv is not None:
            self._data[:, :, 0, :, : g.check(kv)] = kv.to(device).transpose(2, 3)
        self.cache = Cache(layers=list(self._layers))

    def aim(self, slots: Tensor, length: int) -> None:
        """The next pass computes the tokens at `slots` [n] and attends to the first `length` slots."""
        for layer in self._layers:
            layer.slots, layer.length = slots, length

    def kv(self, tokens: int) -> Tensor:
        """The first `tokens` tokens as a KV, a copy."""
        return self._data[:, :, 0, :, :tokens].transpose(2, 3).contiguous()
