"""Which blocks of the paged pool are free, and who refers to the others. Pure bookkeeping, no tensors.

The shape is vLLM's (PagedAttention, arXiv 2309.06180, section 4.3): fixed blocks, a free list, a count of references a
block.

Invariant, as `check` says it: every block is either free with no reference, or in use with at least one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from homenode_kv.errors import OutOfMemory

#: Tokens a block, in every part of the tier.
BLOCK_TOKENS = 32


class BlockLedger:
    """Free list and reference counts of `blocks` blocks."""

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ValueError("a pool has at least one block")
        self._references = [0] * blocks
        self._free = list(range(blocks - 1, -1, -1))  # the lowest first: young pools stay in few pages

    @property
    def blocks(self) -> int:
        """All blocks."""
        return len(self._references)

    @property
    def free(self) -> int:
        """Blocks that nobody refers to."""
        return len(self._free)

    def allocate(self, count: int) -> tuple[int, ...]:
        """`count` free blocks, each with one reference, or OutOfMemory and nothing taken."""
        if count > len(self._free):
            raise OutOfMemory(count, len(self._free), self.blocks - len(self._free))
        taken = tuple(self._free.pop() for _ in range(count))
        for block in taken:
            self._references[block] = 1
        return taken

    def retain(self, blocks: Iterable[int]) -> None:
        """One more reference to each of `blocks`, which are in use."""
        for block in blocks:
            assert self._references[block] > 0, f"block {block} is free"
            self._references[block] += 1

    def release(self, blocks: Iterable[int]) -> int:
        """One reference less to each of `blocks`; tells how many became free."""
        freed = 0
        for block in blocks:
            assert self._references[block] > 0, f"block {block} is free"
            self._references[block] -= 1
            if not self._references[block]:
                self._free.append(block)
                freed += 1
        return freed

    def references(self, block: int) -> int:
        """How many refer to `block`."""
        return self._references[block]

    def sole(self, blocks: Sequence[int]) -> int:
        """How many of `blocks` have one reference only, so that releasing them frees so many."""
        return sum(self._references[block] == 1 for block in blocks)

    def check(self, owners: Iterable[Iterable[int]]) -> None:
        """Asserts that blocks in use are exactly those that `owners` list, each as often as it is referred to."""
        expected = [0] * self.blocks
        for owner in owners:
            for block in owner:
                expected[block] += 1
        assert expected == self._references, "references and owners differ"
        free = {block for block, count in enumerate(expected) if not count}
        assert free == set(self._free) and len(free) == len(self._free), "the free list is not what nobody refers to"
