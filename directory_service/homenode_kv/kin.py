"""A group of siblings as it is kept: one whole, the others as what differs from it; and what that takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from homenode_kv.diffs import Ratios
from homenode_kv.sheets import Sheet


@dataclass(slots=True)
class Kin:
    """A family.

    Attributes:
        deviation: of each member when it was put: the least is the master.
        sheets: of mirrors; all lie over the master.
        dense: keys of members that are entries of the pool, the master among them.
    """

    deviation: Mapping[str, float]
    master: str = ""
    sheets: dict[str, Sheet] = field(default_factory=dict)
    dense: dict[str, str] = field(default_factory=dict)

    @property
    def members(self) -> tuple[str, ...]:
        """Who is kept, the master first."""
        return tuple(sorted({*self.dense, *self.sheets}, key=lambda name: (name != self.master, name)))

    def least(self, members: Collection[str]) -> str:
        """Who of them deviated least: to be the master."""
        return min(sorted(members), key=lambda name: self.deviation[name])

    def ratios(self, sizes: Mapping[str, int]) -> Ratios:
        """How much smaller it is than whole members; `sizes` are those of the dense ones, which save nothing."""
        apart = [(size, size, 1.0) for name, size in sizes.items() if name != self.master]
        mirrors = [(sheet.dense_bytes, sheet.bytes, sheet.share) for sheet in self.sheets.values()]
        return Ratios.of(sizes.get(self.master, 0), mirrors + apart)


@dataclass(frozen=True, slots=True)
class Standing:
    """How much is kept, and what was done with it so far.

    Attributes:
        masters, mirrors, dense: members that have mirrors, that are mirrors, that are kept whole.
        mirror_bytes, mirror_dense_bytes: of mirrors, as they are and as they would be whole.
        restored: members that were brought back for a prompt.
        elections: masters that handed over.
    """

    masters: int = 0
    mirrors: int = 0
    dense: int = 0
    mirror_bytes: int = 0
    mirror_dense_bytes: int = 0
    restored: int = 0
    elections: int = 0

    @classmethod
    def of(cls, every: Collection[Kin], restored: int, elections: int) -> Standing:
        """Of all families together."""
        sheets = [sheet for kin in every for sheet in kin.sheets.values()]
        return cls(
            masters=sum(bool(kin.sheets) for kin in every),
            mirrors=len(sheets),
            dense=sum(len(kin.dense) for kin in every),
            mirror_bytes=sum(sheet.bytes for sheet in sheets),
            mirror_dense_bytes=sum(sheet.dense_bytes for sheet in sheets),
            restored=restored,
            elections=elections,
        )
