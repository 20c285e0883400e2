"""Several prompts in one pass: rows of unequal length, made equal with tokens that nobody sees.

Rows are filled from the front, so that the last column is each prompt's last token and one index gives all logits. What
fills a row is written to a slot beyond all prompts, and looks at slot 0, for a row that sees nothing is not a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """What N prompts compute in one pass.

    Attributes:
        ids: [N, n].
        positions: [N, n]; 0 for what fills a row.
        slots: [N, n], where keys and values go: the positions, and the last slot for what fills a row.
        capacity: slots of a member: the longest prompt, and one.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    capacity: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], chosen: Sequence[Sequence[int]], device: torch.device) -> Batch:
        """The tokens at the `chosen` positions of each prompt."""
        width, longest = max(map(len, chosen)), max(map(len, prompts))
        ids, positions, slots = [], [], []
        for prompt, row in zip(prompts, chosen, strict=True):
            missing = width - len(row)
            ids.append([0] * missing + [prompt[at] for at in row])
            positions.append([0] * missing + list(row))
            slots.append([longest] * missing + list(row))
        tensors = torch.tensor([ids, positions, slots], dtype=torch.long, device=device)
        return cls(tensors[0], tensors[1], tensors[2], longest + 1)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[N, 1, n, T], to be added: each token sees what is not after it."""
        seen = torch.arange(self.capacity - 1, device=self.ids.device) <= self.positions[:, :, None]
        hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return hidden.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
