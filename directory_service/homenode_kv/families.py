"""Members of rounds, kept under the pool's budget: of each group a master dense, the others as what differs.

A master is an entry of the pool, pinned once by each of its mirrors, so that it is never dropped before them. The
blocks of a mirror are an entry of a second pool, whose KV has one layer. Under pressure the pools may move a master to
a slower tier, and evict mirrors, which take their pins along. Masters take at most a share of the pool, and before it
refuses anybody it asks for the family that was used longest ago: rounds come and go, bases serve again. A master that
leaves while mirrors stay hands over to the one that deviated least; all keep their bits.

What an earlier process left on disk is found by nobody: names are keyed with a salt. Not thread-safe: one owner.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from homenode_kv import kernels
from homenode_kv.costs import Tier
from homenode_kv.diffs import Mirror, Ratios
from homenode_kv.errors import InUse, OutOfMemory
from homenode_kv.ident import digest
from homenode_kv.kin import Kin, Standing
from homenode_kv.layout import blocks_of
from homenode_kv.pool import OnChange, Pool
from homenode_kv.restoring import Restoring
from homenode_kv.rope import Rotation
from homenode_kv.sheets import Sheet, as_kv, sheet_geometry

FAMILIES_MAX = 1024
#: Of the pool's blocks on the device, what families may take by dense members.
SHARE_MAX = 0.5


class Families:
    """Groups of siblings by the round they come from.

    Args:
        pool: of dense KV.
        sheets: of mirrors' blocks; its pages have the `sheet_geometry`. Families listen to both, as others did before.
        families_max, share_max: bounds; the family that was used longest ago makes room for another.
        fused: whether mirrors are restored by Triton's kernel; None: where Triton and a GPU are.

    Attributes:
        on_change: hears of a family's master and how many mirrors it has; "" where it is kept no more. It neither
            raises nor asks anything of families.
    """

    def __init__(
        self,
        pool: Pool,
        sheets: Pool,
        *,
        families_max: int = FAMILIES_MAX,
        share_max: float = SHARE_MAX,
        fused: bool | None = None,
    ) -> None:
        if sheets.geometry != sheet_geometry(pool.geometry):
            raise ValueError("the pool of sheets has another geometry")
        self._pool, self._sheets, self._families_max = pool, sheets, families_max
        self._blocks_max = int(share_max * pool.pages.ledger.blocks)
        self._at_work: list[str] = []  # families that are being changed or read: not to be given up
        self._salt, self._count = os.urandom(32), 0
        self._kin: dict[str, Kin] = {}  # the one used last at the end
        self._owners: dict[str, tuple[str, str]] = {}  # key in either pool -> (round, member)
        if fused is None:
            fused = pool.pages.data.is_cuda and kernels.available()
        self._restoring = Restoring(pool, sheets, fused=fused)
        self._restored = self._elections = 0
        self.on_change: Callable[[str, str, int], None] = lambda round_id, master, mirrors: None
        self._told = {id(each): each.on_change for each in (pool, sheets)}
        pool.on_change, sheets.on_change = self._listener(pool), self._listener(sheets)
        pool.relieve = self.shed

    def __contains__(self, round_id: str) -> bool:
        return round_id in self._kin

    def put(self, round_id: str, members: Mapping[str, Tensor], deviation: Mapping[str, float]) -> Ratios:
        """Keeps a group; the member of lowest deviation becomes its master. What was kept of this round goes.

        A member whose differences take as much as itself is kept dense, and one for which there is no room is not kept.
        Raises OutOfMemory where there is none even for the master, ValueError, WrongShape.
        """
        if not members or set(members) != set(deviation):
            raise ValueError("each member has a deviation, and there is at least one")
        self.release(round_id)
        while len(self._kin) >= self._families_max:
            self.shed()
        kin = Kin(dict(deviation))
        self._kin[round_id] = kin
        with self._kept(round_id):
            self._settle(round_id, kin, members, kin.least(members))
            while self._blocks() > self._blocks_max and self.shed():
                pass
        return self.ratios(round_id)

    def members(self, round_id: str) -> tuple[str, ...]:
        """Who is kept, the master first. Empty for an unknown round."""
        kin = self._kin.get(round_id)
        return kin.members if kin else ()

    def pays(self, round_id: str, member: str) -> bool:
        """Whether a member is kept, and bringing it back is cheaper than computing it."""
        kin = self._kin.get(round_id)
        return kin is not None and self._restoring.pays(kin, member)

    def restore(self, round_id: str, member: str) -> Tensor | None:
        """A member, canonical and bit for bit; None where it is not kept any more. Raises OutOfMemory."""
        if (kin := self._use(round_id)) is None:
            return None
        with self._kept(round_id):
            return self._restoring.dense(kin, member)

    def moved(self, round_id: str, member: str, rotation: Rotation, delta: int | Tensor = 0) -> Tensor | None:
        """A member moved by `delta`: one number, or one for each block of it. None for a miss. Raises OutOfMemory."""
        if (kin := self._use(round_id)) is None:
            return None
        with self._kept(round_id):
            kv = self._restoring.moved(kin, member, rotation, delta)
        self._restored += kv is not None
        return kv

    def materialize(self, round_id: str, member: str) -> str | None:
        """Makes a member dense, an entry of the pool under the key that is returned; None for a miss.

        Raises OutOfMemory, and the mirror is as it was.
        """
        if (kin := self._use(round_id)) is None or (kv := self.restore(round_id, member)) is None:
            return None
        if member not in kin.dense:
            with self._kept(round_id):
                self._put_dense(round_id, kin, member, kv)
            self._drop_sheet(kin, member)
            self._tell(round_id)
        return kin.dense[member]

    def leave(self, round_id: str, *leaving: str) -> bool:
        """Forgets members; a master hands over first to the mirrors that stay. False for a miss.

        Those are dense for a moment, beside the pool. Raises OutOfMemory, and the family is forgotten: only where what
        the old master leaves cannot be used, being on a slower tier.
        """
        kin = self._use(round_id)
        gone = {member for member in leaving if kin and member in kin.members}
        if kin is None or not gone:
            return False
        stay = kin.sheets.keys() - gone
        if gone.issuperset(kin.members) or (
            kin.master in gone and stay and not self._hand_over(round_id, kin, kin.least(stay), stay)
        ):
            return self.release(round_id)
        for member in gone & kin.sheets.keys():
            self._drop_sheet(kin, member)
        for member in gone & kin.dense.keys():
            self._drop_dense(kin.dense[member])
        if kin.master in gone:  # it had no mirrors, or has none any more; others are whole
            kin.master = kin.least(kin.dense)
        self._tell(round_id)
        return True

    def release(self, round_id: str) -> bool:
        """Forgets a family: its mirrors, then its master. False for a miss."""
        if (kin := self._kin.get(round_id)) is None:
            return False
        for member in list(kin.sheets):
            self._drop_sheet(kin, member)
        for key in list(kin.dense.values()):
            self._drop_dense(key)
        self._end(round_id)
        return True

    def shed(self) -> bool:
        """Forgets the family that was used longest ago, to make room; False where none may go."""
        oldest = next((round_id for round_id in self._kin if round_id not in self._at_work), None)
        return oldest is not None and self.release(oldest)

    def ratios(self, round_id: str) -> Ratios:
        """Both ratios of a family, in bytes with indices; members kept dense save nothing. Raises KeyError."""
        kin = self._kin[round_id]
        sizes = {
            name: entry.tokens * self._pool.geometry.token_bytes
            for name, key in kin.dense.items()
            if (entry := self._pool.entry(key))
        }
        return kin.ratios(sizes)

    def standing(self) -> Standing:
        """Of all families together, for metrics."""
        return Standing.of(self._kin.values(), self._restored, self._elections)

    # --- inside ---

    @contextmanager
    def _kept(self, round_id: str) -> Iterator[None]:
        """What asks the pool for room meanwhile does not cost this family."""
        self._at_work.append(round_id)
        try:
            yield
        finally:
            self._at_work.pop()
            if (kin := self._kin.get(round_id)) is not None and not kin.dense and round_id not in self._at_work:
                self._end(round_id)  # a broken file took the master

    def _tell(self, round_id: str) -> None:
        if kin := self._kin.get(round_id):
            self.on_change(round_id, kin.master, len(kin.sheets))

    def _end(self, round_id: str) -> None:
        if self._kin.pop(round_id, None) is not None:
            self.on_change(round_id, "", 0)

    def _blocks(self) -> int:
        entries = (self._pool.entry(key) for kin in self._kin.values() for key in kin.dense.values())
        return sum(blocks_of(entry.tokens) for entry in entries if entry)

    def _settle(self, round_id: str, kin: Kin, members: Mapping[str, Tensor], master: str) -> None:
        """Keeps a master, unless it is dense already, and the others as its mirrors."""
        kin.master = master
        if master not in kin.dense:
            try:
                self._put_dense(round_id, kin, master, members[master])
            except BaseException:
                self.release(round_id)
                raise
        self._pool.pin(kin.dense[master])  # until its mirrors do
        for name, kv in sorted(members.items()):
            if name == master:
                continue
            mirror = Mirror.of(kv, members[master])
            try:
                if mirror.worthwhile:
                    self._put_sheet(round_id, kin, name, mirror)
                else:
                    self._put_dense(round_id, kin, name, kv)
            except OutOfMemory:
                continue  # it is computed again when it is wanted
        self._pool.unpin(kin.dense[master])
        self._tell(round_id)

    def _hand_over(self, round_id: str, kin: Kin, heir: str, staying: Collection[str]) -> bool:
        """The heir becomes the master, the others that stay its mirrors. False, and nothing has changed: a miss."""
        with self._kept(round_id):
            every = {member: self.restore(round_id, member) for member in {heir, *staying}}
            members = {member: kv for member, kv in every.items() if kv is not None}
            if heir not in members:
                return False
            for member in list(kin.sheets):
                self._drop_sheet(kin, member)
            if old := kin.dense.get(kin.master):
                self._drop_dense(old)
            self._settle(round_id, kin, members, heir)
        self._elections += 1
        return True

    def _put_dense(self, round_id: str, kin: Kin, member: str, kv: Tensor) -> None:
        key = self._key()
        self._pool.put(key, kv, {"family": "dense"})
        kin.dense[member] = key
        self._owners[key] = round_id, member

    def _put_sheet(self, round_id: str, kin: Kin, member: str, mirror: Mirror) -> None:
        key = ""
        if len(mirror.place):
            key = self._key()
            self._sheets.put(key, as_kv(mirror), {"family": "sheet"})
            self._owners[key] = round_id, member
        kin.sheets[member] = Sheet.of(mirror, key)
        self._pool.pin(kin.dense[kin.master])

    def _key(self) -> str:
        self._count += 1  # never the same again: an entry that somebody else pinned may outlive its family
        return digest([self._count.to_bytes(8, "little")], salt=self._salt, person=b"family")

    def _use(self, round_id: str) -> Kin | None:
        if (kin := self._kin.pop(round_id, None)) is not None:
            self._kin[round_id] = kin
        return kin

    def _drop_sheet(self, kin: Kin, member: str) -> None:
        sheet = kin.sheets[member]
        if sheet.key:
            self._sheets.drop(sheet.key)  # and `_gone` takes the pin back
        else:
            self._forget_sheet(kin, member)

    def _forget_sheet(self, kin: Kin, member: str) -> None:
        if kin.sheets.pop(member, None) and (key := kin.dense.get(kin.master)):
            self._pool.unpin(key)

    def _drop_dense(self, key: str) -> None:
        try:
            self._pool.drop(key)
        except InUse:  # somebody else pinned it: the pool's now, no member any more
            round_id, member = self._owners.pop(key)
            self._kin[round_id].dense.pop(member, None)

    def _listener(self, pool: Pool) -> OnChange:
        def changed(key: str, before: Tier | None, after: Tier | None) -> None:
            if after is None and key in self._owners:
                self._gone(key)
            self._told[id(pool)](key, before, after)

        return changed

    def _gone(self, key: str) -> None:
        """An entry was evicted, dropped, or its file was broken."""
        round_id, member = self._owners.pop(key)
        if (kin := self._kin.get(round_id)) is None:
            return
        if member in kin.sheets and kin.sheets[member].key == key:
            self._forget_sheet(kin, member)
            return
        kin.dense.pop(member, None)
        if member == kin.master:  # only a broken file does that to a pinned entry: its mirrors are lost with it
            for name in list(kin.sheets):
                self._drop_sheet(kin, name)
        if not kin.dense and round_id not in self._at_work:
            self._end(round_id)
