"""A prompt's KV from what is kept and what must be computed, as planned: predict, then repair.

What is reused is placed by one rotation of the whole prompt, corrected by anchors where they are near (the prediction).
Fresh keys of a check layer then show how far each block of 32 tokens is off; blocks that disagree are computed afresh
with what was not kept (the repair); where that would be most of it the prompt is computed plainly, and becomes an
anchor of its segments. Nothing else is stored here: what is approximate is used once."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from homenode_kv.anchors import Anchors, Slot
from homenode_kv.costs import NS_PER_MS
from homenode_kv.engine import Engine, Forward
from homenode_kv.errors import InvalidTokens, OutOfMemory, PromptTooLong
from homenode_kv.ident import digest, token_hash
from homenode_kv.layout import KEYS
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.parts import Composed, Part, Piece, Use
from homenode_kv.planner import Demand, PartFacts, Plan, Planner, Rates, Settings, Way
from homenode_kv.provenance import EXACT, EXACT_BY_MASK, Kind, approximate
from homenode_kv.segments import Found, Prefix, Segments


class Composer:
    """Composes prompts for one engine; its owner's thread only.

    Args:
        anchors: None: segments are reused as they are, and refreshed.
        isolated: the model was trained with segments that do not see each other (kv-tier: "exact by mask").
    """

    def __init__(
        self,
        engine: Engine,
        segments: Segments,
        fingerprint: str,
        *,
        anchors: Anchors | None = None,
        settings: Settings | None = None,
        isolated: bool = False,
    ) -> None:
        self._engine, self._segments, self._fingerprint = engine, segments, fingerprint
        self._anchors, self._isolated = anchors, isolated
        self._costs = segments.costs
        given = settings or Settings()
        self._check_layer = min(given.check_layer, engine.geometry.layers - 1)
        rates = Rates(self._costs, (self._check_layer + 1) / engine.geometry.layers)
        self.planner = Planner(given, rates, isolated=isolated)

    def compose(
        self,
        parts: Sequence[Part],
        salt: bytes,
        demand: Demand | None = None,
        *,
        consumer: str = "",
        template: str = "",
    ) -> Composed:
        """The KV of the parts in order, at least the last token of them computed.

        Args:
            salt: the tenant's.
            consumer, template: for whom, and by which name, anchors are kept; without a template the parts before a
                segment name its place: fixed text by its tokens, artifacts by being one.

        Raises:
            PromptTooLong, InvalidTokens: the engine takes no such prompt.
        """
        demand = demand or Demand()
        tokens = [token for part in parts for token in part.tokens]
        if not tokens:
            raise InvalidTokens("no tokens")
        if len(tokens) > self._engine.tokens_max:
            raise PromptTooLong(len(tokens), self._engine.tokens_max)
        pieces = self._pieces(parts, consumer, template)
        done, past = self._beginning(pieces, tokens, salt)
        self._look(pieces, done, demand)
        plan = self.planner.plan([self._facts(piece) for piece in pieces], demand)
        error_max = self.planner.settings.error_max if demand.error_max is None else demand.error_max
        composed = None
        if Way.MASKED in plan.ways:
            composed = self._masked(pieces, tokens, past, plan)
        elif plan.approximate:
            composed = self._reused(pieces, tokens, past, plan, error_max)
        if composed is None:
            composed = self._dense(pieces, tokens, past, plan)
        missing = tuple(at for at, piece in enumerate(pieces) if piece.part.is_artifact and piece.found is None)
        return replace(composed, missing=missing)

    # --- what is known ---

    def _pieces(self, parts: Sequence[Part], consumer: str, template: str) -> list[Piece]:
        starts = accumulate((len(part.tokens) for part in parts), initial=0)
        before, pieces = [template.encode()], []
        for at, (part, start) in enumerate(zip(parts, starts, strict=False)):
            named = template or digest(before, person=b"template")
            after = parts[at + 1] if at + 1 < len(parts) and parts[at + 1].is_fixed else None
            place = f"{at}" if after is None or after.key is None else f"{at} {after.key.tokens}"
            pieces.append(Piece(part, start, Slot(self._fingerprint, named, place, consumer)))
            before.append(b"artifact" if part.is_artifact else token_hash(part.tokens).encode())
        for placeholder, piece in zip(pieces, pieces[1:], strict=False):
            if placeholder.part.is_artifact and piece.part.is_fixed:
                piece.leader = placeholder
        return pieces

    def _beginning(self, pieces: list[Piece], tokens: list[int], salt: bytes) -> tuple[int, Tensor | None]:
        """The longest beginning of which exact KV is kept and worth loading; one token at least is left to compute.

        Of a model with isolated segments only within the first part: beyond it a plain pass and a masked one differ.
        """
        first = pieces[0]
        most = len(tokens) - 1 if not self._isolated else min(first.end, len(tokens) - 1)
        known: list[Found | Prefix] = []
        if (prefix := self._segments.prefix(self._fingerprint, salt, tokens)) is not None:
            known.append(prefix)
        if first.part.key is not None and (found := self._segments.find(first.part.key)) is not None:
            if found.provenance.kind is Kind.EXACT:
                known.append(found)
        for one in sorted(known, key=lambda one: one.tokens, reverse=True):
            count = min(one.tokens, most)
            choice = self._segments.look(one.digest)
            if count > 0 and choice is not None and choice.reload and (kv := self._load(one, count)) is not None:
                for piece in pieces:
                    piece.done = max(0, min(count, piece.end) - piece.start)
                return count, kv
        return 0, None

    def _look(self, pieces: list[Piece], done: int, demand: Demand) -> None:
        """Bases of what the beginning does not cover, and whether anchors are near. Bases are read to be compared."""
        for piece in pieces:
            key = piece.part.key
            if key is None or piece.end <= done or not piece.part.tokens:
                continue
            piece.found = self._segments.find(key)
            if demand.dense or self._isolated:
                continue
            if piece.found is None and piece.part.near is not None:
                choice = self._segments.look(piece.part.near.digest)
                piece.near = piece.part.near if choice is not None and choice.reload else None
            if piece.found is None or self._anchors is None:
                continue
            if piece.leader is not None:
                gate = piece.leader.gate
                if gate is not None and all(anchor.follow is not None for anchor in gate.anchors):
                    piece.gate = gate
            elif self._anchors.count(piece.slot) > 1 and piece.start and piece.found.choice.reload:
                if (base := self._base(piece)) is not None:
                    piece.gate = self._anchors.gate(piece.slot, base)

    def _facts(self, piece: Piece) -> PartFacts:
        digest = piece.found.digest if piece.found else piece.near.digest if piece.near else ""
        choice = self._segments.look(digest) if digest else None
        kept = sum(span.count for span in piece.spans)
        return PartFacts(
            tokens=len(piece.part.tokens),
            done=piece.done,
            changed=len(piece.part.tokens) - piece.done - kept,
            reload_ms=(choice.reload_ms or 0.0) if choice is not None and choice.reload else None,
            place=piece.place,
            anchored=piece.gate is not None and piece.gate.shareable,
        )

    def _base(self, piece: Piece) -> Tensor | None:
        if piece.base is None and piece.found is not None:
            piece.base = self._load(piece.found, piece.found.tokens)
        return piece.base

    def _source(self, piece: Piece) -> Tensor | None:
        """What the piece's spans are taken from."""
        if piece.near is None:
            return self._base(piece)
        return self._load(Prefix(piece.near.digest, piece.near.tokens), piece.near.tokens)

    def _load(self, found: Found | Prefix, tokens: int) -> Tensor | None:
        with contextlib.suppress(OutOfMemory):
            if (held := self._segments.use(found)) is not None:
                with held:
                    return held.kv(tokens)
        return None

    # --- ways ---

    def _dense(self, pieces: list[Piece], tokens: list[int], past: Tensor | None, plan: Plan) -> Composed:
        done = 0 if past is None else past.shape[2]
        began_ns = time.monotonic_ns()
        forward = self._engine.prefill(tokens[done:], past)
        self._costs.prefilled(len(tokens) - done, self._ms_since(began_ns))
        if self._anchors is not None and not self._isolated:
            self._observe(pieces, forward.kv, plan)
        uses = [Use(len(p.part.tokens), exact=p.done, dense=len(p.part.tokens) - p.done) for p in pieces]
        ways = tuple(Way.EXACT if use.tokens and not use.dense else Way.DENSE for use in uses)
        return Composed(forward, tuple(uses), Use.sum(uses), ways, EXACT, 0.0, math.nan, plan, ())

    def _observe(self, pieces: list[Piece], kv: Tensor, plan: Plan) -> None:
        """A plain pass becomes an anchor of each artifact in it that has a base, with the fixed text after it.

        Where anchors were near none is added, unless they were tried and the check layer found them off.
        """
        assert self._anchors is not None
        versions: list[str] = []  # what a segment sees, its offset comes from as well
        for at, (piece, way) in enumerate(zip(pieces, plan.ways, strict=True)):
            if piece.part.key is None or not piece.part.is_artifact:
                continue
            versions.append(piece.part.key.version_digest)
            if not piece.start:
                continue
            if (base := self._base(piece)) is None:
                continue
            gate = piece.gate or self._anchors.gate(piece.slot, base)
            if gate.shareable and way is not Way.ANCHORS:
                continue
            after, follow = pieces[at + 1] if at + 1 < len(pieces) else None, None
            if after is not None and after.leader is piece and (fixed := self._base(after)) is not None:
                follow = fixed, kv[:, :, after.start : after.end], after.start
            real = kv[:, :, piece.start : piece.end]
            self._anchors.observe(piece.slot, base, real, piece.start, follow, versions=versions)

    def _masked(self, pieces: list[Piece], tokens: list[int], past: Tensor | None, plan: Plan) -> Composed | None:
        """Segments as they are; what is not kept is computed under the mask that the model was trained with."""
        placed = self._place(pieces, tokens, past, plan.ways)
        if placed is None:
            return None
        kv, kept = placed
        kept[-1] = False
        fresh = (~kept).nonzero().flatten()
        seen = torch.ones(len(fresh), len(tokens), dtype=torch.bool)
        for piece in pieces:
            if piece.part.key is not None:
                own = (fresh >= piece.start) & (fresh < piece.end)
                seen[own, : piece.start] = False
        forward = self._refresh(tokens, kv, fresh, seen)
        uses = [self._use(piece, way, kept, None) for piece, way in zip(pieces, plan.ways, strict=True)]
        return Composed(forward, tuple(uses), Use.sum(uses), plan.ways, EXACT_BY_MASK, 0.0, math.nan, plan, ())

    def _reused(
        self, pieces: list[Piece], tokens: list[int], past: Tensor | None, plan: Plan, error_max: float
    ) -> Composed | None:
        """Place, check, repair; None where a plain prefill is better."""
        placed = self._place(pieces, tokens, past, plan.ways)
        if placed is None:
            return None
        kv, kept = placed
        done = 0 if past is None else past.shape[2]
        reused = kept.clone()
        reused[:done] = False
        until = int(reused.nonzero().max()) + 1
        began_ns = time.monotonic_ns()
        off = torch.zeros(len(tokens))
        where = list(range(done, until))
        off[done:until] = self._engine.deviation([tokens], kv[:, :, None], [where], self._check_layer)[0].cpu()
        self.planner.rates.check.measured(len(where), self._ms_since(began_ns))
        stays = reused & ~_dirty_blocks(pieces, off, reused, error_max)
        stays[-1] = False
        given_up = int(reused.sum()) - int(stays.sum()) > self.planner.settings.refresh_max * int(reused.sum())
        for piece, way in zip(pieces, plan.ways, strict=True):
            self._saw(piece, way, error_max, off, reused, stays, given_up)
        if given_up:
            return None
        kept = stays.clone()
        kept[:done] = True
        forward = self._refresh(tokens, kv, (~kept).nonzero().flatten())
        uses = [self._use(piece, way, kept, reused) for piece, way in zip(pieces, plan.ways, strict=True)]
        measured = float(off[stays].max()) if stays.any() else 0.0
        provenance = approximate(measured) if stays.any() else EXACT
        return Composed(forward, tuple(uses), Use.sum(uses), plan.ways, provenance, plan.error, measured, plan, ())

    def _place(
        self, pieces: list[Piece], tokens: list[int], past: Tensor | None, ways: Sequence[Way]
    ) -> tuple[Tensor, Tensor] | None:
        """The prompt's KV as far as it is kept, and which tokens that is; one rotation. None: a base went meanwhile."""
        began_ns = time.monotonic_ns()
        kv = torch.zeros(self._engine.geometry.shape(len(tokens)), dtype=self._engine.geometry.dtype)
        kv = kv.to(self._engine.device)
        delta, kept = torch.zeros(len(tokens)), torch.zeros(len(tokens), dtype=torch.bool)
        for piece, way in zip(pieces, ways, strict=True):
            if way not in (Way.MASKED, Way.REUSE, Way.ANCHORS):
                continue
            if (base := self._source(piece)) is None:
                return None
            if way is Way.ANCHORS and piece.gate is not None and self._anchors is not None:
                base = self._anchors.estimate(piece.gate, base, follow=piece.leader is not None)
                self._anchors.used(piece.gate)
            for span in piece.spans:
                here = slice(piece.start + span.target, piece.start + span.target + span.count)
                kv[:, :, here] = base[:, :, span.source : span.source + span.count]
                delta[here], kept[here] = here.start - span.source, True
        kv[:, KEYS] = self._engine.rotation.turn(kv[:, KEYS], delta.to(kv.device))
        if past is not None:
            kv[:, :, : past.shape[2]] = past
            kept[: past.shape[2]] = True
        self.planner.rates.place.measured(int((delta != 0).sum()), self._ms_since(began_ns))
        return kv, kept

    def _refresh(self, tokens: list[int], kv: Tensor, fresh: Tensor, seen: Tensor | None = None) -> Forward:
        began_ns = time.monotonic_ns()
        forward = self._engine.refresh(tokens, kv, fresh.tolist(), visible=seen)
        self.planner.rates.refresh.measured(len(fresh), self._ms_since(began_ns))
        return forward

    # --- books ---

    def _saw(
        self, piece: Piece, way: Way, error_max: float, off: Tensor, reused: Tensor, stays: Tensor, given_up: bool
    ) -> None:
        here = slice(piece.start, piece.end)
        total = int(reused[here].sum())
        if way in (Way.REUSE, Way.ANCHORS) and total:
            kept = stays[here]
            error = float(off[here][kept].max()) if kept.any() else 0.0
            refreshed = 1 - int(kept.sum()) / total
            self.planner.places.saw(piece.place, way, error_max, error, max(refreshed, float(given_up)))

    def _use(self, piece: Piece, way: Way, kept: Tensor, reused: Tensor | None) -> Use:
        total = len(piece.part.tokens)
        stayed = int(kept[piece.start + piece.done : piece.end].sum())
        if way is Way.MASKED:
            return Use(total, exact=piece.done, exact_by_mask=stayed, dense=total - piece.done - stayed)
        refreshed = 0 if reused is None else int((reused & ~kept)[piece.start : piece.end].sum())
        dense = total - piece.done - stayed - refreshed
        return Use(total, exact=piece.done, approximate=stayed, refreshed=refreshed, dense=dense)

    def _ms_since(self, began_ns: int) -> float:
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize(self._engine.device)
        return (time.monotonic_ns() - began_ns) / NS_PER_MS


def _dirty_blocks(pieces: list[Piece], off: Tensor, reused: Tensor, error_max: float) -> Tensor:
    """Tokens of those blocks of 32, counted from each part's beginning, in which a reused token is too far off.

    One token of a block may be all in it that other text changes, and all that matters: a mean would hide it.
    """
    dirty = torch.zeros_like(reused)
    for piece in pieces:
        for begin in range(piece.start, piece.end, BLOCK_TOKENS):
            block = slice(begin, min(begin + BLOCK_TOKENS, piece.end))
            here = reused[block]
            if here.any() and float(off[block][here].max()) > error_max:
                dirty[block] = True
    return dirty
