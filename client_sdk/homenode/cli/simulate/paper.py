"""The published simulation that this one repeats, "Token Coherence" (arXiv 2603.15183), and what is proved of it.

Savings are parts of 1 throughout. The proofs are in THEOREM.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

AGENTS = 4
STEPS = 40
ARTIFACTS = 3
ARTIFACT_TOKENS = 4_096
ACT_PROBABILITY = 0.75
SEEDS = 10
#: Tokens that an invalidation costs whoever gets it.
SIGNAL_TOKENS = 12
#: How far from "about 81 %" the last scenario may be.
_ABOUT = 0.015


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row of the published table.

    Attributes:
        volatility: probability that an action is a write.
        base_seed: run i has the seed `base_seed + i`.
        saving, saving_sd: published mean over ten seeds and its standard deviation; None: "about", without one.
    """

    name: str
    title: str
    volatility: float
    base_seed: int
    saving: float
    saving_sd: float | None

    def gate(self, saving_sd: float, seeds: int) -> float:
        """How far a mean over `seeds` runs may be from the published one: two standard errors of the difference."""
        if self.saving_sd is None:
            return _ABOUT
        return 2 * math.sqrt(self.saving_sd**2 / SEEDS + saving_sd**2 / seeds)


SCENARIOS = (
    Scenario("A", "planning", 0.05, 20260305, 0.950, 0.013),
    Scenario("B", "analysis", 0.10, 20260306, 0.923, 0.014),
    Scenario("C", "development", 0.25, 20260307, 0.883, 0.015),
    Scenario("D", "churn", 0.50, 20260308, 0.842, 0.013),
    Scenario("E", "almost only writes", 0.90, 20260305, 0.81, None),
)


def fetches_max(agents: int, accesses: int, writes: int) -> int:
    """Most fetches of one artifact that was accessed (writes included) and written so many times.

    With pushes: most of both together, if `accesses` has the pushes too.
    """
    return min(accesses, agents + (agents - 1) * writes)


def published_floor(agents: int, steps: int, writes: float) -> float:
    """The least saving as published: 1 - (n + W) / S. True, and far from the truth."""
    return 1 - (agents + writes) / steps


def proved_floor(agents: int, steps: int, writes: float) -> float:
    """The least saving before signals that follows from `fetches_max`: 1 - (n + (n-1) W) / (n S)."""
    return 1 - (agents + (agents - 1) * writes) / (agents * steps)
