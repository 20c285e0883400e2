"""Many runs of a workload summed up, and set beside what was published and what is proved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from homenode.cli.simulate.paper import SCENARIOS, SIGNAL_TOKENS, Scenario, proved_floor, published_floor
from homenode.cli.simulate.run import Outcome
from homenode.cli.simulate.workload import LAZY, Workload


@dataclass(frozen=True, slots=True)
class Row:
    """A row of results. Means and standard deviations over runs; savings are parts of 1, against broadcast.

    Attributes:
        fetches_mean, fetch_bound: of one artifact in one run.
        stale_reads: in all runs; max_age_steps: how long ago what was read had been superseded, at most.
    """

    scenario: str
    volatility: float
    strategy: str
    edit_model: str
    lost_rate: float
    seeds: int
    tokens_mean: float
    tokens_sd: float
    broadcast_mean: float
    saving_mean: float
    saving_sd: float
    saving_vs_pull: float
    fetches_mean: float
    fetch_bound: float
    hit_rate: float
    stale_reads: int
    max_age_steps: int

    @property
    def title(self) -> str:
        """Its scenario, with whatever else tells it from other rows."""
        said = [self.strategy] * (self.strategy != LAZY) + [self.edit_model] * (self.edit_model != "whole")
        return " ".join([self.scenario, *said, *[f"lost={self.lost_rate:g}"] * (self.lost_rate > 0)])


@dataclass(frozen=True, slots=True)
class Result:
    """A row, and what else came of its runs.

    Attributes:
        saving_vs_prefix: against broadcast with prompts cached by exact prefix.
        stale_part: of reads. wire_bytes: of contents, a run.
        first_mean, changed_mean, signals_mean: tokens of first looks, of changed places alone, and of signals, a run.
        violations: seeds in which an artifact was fetched more often than is proved.
    """

    workload: Workload
    row: Row
    saving_vs_prefix: float
    stale_part: float
    conflicts: int
    wire_bytes: float
    first_mean: float
    changed_mean: float
    signals_mean: float
    violations: tuple[int, ...]

    @property
    def floors(self) -> tuple[float, float]:
        """The least mean saving before signals, as published and as proved; for contents that keep their size."""
        load = self.workload
        return (
            published_floor(load.agents, load.steps, load.writes_expected),
            proved_floor(load.agents, load.steps, load.writes_expected),
        )

    def as_dict(self) -> dict[str, Any]:
        """The row alone, for programs."""
        return asdict(self.row)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A scenario under the published rules, beside the published figure."""

    scenario: str
    published: float
    ours: float
    allowed: float

    @property
    def inside(self) -> bool:
        """Whether the two agree."""
        return abs(self.ours - self.published) <= self.allowed

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "inside": self.inside}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Live runs of a workload beside those of the simulation; savings, and two standard errors of their difference."""

    scenario: str
    live: float
    simulated: float
    allowed: float

    @property
    def agree(self) -> bool:
        """Whether the two agree; rounding is forgiven."""
        return abs(self.live - self.simulated) <= self.allowed + 1e-9

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "agree": self.agree}

    def text(self) -> str:
        """For people."""
        live, simulated, allowed = (f"{100 * part:.2f}" for part in (self.live, self.simulated, self.allowed))
        verdict = "they agree" if self.agree else "they DISAGREE"
        return (
            f"{self.scenario}: saved live {live} %, simulated {simulated} %, two standard errors {allowed}: {verdict}"
        )


def agreement(simulated: Result, live: Result) -> Agreement:
    """The same workload and seeds, both ways."""
    a, b = simulated.row, live.row
    allowed = 2 * math.sqrt((a.saving_sd**2 + b.saving_sd**2) / a.seeds)
    return Agreement(a.title, b.saving_mean, a.saving_mean, allowed)


def sum_up(workload: Workload, seeds: Sequence[int], outcomes: Sequence[Outcome]) -> Result:
    """The row of `workload`; `outcomes` are those of `seeds`."""
    tokens = [one.tokens for one in outcomes]
    savings = [one.saving for one in outcomes]
    reads = sum(one.reads for one in outcomes)
    stale = sum(one.stale for one in outcomes)
    row = Row(
        scenario=workload.scenario,
        volatility=workload.volatility,
        strategy=workload.strategy,
        edit_model=workload.edit,
        lost_rate=workload.lost,
        seeds=len(outcomes),
        tokens_mean=fmean(tokens),
        tokens_sd=_sd(tokens),
        broadcast_mean=fmean(one.broadcast for one in outcomes),
        saving_mean=fmean(savings),
        saving_sd=_sd(savings),
        saving_vs_pull=1 - sum(tokens) / max(1, sum(one.pull for one in outcomes)),
        fetches_mean=fmean(count for one in outcomes for count in one.fetches),
        fetch_bound=fmean(bound for one in outcomes for bound in one.bounds),
        hit_rate=sum(one.hits for one in outcomes) / max(1, sum(one.accesses for one in outcomes)),
        stale_reads=stale,
        max_age_steps=max(one.oldest_steps for one in outcomes),
    )
    return Result(
        workload,
        row,
        saving_vs_prefix=1 - sum(tokens) / sum(one.prefix for one in outcomes),
        stale_part=stale / max(1, reads),
        conflicts=sum(one.conflicts for one in outcomes),
        wire_bytes=fmean(one.wire_bytes for one in outcomes),
        first_mean=fmean(one.first for one in outcomes),
        changed_mean=fmean(one.changed for one in outcomes),
        signals_mean=SIGNAL_TOKENS * fmean(one.signals for one in outcomes),
        violations=tuple(seed for seed, one in zip(seeds, outcomes, strict=True) if not one.in_bounds),
    )


def verdict(result: Result) -> Verdict | None:
    """None where the workload is not one that was published."""
    scenario = published(result.workload)
    if scenario is None:
        return None
    allowed = scenario.gate(result.row.saving_sd, result.row.seeds)
    return Verdict(scenario.name, scenario.saving, result.row.saving_mean, allowed)


def published(workload: Workload) -> Scenario | None:
    """The published scenario that a workload is, rules included."""
    for scenario in SCENARIOS:
        if workload == Workload(scenario.name, scenario.volatility, scenario.base_seed):
            return scenario
    return None


def _sd(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
