"""Keys moved to other positions by one rotation (KVCOMM, arXiv 2510.12872, section 3; RoFormer, arXiv 2104.09864,
3.2.2).

A rotary embedding turns the key at position p by the angles p·θ. So a key kept at p is at p + δ after a turn by δ·θ:

    K' = K·cos(δθ) + rotate_half(K)·sin(δθ)        V' = V

Always from the canonical copy, in fp32: twenty turns in a row in bf16 cost 7e-3. Frequencies come from the model's own
rotary module, so linear, llama3 and yarn scaling are what the model computes with. Yarn also scales cos and sin by
`attention_scaling`; a cached key carries that factor already, so the turn itself is made without it.

Refused: embeddings whose frequencies depend on the prompt's length (dynamic NTK, longrope), for a key computed in a
short prompt is then none of a longer one's, at any position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homenode_kv.errors import UnsupportedModel, UnsupportedRope
from homenode_kv.layout import KEYS

#: Kinds of scaling with one set of frequencies for all lengths.
FIXED = frozenset({"default", "linear", "llama3", "yarn"})


@dataclass(frozen=True, eq=False)
class Rotation:
    """The turn of one model's keys.

    Attributes:
        kind: the model's `rope_type`.
        frequencies: θ, fp32 [r/2], radians a position; the first r ≤ d dimensions of a head are turned.
        attention_scaling: factor that the model puts on cos and sin; for the record, turns leave it out.
    """

    kind: str
    frequencies: Tensor
    attention_scaling: float

    @classmethod
    def of(cls, model: nn.Module) -> Rotation:
        """The rotation of a causal language model of transformers. Raises UnsupportedRope or UnsupportedModel."""
        module = getattr(getattr(model, "model", None), "rotary_emb", None)
        frequencies = getattr(module, "inv_freq", None)
        kind = getattr(module, "rope_type", None)
        if module is None or not isinstance(kind, str) or not isinstance(frequencies, Tensor) or frequencies.ndim != 1:
            raise UnsupportedModel("the model has no rotary embedding of its own for all layers")
        if kind not in FIXED:
            raise UnsupportedRope(
                kind, f"rope type {kind!r}: frequencies are not the same for all lengths, or not known"
            )
        return cls(kind, frequencies.detach().float(), float(module.attention_scaling))

    def turn(self, keys: Tensor, delta: int | Tensor) -> Tensor:
        """Keys [..., T, Hkv, d] moved by `delta` positions: one number, or a tensor that broadcasts to [..., T].

        The result has the dtype of `keys`. By 0 they come back as they are, bit for bit.
        """
        if isinstance(delta, int) and delta == 0:
            return keys.clone()
        shift = torch.as_tensor(delta, dtype=torch.float32, device=keys.device)
        angles = shift[..., None, None] * self.frequencies.to(keys.device)  # [..., T or 1, 1 (heads), r/2]
        cos, sin = angles.cos(), angles.sin()
        half = self.frequencies.numel()
        first, second = keys[..., :half].float(), keys[..., half : 2 * half].float()
        turned = torch.empty_like(keys)  # filled in place: of a group's keys each further copy is felt
        for part, one, other, sign in ((0, first, second, -1.0), (half, second, first, 1.0)):
            moved = one * cos
            turned[..., part : part + half] = moved.add_(other * sin, alpha=sign)
        turned[..., 2 * half :] = keys[..., 2 * half :]
        return turned

    def shift(self, kv: Tensor, delta: int | Tensor) -> Tensor:
        """A KV [L, 2, T, Hkv, d] (or a group [..., L, 2, T, Hkv, d]) moved by `delta`; values are copied untouched."""
        moved = kv.clone()
        keys = kv.select(-4, KEYS)
        moved.select(-4, KEYS).copy_(self.turn(keys, delta))
        return moved
