"""A versioned register with compare-and-set, and what operations say of it: the ground that both judges stand on.

The register is absent, or at a version. A write moves it to a higher one; with base `absent` only where there is
nothing, with a version only from exactly that one. A delete is a write of nothing over something. Versions of one
incarnation count up by one, so an effect that nobody saw needs a number between two that were seen.

An operation says: *did* (a write that took effect, as a version), *saw* (a read, a refusal that named what is there, or
the base of a write, which its agent must have seen before), or *may* (a write of which nobody knows the outcome).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from homenode.history.operations import Kind, Operation
from homenode.versions import Base, Version

FOREVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Write:
    """`version` None: it may have taken effect, or not. `present`: what it leaves is an artifact, not a deletion."""

    version: Version | None
    base: Version | Base
    present: bool
    start: int
    end: int
    hash: str
    source: Operation

    def over(self, version: Version | None, present: bool | None) -> bool:
        """Whether it may replace this version. `present` None: it is not known what that is."""
        if isinstance(self.base, Version):
            if version != self.base:
                return False
        elif self.base is Base.ABSENT and present is True:
            return False
        return self.present or present is not False


@dataclass(frozen=True, slots=True)
class Sight:
    """Somebody saw `version` (None: that there is nothing, and no trace of anything); `present` None: not said what."""

    version: Version | None
    present: bool | None
    start: int
    end: int
    hash: str
    source: Operation


@dataclass(frozen=True, slots=True)
class Said:
    """What the operations on one artifact say."""

    did: list[Write]
    may: list[Write]
    saw: list[Sight]


def said(operations: Iterable[Operation]) -> Said:
    """What operations on one artifact say of its register. Refusals that name nothing say nothing."""
    found = Said([], [], [])
    for one in operations:
        end = FOREVER if one.end_ns is None else one.end_ns
        if one.kind is Kind.POLICY:
            if one.maybe:
                found.may.append(Write(None, Base.ANY, True, one.start_ns, end, "", one))
        elif one.writes and not one.refused:
            base = one.base if one.base is not None else Base.ANY
            hash_ = one.hash if one.kind is Kind.WRITE else ""
            write = Write(
                None if one.unknown else one.version, base, one.kind is Kind.WRITE, one.start_ns, end, hash_, one
            )
            (found.may if one.unknown else found.did).append(write)
            if isinstance(base, Version):
                found.saw.append(Sight(base, None, -FOREVER, one.start_ns, "", one))
        elif one.version is not None or one.absent:
            present = False if one.absent else None if one.writes else True
            if one.refused == "AlreadyExists":
                present = True
            hash_ = "" if one.writes else one.hash
            found.saw.append(Sight(one.version, present, one.start_ns, end, hash_, one))
    return found


def room(low: Version | None, high: Version, between: int) -> bool:
    """Whether so many versions fit in between."""
    return low is None or low.incarnation != high.incarnation or high.n - low.n > between
