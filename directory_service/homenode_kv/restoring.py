"""Members of a family brought back from two pools: the master's pages, and the sheets of what differs."""

from __future__ import annotations

import contextlib

from torch import Tensor

from homenode_kv.diffs import Mirror
from homenode_kv.errors import OutOfMemory
from homenode_kv.kin import Kin
from homenode_kv.layout import blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.pool import Pool
from homenode_kv.rope import Rotation
from homenode_kv.sheets import Sheet


class Restoring:
    """See the module; the pools are those of `Families`.

    Args:
        fused: whether mirrors are restored into pages in one go, by Triton's kernel.
    """

    def __init__(self, pool: Pool, sheets: Pool, *, fused: bool) -> None:
        self._pool, self._sheets, self._fused = pool, sheets, fused

    def pays(self, kin: Kin, member: str) -> bool:
        """Whether a member is kept, and bringing it back is cheaper than computing it."""
        sheet = kin.sheets.get(member)
        choices = [self._pool.look(kin.dense.get(kin.master if sheet else member, ""))]
        if sheet and sheet.key:
            choices.append(self._sheets.look(sheet.key))
        return all(choice is not None and choice.reload for choice in choices)

    def dense(self, kin: Kin, member: str) -> Tensor | None:
        """A member, canonical and bit for bit; None for a miss. Raises OutOfMemory."""
        if key := kin.dense.get(member):
            return _read(self._pool, key)
        sheet = kin.sheets.get(member)
        mirror = self._mirror(sheet) if sheet else None
        master = _read(self._pool, kin.dense[kin.master]) if mirror else None
        return mirror.restore(master) if mirror is not None and master is not None else None

    def moved(self, kin: Kin, member: str, rotation: Rotation, delta: int | Tensor = 0) -> Tensor | None:
        """A member moved by `delta`: one number, or one for each block of it. None for a miss. Raises OutOfMemory."""
        if self._fused and (sheet := kin.sheets.get(member)):
            with contextlib.suppress(OutOfMemory):  # without room for it in pages it is made beside them
                return self._in_pages(kin, sheet, rotation, delta)
        if (kv := self.dense(kin, member)) is None:
            return None
        if isinstance(delta, Tensor):
            delta = delta.repeat_interleave(BLOCK_TOKENS)[: kv.shape[2]]
        return rotation.shift(kv, delta)

    def _in_pages(self, kin: Kin, sheet: Sheet, rotation: Rotation, delta: int | Tensor) -> Tensor | None:
        """By way of blocks of the pool's pages, which are given back."""
        from homenode_kv.kernels.restore import restore_into  # Triton is optional

        if (mirror := self._mirror(sheet)) is None or (held := self._pool.get(kin.dense[kin.master])) is None:
            return None
        with held, self._pool.scratch(blocks_of(sheet.tokens)) as blocks:
            restore_into(self._pool.pages, blocks, mirror, held.blocks, held.tokens, rotation, delta)
            return self._pool.pages.read(blocks, sheet.tokens)

    def _mirror(self, sheet: Sheet) -> Mirror | None:
        kv = _read(self._sheets, sheet.key) if sheet.key else None
        if sheet.key and kv is None:
            return None
        return sheet.mirror(self._pool.geometry, kv, self._pool.pages.data.device)


def _read(pool: Pool, key: str) -> Tensor | None:
    if (held := pool.get(key)) is None:
        return None
    with held:
        return held.kv()
