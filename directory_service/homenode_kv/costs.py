"""What bringing KV back costs, from what it has cost here: reloading it from a slower tier, or computing it again.

Times are remembered by size, in classes of a factor of two, as moving averages; a size between or beyond the known
classes is reckoned from the nearest one in proportion. Attention's quadratic part so shows in the classes of long
prompts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NS_PER_MS = 1_000_000

#: Part that one new measurement has in the average.
WEIGHT = 0.3


class Tier(StrEnum):
    """Where KV lies, from fast to slow."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Choice:
    """How to bring an entry back, with both prices.

    Attributes:
        reload: whether to load it; else it is cheaper to compute it again.
        reload_ms: predicted; None where nothing was measured yet.
        recompute_ms: predicted; None where nothing was measured yet.
    """

    reload: bool
    reload_ms: float | None
    recompute_ms: float | None


class Rate:
    """Time over size, in classes of a factor of two."""

    def __init__(self) -> None:
        self._per_unit: dict[int, float] = {}  # class (bit length of the size) -> ms a unit

    def measured(self, size: int, ms: float) -> None:
        """Something of `size` took `ms`."""
        if size < 1 or ms < 0:
            return
        known = self._per_unit.get(size.bit_length())
        per_unit = ms / size
        self._per_unit[size.bit_length()] = per_unit if known is None else known + WEIGHT * (per_unit - known)

    def predict(self, size: int) -> float | None:
        """What `size` will take, in ms; None where nothing was measured. Other threads may ask."""
        known = self._per_unit.copy()  # in one step, while the owner measures
        if not known:
            return None
        return known[min(known, key=lambda one: (abs(one - size.bit_length()), one))] * size


class Costs:
    """Measured costs of one worker and model."""

    def __init__(self) -> None:
        self._reload = {tier: Rate() for tier in Tier}
        self._prefill = Rate()

    def reloaded(self, tier: Tier, size_bytes: int, ms: float) -> None:
        """Bringing `size_bytes` from `tier` to the device took `ms`."""
        self._reload[tier].measured(size_bytes, ms)

    def prefilled(self, tokens: int, ms: float) -> None:
        """Computing the KV of `tokens` tokens took `ms`."""
        self._prefill.measured(tokens, ms)

    def predict(self, tokens: int) -> float | None:
        """What computing the KV of `tokens` tokens will take, in ms; None where nothing was measured."""
        return self._prefill.predict(tokens)

    def choose(self, tier: Tier, size_bytes: int, tokens: int) -> Choice:
        """Whether an entry in `tier` should be reloaded. What was never measured is tried: so reloading, at first."""
        if tier is Tier.DEVICE:
            return Choice(True, 0.0, self._prefill.predict(tokens))
        reload_ms, recompute_ms = self._reload[tier].predict(size_bytes), self._prefill.predict(tokens)
        reload = reload_ms is None or recompute_ms is None or reload_ms <= recompute_ms
        return Choice(reload, reload_ms, recompute_ms)

    def price_ms(self, below: Tier | None, size_bytes: int, tokens: int) -> float:
        """What losing an entry to the tier `below` will cost when it is wanted again; None: it would be computed again.

        Where nothing was measured a token is taken for a millisecond, so that all prices compare.
        """
        recompute = self._prefill.predict(tokens)
        recompute_ms = float(tokens) if recompute is None else recompute
        reload_ms = None if below is None else self._reload[below].predict(size_bytes)
        return recompute_ms if reload_ms is None else min(recompute_ms, reload_ms)
