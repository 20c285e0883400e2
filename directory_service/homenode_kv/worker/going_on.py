"""A prompt over what is there of it: its exact beginning, artifacts that a round left, bases.

Where a prompt begins as one did that was computed in a round, its artifacts are restored from what is kept of that
member, at their places. Where it has the same artifacts with other text about them they are restored in place of their
bases, to be checked and repaired. The rest is computed together with it, as a group of one where it comes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from homenode_kv import parts
from homenode_kv.collector import Collected, collect
from homenode_kv.composing import Private, Request, Shared
from homenode_kv.layout import blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.planner import Demand, Plan, Way
from homenode_kv.provenance import EXACT, Provenance, approximate
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.kept_rounds import Begun
from homenode_kv.worker.prompts import Piece, Prompt


@dataclass(frozen=True, eq=False, slots=True)
class Opening:
    """What is there of a prompt.

    Attributes:
        exact: KV that it begins with.
        begun: what a round left of it, if that serves.
        restored: KV of artifacts at their places, by where they begin.
        given: KV of artifacts that serves in place of their bases, by content key.
    """

    exact: Tensor | None = None
    begun: Begun | None = None
    restored: Mapping[int, Tensor] = field(default_factory=dict)
    given: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Tokens of the exact beginning."""
        return 0 if self.exact is None else int(self.exact.shape[2])

    @property
    def error(self) -> float:
        """Of what is restored."""
        return self.begun.error if self.begun else 0.0


def error_max(keeper: Keeper, demand: Demand) -> float:
    """What a caller allows: its own bound, or the worker's."""
    return keeper.composer.planner.settings.error_max if demand.error_max is None else demand.error_max


def compose_on(keeper: Keeper, prompt: Prompt, demand: Demand, consumer: str = "") -> parts.Composed | None:
    """The prompt over what a round left of it; None where nothing is left that serves better than what is kept else."""
    if demand.dense or keeper.composer.planner.isolated or not prompt.tokens:
        return None
    keeper.meet(prompt.pieces)
    opening = opened(keeper, prompt, demand)
    if opening.begun is None:
        opening = _alike(keeper, prompt, consumer)
    elif opening.count + BLOCK_TOKENS > opening.begun.tokens:
        return None
    if not opening.restored and not opening.given:
        return None
    missing = tuple(
        at
        for at, (start, piece) in enumerate(prompt.placed())
        if _shared(piece)
        and start not in opening.restored
        and keeper.find(piece) is None
        and keeper.key_of(piece).digest not in opening.given
    )
    request = Request("", request_parts(keeper, prompt, opening, missing))
    settings, bound = keeper.composer.planner.settings, error_max(keeper, demand)
    collected = collect(
        keeper.engine, keeper.segments, [request], share=0.0, error_max=bound, refresh_max=settings.refresh_max
    )
    return composed(keeper, "", prompt, collected, opening, missing)


def opened(keeper: Keeper, prompt: Prompt, demand: Demand) -> Opening:
    """What is there of a prompt, as far as the demand allows it; without a round only its own text is looked for."""
    begun = keeper.rounds.find(prompt, keeper.key_of)
    if begun is not None and begun.error <= error_max(keeper, demand):
        if restored := keeper.rounds.restore(begun, keeper.engine.rotation):
            return Opening(_exact(keeper, prompt.tokens[: begun.tokens]), begun, restored)
    own = list(prompt.lead)
    for piece in prompt.pieces:
        if piece.artifact:
            break
        own += piece.tokens
    return Opening(_exact(keeper, own))


def given(keeper: Keeper, prompt: Prompt, member: str = "") -> Mapping[str, Tensor]:
    """KV of a prompt's artifacts as a round left it about other texts, by content key."""
    begun = keeper.rounds.alike(prompt, keeper.key_of, member)
    return keeper.rounds.canonical(begun, keeper.engine.rotation) if begun is not None else {}


def _alike(keeper: Keeper, prompt: Prompt, consumer: str) -> Opening:
    """With the exact beginning up to an artifact's; nothing where a plain prefill is cheaper than a check."""
    prefix = keeper.prefix(prompt.tokens)
    count = prefix.tokens if prefix is not None else 0
    for start, piece in prompt.placed():
        if _shared(piece) and start < count < start + len(piece.tokens):
            count = start
    begun = keeper.rounds.alike(prompt, keeper.key_of, consumer)
    if begun is None:
        return Opening()
    digests = {place.digest for link in begun.links for place in link.places}
    placed = [
        piece
        for start, piece in prompt.placed()
        if _shared(piece) and start >= count and keeper.key_of(piece).digest in digests
    ]
    reused, left = sum(len(piece.tokens) for piece in placed), len(prompt.tokens) - count
    rates = keeper.composer.planner.rates
    if not reused or rates.reuse_ms(reused, left - reused, 0.0, checked=True) >= rates.dense_ms(left):
        return Opening()
    return Opening(_exact(keeper, prompt.tokens[:count]), given=keeper.rounds.canonical(begun, keeper.engine.rotation))


def _exact(keeper: Keeper, tokens: list[int]) -> Tensor | None:
    prefix = keeper.prefix(tokens)
    held = keeper.use(prefix) if prefix is not None else None
    if prefix is None or held is None:
        return None
    with held:
        return held.kv(prefix.tokens)


def request_parts(
    keeper: Keeper, prompt: Prompt, opening: Opening, plain: tuple[int, ...] = ()
) -> tuple[Private | Shared, ...]:
    """The prompt as a group takes it; artifacts at the places `plain` are computed as own text is."""
    kept = opening.count
    made: list[Private | Shared] = [Private(tuple(prompt.tokens[:kept]), opening.exact)] if kept else []
    if prompt.lead[kept:]:
        made.append(Private(prompt.lead[kept:]))
    for at, (start, piece) in enumerate(prompt.placed()):
        done = min(max(0, kept - start), len(piece.tokens))
        rest, kv = piece.tokens[done:], opening.restored.get(start) if piece.artifact else None
        if not rest:
            continue
        if kv is not None:
            made.append(Private(rest, kv[:, :, done:]))
        elif _shared(piece) and at not in plain:
            key = keeper.key_of(piece)
            made.append(Shared(key, piece.tokens, opening.given.get(key.digest)))
        else:
            made.append(Private(rest))
    return tuple(made)


def composed(
    keeper: Keeper,
    member: str,
    prompt: Prompt,
    collected: Collected,
    opening: Opening,
    plain: tuple[int, ...] = (),
) -> parts.Composed:
    """What became of one member's prompt, as said of a prompt that was computed alone."""
    plan, kept = collected.plan, opening.count
    refreshed = {key.digest: blocks for key, blocks in zip(plan.shared, plan.refreshed, strict=True)}
    last, checked, uses, ways = len(prompt.tokens) - 1, 0, [], []
    for at, (start, piece) in enumerate(prompt.placed()):
        count = len(piece.tokens)
        exact, ends = max(0, min(kept - start, count)), int(start <= last < start + count)
        if piece.artifact and start in opening.restored:
            reused = max(0, count - exact - ends)
            uses.append(parts.Use(count, exact=exact, approximate=reused, refreshed=ends, restored=reused))
            ways.append(Way.REUSE)
        elif not _shared(piece) or at in plain or exact == count:
            uses.append(parts.Use(count, exact=exact, dense=count - exact))
            ways.append(Way.DENSE if exact < count else Way.EXACT)
        else:
            key = keeper.key_of(piece).digest
            blocks = refreshed[key]
            full = count - (blocks_of(count) - 1) * BLOCK_TOKENS  # tokens of the last block
            fresh = sum(full if block == blocks_of(count) - 1 else BLOCK_TOKENS for block in blocks)
            if ends and blocks_of(count) - 1 not in blocks:
                fresh += 1
            stays = count - fresh
            checked += stays
            restored = stays if key in opening.given else 0
            uses.append(parts.Use(count, approximate=stays, refreshed=fresh, restored=restored))
            ways.append(Way.REUSE)
    lead = len(prompt.lead)
    exact = min(kept, lead)
    whole = parts.Use.sum([*uses, parts.Use(lead, exact=exact, dense=lead - exact)])
    stayed = plan.left.get(member, math.nan) if checked else 0.0
    measured = max(stayed, opening.error)  # of what is not a number the first is kept
    return parts.Composed(
        forward=collected.forwards[member],
        uses=tuple(uses),
        whole=whole,
        ways=tuple(ways),
        provenance=_provenance(whole, measured),
        predicted=math.nan,
        measured=measured,
        plan=Plan(tuple(ways), math.nan, math.nan, math.nan),
        missing=plain,
    )


def _shared(piece: Piece) -> bool:
    return bool(piece.artifact and piece.tokens)


def _provenance(whole: parts.Use, measured: float) -> Provenance:
    if not whole.approximate:
        return EXACT
    return approximate(math.inf if math.isnan(measured) else measured)
