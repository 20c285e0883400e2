"""Which versions of an artifact are forgotten, and what must be written before. Pure.

A retained version must be readable without help from a forgotten one: where it is stored as a patch whose base goes,
its snapshot is written first. A base that belongs to something else as well stays reachable there, but the plan does
not rely on it. (While a patch on it lives a base is not collected, so a plan that is carried out in part, or twice,
loses nothing; it only frees less.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How much history an artifact keeps.

    `keep` versions are kept, the current one included; they are cut back to that number once there are more than
    `keep + slack`, because each cut may write a snapshot. Versions older than `age_ms` go in any case; None: no limit.
    """

    keep: int = 16
    slack: int = 8
    age_ms: int | None = None

    def __post_init__(self) -> None:
        if self.keep < 1 or self.slack < 0 or (self.age_ms is not None and self.age_ms < 0):
            raise ValueError("keep is at least 1, slack and age_ms at least 0")

    def room(self, length: int) -> int:
        """How many versions more make a history of `length` versions long enough to be cut, after it was cut now."""
        left = self.keep if length > self.keep + self.slack else length
        return self.keep + self.slack + 1 - left


@dataclass(frozen=True, slots=True)
class Retained:
    """A version in an artifact's history: content `hash`, stored as a patch from `base` (empty: as a snapshot)."""

    n: int
    hash: str
    base: str
    committed_ms: int


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """First write snapshots of the contents `rewrite`, then forget the versions `drop` (both oldest first)."""

    rewrite: tuple[str, ...] = ()
    drop: tuple[int, ...] = ()


def plan_retention(
    versions: Sequence[Retained], policy: RetentionPolicy, *, now_ms: int, pinned: Collection[int] = ()
) -> RetentionPlan:
    """What to forget now. The current version (the highest n) and the `pinned` ones always stay."""
    if policy.age_ms is None and len(versions) <= policy.keep + policy.slack:
        return RetentionPlan()
    history = sorted(versions, key=lambda version: version.n)
    protected = {*pinned, *(version.n for version in history[-1:])}
    surplus = len(history) - policy.keep if len(history) > policy.keep + policy.slack else 0
    oldest_ms = now_ms - policy.age_ms if policy.age_ms is not None else None
    drop = [
        version
        for index, version in enumerate(history)
        if version.n not in protected
        and (index < surplus or (oldest_ms is not None and version.committed_ms < oldest_ms))
    ]
    dropped = {version.n for version in drop}
    kept = [version for version in history if version.n not in dropped]
    gone = {version.hash for version in drop} - {version.hash for version in kept}
    rewrite = dict.fromkeys(version.hash for version in kept if version.base in gone)
    return RetentionPlan(tuple(rewrite), tuple(version.n for version in drop))
