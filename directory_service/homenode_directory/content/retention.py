"""Which versions of an artifact are forgotten. Pure.

What stays is readable whatever goes: a content that is stored as a patch refers to its base, which is collected only
when nothing refers to it any more (`store.blobs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How much history an artifact keeps.

    `keep` versions are kept, the current one included; they are cut back to that number once there are more than
    `keep + slack`, so that not every commit cuts. Versions older than `age_ms` go in any case; None: no limit.
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
    """A version in an artifact's history."""

    n: int
    committed_ms: int


def outlived(versions: Sequence[Retained], policy: RetentionPolicy, *, now_ms: int) -> tuple[int, ...]:
    """The versions to forget now, oldest first. The current one (the highest n) always stays."""
    if policy.age_ms is None and len(versions) <= policy.keep + policy.slack:
        return ()
    history = sorted(versions, key=lambda version: version.n)
    surplus = len(history) - policy.keep if len(history) > policy.keep + policy.slack else 0
    oldest_ms = now_ms - policy.age_ms if policy.age_ms is not None else None
    return tuple(
        version.n
        for index, version in enumerate(history[:-1])
        if index < surplus or (oldest_ms is not None and version.committed_ms < oldest_ms)
    )
