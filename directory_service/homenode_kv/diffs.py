"""Siblings stored as differences from one of them (TokenDance, arXiv 2604.03143, section 4.3: Diff-Aware Storage).

Agents of a round hold the same segments, each in its own context. What was reused and not refreshed is the same in all
of them, byte for byte, as long as it is kept in the canonical frame: so one member, the *master*, is kept dense, and
each other, a *mirror*, as the blocks of 32 tokens in which it differs, layer by layer, with their keys and values. A
densely computed sibling differs everywhere above layer 0: such a mirror is larger than dense, and `Mirror.worthwhile`
says so.

Restoring is bit-exact. The plain way is here: copy the master, put the blocks in their places, turn to the position. It
is also the reference of any faster one.

Two ratios, never to be mixed: of one mirror 1/f, where f is the share of its dense bytes that differ; of a group of N
N/(1 + (N-1)·f), master included. Both are also given in bytes, indices included.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from homenode_kv.errors import WrongShape
from homenode_kv.layout import as_bytes, blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.rope import Rotation


def _blocked(kv: Tensor, blocks: int) -> Tensor:
    """[L, 2, T, Hkv, d] → [L, blocks, 2, 32, Hkv, d]; what is beyond T is zero, blocks beyond `blocks` are left out."""
    tokens = kv.shape[2]
    kept = kv[:, :, : blocks * BLOCK_TOKENS]
    filled = pad(kept, (0, 0, 0, 0, 0, max(0, blocks * BLOCK_TOKENS - tokens)))
    return filled.unflatten(2, (blocks, BLOCK_TOKENS)).transpose(1, 2)


def dirty_blocks(member: Tensor, master: Tensor) -> Tensor:
    """Which blocks of `member` [L, 2, T, Hkv, d] differ in a bit from those of `master` (any T): bool [L, ⌈T/32⌉].

    A token that the master lacks counts as zeros; of a last block that is not full only the member's tokens count.
    """
    tokens, blocks = member.shape[2], blocks_of(member.shape[2])
    ours, theirs = _blocked(member, blocks), _blocked(master[:, :, :tokens], blocks)
    return (as_bytes(ours) != as_bytes(theirs)).flatten(2).any(2)


@dataclass(frozen=True, eq=False, slots=True)
class Mirror:
    """A member as its differences from a master.

    Attributes:
        tokens: T of the member.
        layers: L.
        place: int32 [n], where each kept block belongs: layer · ⌈T/32⌉ + block, rising.
        data: [n, 2, 32, Hkv, d], the keys and values of those blocks.
    """

    tokens: int
    layers: int
    place: Tensor
    data: Tensor

    @classmethod
    def of(cls, member: Tensor, master: Tensor) -> Mirror:
        """`member` against `master`, both canonical. Raises WrongShape unless layers, heads and dimensions agree."""
        if member.shape[:2] != master.shape[:2] or member.shape[3:] != master.shape[3:] or member.dtype != master.dtype:
            raise WrongShape(f"{tuple(member.shape)} cannot mirror {tuple(master.shape)}")
        differ = dirty_blocks(member, master)
        data = _blocked(member, differ.shape[1])[differ]
        return cls(member.shape[2], member.shape[0], differ.flatten().nonzero().flatten().to(torch.int32), data)

    @property
    def dense_bytes(self) -> int:
        """What the member takes kept dense, in whole blocks."""
        _, two, block, heads, dim = self.data.shape
        return self.layers * blocks_of(self.tokens) * two * block * heads * dim * self.data.element_size()

    @property
    def bytes(self) -> int:
        """What the mirror takes, indices included."""
        return self.data.nbytes + self.place.nbytes

    @property
    def dirty_share(self) -> float:
        """f: the share of blocks, over all layers, that differ."""
        return self.place.numel() / (self.layers * blocks_of(self.tokens))

    @property
    def worthwhile(self) -> bool:
        """Whether it takes less than the dense member."""
        return self.bytes < self.dense_bytes

    def restore(self, master: Tensor, rotation: Rotation | None = None, delta: int = 0) -> Tensor:
        """The member [L, 2, T, Hkv, d], bit for bit; with a rotation, moved by `delta` positions after that."""
        blocks = blocks_of(self.tokens)
        whole = _blocked(master, blocks).contiguous()  # a copy (`pad` makes one), into which the differing blocks go
        whole.flatten(0, 1)[self.place.long()] = self.data
        member = whole.transpose(1, 2).flatten(2, 3)[:, :, : self.tokens].contiguous()
        return member if rotation is None else rotation.shift(member, delta)


@dataclass(frozen=True, slots=True)
class Ratios:
    """How much smaller a group is than its members kept dense.

    Attributes:
        members: N.
        dirty_share: f, the mean over mirrors; 0 without any.
        per_mirror: dense bytes over bytes of the mirrors alone, indices included; 1/f and a little less.
        per_group: dense bytes of all members over bytes of the group, master and indices included.
    """

    members: int
    dirty_share: float
    per_mirror: float
    per_group: float

    @classmethod
    def of(cls, master_bytes: int, mirrors: Collection[tuple[int, int, float]]) -> Ratios:
        """Of a master's bytes, and of each mirror its bytes dense, its bytes as kept, and f."""
        whole, stored = sum(dense for dense, _, _ in mirrors), sum(kept for _, kept, _ in mirrors)
        share = sum(share for _, _, share in mirrors) / len(mirrors) if mirrors else 0.0
        per_mirror = whole / stored if stored else float("inf") if mirrors else 1.0
        return cls(1 + len(mirrors), share, per_mirror, (master_bytes + whole) / (master_bytes + stored))
