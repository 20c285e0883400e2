"""A transformers cache whose layers write into given slots: the one mechanism behind every kind of forward pass.

The model's attention calls `update(keys, values)` with those of the tokens it is given, and attends to what comes back.
Here the new ones are written into the slots of those tokens, and everything up to the prompt's length comes back. With
slots at the end it is a prefill or a decode step over given KV; with slots in the middle it is the selective
recomputation of CacheBlend (arXiv 2405.16444, section 4.2): chosen tokens are computed afresh, layer by layer, over the
kept KV of the others.

Several prompts may go in one pass: a group's slots lie side by side, each member's tokens at slots of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from homenode_kv.layout import KEYS, VALUES, Geometry


class SlotLayer(DynamicLayer):
    """One layer's keys and values [N, Hkv, capacity, d], written at `slots`: [n] for all members, or [N, n]."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.slots: Tensor = torch.empty(0, dtype=torch.long)
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes into the slots; all keys and values of the prompt come back."""
        if self.slots.ndim == 1:
            self.keys.index_copy_(2, self.slots, key_states)
            self.values.index_copy_(2, self.slots, value_states)
        else:
            where = self.slots[:, None, :, None].expand_as(key_states)
            self.keys.scatter_(2, where, key_states)
            self.values.scatter_(2, where, value_states)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Tokens before those of this pass. Only the model's own masks ask; otherwise a mask is given."""
        return self.length - self.slots.shape[-1]


class Enough(Exception):
    """What was wanted of a pass is there, so it ends.

    Attributes:
        keys: [N, Hkv, n, d], fresh ones of the check layer.
    """

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.keys = keys


class CheckLayer(SlotLayer):
    """Ends the pass when it gets its keys: layers below are computed, its own attention and all above are not."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Raises Enough."""
        raise Enough(key_states)


class Slots:
    """KV of one prompt, or of each of a group, in the layout of the model's attention, with room to grow.

    Args:
        geometry: of the model.
        capacity: most tokens of a member.
        kv: [L, 2, T, Hkv, d] to begin with, or [L, 2, N, T, Hkv, d] of a group, copied; None for nothing.
        check: the layer whose fresh keys end the pass; None for a whole pass. Layers above it have no slots.
        members: N, where `kv` does not say it.

    What was neither given nor computed is whatever the memory held: no pass may look at it, nor even mask it out, for
    nothing times not-a-number is not a number.
    """

    def __init__(
        self,
        geometry: Geometry,
        capacity: int,
        device: torch.device,
        kv: Tensor | None = None,
        check: int | None = None,
        members: int = 1,
    ) -> None:
        g = geometry
        group = kv if kv is None or kv.ndim == 6 else kv[:, :, None]
        members = members if group is None else group.shape[2]
        layers = g.layers if check is None else check + 1
        self._data = torch.empty(layers, 2, members, g.heads, capacity, g.dim, dtype=g.dtype, device=device)
        self._layers = [
            (CheckLayer if at == check else SlotLayer)(layer[KEYS], layer[VALUES])
            for at, layer in enumerate(self._data)
        ]
        if group is not None:
            self._data[:, :, :, :, : group.shape[3]] = group[:layers].to(device).transpose(3, 4)
        self.cache = Cache(layers=list(self._layers))

    def aim(self, slots: Tensor, length: int) -> None:
        """The next pass computes the tokens at `slots`, [n] or [N, n], and attends to the first `length` slots."""
        for layer in self._layers:
            layer.slots, layer.length = slots, length

    def kv(self, tokens: int) -> Tensor:
        """The first `tokens` tokens of a single prompt as a KV, a copy."""
        return self._data[:, :, 0, :, :tokens].transpose(2, 3).contiguous()

    def group(self, tokens: int) -> Tensor:
        """The first `tokens` tokens of all members, [L, 2, N, T, Hkv, d], a view."""
        return self._data[:, :, :, :, :tokens].transpose(3, 4)
