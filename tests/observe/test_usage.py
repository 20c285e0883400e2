"""What SDKs tell of their reads: each thing once, seldom where there is much to look through, and bounded."""

from __future__ import annotations

import math

import pytest

from homenode.artifact import Artifact, Window
from homenode.change import Change, ChangeKind, estimate_tokens
from homenode.clock import NS_PER_MS
from homenode.freshness import Freshness
from homenode.usage import ARTIFACTS_PER_PING, SAVINGS_MAX, Meter
from homenode.versions import Version
from homenode.view import SAVED_MAX, View
from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import validate
from homenode_directory.telemetry.metrics import Prometheus


def _artifact(key: str = "k", n: int = 1, size: int = 400) -> Artifact:
    artifact = Artifact(key, Version(1, n), b"x" * size, clock=lambda: 0)
    artifact.window = Window(3_000 * NS_PER_MS)
    return artifact


WHERE = {"strategy": "unknown", "workspace": "other"}


def _view() -> View:
    return View("agent", estimate_tokens)


def test_each_thing_is_told_once() -> None:
    view, freshness = _view(), Freshness()
    meter = Meter({"agent": view}, freshness, lambda key: "lazy")
    assert meter.take(0) is None
    view.counters.misses += 3
    view.counters.stale += 1
    view.show(_artifact())
    view.shown["k"].hits += 5
    usage = meter.take(0)
    saved = pb.Saving(agent="agent", key="k", strategy="lazy", tokens_hit=500, bytes_hit=2_000)
    assert usage == pb.Usage(hits=5, misses=2, stale=1, age_ms=0, tokens_hit=500, bytes_hit=2_000, savings=[saved])
    assert meter.take(0) is None
    view.show(_artifact())  # asked for again, and the same
    view.show_change(_artifact(n=2), Change(ChangeKind.CHANGE, "", 10, 100))
    view.show_change(_artifact(n=2), Change(ChangeKind.UNCHANGED, "", 0, 100))
    changes = pb.Saving(agent="agent", key="k", strategy="lazy", tokens_unchanged=200, tokens_delta=90)
    assert meter.take(0) == pb.Usage(tokens_unchanged=200, tokens_delta=90, savings=[changes])


def _first(meter: Meter) -> tuple[str, int]:
    """The agent of the only saving, and what is told of it, which is all that is told."""
    usage = meter.take(0)
    assert usage is not None and usage.hits == len(usage.savings) == 1
    assert usage.savings[0].bytes_hit == usage.bytes_hit
    return usage.savings[0].agent, usage.bytes_hit


def test_savings_are_told_by_artifact_the_largest_and_the_others_in_sum() -> None:
    view = _view()
    meter = Meter({"agent": view}, Freshness(), lambda key: "strict" if key > "k50" else "eager")
    for n in range(80):
        for _ in range(2):
            view.show(_artifact(f"k{n:02}", size=4 * (n + 1)))
    usage = meter.take(0)
    assert usage is not None
    told = [(one.key, one.strategy, one.tokens_unchanged) for one in usage.savings]
    assert told[:2] == [("k79", "strict", 80), ("k78", "strict", 79)]
    assert told[SAVINGS_MAX:] == [("", "eager", sum(range(1, 25)))] and len(validate.usage(usage).saved) == len(told)
    assert sum(one.tokens_unchanged for one in usage.savings) == usage.tokens_unchanged == sum(range(1, 81))


def test_an_agent_of_very_many_artifacts_keeps_a_bounded_number_of_savings() -> None:
    view = _view()
    for n in range(SAVED_MAX + 50):
        view.hit(_artifact(str(n), size=1))
    assert len(view.saved) == SAVED_MAX + 1 and view.saved[""].bytes_hit == 50


def test_agents_of_a_connection_are_added_up_and_new_ones_begin_at_nothing() -> None:
    views = {"one": View("one", estimate_tokens)}
    meter = Meter(views, Freshness(), lambda key: "lazy")
    for view in views.values():
        view.hit(_artifact(size=8))
    assert _first(meter) == ("one", 8)
    views["two"] = View("two", estimate_tokens)
    views["two"].hit(_artifact(size=4))
    assert _first(meter) == ("two", 4)


def test_the_more_there_is_to_look_through_the_fewer_pings_do() -> None:
    view = _view()
    meter = Meter({"agent": view}, Freshness(), lambda key: "lazy")
    for n in range(2 * ARTIFACTS_PER_PING + 1):
        view.show(_artifact(str(n), size=0))
    view.shown["7"].hits += 1
    assert meter.take(0) is None and meter.take(0) is None
    assert meter.take(0) == pb.Usage(hits=1, age_ms=0)
    view.shown["7"].hits += 1
    assert meter.take(0) is None
    assert meter.take(0, True) == pb.Usage(hits=1, age_ms=0), "the last one tells everything"


def test_no_hit_was_older_than_what_is_told() -> None:
    freshness = Freshness()
    freshness.window(3_000)
    assert freshness.take_age_ns(5) == 0, "nothing could be served"
    freshness.confirm(1_000)
    freshness.aged(9_000)
    freshness.confirm(8_500)
    assert freshness.take_age_ns(9_500) == 8_000, "before the second confirmation"
    assert freshness.take_age_ns(9_500) == 1_000
    assert freshness.take_age_ns(10**15) == 3_000 * NS_PER_MS, "windows end"


@pytest.mark.parametrize("most", [2**64 - 1, 2**63, 10**16])
def test_hostile_figures_are_cut(most: int) -> None:
    names = ("hits", "misses", "stale", "tokens_hit", "tokens_delta", "tokens_unchanged", "bytes_hit")
    hostile = pb.Usage(age_ms=2**32 - 1, **dict.fromkeys(names, most))
    observer = Prometheus()
    for _ in range(100):
        observer.usage(validate.usage(pb.Usage.FromString(hostile.SerializeToString())))
    value = observer.registry.get_sample_value
    assert value("homenode_cache_reads_total", {"result": "hit"}) == 100 * validate.USAGE_READS_MAX
    assert value("homenode_tokens_saved_total", {"how": "delta", **WHERE}) == 100 * validate.USAGE_TOKENS_MAX
    assert value("homenode_bytes_saved_total", {"how": "hit", **WHERE}) == 100 * validate.USAGE_BYTES_MAX
    total = value("homenode_read_age_seconds_sum")
    assert total is not None and math.isfinite(total) and total == 100 * validate.USAGE_AGE_MS_MAX / 1_000


def test_an_age_without_hits_is_none() -> None:
    assert validate.usage(pb.Usage(misses=1, age_ms=7)).age_ms is None
    assert validate.usage(pb.Usage(hits=1, age_ms=7)).age_ms == 7
    assert validate.usage(pb.Usage(hits=1)).age_ms is None
