"""Members of a family brought back from two pools: the master's pages, and the sheets of what differs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from homenode_kv import kernels
from homenode_kv.diffs import Mirror
from homenode_kv.kin import Kin
from homenode_kv.layout import blocks_of
from homenode_kv.pool import Pool
from homenode_kv.rope import Rotation
from homenode_kv.sheets import Sheet


class Restoring:
    """See the module; the pools are those of `Families`."""

    def __init__(self, pool: Pool, sheets: Pool) -> None:
        self._pool, self._sheets = pool, sheets

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

    def into(self, kin: Kin, member: str, blocks: Sequence[int], rotation: Rotation, delta: int | Tensor = 0) -> bool:
        """Writes a member into blocks of the pool's pages, moved by `delta`: one number, or one a block. False: a miss.

        With Triton on a GPU a mirror is restored in one go, else by way of a dense copy. Raises OutOfMemory.
        """
        pages, sheet = self._pool.pages, kin.sheets.get(member)
        if sheet and kernels.available() and pages.data.is_cuda:
            from homenode_kv.kernels.restore import restore_into  # Triton is optional

            mirror, held = self._mirror(sheet), self._pool.get(kin.dense[kin.master])
            if mirror is None or held is None:
                return False
            with held:
                restore_into(pages, blocks, mirror, held.blocks, held.tokens, rotation, delta)
            return True
        if (kv := self.dense(kin, member)) is None:
            return False
        if isinstance(delta, Tensor):
            delta = delta.repeat_interleave(pages.data.shape[3])[: kv.shape[2]]
        pages.write(blocks, rotation.shift(kv, delta))
        return True

    def moved(self, kin: Kin, member: str, rotation: Rotation, delta: int | Tensor = 0) -> Tensor | None:
        """The same by way of blocks that are given back."""
        sheet, entry = kin.sheets.get(member), self._pool.entry(kin.dense.get(member, ""))
        tokens = sheet.tokens if sheet else entry.tokens if entry else 0
        if not tokens:
            return None
        with self._pool.scratch(blocks_of(tokens)) as blocks:
            if not self.into(kin, member, blocks, rotation, delta):
                return None
            return self._pool.pages.read(blocks, tokens)

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
