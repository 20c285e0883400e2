"""Plans: the cheapest way whose predicted error is allowed, learnt from what the check layer showed."""

from __future__ import annotations

import math

import pytest

from homenode_kv.costs import Costs
from homenode_kv.planner import Demand, PartFacts, Places, Planner, Rates, Settings, Way

KEPT = PartFacts(tokens=512, reload_ms=0.0, place="here")
ASK = PartFacts(tokens=16)


def planner(ms_a_token: float | None = 1.0, *, isolated: bool = False, check_share: float = 0.1) -> Planner:
    costs = Costs()
    if ms_a_token is not None:
        for tokens in (16, 64, 256, 512, 1024):
            costs.prefilled(tokens, tokens * ms_a_token)
    return Planner(Settings(error_max=0.2), Rates(costs, check_share), isolated=isolated)


def test_what_the_exact_beginning_covers_needs_no_other_way() -> None:
    plan = planner().plan([PartFacts(tokens=64, done=64), ASK], Demand())
    assert plan.ways == (Way.EXACT, Way.DENSE)
    assert plan.cost_ms == plan.dense_ms == 16.0 and plan.error == 0.0 and not plan.approximate


def test_a_kept_segment_is_tried_where_nothing_is_known() -> None:
    plan = planner(None).plan([KEPT, ASK], Demand())
    assert plan.ways == (Way.REUSE, Way.DENSE) and plan.approximate
    assert math.isnan(plan.cost_ms) and math.isnan(plan.error)


def test_reuse_is_priced_against_a_plain_prefill() -> None:
    ours = planner()
    ours.places.saw("here", Way.REUSE, 0.2, 0.05, 0.25)
    plan = ours.plan([KEPT, ASK], Demand())
    assert plan.ways[0] is Way.REUSE and plan.error == pytest.approx(0.05)
    assert plan.cost_ms == pytest.approx(0.1 * 528 + 16 + 128) and plan.dense_ms == pytest.approx(528)
    dear = PartFacts(tokens=512, reload_ms=400.0, place="here")
    assert ours.plan([dear, ASK], Demand()).ways == (Way.DENSE, Way.DENSE)


def test_what_need_not_be_loaded_is_not_reused() -> None:
    assert planner().plan([PartFacts(tokens=512), ASK], Demand()).ways == (Way.DENSE, Way.DENSE)


@pytest.mark.parametrize("demand", [Demand(exact=True), Demand(judge=True), Demand(exact=True, error_max=1.0)])
def test_who_asks_for_exact_and_judges_get_nothing_approximate(demand: Demand) -> None:
    assert planner(None).plan([KEPT, ASK], demand).ways == (Way.DENSE, Way.DENSE)
    assert planner(None, isolated=True).plan([KEPT, ASK], demand).ways == (Way.DENSE, Way.DENSE)


def test_a_judge_may_say_what_error_is_allowed() -> None:
    assert planner().plan([KEPT, ASK], Demand(judge=True, error_max=0.1)).ways[0] is Way.REUSE


def test_what_one_allowed_error_took_says_nothing_of_a_stricter_one() -> None:
    ours = planner()
    ours.places.saw("here", Way.REUSE, 0.2, 0.15, 0.9)
    assert ours.plan([KEPT, ASK], Demand()).ways[0] is Way.DENSE, "most of it had to be refreshed"
    ours.places.saw("here", Way.REUSE, 0.5, 0.3, 0.1)
    assert ours.plan([KEPT, ASK], Demand(error_max=0.5)).error == pytest.approx(0.3)
    assert ours.plan([KEPT, ASK], Demand(error_max=0.1)).ways[0] is Way.REUSE, "not tried yet"


def test_less_than_a_block_is_not_worth_a_reuse() -> None:
    left = PartFacts(tokens=512, done=500, reload_ms=0.0, place="here")
    assert planner().plan([left, ASK], Demand()).ways[0] is Way.DENSE


def test_anchors_are_used_where_they_are_near_unless_they_did_worse() -> None:
    ours, near = planner(), PartFacts(tokens=512, reload_ms=0.0, place="here", anchored=True)
    assert ours.plan([near, ASK], Demand()).ways[0] is Way.ANCHORS
    ours.places.saw("here", Way.ANCHORS, 0.2, 0.1, 0.4)
    ours.places.saw("here", Way.REUSE, 0.2, 0.1, 0.2)
    assert ours.plan([near, ASK], Demand()).ways[0] is Way.REUSE
    assert ours.plan([KEPT, ASK], Demand()).ways[0] is Way.REUSE


def test_a_place_that_did_not_pay_is_tried_again_in_time() -> None:
    ours = planner()
    ours.places.saw("here", Way.REUSE, 0.2, 0.0, 1.0)
    ways = [ours.plan([KEPT, ASK], Demand()).ways[0] for _ in range(ours.settings.again + 1)]
    assert ways == [Way.DENSE] * ours.settings.again + [Way.REUSE]


def test_segments_of_an_isolated_model_are_exact_by_mask() -> None:
    plan = planner(isolated=True).plan([KEPT, ASK], Demand())
    assert plan.ways == (Way.MASKED, Way.DENSE) and plan.error == 0.0


def test_places_are_bounded_and_remember_moving_averages() -> None:
    places = Places(again=4, places_max=2)
    places.saw("a", Way.REUSE, 0.2, 1.0, 0.0)
    places.saw("a", Way.REUSE, 0.2, 0.0, 1.0)
    assert places.expected("a", Way.REUSE, 0.2) == pytest.approx((0.7, 0.3))
    places.saw("b", Way.REUSE, 0.2, 0.0, 0.0)
    places.saw("c", Way.REUSE, 0.2, 0.0, 0.0)
    assert places.expected("a", Way.REUSE, 0.2) is None and places.expected("c", Way.REUSE, 0.2) == (0.0, 0.0)


@pytest.mark.parametrize("wrong", [{"error_max": -1.0}, {"refresh_max": 1.5}, {"check_layer": 0}, {"again": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Settings(**wrong)  # type: ignore[arg-type]
