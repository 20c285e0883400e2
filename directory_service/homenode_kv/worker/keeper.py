"""What a worker keeps, by artifact and version: bases of segments, and whole prompts as exact prefixes.

Runs on the engine's thread. Who looks for the KV of an artifact names the version, so a superseded one is found by
nobody who has read since; `supersede` also takes it out of the pool, and keeps the newest aside for its successor: what
both texts begin with need not be computed again, for under causal attention KV depends on nothing that comes after it.
"""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from homenode_kv import anchors as anchoring
from homenode_kv.anchors import Anchors
from homenode_kv.collector import Collected
from homenode_kv.composer import Composer
from homenode_kv.costs import Tier
from homenode_kv.engine import Engine, Forward
from homenode_kv.entries import Held
from homenode_kv.errors import OutOfMemory
from homenode_kv.ident import SegmentKey, Version
from homenode_kv.parts import Composed, Part, Use
from homenode_kv.planner import Demand, Settings
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT, Kind, Provenance
from homenode_kv.segments import Found, Prefix, Segments
from homenode_kv.worker.kept_prompts import KeptPrompts
from homenode_kv.worker.kept_rounds import KeptRounds
from homenode_kv.worker.prompts import Piece, Prompt, common

ASIDE_MAX = 64
NEWEST_MAX = 4_096
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Holding:
    """KV of an artifact version, as the directory is told of it. `tier` None: it is not kept any more."""

    digest: str
    artifact: str
    version: Version
    tokens: int
    provenance: Provenance
    tier: Tier | None


@dataclass(frozen=True, slots=True)
class _Known:
    key: SegmentKey
    tokens: array[int]
    provenance: Provenance


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
        prompts, rounds: what is kept of them.
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
        self._tell = tell
        self._known: dict[str, _Known] = {}  # content key -> artifact version
        self._versions: dict[str, dict[str, None]] = {}  # artifact -> content keys
        self._newest: dict[str, Version] = {}  # of artifacts that changed lately
        self._aside: OrderedDict[str, tuple[array[int], Held]] = OrderedDict()  # artifact -> superseded base
        self._from: dict[str, dict[str, Version]] = {}  # artifact -> digests of versions that anchors may come from
        self.prompts = KeptPrompts(pool, self._keep_whole, self.use)
        pool.on_change = self._moved
        self.segments = Segments(pool)
        self.rounds = KeptRounds(pool, sheets)
        self._anchor_count = 0
        self.anchors = Anchors(engine.geometry, engine.rotation, anchors)
        self.composer = Composer(
            engine, self.segments, fingerprint, anchors=self.anchors, settings=settings, isolated=isolated
        )

    def close(self) -> None:
        """Lets go of what is in use."""
        while self._aside:
            self._aside.popitem()[1][1].release()

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
        if found is not None and piece.artifact and found.digest not in self._known:  # of an earlier run
            self._note(key, piece, found.provenance)
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
        if (found := self.find(piece)) is not None:
            return Base(0, found.provenance, True)
        cut, past = self._ancestor(piece)
        began_ns = time.monotonic_ns()
        forward = self.engine.prefill(piece.tokens[cut:], past)
        self.pool.costs.prefilled(len(piece.tokens) - cut, (time.monotonic_ns() - began_ns) / NS_PER_MS)
        return Base(len(piece.tokens) - cut, EXACT, self.keep(piece, forward.kv, EXACT))

    def keep(self, piece: Piece, kv: Tensor, provenance: Provenance) -> bool:
        """Keeps KV at position 0 as the piece's base.

        False where there is no room, what is kept is as good, or the version was superseded while it was computed.
        """
        if piece.version is not None and self._dead(piece.artifact, piece.version):
            return False
        key = self.key_of(piece)
        kept = self._put(key, piece.tokens, kv, provenance)
        if kept and piece.artifact:
            self._note(key, piece, provenance)
        return kept

    def _dead(self, artifact: str, version: Version) -> bool:
        return version < self._newest.get(artifact, version)

    def _ancestor(self, piece: Piece) -> tuple[int, Tensor | None]:
        """What an exact base of another version of the artifact has in common with this one, and its KV."""
        aside = self._aside.pop(piece.artifact, None)
        if aside is not None:
            tokens, held = aside
            with held:
                cut = min(common(tokens, piece.tokens), len(piece.tokens) - 1)
                if cut:
                    return cut, held.kv(cut)
        best, cut = "", 0
        for digest in self._versions.get(piece.artifact, ()) if piece.artifact else ():
            known = self._known[digest]
            alike = min(common(known.tokens, piece.tokens), len(piece.tokens) - 1)
            if alike > cut and known.provenance.kind is Kind.EXACT:
                best, cut = digest, alike
        held_now = self.use(Prefix(best, cut)) if best else None
        if held_now is None:
            return 0, None
        with held_now:
            return cut, held_now.kv(cut)

    # --- prompts ------------------------------------------------------------------------------------------------------

    def compose(self, prompt: Prompt, demand: Demand, consumer: str = "") -> Composed:
        """The prompt's KV, as the demand allows; what is said of parts is said of the prompt's pieces."""
        for piece in prompt.pieces:
            if piece.artifact:
                self.find(piece)
        keys = [self.key_of(piece) if piece.artifact else None for piece in prompt.pieces]
        parts = [Part(piece.tokens, key) for piece, key in zip(prompt.pieces, keys, strict=True)]
        if not prompt.lead:
            computed = self._succeed(prompt)
            composed = self.composer.compose(parts, self._salt, demand, consumer=consumer)
            return _counted(composed, computed) if computed else composed
        composed = self.composer.compose([Part(prompt.lead), *parts], self._salt, demand, consumer=consumer)
        missing = tuple(at - 1 for at in composed.missing)
        return replace(composed, uses=composed.uses[1:], ways=composed.ways[1:], missing=missing)

    def _succeed(self, prompt: Prompt) -> int:
        """Makes the base of what the prompt begins with, where an earlier version of it is there to go on from.

        Returns the tokens that were computed. At position 0 a base is a beginning, so nothing is computed twice.
        """
        first = prompt.pieces[0] if prompt.pieces else None
        if first is None or not first.artifact or not first.tokens or self.find(first) is not None:
            return 0
        if first.artifact not in self._aside and first.artifact not in self._versions:
            return 0
        return self.base(first).computed

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

    def keep_round(self, round_id: str, collected: Collected, prompts: Iterable[Prompt]) -> tuple[int, int]:
        """See `KeptRounds.keep`."""
        return self.rounds.keep(round_id, collected, prompts, self._dead)

    def _keep_whole(self, tokens: Sequence[int], kv: Tensor) -> str:
        key = SegmentKey.of(self.fingerprint, self._salt, tokens)
        return key.digest if self._put(key, tokens, kv, EXACT) else ""

    def _put(self, key: SegmentKey, tokens: Sequence[int], kv: Tensor, provenance: Provenance) -> bool:
        """As `Segments.put`; what is pinned or aside for later gives way. False where there is no room even so."""
        while True:
            try:
                return self.segments.put(key, tokens, kv, provenance)
            except OutOfMemory:
                if self._aside:
                    self._aside.popitem(last=False)[1][1].release()
                elif not self.rounds.shed():
                    return False

    # --- coherence ----------------------------------------------------------------------------------------------------

    def supersede(self, artifact: str, current: Version, *, deleted: bool = False) -> int:
        """Takes all versions of an artifact below `current` out of use, that one too where it is a deletion.

        Returns how many segments went. The newest exact one stays aside for its successor, if there is one.
        """
        self._newest[artifact] = max(current, self._newest.pop(artifact, current))
        if len(self._newest) > NEWEST_MAX:
            del self._newest[next(iter(self._newest))]
        known = [self._known[digest] for digest in self._versions.get(artifact, ())]
        old = [one for one in known if _version(one) < current or (deleted and _version(one) == current)]
        if old and not deleted:
            self._put_aside(artifact, max(old, key=_version))
        for digest, version in list(self._from.get(artifact, {}).items()):
            if version < current or deleted:
                self.anchors.drop_version(digest)
                del self._from[artifact][digest]
        if not self._from.get(artifact, True):
            del self._from[artifact]
        for one in old:
            self.segments.drop_version(one.key)
            self._forget(one.key.digest)
        self.prompts.cut(artifact, current)
        self.rounds.release(artifact, current)
        return len(old)

    def versions(self) -> dict[str, set[Version]]:
        """The artifact versions that are kept."""
        return {
            artifact: {_version(self._known[digest]) for digest in digests}
            for artifact, digests in self._versions.items()
        }

    def _put_aside(self, artifact: str, known: _Known) -> None:
        entry = self.pool.entry(known.key.digest)
        if entry is None or entry.tier is Tier.DISK or known.provenance.kind is not Kind.EXACT:
            return
        held = self.use(Prefix(known.key.digest, entry.tokens))
        if held is None:
            return
        if (former := self._aside.pop(artifact, None)) is not None:
            former[1].release()
        self._aside[artifact] = known.tokens, held
        if len(self._aside) > ASIDE_MAX:
            self._aside.popitem(last=False)[1][1].release()

    # --- books --------------------------------------------------------------------------------------------------------

    def relieve(self) -> None:
        """Gives up what is only kept for later speed, when memory is short."""
        self.close()

    def _note(self, key: SegmentKey, piece: Piece, provenance: Provenance) -> None:
        self._known[key.digest] = _Known(key, array("q", piece.tokens), provenance)
        self._versions.setdefault(piece.artifact, {})[key.digest] = None
        self._remember(piece.artifact, key)
        entry = self.pool.entry(key.digest)
        assert entry is not None
        self._told(key.digest, entry.tier)

    def _remember(self, artifact: str, key: SegmentKey) -> None:
        assert key.version is not None
        self._from.setdefault(artifact, {})[key.version_digest] = key.version
        if len(self._from) > NEWEST_MAX:
            oldest = next(iter(self._from))
            for digest in self._from.pop(oldest):
                self.anchors.drop_version(digest)

    def _forget(self, digest: str) -> None:
        known = self._known.get(digest)
        if known is None:
            return
        self._told(digest, None)
        del self._known[digest]
        digests = self._versions[known.key.artifact]
        del digests[digest]
        if not digests:
            del self._versions[known.key.artifact]

    def _moved(self, digest: str, before: Tier | None, after: Tier | None) -> None:
        """The pool tells."""
        if after is None:
            self._forget(digest)
            self.prompts.forget(digest)
        elif digest in self._known:
            self._told(digest, after)

    def _told(self, digest: str, tier: Tier | None) -> None:
        known = self._known[digest]
        self._tell(Holding(digest, known.key.artifact, _version(known), len(known.tokens), known.provenance, tier))


def _version(known: _Known) -> Version:
    assert known.key.version is not None
    return known.key.version


def _counted(composed: Composed, computed: int) -> Composed:
    """Tokens of the first part that were computed for its base just now are dense, though they are found as exact."""
    first = composed.uses[0]
    fresh = min(computed, first.exact)
    uses = (replace(first, exact=first.exact - fresh, dense=first.dense + fresh), *composed.uses[1:])
    return replace(composed, uses=uses, whole=Use.sum(uses))
