"""What it costs to let a worker serve a prompt, in milliseconds until its first token.

    queue + (new + refreshed tokens) / rate + what is to be moved + α · decode load

Tokens are what the caller estimates, or, where a worker holds a version, what it counted. A base serves as it is at the
prompt's beginning; further on its keys are turned and a part of it is refreshed, which is nothing for a caller that
demands exact KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homenode_directory.kv_routing.model import Holding, Part, Provenance, Tier
from homenode_directory.kv_routing.placements import Worker

TOKENS_PER_MS = 1.0  # of who did not measure yet
REFRESHED = 0.2  # of reused tokens
CREDIT = {Tier.DEVICE: 1.0, Tier.HOST: 0.75, Tier.DISK: 0.4}  # of a token held there, where no rate is known
DECODED = 16  # tokens that each request under way is taken to decode before this one's turn


@dataclass(frozen=True, slots=True)
class Cost:
    """`ms` for one prompt at one worker, tokens of it that are served as they are held, and where each part lies."""

    ms: float
    exact: int
    approximate: int
    tiers: tuple[Tier | None, ...]

    @property
    def cached(self) -> int:
        """Tokens that need not be computed."""
        return self.exact + self.approximate


def cost(worker: Worker, parts: Sequence[Part], held: Sequence[Holding | None], *, exact: bool) -> Cost:
    """What `worker` would need, holding `held` of each part (None: nothing)."""
    load = worker.load
    rate = load.prefill_tokens_per_ms or TOKENS_PER_MS
    computed = moved_ms = 0.0
    exactly = otherwise = 0
    for index, (part, holding) in enumerate(zip(parts, held, strict=True)):
        if holding is None or not _serves(holding, index, exact):
            computed += part.tokens
            continue
        tokens = min(holding.tokens, part.tokens) if part.tokens else holding.tokens
        as_it_is = _serves(holding, index, True)
        refreshed = 0.0 if as_it_is or index == 0 else REFRESHED * tokens
        computed += part.tokens - tokens + refreshed
        if as_it_is:
            exactly += tokens
        else:
            otherwise += tokens - round(refreshed)
        moved_ms += _moved(worker, holding.tier, tokens - refreshed, rate)
    waiting = load.queued_tokens + sum(routed.tokens for routed in worker.routed)
    decoded = load.decoding * DECODED + sum(routed.decoded for routed in worker.routed)
    decode_ms = decoded * load.decode_ms_per_token
    ms = (waiting + computed) / rate + moved_ms + decode_ms
    tiers = tuple(holding.tier if holding is not None else None for holding in held)
    return Cost(ms, exactly, otherwise, tiers)


def _serves(holding: Holding, index: int, exact: bool) -> bool:
    if not exact or holding.provenance is Provenance.EXACT_BY_MASK:
        return True
    return index == 0 and holding.provenance is Provenance.EXACT


def _moved(worker: Worker, tier: Tier, tokens: float, rate: float) -> float:
    if tier is Tier.DEVICE:
        return 0.0
    speed = worker.load.reload.get(tier, 0.0)
    return tokens / speed if speed else (1.0 - CREDIT[tier]) * tokens / rate
