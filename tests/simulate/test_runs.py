"""Single runs: the same as the published rules say, within what is proved, and honest about staleness."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from homenode.cli.simulate.edits import EDITS, fresh
from homenode.cli.simulate.paper import SCENARIOS, SIGNAL_TOKENS
from homenode.cli.simulate.run import simulate
from homenode.cli.simulate.workload import (
    ACCESS_COUNT,
    ACCESSES,
    CHANGE,
    COMPARE,
    EAGER,
    LEASE,
    OVERWRITE,
    SHOWS,
    STRATEGIES,
    WRITES,
    Workload,
)
from tests.simulate.reference import fetches

CHURN = Workload("D", 0.5, 20260308)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_under_the_published_rules_the_real_thing_fetches_what_the_rules_say(scenario) -> None:
    outcome = simulate(Workload(scenario.name, scenario.volatility, scenario.base_seed), scenario.base_seed)
    assert list(outcome.fetches) == fetches(scenario.base_seed, scenario.volatility)
    assert outcome.tokens == sum(outcome.fetches) * 4_096 + SIGNAL_TOKENS * outcome.signals
    assert outcome.broadcast == 4 * 40 * 3 * 4_096


@pytest.mark.parametrize("seed", range(24))
def test_no_artifact_is_fetched_more_often_nor_costs_more_than_is_proved(seed: int) -> None:
    """Each of counting an own version as a fetch, a change as a document, and K as no bound fails several of them."""
    pick = random.Random(seed).choice
    workload = Workload(
        "any", pick([0.1, 0.3, 0.5, 0.9]), 0, agents=pick([2, 4, 6]), steps=pick([8, 16, 24]),
        artifacts=pick([1, 2, 3]), tokens=256, strategy=pick(STRATEGIES), edit=pick(sorted(EDITS)),
        lost=pick([0.0, 0.3, 0.7]), writes=pick(WRITES), shows=pick(SHOWS), lease_steps=4, max_reads=2,
        max_steps=pick([None, 0, 1, 3]),
    )  # fmt: skip
    outcome = simulate(workload, seed)
    assert outcome.in_bounds, (outcome.fetches, outcome.bounds)
    assert outcome.shown <= outcome.shown_max
    if workload.max_steps is not None:
        assert outcome.oldest_steps <= workload.max_steps


def test_a_run_repeats() -> None:
    lossy = replace(CHURN, steps=12, lost=0.3, tokens=256)
    assert simulate(lossy, 3) == simulate(lossy, 3) != simulate(lossy, 4)


def test_lost_news_make_reads_stale_and_k_bounds_how_old() -> None:
    lossy = Workload("B", 0.1, 0, lost=0.5, tokens=64)
    unbounded = [simulate(lossy, seed) for seed in range(4)]
    bounded = [simulate(replace(lossy, max_steps=3), seed) for seed in range(4)]
    assert max(one.oldest_steps for one in unbounded) > 3 >= max(one.oldest_steps for one in bounded)
    quiet = [simulate(replace(lossy, lost=0.0), seed) for seed in range(4)]
    assert sum(one.stale for one in unbounded) > sum(one.stale for one in quiet)
    assert not max(one.oldest_steps for one in quiet)


def test_news_come_one_step_later_so_that_only_reads_of_the_same_step_are_stale() -> None:
    outcome = simulate(CHURN, 1)
    assert outcome.stale and not outcome.oldest_steps


def test_changes_cost_less_than_documents() -> None:
    blocks = replace(CHURN, edit="one_block", writes=COMPARE)
    documents, changes = simulate(blocks, 1), simulate(replace(blocks, shows=CHANGE), 1)
    assert documents.fetches == changes.fetches
    assert changes.tokens < documents.tokens / 3
    assert changes.shown <= changes.shown_max < documents.shown_max / 3


def test_pushing_costs_more_where_much_is_written_and_copies_are_renewed_for_nothing() -> None:
    lazy, eager = simulate(CHURN, 1), simulate(replace(CHURN, strategy=EAGER), 1)
    assert eager.tokens > lazy.tokens and eager.hits > lazy.hits
    for strategy in (LEASE, ACCESS_COUNT):
        bounded = simulate(replace(CHURN, strategy=strategy, max_reads=1), 1)
        assert bounded.tokens == lazy.tokens


def test_what_the_context_holds_may_cost_nothing_a_reference_or_all_of_it_again() -> None:
    conditional, pointer, always = (simulate(replace(CHURN, access=access), 1) for access in ACCESSES)
    known = conditional.accesses - sum(conditional.fetches)
    assert pointer.tokens - conditional.tokens == known * 8
    assert always.tokens - conditional.tokens == known * 4_096
    assert always.shown == pointer.shown == conditional.shown


def test_only_overwriting_loses_what_others_wrote() -> None:
    """As published, a writer with an obsolete copy overwrites; as a compare-and-set it is told, and reads again."""
    assert not simulate(replace(CHURN, writes=OVERWRITE), 1).conflicts
    assert simulate(replace(CHURN, writes=COMPARE), 1).conflicts


@pytest.mark.parametrize("name", sorted(EDITS))
def test_edits_change_what_they_say(name: str) -> None:
    rng = random.Random(1)
    before = fresh(rng, 4_096)
    after = EDITS[name](rng, before)
    old, new = before.splitlines(), after.splitlines()
    kept = sum(one == other for one, other in zip(old, new, strict=False))
    assert len(before) == 4_096 and after.endswith("\n")
    assert {"whole": kept == 0, "append": kept == len(old) and len(new) - len(old) <= 2,
            "one_line": kept == len(old) - 1, "one_block": kept == len(old) - 8}[name]  # fmt: skip
