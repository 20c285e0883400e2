"""The blocks of a mirror as an entry of a pool: KV of one layer, the blocks of all layers one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homenode_kv.diffs import Mirror
from homenode_kv.layout import Geometry
from homenode_kv.ledger import BLOCK_TOKENS


def sheet_geometry(geometry: Geometry) -> Geometry:
    """Shape of a pool of sheets for models of this shape."""
    return Geometry(1, geometry.heads, geometry.dim, geometry.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Sheet:
    """A mirror but for its data.

    Attributes:
        key: of the data in the pool of sheets; "" where nothing differs, so that there are none.
        tokens, place: of the mirror.
        dense_bytes, bytes, share: its member kept dense, itself, f.
    """

    key: str
    tokens: int
    place: Tensor
    dense_bytes: int
    bytes: int
    share: float

    @classmethod
    def of(cls, mirror: Mirror, key: str) -> Sheet:
        """Of a mirror whose data are kept under `key`."""
        return cls(key, mirror.tokens, mirror.place, mirror.dense_bytes, mirror.bytes, mirror.dirty_share)

    def mirror(self, geometry: Geometry, kv: Tensor | None, device: torch.device) -> Mirror:
        """The mirror again. `geometry` is the members', `kv` what was kept, None where nothing was."""
        if kv is None:
            shape = 0, 2, BLOCK_TOKENS, geometry.heads, geometry.dim
            data = torch.empty(shape, dtype=geometry.dtype, device=device)
        else:
            data = kv[0].unflatten(1, (len(self.place), BLOCK_TOKENS)).transpose(0, 1).contiguous()
        return Mirror(self.tokens, geometry.layers, self.place, data)


def as_kv(mirror: Mirror) -> Tensor:
    """What a mirror differs in as a KV of one layer: [1, 2, 32 · n, Hkv, d]."""
    return mirror.data.transpose(0, 1).flatten(1, 2)[None]
