"""Prompts that were computed whole, as beginnings of the next ones.

Exact KV of a prompt, and of what was written after it, serves every prompt that begins alike. Nobody who reads
coherently asks for superseded text again: from the moment an artifact in it changes a prompt is found up to where that
artifact begins, and nothing from there on. When the text that is there now is known (`meet`), the prompt is cut at the
first token that differs, and found up to there: under causal attention that KV is the same whichever version follows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from homenode_kv.edits import common
from homenode_kv.ident import SegmentKey, Version
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.pool import Pool
from homenode_kv.segments import Prefix, Segments
from homenode_kv.worker.prompts import Prompt


@dataclass(slots=True)
class _Place:
    """Where an artifact first begins in a prompt. `stale`: its version is superseded, and what follows not known."""

    start: int
    count: int
    version: Version
    stale: bool = False


@dataclass(slots=True)
class _Kept:
    key: SegmentKey
    tokens: array[int]
    places: dict[str, _Place]

    @property
    def current(self) -> int:
        """Tokens before the first artifact that is stale."""
        return min((place.start for place in self.places.values() if place.stale), default=len(self.tokens))


class KeptPrompts:
    """See the module.

    Args:
        put: keeps exact KV of tokens in the pool; its key, or None where it is not kept.
        dead: whether a version of an artifact is superseded.
    """

    def __init__(
        self,
        pool: Pool,
        segments: Segments,
        put: Callable[[Sequence[int], Tensor], SegmentKey | None],
        dead: Callable[[str, Version], bool],
    ) -> None:
        self._pool, self._segments = pool, segments
        self._put, self._dead = put, dead
        self._kept: dict[str, _Kept] = {}
        self._with: dict[str, dict[str, None]] = {}  # artifact -> prompts that contain it
        self._stale: set[str] = set()  # artifacts that are stale in a prompt

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, prompt: Prompt, tokens: list[int], kv: Tensor, covered: Prefix | None) -> None:
        """Keeps `tokens`, a beginning of the prompt or that and more; `covered` is what was kept of them before."""
        places: dict[str, _Place] = {}
        until = len(tokens)
        for start, piece in prompt.placed():
            if piece.version is None or start >= until:
                continue
            if self._dead(piece.artifact, piece.version):  # since the prompt's turn came
                until = start
            elif piece.artifact not in places:
                places[piece.artifact] = _Place(start, min(len(piece.tokens), until - start), piece.version)
        if until < BLOCK_TOKENS or (covered is not None and covered.tokens >= until):
            return
        if (key := self._put(tokens[:until], kv[:, :, :until])) is None:
            return
        self._kept[key.digest] = _Kept(key, array("q", tokens[:until]), places)
        for artifact in places:
            self._with.setdefault(artifact, {})[key.digest] = None
        if covered is not None and (shorter := self._kept.get(covered.digest)) is not None:
            if len(shorter.tokens) == covered.tokens:  # the longer one serves in its place
                self._drop(covered.digest)

    def supersede(self, artifact: str, current: Version, *, deleted: bool = False) -> None:
        """`artifact` is at `current`, or deleted: nothing from an older version on is found."""
        for digest in list(self._with.get(artifact, ())):
            kept = self._kept[digest]
            place = kept.places[artifact]
            if deleted:
                self._cut(digest, place.start)
            elif place.version < current:
                place.stale = True
                self._stale.add(artifact)
                self._show(digest)

    def meet(self, artifact: str, version: Version, tokens: Sequence[int]) -> None:
        """The text of a version that is not superseded: prompts are cut where theirs differs."""
        if artifact not in self._stale:
            return
        self._stale.discard(artifact)
        for digest in list(self._with.get(artifact, ())):
            kept = self._kept[digest]
            place = kept.places[artifact]
            if not place.stale:
                continue
            alike = common(kept.tokens[place.start : place.start + place.count], tokens)
            place.stale, place.version = False, version
            if alike == place.count == len(tokens):  # the same text again
                self._show(digest)
            else:
                place.count = alike
                self._cut(digest, place.start + alike)

    def forget(self, digest: str) -> None:
        """The pool has lost an entry."""
        if (kept := self._kept.pop(digest, None)) is None:
            return
        for artifact in kept.places:
            self._unlink(artifact, digest)

    def _unlink(self, artifact: str, digest: str) -> None:
        others = self._with[artifact]
        del others[digest]
        if not others:
            del self._with[artifact]
            self._stale.discard(artifact)

    def _cut(self, digest: str, until: int) -> None:
        """Only the first `until` tokens are kept, unless others have them as well."""
        kept = self._kept[digest]
        if until < len(kept.tokens):
            for artifact in [artifact for artifact, place in kept.places.items() if place.start >= until]:
                del kept.places[artifact]
                self._unlink(artifact, digest)
            del kept.tokens[until:]
            if until < BLOCK_TOKENS or not self._pool.cut(digest, until):
                self._drop(digest)
                return
        self._segments.retire(digest, kept.key, ())
        other = self._segments.prefix(kept.key.fingerprint, kept.key.salt, kept.tokens)
        if other is not None and other.tokens == until:
            self._drop(digest)
        else:
            self._show(digest)

    def _show(self, digest: str) -> None:
        if (kept := self._kept.get(digest)) is not None:
            self._segments.retire(digest, kept.key, kept.tokens[: kept.current])

    def _drop(self, digest: str) -> None:
        self.forget(digest)
        self._segments.drop(digest)
