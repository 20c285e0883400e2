"""A prompt as its parts, and what became of each when its KV was composed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from homenode_kv.anchors import Gate, Slot
from homenode_kv.edits import Span
from homenode_kv.engine import Forward
from homenode_kv.ident import SegmentKey
from homenode_kv.planner import Plan, Way
from homenode_kv.provenance import Provenance
from homenode_kv.segments import Found


@dataclass(frozen=True, slots=True)
class Near:
    """A base that is nearly a part's: of another version of its text. `spans` of it serve, out of their context.

    Attributes:
        digest, tokens: of the base.
    """

    digest: str
    tokens: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a prompt, tokenised by itself.

    Attributes:
        key: what its base is kept under; None for text that is not looked up (a question).
        near: what may serve where it has no base; None: nothing.
    """

    tokens: tuple[int, ...]
    key: SegmentKey | None = None
    near: Near | None = None

    @property
    def is_artifact(self) -> bool:
        """Whether it is the text of an artifact's version."""
        return self.key is not None and self.key.version is not None

    @property
    def is_fixed(self) -> bool:
        """Whether it is text of a template that is kept: a system prompt, what stands between two artifacts."""
        return self.key is not None and self.key.version is None


@dataclass(frozen=True, slots=True)
class Use:
    """Where the KV of tokens came from; the counts add up to `tokens`, without `restored`: of what is approximate, what
    a round left."""

    tokens: int = 0
    exact: int = 0
    exact_by_mask: int = 0
    approximate: int = 0
    refreshed: int = 0
    dense: int = 0
    restored: int = 0

    @property
    def reused(self) -> int:
        """Tokens that were not computed."""
        return self.exact + self.exact_by_mask + self.approximate

    @classmethod
    def sum(cls, uses: Sequence[Use]) -> Use:
        """Of all of them."""
        return cls(**{one.name: sum(getattr(use, one.name) for use in uses) for one in fields(cls)})


@dataclass(frozen=True, eq=False, slots=True)
class Composed:
    """A prompt's KV.

    Attributes:
        uses, ways: of each part, in order; whole: of the prompt.
        predicted, measured: greatest relative deviation of the keys that stayed as they were, on the check layer; NaN:
            nobody knew, nobody looked.
        plan: what was meant; `ways` says what became of it.
        missing: parts that name an artifact version of which no base is kept.
    """

    forward: Forward
    uses: tuple[Use, ...]
    whole: Use
    ways: tuple[Way, ...]
    provenance: Provenance
    predicted: float
    measured: float
    plan: Plan
    missing: tuple[int, ...]


@dataclass(slots=True)
class Piece:
    """A part at its place, and what is known of it while a prompt is composed."""

    part: Part
    start: int
    slot: Slot
    done: int = 0  # tokens that the exact beginning covers
    found: Found | None = None
    near: Near | None = None  # where nothing was found
    base: Tensor | None = None  # canonical
    gate: Gate | None = None
    leader: Piece | None = None  # of fixed text: the artifact right before it, whose anchors correct both

    @property
    def end(self) -> int:
        """Where the next begins."""
        return self.start + len(self.part.tokens)

    @property
    def place(self) -> str:
        """What is known of reuse here is known by this: what is near is off by the edit too."""
        return f"{self.slot.digest} near" if self.near is not None else self.slot.digest

    @property
    def spans(self) -> tuple[Span, ...]:
        """Of what is kept, what goes where beyond the exact beginning."""
        kept = self.near.spans if self.near is not None else (Span(0, 0, len(self.part.tokens)),)
        return tuple(rest for span in kept if (rest := span.after(self.done)) is not None)
