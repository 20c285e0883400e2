"""The paged store of a device: one tensor [L, 2, blocks, 32, Hkv, d], and who refers to its blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from homenode_kv.layout import Geometry, blocks_of
from homenode_kv.ledger import BLOCK_TOKENS, BlockLedger


class Pages:
    """Blocks of KV on one device, allocated once.

    Attributes:
        geometry: of the KV.
        ledger: free list and references.
        data: [L, 2, blocks, 32, Hkv, d].
    """

    def __init__(self, geometry: Geometry, blocks: int, device: torch.device | str = "cpu") -> None:
        self.geometry = geometry
        self.ledger = BlockLedger(blocks)
        g = geometry
        self.data = torch.zeros(g.layers, 2, blocks, BLOCK_TOKENS, g.heads, g.dim, dtype=g.dtype, device=device)

    def write(self, blocks: Sequence[int], kv: Tensor) -> None:
        """Copies a KV of T tokens into `blocks`, of which there are ⌈T/32⌉."""
        tokens = self.geometry.check(kv)
        assert len(blocks) == blocks_of(tokens)
        whole = tokens // BLOCK_TOKENS
        if whole:
            pages = kv[:, :, : whole * BLOCK_TOKENS].unflatten(2, (whole, BLOCK_TOKENS))
            self.data[:, :, self._index(blocks[:whole])] = pages.to(self.data.device)
        if rest := tokens - whole * BLOCK_TOKENS:
            self.data[:, :, blocks[whole], :rest] = kv[:, :, whole * BLOCK_TOKENS :].to(self.data.device)

    def read(self, blocks: Sequence[int], tokens: int) -> Tensor:
        """The first `tokens` tokens in `blocks`, as a KV of its own."""
        pages = self.data[:, :, self._index(blocks[: blocks_of(tokens)])]
        return pages.flatten(2, 3)[:, :, :tokens]

    def _index(self, blocks: Sequence[int]) -> Tensor:
        return torch.tensor(blocks, dtype=torch.long, device=self.data.device)
