"""What two versions of a text have in common: a beginning, and spans that an edit moved or left where they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

#: Between the first and the last edit longer texts are not compared: that takes time by the product of their lengths.
COMPARED_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Span:
    """`count` tokens that begin at `source` in the old text and at `target` in the new one."""

    source: int
    target: int
    count: int

    def after(self, done: int) -> Span | None:
        """The part from token `done` of the new text on; None where there is none."""
        gone = max(0, done - self.target)
        return Span(self.source + gone, self.target + gone, self.count - gone) if gone < self.count else None


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike: KV up to the first edit is that of both."""
    for at, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return at
    return min(len(a), len(b))


def unchanged(old: Sequence[int], new: Sequence[int], shortest: int) -> tuple[Span, ...]:
    """Spans of at least `shortest` tokens that both texts have, in order."""
    head = common(old, new)
    tail = common(old[: head - len(old) - 1 : -1], new[: head - len(new) - 1 : -1])
    spans = [Span(0, 0, head)]
    between, beside = old[head : len(old) - tail], new[head : len(new) - tail]
    if max(len(between), len(beside)) <= COMPARED_MAX:
        matcher = SequenceMatcher(None, between, beside, autojunk=False)
        spans += [Span(head + a, head + b, count) for a, b, count in matcher.get_matching_blocks()]
    spans.append(Span(len(old) - tail, len(new) - tail, tail))
    return tuple(span for span in spans if span.count >= shortest)
