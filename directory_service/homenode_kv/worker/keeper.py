"""What a worker keeps, by artifact and version: bases of segments, and whole prompts as exact prefixes.

Runs on the engine's thread. Who looks for the KV of an artifact names the version, so a superseded one is found by
nobody who has read since; `supersede` also takes it out of use. What serves the version that follows is kept for it
alone, see `lineage` and `kept_prompts`: a version that is named by a call whose turn has come is known to be committed,
so with it (`meet`) earlier ones are superseded, and its text says what is still true of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from homenode_kv import anchors as anchoring
from homenode_kv import composing
from homenode_kv.anchors import Anchors
from homenode_kv.collector import Collected
from homenode_kv.composer import Composer
from homenode_kv.costs import Tier
from homenode_kv.engine import Engine, Forward
from homenode_kv.entries import Held
from homenode_kv.errors import OutOfMemory
from homenode_kv.ident import SegmentKey, Version
from homenode_kv.parts import Composed, Part
from homenode_kv.planner import Demand, Settings
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT, Kind, Provenance
from homenode_kv.segments import Found, Prefix, Segments
from homenode_kv.worker.artifacts import Artifacts, Holding
from homenode_kv.worker.kept_prompts import KeptPrompts
from homenode_kv.worker.kept_rounds import KeptRounds, Member
from homenode_kv.worker.lineage import Lineage
from homenode_kv.worker.prompts import Piece, Prompt


@dataclass(frozen=True, slots=True)
class Base:
    """Outcome of `Keeper.base`: tokens that had to be computed, and whether the KV is kept."""

    computed: int
    provenance: Provenance
    kept: bool


class Keeper:
    """See the module.

    Args:
        tell: hears of every artifact version that comes, moves or goes, on the engine's thread.
        settings, anchors, isolated: of what is reused out of its context, see `composer`.
        sheets: pool of the blocks of rounds' mirrors.

    Attributes:
        prompts, rounds, artifacts: what is kept of them.
        on_superseded: hears how many bases are superseded, on the engine's thread.
    """

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        fingerprint: str,
        salt: bytes,
        tell: Callable[[Holding], None],
        sheets: Pool,
        *,
        settings: Settings | None = None,
        anchors: anchoring.Settings | None = None,
        isolated: bool = False,
    ) -> None:
        self.engine = engine
        self.pool = pool
        self.fingerprint = fingerprint
        self._salt = salt
        self._anchor_count = 0
        self.anchors = Anchors(engine.geometry, engine.rotation, anchors)
        self.artifacts = Artifacts(tell, self.anchors.drop_version)
        self.on_superseded: Callable[[int], None] = lambda bases: None
        self.segments = Segments(pool)
        self._told_before, pool.on_change = pool.on_change, self._moved
        self.prompts = KeptPrompts(pool, self.segments, self._keep_whole, self.artifacts.dead)
        self.lineage = Lineage(self.segments)
        self.rounds = KeptRounds(pool, sheets)
        self.composer = Composer(
            engine,
            self.segments,
            fingerprint,
            anchors=self.anchors if self.anchors.settings.gamma else None,
            settings=settings,
            isolated=isolated,
        )

    @property
    def anchor_count(self) -> int:
        """How many anchors are kept; other threads may ask."""
        try:
            self._anchor_count = len(self.anchors)
        except RuntimeError:  # something changed while they were counted
            pass
        return self._anchor_count

    # --- bases --------------------------------------------------------------------------------------------------------

    def key_of(self, piece: Piece) -> SegmentKey:
        """What the piece's KV is kept and found by."""
        return SegmentKey.of(self.fingerprint, self._salt, piece.tokens, piece.artifact, piece.version)

    def find(self, piece: Piece) -> Found | None:
        """The piece's base, or None."""
        key = self.key_of(piece)
        found = self.segments.find(key)
        if found is not None and piece.artifact and found.digest not in self.artifacts:  # of a round, or an earlier run
            self._note(key, piece, found.provenance, found.tier)
        return found

    def prefix(self, tokens: list[int]) -> Prefix | None:
        """The longest beginning of a prompt of which exact KV is kept."""
        return self.segments.prefix(self.fingerprint, self._salt, tokens)

    def use(self, found: Found | Prefix) -> Held | None:
        """As `Segments.use`; None also where there is no room for it on the device."""
        try:
            return self.segments.use(found)
        except OutOfMemory:
            return None

    def base(self, piece: Piece) -> Base:
        """Makes the piece's base unless it is there: from its predecessor's, as far as both begin alike."""
        self.meet([piece])
        if (found := self.find(piece)) is not None:
            return Base(0, found.provenance, True)
        kv, computed = composing.base(self.engine, self.segments, self.key_of(piece), piece.tokens)
        return Base(computed, EXACT, self.keep(piece, kv, EXACT))

    def keep(self, piece: Piece, kv: Tensor, provenance: Provenance) -> bool:
        """Keeps KV at position 0 as the piece's base.

        False where there is no room, what is kept is as good, or the version was superseded while it was computed.
        """
        if piece.version is not None and self.artifacts.dead(piece.artifact, piece.version):
            return False
        key = self.key_of(piece)
        if not self._put(key, piece.tokens, kv, provenance):
            return False
        if piece.artifact:
            self._note(key, piece, provenance, Tier.DEVICE)
        return True

    def _note(self, key: SegmentKey, piece: Piece, provenance: Provenance, tier: Tier) -> None:
        """A base is there: it takes the place of what its predecessor left."""
        assert piece.version is not None
        self.artifacts.note(key, array("q", piece.tokens), provenance, tier)
        if provenance.kind is Kind.EXACT and not self.artifacts.dead(piece.artifact, piece.version):
            self.lineage.drop(piece.artifact)

    # --- prompts ------------------------------------------------------------------------------------------------------

    def compose(self, prompt: Prompt, demand: Demand, consumer: str = "") -> Composed:
        """The prompt's KV, as the demand allows; what is said of parts is said of the prompt's pieces."""
        self.meet(prompt.pieces)
        lead = [Part(prompt.lead)] if prompt.lead else []
        parts = lead + [self._part(piece) for piece in prompt.pieces]
        composed = self.composer.compose(parts, self._salt, demand, consumer=consumer)
        at = len(lead)
        missing = tuple(part - at for part in composed.missing)
        return replace(composed, uses=composed.uses[at:], ways=composed.ways[at:], missing=missing)

    def _part(self, piece: Piece) -> Part:
        if not piece.artifact:
            return Part(piece.tokens)
        key = self.key_of(piece)
        return Part(piece.tokens, key, self.lineage.near(key) if self.find(piece) is None else None)

    def keep_prompt(self, prompt: Prompt, tokens: list[int], forward: Forward) -> None:
        """Keeps exact KV of a whole prompt (and what was written after it), and the base of what it begins with."""
        first = prompt.pieces[0] if prompt.pieces and not prompt.lead else None
        if first is not None and first.artifact and first.tokens and self.find(first) is None:
            self.keep(first, forward.kv[:, :, : len(first.tokens)], EXACT)
        self.prompts.keep(prompt, tokens, forward.kv, self.prefix(tokens))

    def keep_beginning(self, prompt: Prompt, composed: Composed) -> None:
        """Keeps of a prompt what comes before anything approximate: under causal attention that is exact."""
        count = len(prompt.lead)
        for piece, use in zip(prompt.pieces, composed.uses, strict=True):
            if use.exact + use.dense < len(piece.tokens):
                break
            count += len(piece.tokens)
        if count:
            tokens = prompt.tokens[:count]
            self.prompts.keep(prompt, tokens, composed.forward.kv[:, :, :count], self.prefix(tokens))

    def keep_round(self, round_id: str, collected: Collected, members: Mapping[str, Member]) -> tuple[int, int]:
        """See `KeptRounds.keep`."""
        return self.rounds.keep(round_id, collected, members, self.key_of, self.artifacts.dead)

    def _keep_whole(self, tokens: Sequence[int], kv: Tensor) -> SegmentKey | None:
        key = SegmentKey.of(self.fingerprint, self._salt, tokens)
        return key if self._put(key, tokens, kv, EXACT) else None

    def _put(self, key: SegmentKey, tokens: Sequence[int], kv: Tensor, provenance: Provenance) -> bool:
        """As `Segments.put`; rounds that are kept for later give way. False where there is no room even so."""
        while True:
            try:
                return self.segments.put(key, tokens, kv, provenance)
            except OutOfMemory:
                if not self.rounds.shed():
                    return False

    # --- coherence ----------------------------------------------------------------------------------------------------

    def meet(self, pieces: Iterable[Piece]) -> None:
        """Versions that are committed now, with their texts: what is older is superseded."""
        for piece in pieces:
            if not piece.artifact or piece.version is None or self.artifacts.dead(piece.artifact, piece.version):
                continue
            if self.artifacts.newest(piece.artifact) != piece.version:
                self.supersede(piece.artifact, piece.version)
            if piece.artifact in self.lineage:
                self.lineage.meet(self.key_of(piece), piece.tokens)
            self.prompts.meet(piece.artifact, piece.version, piece.tokens)

    def supersede(self, artifact: str, current: Version, *, deleted: bool = False) -> int:
        """Takes all versions of an artifact below `current` out of use, that one too where it is a deletion.

        Returns how many bases that were. The newest exact one stays for its successor, if there is one.
        """
        old = self.artifacts.supersede(artifact, current, deleted=deleted)
        last = next((one for one in reversed(old) if one.provenance.kind is Kind.EXACT), None)
        if deleted or self.artifacts.exact(artifact):
            last = None
            self.lineage.drop(artifact)
        elif last is not None:
            self.lineage.retire(last.key, last.tokens)
        else:
            self.lineage.hide(artifact)
        for one in old:
            if one is not last:
                self.segments.drop(one.key.digest)
        self.prompts.supersede(artifact, current, deleted=deleted)
        self.rounds.release(artifact, current, deleted=deleted)
        self.on_superseded(len(old))
        return len(old)

    # --- books --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Lets go of what a later run could not find, before the rest goes to disk."""
        for entry in self.pool.entries():
            if not entry.meta:
                self.segments.drop(entry.key)

    def relieve(self) -> None:
        """Gives up what takes the device's memory for later speed alone, when that is short."""
        self.anchors.clear()

    def _moved(self, digest: str, before: Tier | None, after: Tier | None) -> None:
        """The pool tells."""
        self._told_before(digest, before, after)
        if after is None:
            self.prompts.forget(digest)
            self.lineage.forget(digest)
        if before is not None:  # what is new is noted by who puts it
            self.artifacts.moved(digest, after)
