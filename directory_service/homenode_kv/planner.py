"""How the KV of a prompt comes about: the cheapest way whose error is allowed. Pure decisions, no tensors.

In order of what they give: an exact beginning that is kept; segments that are exact by mask; segments reused out of
their context, corrected by anchors where those are near; a plain prefill. Costs are predicted from what such work has
cost here, errors from what the check layer has shown at the same place of the same template. What was never measured is
tried: the check layer measures it, what disagrees is repaired, and the next plan knows (`Places`).

Nothing approximate serves who asks for `exact`, nor a judge who does not say what error is allowed: judging reused
blocks is where reuse is known to change the outcome (kv-tier: "judges and critics are dense by default").
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from homenode_kv.costs import WEIGHT, Costs, Rate
from homenode_kv.ledger import BLOCK_TOKENS

#: The third, where a model has so many: on the second a token does not see yet what its neighbours took from theirs.
CHECK_LAYER = 2


class Way(StrEnum):
    """Where a part's KV comes from."""

    EXACT = "exact"
    MASKED = "masked"
    REUSE = "reuse"
    ANCHORS = "anchors"
    DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Demand:
    """What a caller accepts.

    Attributes:
        exact: nothing approximate, nothing exact by mask only.
        judge: the output judges other outputs; exact, unless `error_max` says what is allowed.
        error_max: greatest relative deviation of keys of what is reused; None: the worker's own.
    """

    exact: bool = False
    judge: bool = False
    error_max: float | None = None

    @property
    def dense(self) -> bool:
        """Whether only what is exact will do."""
        return self.exact or (self.judge and self.error_max is None)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one worker and model.

    Attributes:
        error_max: relative deviation of a token's keys on the check layer above which its block is refreshed.
        refresh_max: share of the reused tokens above which refreshing them is given up for a plain prefill.
        check_layer: whose fresh keys are compared with those kept, the last one of shallower models; at least 1, for
            layer 0 knows no context.
        again: a place where reuse did not pay is tried again after so many plans.
    """

    error_max: float = 0.5
    refresh_max: float = 0.6
    check_layer: int = CHECK_LAYER
    again: int = 32

    def __post_init__(self) -> None:
        if self.error_max < 0 or not 0 <= self.refresh_max <= 1 or self.check_layer < 1 or self.again < 1:
            raise ValueError("errors are at least 0, shares from 0 to 1, the check layer and `again` at least 1")


@dataclass(frozen=True, slots=True)
class PartFacts:
    """What a plan is made from, for each part of a prompt.

    Attributes:
        tokens: of the part.
        done: of these, how many the exact beginning covers.
        changed: of the rest, of how many nothing is kept: what serves as a base is of another version.
        reload_ms: cost of bringing its base to the device; None: no base, or computing it again is cheaper.
        place: digest of where in which template it stands, for whom.
        anchored: anchors are near enough to correct it.
    """

    tokens: int
    done: int = 0
    changed: int = 0
    reload_ms: float | None = None
    place: str = ""
    anchored: bool = False

    @property
    def kept(self) -> int:
        """Tokens beyond the exact beginning that need not be computed."""
        return self.tokens - self.done - self.changed


@dataclass(frozen=True, slots=True)
class Plan:
    """A way for each part.

    Attributes:
        cost_ms, dense_ms: predicted, of this plan and of the plain prefill beside it; NaN: nothing measured yet.
        error: predicted deviation of keys that stay as they are; 0.0 where nothing is approximate, NaN unknown.
    """

    ways: tuple[Way, ...]
    cost_ms: float
    dense_ms: float
    error: float

    @property
    def approximate(self) -> bool:
        """Whether a check layer must look at it."""
        return Way.REUSE in self.ways or Way.ANCHORS in self.ways


@dataclass(slots=True)
class _Seen:
    error: float
    refreshed: float
    refused: int = 0


class Places:
    """What the check layer has shown, by place, way and allowed error: moving averages of the error that stayed and of
    what was refreshed to keep to it. At most `places_max`, the least recently seen is forgotten."""

    def __init__(self, again: int, places_max: int = 4096) -> None:
        self._again, self._max = again, places_max
        self._seen: OrderedDict[tuple[str, Way, float], _Seen] = OrderedDict()

    def saw(self, place: str, way: Way, error_max: float, error: float, refreshed: float) -> None:
        """The greatest error of what stayed, and the share that was refreshed (1.0: given up for a plain prefill)."""
        known = self._seen.pop((place, way, error_max), None)
        if known is not None:
            error = known.error + WEIGHT * (error - known.error)
            refreshed = known.refreshed + WEIGHT * (refreshed - known.refreshed)
        self._seen[place, way, error_max] = _Seen(error, refreshed)
        if len(self._seen) > self._max:
            self._seen.popitem(last=False)

    def expected(self, place: str, way: Way, error_max: float) -> tuple[float, float] | None:
        """(error, share refreshed); None where nothing was seen."""
        seen = self._seen.get((place, way, error_max))
        return None if seen is None else (seen.error, seen.refreshed)

    def refused(self, place: str, way: Way, error_max: float) -> None:
        """A plan did without; after `again` of them the place is as good as new."""
        if (seen := self._seen.get((place, way, error_max))) is not None:
            seen.refused += 1
            if seen.refused >= self._again:
                del self._seen[place, way, error_max]


class Rates:
    """Predicted times: those of prefills from the pool's costs, the others measured by who composes prompts."""

    def __init__(self, costs: Costs, check_share: float) -> None:
        self._costs, self._check_share = costs, check_share
        self.place, self.check, self.refresh = Rate(), Rate(), Rate()

    def dense_ms(self, tokens: int) -> float:
        """A plain prefill of `tokens`; NaN before the first."""
        return _known(self._costs.predict(tokens)) if tokens else 0.0

    def reuse_ms(self, reused: int, beside: int, refreshed: float, *, checked: bool) -> float:
        """Placing `reused` tokens, checking them with those `beside` them, computing the latter and `refreshed`."""
        computed, check = max(1, beside + math.ceil(refreshed)), 0.0
        if checked:
            seen = self.check.predict(reused + beside)
            check = self._check_share * self.dense_ms(reused + beside) if seen is None else seen
        refresh = self.refresh.predict(computed)
        return (self.place.predict(reused) or 0.0) + check + (self.dense_ms(computed) if refresh is None else refresh)


class Planner:
    """Plans of one worker and model."""

    def __init__(self, settings: Settings, rates: Rates, *, isolated: bool = False) -> None:
        self.settings, self.rates = settings, rates
        self.places = Places(settings.again)
        self.isolated = isolated

    def plan(self, parts: Sequence[PartFacts], demand: Demand) -> Plan:
        """The cheapest ways whose predicted error is allowed."""
        plain = tuple(_plainly(part) for part in parts)
        left = sum(part.tokens - part.done for part in parts)
        dense = Plan(plain, self.rates.dense_ms(left), self.rates.dense_ms(left), 0.0)
        if demand.dense:
            return dense
        error_max = self.settings.error_max if demand.error_max is None else demand.error_max
        ways = tuple(
            self._way(part, error_max) if plainly is Way.DENSE else plainly
            for part, plainly in zip(parts, plain, strict=True)
        )
        if ways == plain:
            return dense
        priced = self._price(parts, ways, error_max, dense.dense_ms)
        if priced.cost_ms >= dense.dense_ms:  # false where either is not known
            for part, way in zip(parts, ways, strict=True):
                self.places.refused(part.place, way, error_max)
            return dense
        return priced

    def _way(self, part: PartFacts, error_max: float) -> Way:
        if part.reload_ms is None or part.kept < BLOCK_TOKENS:
            return Way.DENSE
        if self.isolated:
            return Way.MASKED
        best, least = Way.DENSE, math.inf
        for way in (Way.ANCHORS, Way.REUSE) if part.anchored else (Way.REUSE,):
            seen = self.places.expected(part.place, way, error_max)
            refreshed = seen[1] if seen else 0.0
            if refreshed <= self.settings.refresh_max and refreshed < least:
                best, least = way, refreshed
            else:
                self.places.refused(part.place, way, error_max)
        return best

    def _price(self, parts: Sequence[PartFacts], ways: Sequence[Way], error_max: float, dense_ms: float) -> Plan:
        reused, beside, refreshed, reload_ms, error = 0, 0, 0.0, 0.0, 0.0
        for part, way in zip(parts, ways, strict=True):
            if way in (Way.EXACT, Way.DENSE):
                beside += part.tokens - part.done
                continue
            reused += part.kept
            beside += part.changed
            reload_ms += part.reload_ms or 0.0
            if way is not Way.MASKED:
                seen = self.places.expected(part.place, way, error_max)
                refreshed += part.kept * (seen[1] if seen else 0.0)
                error = max(error, seen[0]) if seen and not math.isnan(error) else math.nan
        checked = any(way in (Way.REUSE, Way.ANCHORS) for way in ways)
        cost_ms = reload_ms + self.rates.reuse_ms(reused, beside, refreshed, checked=checked)
        return Plan(tuple(ways), cost_ms, dense_ms, error)


def _plainly(part: PartFacts) -> Way:
    return Way.EXACT if part.tokens and part.done == part.tokens else Way.DENSE


def _known(ms: float | None) -> float:
    return math.nan if ms is None else ms
