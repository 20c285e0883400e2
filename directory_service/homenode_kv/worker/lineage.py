"""Superseded bases, for as long as nothing else is there for the version that follows.

From the moment an artifact changes nothing finds its old base, neither by key nor by tokens. When its successor's text
is known (`meet`), the old base serves it alone: what both begin with is exact KV of the successor, for under causal
attention KV depends on nothing that comes after it, and is found as the beginning of prompts; what is unchanged later
may stand in a prompt for what is there now, turned to its place, checked and refreshed (`near`). It never becomes a
base: that of the successor is computed from the first edit on, and the old one goes when it is there.

An old base is an entry of the pool as others are, so it goes earlier where room is wanted.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from homenode_kv.edits import Span, common, unchanged
from homenode_kv.ident import SegmentKey
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.parts import Near
from homenode_kv.segments import Segments


@dataclass(slots=True)
class _Old:
    key: SegmentKey
    tokens: array[int]
    met: str = ""  # content key of the successor whose text was compared
    spans: tuple[Span, ...] = ()


class Lineage:
    """See the module. At most one base of an artifact: the newest."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._old: dict[str, _Old] = {}
        self._artifacts: dict[str, str] = {}  # content key -> artifact

    def __contains__(self, artifact: str) -> bool:
        return artifact in self._old

    def retire(self, key: SegmentKey, tokens: array[int]) -> None:
        """An exact base is superseded; what was kept of the artifact before goes."""
        self.drop(key.artifact)
        self._old[key.artifact] = _Old(key, tokens)
        self._artifacts[key.digest] = key.artifact
        self._segments.retire(key.digest, key, ())

    def hide(self, artifact: str) -> None:
        """The successor that was met is superseded as well."""
        if (old := self._old.get(artifact)) is not None and old.met:
            old.met, old.spans = "", ()
            self._segments.retire(old.key.digest, old.key, ())

    def meet(self, key: SegmentKey, tokens: Sequence[int]) -> None:
        """The text of a version that is not superseded."""
        old = self._old.get(key.artifact)
        if old is None or old.met == key.digest:
            return
        old.met, old.spans = key.digest, unchanged(old.tokens, tokens, BLOCK_TOKENS)
        self._segments.retire(old.key.digest, old.key, old.tokens[: common(old.tokens, tokens)])

    def near(self, key: SegmentKey) -> Near | None:
        """What may stand in for the base of a version that was met."""
        old = self._old.get(key.artifact)
        if old is None or old.met != key.digest or not old.spans:
            return None
        return Near(old.key.digest, len(old.tokens), old.spans)

    def drop(self, artifact: str) -> None:
        """There is an exact base of the successor, or none will be wanted."""
        if (old := self._old.pop(artifact, None)) is not None:
            self._artifacts.pop(old.key.digest, None)
            self._segments.drop(old.key.digest)

    def forget(self, digest: str) -> None:
        """The pool has lost an entry."""
        if (artifact := self._artifacts.pop(digest, None)) is not None:
            self._old.pop(artifact, None)
