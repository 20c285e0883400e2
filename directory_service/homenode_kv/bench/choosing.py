"""Which reused tokens are computed afresh, by how far their kept keys are from fresh ones on a check layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def scattered(off: Tensor, blocks: Tensor, share: float) -> Tensor:
    """The `share` of the reused tokens that deviate most, wherever they lie; bool [T]."""
    reused = blocks >= 0
    count = math.ceil(share * int(reused.sum()))
    chosen = torch.zeros_like(reused)
    if count:
        chosen[off.masked_fill(~reused, -1).topk(count).indices] = True
    return chosen


def block_scores(off: Tensor, blocks: Tensor) -> Tensor:
    """The largest deviation in each block: one token in it may be all that another block's text changes."""
    scores = torch.zeros(int(blocks.max()) + 1, device=off.device)
    reused = blocks >= 0
    return scores.scatter_reduce(0, blocks[reused], off[reused], "amax")


def whole_blocks(off: Tensor, blocks: Tensor, share: float) -> Tensor:
    """All tokens of the `share` of the blocks that deviate most; bool [T]."""
    scores = block_scores(off, blocks)
    count = math.ceil(share * len(scores))
    return torch.isin(blocks, scores.topk(count).indices)


def disagreeing(off: Tensor, blocks: Tensor, error_max: float) -> Tensor:
    """All tokens of the blocks in which any deviates by more than `error_max`; bool [T]."""
    scores = block_scores(off, blocks)
    return torch.isin(blocks, (scores > error_max).nonzero().flatten())
