"""How KV came to be, which says what it may be used for (kv-tier: "provenance").

A prompt's KV is as good as its weakest part. Only EXACT may serve as the prefix of another prompt; only EXACT, or an
agent's own decode, may become a base: what was blended, refreshed or estimated is used once and forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """From best to worst."""

    EXACT = 0
    EXACT_BY_MASK = 1
    APPROXIMATE = 2


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where KV comes from.

    Attributes:
        kind: EXACT is what a plain prefill of the same tokens gives; EXACT_BY_MASK what a model trained with isolated
            segments gives under their mask; APPROXIMATE everything else.
        error: relative deviation of keys, as measured on a check layer or predicted; 0.0 where exact, infinity where
            nobody knows.
        own_decode: it is what the agent that wrote the segment computed while it wrote it.
    """

    kind: Kind
    error: float = 0.0
    own_decode: bool = False

    def __post_init__(self) -> None:
        if math.isnan(self.error) or self.error < 0 or (self.kind is not Kind.APPROXIMATE and self.error > 0):
            raise ValueError("an error is at least 0, and exactly 0 for what is exact")

    @property
    def may_be_base(self) -> bool:
        """Whether segments may be kept like this: nothing approximate but an agent's own decode."""
        return self.kind is not Kind.APPROXIMATE or self.own_decode

    def better_than(self, other: Provenance) -> bool:
        """Whether this should replace `other` under the same key."""
        return (self.kind, self.error) < (other.kind, other.error)

    def text(self) -> str:
        """For a file's metadata; `parse` reads it."""
        return f"{self.kind.name} {self.error!r} {int(self.own_decode)}"

    @classmethod
    def parse(cls, text: str) -> Provenance:
        """Reads `text()`. Raises ValueError or KeyError for anything else."""
        kind, error, own_decode = text.split(" ")
        return cls(Kind[kind], float(error), own_decode == "1")


EXACT = Provenance(Kind.EXACT)
EXACT_BY_MASK = Provenance(Kind.EXACT_BY_MASK)


def approximate(error: float = math.inf) -> Provenance:
    """Reused out of its context, with this error."""
    return Provenance(Kind.APPROXIMATE, error)


def own_decode() -> Provenance:
    """Decode-time KV of an agent's output, computed in that agent's context."""
    return Provenance(Kind.APPROXIMATE, math.inf, own_decode=True)


def weakest(parts: Iterable[Provenance]) -> Provenance:
    """What a prompt composed of `parts` is; EXACT if there are none."""
    worst = max(parts, key=lambda part: (part.kind, part.error), default=EXACT)
    return Provenance(worst.kind, worst.error)
