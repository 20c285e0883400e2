"""Decisions about storing and sending contents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homenode_directory.content.chains import (
    LINKS_MAX,
    MAX_BYTES,
    SMALL_BYTES,
    SNAPSHOT,
    ContentTooLarge,
    Link,
    Sending,
    SendPlan,
    StorePlan,
    good_enough,
    plan_send,
    plan_store,
    route,
)

SIZE = 100_000


def chain(*patch_bytes: int, size: int = SIZE) -> dict[str, Link]:
    """v0, a snapshot, and v1, v2, ... as patches of these sizes, each from the one before."""
    links = {"v0": Link("v0", size, size // 3)}
    for index, stored in enumerate(patch_bytes):
        before = links[f"v{index}"]
        links[f"v{index + 1}"] = Link(
            f"v{index + 1}", size, stored, before.hash, before.links + 1, before.chain_bytes + stored
        )
    return links


def test_whole_contents_and_small_ones_are_snapshots() -> None:
    assert plan_store(SIZE, 0, None) == SNAPSHOT
    assert plan_store(SMALL_BYTES, 5, Link("v0", SMALL_BYTES, 100)) == SNAPSHOT


def test_a_patch_continues_the_chain_of_its_base() -> None:
    base = chain(100, 200)["v2"]
    assert plan_store(SIZE, 50, base) == StorePlan("v2", 3, 350)


def test_a_chain_has_at_most_16_links() -> None:
    links = chain(*[10] * LINKS_MAX)
    assert plan_store(SIZE, 10, links["v15"]) == StorePlan("v15", 16, 160)
    assert plan_store(SIZE, 10, links["v16"]) == SNAPSHOT


def test_a_chain_has_at_most_half_of_the_size() -> None:
    base = chain(SIZE // 4)["v1"]
    assert plan_store(SIZE, SIZE // 4, base).base == "v1"
    assert plan_store(SIZE, SIZE // 4 + 1, base) == SNAPSHOT


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 2 * SIZE)), max_size=60))
def test_chains_never_exceed_their_bounds(edits: list[tuple[int, int]]) -> None:
    link = Link("0", SIZE, SIZE)
    for index, (patch_bytes, size) in enumerate(edits):
        plan = plan_store(size, patch_bytes, link)
        assert plan.links <= LINKS_MAX and 2 * plan.chain_bytes <= size
        link = Link(str(index), size, patch_bytes, plan.base, plan.links, plan.chain_bytes)


def test_larger_contents_are_refused() -> None:
    with pytest.raises(ContentTooLarge) as caught:
        plan_store(MAX_BYTES + 1, 10, None)
    assert (caught.value.size, caught.value.max_bytes) == (MAX_BYTES + 1, MAX_BYTES)
    assert plan_store(MAX_BYTES, 10, None) == SNAPSHOT


def test_a_route_leads_from_the_nearest_held_content() -> None:
    links = chain(10, 20, 30)
    assert route("v3", links, ["v0", "v2"]) == SendPlan(Sending.STORED, "v2", ("v3",))
    assert route("v3", links, ["v0"]) == SendPlan(Sending.STORED, "v0", ("v1", "v2", "v3"))
    assert route("v3", links, ["v3", "v2"]) == SendPlan(Sending.HELD)
    assert route("v3", links, ["other"]) is None
    assert route("v3", links, []) is None


def test_a_route_in_a_circle_ends() -> None:
    links = {"a": Link("a", 9, 9, "b", 1, 9), "b": Link("b", 9, 9, "a", 1, 9)}
    assert route("a", links, ["c"]) is None


def test_short_routes_need_no_comparison() -> None:
    links = chain(1000, 1000, 5000)
    near, far = route("v2", links, ["v0"]), route("v3", links, ["v0"])
    assert good_enough(near, links)
    assert not good_enough(near, links, patches_max=1)
    assert not good_enough(far, links)
    assert not good_enough(None, links)
    assert good_enough(SendPlan(Sending.HELD), links)


@pytest.mark.parametrize(
    "snapshot_bytes, made, patches_max, expected",
    [
        (30_000, {}, 16, SendPlan(Sending.STORED, "v0", ("v1", "v2"))),
        (299, {}, 16, SendPlan(Sending.SNAPSHOT)),
        (300, {}, 16, SendPlan(Sending.STORED, "v0", ("v1", "v2"))),
        (30_000, {"v0": 299}, 16, SendPlan(Sending.MADE, "v0", ("v2",))),
        (30_000, {"v0": 300}, 16, SendPlan(Sending.STORED, "v0", ("v1", "v2"))),
        (30_000, {"unknown": 1}, 16, SendPlan(Sending.STORED, "v0", ("v1", "v2"))),
        (30_000, {"v0": 900}, 1, SendPlan(Sending.MADE, "v0", ("v2",))),
        (30_000, {}, 1, SendPlan(Sending.SNAPSHOT)),
    ],
)
def test_the_shortest_form_is_sent(
    snapshot_bytes: int, made: dict[str, int], patches_max: int, expected: SendPlan
) -> None:
    links = chain(100, 200)
    plan = plan_send("v2", links, ["v0"], snapshot_bytes=snapshot_bytes, made=made, patches_max=patches_max)
    assert plan == expected


def test_a_reader_who_holds_it_gets_nothing() -> None:
    assert plan_send("v2", chain(1, 1), ["v2"], snapshot_bytes=9, made={}) == SendPlan(Sending.HELD)
