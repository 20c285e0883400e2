"""Every expression of every dashboard and rule, asked of a real Prometheus that scraped a real run under load.

Prometheus answers an expression over a metric that does not exist with success and nothing in it. So each must give
something; and what counts failures must give 0 while there are none.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.dashboards.monitored import Monitored
from tests.deploy.dashboards.places import KV, Expression, boards, evaluated, expressions, filled, panels, rules
from tests.observe.collector import collecting
from tests.support.ports import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("live dashboards")]  # one run for all

FILLED_S = 90.0  # from the start of the load, for all of them
# What has no value before anybody has read, written or waited.
NEEDS_TRAFFIC = {
    "HomenodeRequestsFailing",
    "HomenodeStoreSlow",
    "HomenodeInvalidationSlow",
    "HomenodeHitRatioDropped",
    "HomenodeLeaseWaits",
}

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.xdist_group("dashboards")]  # one run for all


def _idle(world: Monitored) -> dict[Expression, list[float]]:
    return {one: [value for _, value in world.query(evaluated(one))] for one in expressions()}


@pytest.fixture(scope="module")
def run() -> Iterator[tuple[Monitored, dict[Expression, list[float]]]]:
    """The run under load, and what each expression gave before there was any."""
    with tempfile.TemporaryDirectory(prefix="hn-dash-", ignore_cleanup_errors=True) as folder, collecting() as traces:
        world = Monitored(Path(folder), "--otlp-endpoint", traces.endpoint, "--trace-ratio", "0.3")
        world.traces = traces
        try:
            idle = _idle(world.start())
            world.load()
            world.kill_directory()
            world.deadline = time.monotonic() + FILLED_S
            yield world, idle
        finally:
            world.close()


@pytest.mark.parametrize("one", expressions(), ids=lambda one: one.place)
def test_an_expression_returns_data_of_a_run_under_load(
    run: tuple[Monitored, dict[Expression, list[float]]], one: Expression
) -> None:
    world, _ = run
    left_s = max(0.0, world.deadline - time.monotonic())
    wait_until(lambda: world.query(evaluated(one)), timeout_s=left_s, what=f"data of {one.place}: {evaluated(one)}")


@pytest.mark.parametrize(
    "happened",
    [
        'sum(homenode_cache_reads_total{result="hit"})',
        'sum(homenode_cache_reads_total{result="miss"})',
        "sum(homenode_read_age_seconds_count)",
        "sum(homenode_invalidation_seconds_count)",
        "sum(homenode_fanout_sum)",
        "sum(homenode_lease_wait_seconds_count)",
        'sum(homenode_conflicts_total{reason="version_conflict"})',
        'sum(homenode_lease_ends_total{cause=~"expired|session_lost"})',
        'sum(homenode_tokens_saved_total{how="hit"})',
        'sum(homenode_bytes_saved_total{how="delta"})',
        'sum(homenode_delivered_total{kind="change"})',
        "sum(homenode_sessions)",
        "max(homenode_store_memory_bytes)",
        "max(homenode_store_memory_limit_bytes)",
        "min(homenode_store_persistence_ok)",
        'sum(changes(process_start_time_seconds{job="homenode"}[5m]))',
    ],
)
def test_figures_move_with_what_is_done(run: tuple[Monitored, dict[Expression, list[float]]], happened: str) -> None:
    world, _ = run
    left_s = max(0.0, world.deadline - time.monotonic())
    wait_until(lambda: world.value(happened) > 0, timeout_s=left_s, what=f"{happened} > 0")


def test_points_of_latencies_lead_to_traces(run: tuple[Monitored, dict[Expression, list[float]]]) -> None:
    world, _ = run
    asked = {
        filled(target["expr"])
        for board in boards().values()
        for panel in panels(board)
        for target in panel["targets"]
        if target["exemplar"]
    }

    def leads(expression: str) -> bool:
        now = time.time()
        found = world.ask("query_exemplars", query=expression, start=str(now - 120), end=str(now))
        named = {point["labels"]["trace_id"] for series in found for point in series["exemplars"]}
        assert world.traces is not None
        return bool(named & {span.trace for span in world.traces.spans})

    left_s = max(0.0, world.deadline - time.monotonic())
    for expression in sorted(asked):
        wait_until(lambda: leads(expression), timeout_s=left_s, what=f"traces of {expression}")  # noqa: B023


def test_what_counts_failures_is_zero_while_all_is_well(run: tuple[Monitored, dict[Expression, list[float]]]) -> None:
    _, idle = run
    for name, board in boards().items():
        for panel in panels(board) if name != KV else ():  # whose workers do not run here
            steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"] if panel["type"] == "stat" else []
            if [step["color"] for step in steps] == ["green", "red"]:
                (query,) = panel["targets"]
                values = idle[Expression(f"{name}: {panel['title']}", query["expr"])]
                assert values == [0.0], f"{name}: {panel['title']} is {values}"


def test_no_alert_is_blind_while_nothing_happens(run: tuple[Monitored, dict[Expression, list[float]]]) -> None:
    _, idle = run
    blind = {
        rule["alert"]
        for rule in rules("alerts.yml")
        if not idle[Expression(f"alerts.yml: {rule['alert']}", rule["expr"])]
    }
    assert blind <= NEEDS_TRAFFIC


def test_prometheus_evaluates_every_rule(run: tuple[Monitored, dict[Expression, list[float]]]) -> None:
    world, _ = run
    evaluated_rules = [rule for group in world.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in evaluated_rules} == {
        rule.get("alert") or rule["record"] for name in ("rules.yml", "alerts.yml") for rule in rules(name)
    }
    assert {rule["name"]: rule["lastError"] for rule in evaluated_rules if rule["health"] != "ok"} == {}
