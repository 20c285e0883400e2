"""The zone check: linearizability in nearly linear time, because versions are unique and ordered.

The order of writes is given: it is the order of their versions. So each version v has a moment t(v) at which it came to
be, and these moments rise. Every operation narrows them:

  - the write of v: start <= t(v) <= end;
  - who saw v in [start, end]: t(v) <= end, and start <= t(next): v was not yet replaced when the reader began;
  - who saw nothing at all: not (t(created) < start and end < t(deleted)) for any life of the artifact.

Leftmost moments that satisfy all lower bounds exist, and the history is linearizable exactly when they satisfy the
upper ones. What is left is to find, for versions that somebody saw and nobody is known to have written, writes of
unknown outcome that may have made them; contents nearly always name the one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from homenode.history.operations import Operation
from homenode.history.register import FOREVER, Said, Sight, Write, room, said
from homenode.versions import Base, Version

STEPS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a history. `rule` is one of a few short names."""

    rule: str
    key: str
    text: str


class _Wrong(Exception):
    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


@dataclass(slots=True)
class Zone:
    """Everything about one version. `low` and `high` bound its moment; `made_by` and `held_by` set them."""

    version: Version
    write: Write | None = None
    present: bool | None = None
    hash: str = ""
    sights: list[Sight] = field(default_factory=list)
    low: int = -FOREVER
    high: int = FOREVER
    held_by: object = ""
    made_by: object = ""
    maybe: list[Write] = field(default_factory=list)  # of unknown outcome, which explain it

    def not_before(self, moment: int, why: object) -> None:
        """t(v) >= moment."""
        if moment > self.low:
            self.low, self.held_by = moment, why

    def not_after(self, moment: int, why: object) -> None:
        """t(v) <= moment."""
        if moment < self.high:
            self.high, self.made_by = moment, why


def check(operations: Iterable[Operation], *, all_writers: bool = True) -> Finding | None:
    """The first reason why the operations on one artifact have no order that the register allows; None: they have.

    Args:
        operations: on one artifact.
        all_writers: every write is among them; else a version may come from somebody who was not recorded.
    """
    operations = list(operations)
    key = operations[0].key if operations else ""
    try:
        told = said(operations)
        zones = _zones(told)
        _presence(zones)
        _bounds(zones)
        if all_writers:
            _explain(zones, told.may)
        _moments(zones, told)
    except _Wrong as wrong:
        return Finding(wrong.rule, key, str(wrong))
    return None


def _zones(told: Said) -> list[Zone]:
    zones: dict[Version, Zone] = {}
    for write in told.did:
        assert write.version is not None
        zone = zones.setdefault(write.version, Zone(write.version))
        if zone.write is not None:
            raise _Wrong("reuse", f"two writes made version {write.version.n}: {zone.write.source}; {write.source}")
        zone.write, zone.present, zone.hash = write, write.present, write.hash
    for sight in told.saw:
        if sight.version is None:
            continue
        zone = zones.setdefault(sight.version, Zone(sight.version))
        zone.sights.append(sight)
        if sight.hash and zone.hash and sight.hash != zone.hash:
            raise _Wrong("reuse", f"version {zone.version.n} has two contents: {sight.source}")
        zone.hash = zone.hash or sight.hash
        if sight.present is not None:
            if zone.present is not None and zone.present != sight.present:
                raise _Wrong("reuse", f"version {zone.version.n} is a deletion and is not: {sight.source}")
            zone.present = sight.present
    return [zones[version] for version in sorted(zones)]


def _presence(zones: list[Zone]) -> None:
    """What acknowledged writes say of the version before them."""
    before: Zone | None = None
    for zone in zones:
        write = zone.write
        if write is not None and isinstance(write.base, Version):
            if before is None or before.version != write.base:
                found = before.version.n if before is not None else "none"
                raise _Wrong("lost update", f"{write.source}, but the version before it was {found}")
            if not write.present and before.present is False:
                raise _Wrong("register", f"{write.source}: that was a deletion already")
            if not write.present:
                before.present = True
        before = zone


def _bounds(zones: list[Zone]) -> None:
    for i, zone in enumerate(zones):
        after = zones[i + 1] if i + 1 < len(zones) else None
        if zone.write is not None:
            zone.not_before(zone.write.start, zone.write.source)
            zone.not_after(zone.write.end, zone.write.source)
        for sight in zone.sights:
            zone.not_after(sight.end, sight.source)
            if after is not None:
                after.not_before(sight.start, sight.source)
    high, by = FOREVER, object()
    for zone in reversed(zones):
        zone.not_after(high, by)
        high, by = zone.high, zone.made_by


# --- writes of unknown outcome ------------------------------------------------------------------------------------


def _explain(zones: list[Zone], may: list[Write]) -> None:
    """Give each version that needs it writes of unknown outcome, each used once."""
    puzzles = []
    pool = sorted(may, key=_choosiness)
    before: Zone | None = None
    for zone in zones:
        if zone.write is None or (before is not None and before.present is None) or not _fits(zone.write, before):
            found = _explanations(zone, before, pool)
            if not found:
                raise _Wrong(*_unexplained(zone, before))
            puzzles.append((zone, before, found))
        before = zone
    _solve(puzzles)


def _fits(write: Write, before: Zone | None) -> bool:
    return write.over(before.version, before.present) if before is not None else write.over(None, False)


def _choosiness(write: Write) -> tuple[int, int]:
    """What fits in fewer places is used first."""
    return 0 if isinstance(write.base, Version) else 1 if write.base is Base.ABSENT else 2, write.start


def _unexplained(zone: Zone, before: Zone | None) -> tuple[str, str]:
    if zone.write is None:
        seen = zone.sights[0].source if zone.sights else ""
        return "never written", f"version {zone.version.n} was seen, and nobody wrote it: {seen}"
    return "register", f"{zone.write.source} does not fit on {before.version.n if before else 'nothing'}"


Explanation = tuple[Write, ...]


def _explanations(zone: Zone, before: Zone | None, pool: list[Write]) -> list[Explanation]:
    """Writes that may have made the version; or one that nobody saw, in between, and the version's own write."""
    usable = [write for write in pool if write.start <= zone.high]
    makers = [zone.write] if zone.write is not None else [write for write in usable if _could_make(zone, write)]
    low, present = (before.version, before.present) if before is not None else (None, False)
    found: list[Explanation] = []
    for maker in makers:
        own = () if maker is zone.write else (maker,)
        if maker.over(low, present):
            found.append(own)
        if present is not None and found:
            continue
        if not isinstance(maker.base, Version) and room(low, zone.version, 1):
            found += [
                (hidden, *own)
                for hidden in usable
                if hidden is not maker and hidden.over(low, present) and maker.over(None, hidden.present)
                and hidden.present is not present
            ]  # fmt: skip
    return found


def _could_make(zone: Zone, write: Write) -> bool:
    same = not zone.hash or not write.hash or zone.hash == write.hash
    return same and zone.present in (None, write.present)


def _solve(puzzles: list[tuple[Zone, Zone | None, list[Explanation]]]) -> None:
    """Choose an explanation for each, no write twice; a choice may settle what the version is for the next."""
    used: set[int] = set()
    steps = 0
    at = 0
    choice = [-1] * len(puzzles)
    was: list[bool | None] = [zone.present for zone, _, _ in puzzles]
    while at < len(puzzles):
        zone, before, explanations = puzzles[at]
        for write in zone.maybe:
            used.discard(id(write))
        zone.maybe, zone.present = [], was[at]
        for next_ in range(choice[at] + 1, len(explanations)):
            steps += 1
            if _acceptable(zone, before, explanations[next_], used):
                choice[at] = next_
                zone.maybe = list(explanations[next_])
                if zone.write is None:
                    zone.present = zone.maybe[-1].present
                used.update(map(id, zone.maybe))
                at += 1
                break
        else:
            choice[at] = -1
            at -= 1
            if at < 0:
                raise _Wrong(*_unexplained(zone, before))
        if steps > STEPS_MAX:
            raise _Wrong("undecided", "too many writes of unknown outcome with the same content")
    for zone, _, _ in puzzles:
        for write in zone.maybe:
            zone.not_before(write.start, write.source)


def _acceptable(zone: Zone, before: Zone | None, explanation: Explanation, used: set[int]) -> bool:
    if any(id(write) in used for write in explanation):
        return False
    low, present = (before.version, before.present) if before is not None else (None, False)
    for write in explanation:
        if not write.over(low, present):
            return False
        low, present = None, write.present
    return zone.write is None or zone.write.over(low, present)


# --- moments ------------------------------------------------------------------------------------------------------


def _moments(zones: list[Zone], told: Said) -> None:
    """Leftmost moments; they fit, or nothing does."""
    nothing = [sight for sight in told.saw if sight.version is None]
    unseen = [write.start for write in told.may if not write.present]
    nothing = [sight for sight in nothing if not any(start <= sight.end for start in unseen)]
    while True:
        moments = _leftmost(zones)
        if not _see_nothing(zones, moments, nothing):
            return


def _leftmost(zones: list[Zone]) -> list[int]:
    moment, why, moments = -FOREVER, object(), []
    for zone in zones:
        if zone.low > moment:
            moment, why = zone.low, zone.held_by
        if moment > zone.high:
            text = f"version {zone.version.n} was there by {zone.made_by}, and the one before it still at {why}"
            raise _Wrong("stale", text)
        moments.append(moment)
    return moments


def _see_nothing(zones: list[Zone], moments: list[int], nothing: list[Sight]) -> bool:
    """Move creations behind those who saw nothing; whether any had to move."""
    moved = False
    lives: list[tuple[Zone, int, int]] = []  # created by, from, to
    for zone, moment in zip(zones, moments, strict=True):
        if zone.present is not False and (not lives or lives[-1][2] != FOREVER):
            lives.append((zone, moment, FOREVER))
        elif zone.present is False and lives and lives[-1][2] == FOREVER:
            lives[-1] = (lives[-1][0], lives[-1][1], moment)
    for sight in nothing:
        for zone, born, died in lives:
            if born < sight.start and sight.end < died:
                zone.not_before(sight.start, sight.source)
                moved = True
    return moved
