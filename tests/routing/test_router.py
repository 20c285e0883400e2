"""Who is chosen, and that nobody draws a crowd."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from homenode_directory.kv_routing.model import Holding, Load, Part, Provenance, Stored, Tier
from homenode_directory.kv_routing.placements import Placements
from homenode_directory.kv_routing.router import GROUP_MAX, Found, NoWorker, Router, Wanted
from homenode_directory.kv_routing.score import REFRESHED, cost
from homenode_directory.place import Place
from tests.routing.test_placements import PLACE, PLAN, Stream, holding, version


class Fleet:
    """Some workers, a clock, and a router."""

    def __init__(self, *names: str) -> None:
        self.now = 0.0
        self.placements = Placements(lambda: self.now)
        self.router = Router(self.placements)
        self.streams = {name: Stream(self.placements, name) for name in names}
        for stream in self.streams.values():
            stream.snapshot()

    def holds(self, name: str, n: int = 1, artifact: str = PLAN, tokens: int = 1_000, **more: object) -> None:
        self.streams[name].tell(Stored(holding(n, artifact, tokens, **more)))

    def load(self, name: str, **load: object) -> None:
        self.streams[name].tell(Load(**load))  # type: ignore[arg-type]

    def route(self, *parts: Part, **more: object) -> str:
        return self.router.route(Wanted(PLACE, parts, **more)).worker.hello.name  # type: ignore[arg-type]


def plan(tokens: int = 1_000, n: int = 1) -> Part:
    return Part(tokens, PLAN, version(n))


def test_the_holder_of_the_version_is_chosen_and_nobody_for_a_dead_one() -> None:
    fleet = Fleet("w1", "w2", "w3")
    fleet.holds("w2")
    choice = fleet.router.route(Wanted(PLACE, [plan(), Part(50)]))
    assert choice.worker.hello.name == "w2" and choice.how == "held" and not choice.dead
    assert choice.cost.cached == 1_000 and choice.cost.tiers == (Tier.DEVICE, None)
    fleet.placements.invalidate(PLAN, version(2))
    choice = fleet.router.route(Wanted(PLACE, [plan(), Part(50)]))
    assert choice.dead == (0,) and choice.cost.tiers[0] is None


def test_a_queue_outweighs_what_is_held() -> None:
    fleet = Fleet("w1", "w2")
    fleet.holds("w1")
    fleet.load("w1", queued=2, queued_tokens=2_000)
    assert fleet.route(plan()) == "w2"


def test_a_near_copy_beats_a_far_one_and_a_far_one_none() -> None:
    fleet = Fleet("w1", "w2", "w3")
    fleet.holds("w1", tier=Tier.DISK)
    assert fleet.route(plan()) == "w1"
    fleet.holds("w2", tier=Tier.HOST)
    assert fleet.route(plan()) == "w2"


def test_what_moves_faster_than_it_is_told_by_default_counts_as_it_is_measured() -> None:
    fleet = Fleet("w1")
    worker = fleet.streams["w1"].worker
    held = [holding(1, tokens=1_000, tier=Tier.DISK)]
    before = cost(worker, [plan()], held, exact=False).ms
    fleet.load("w1", reload={Tier.DISK: 1_000.0})
    assert cost(worker, [plan()], held, exact=False).ms == 1.0 < before


def test_exact_kv_is_what_stands_at_the_beginning_or_is_isolated() -> None:
    fleet = Fleet("w1")
    worker = fleet.streams["w1"].worker
    own = Holding("o", PLAN, version(1), 1_000, provenance=Provenance.APPROXIMATE)
    masked = Holding("m", PLAN, version(1), 1_000, provenance=Provenance.EXACT_BY_MASK)
    parts = [Part(10), plan()]
    assert cost(worker, [plan()], [holding(tokens=1_000)], exact=True).cached == 1_000
    assert cost(worker, [plan()], [own], exact=True).cached == 0
    assert cost(worker, parts, [None, holding(tokens=1_000)], exact=True).cached == 0
    assert cost(worker, parts, [None, masked], exact=True).cached == 1_000
    assert cost(worker, parts, [None, holding(tokens=1_000)], exact=False).cached == round(1_000 * (1 - REFRESHED))


def test_equals_are_told_apart_by_the_artifacts_and_not_by_their_versions() -> None:
    fleet = Fleet("w1", "w2", "w3", "w4")
    chosen = Counter()
    for number in range(64):
        artifact = f"default/main/{number}"
        first = fleet.route(Part(10, artifact, version(1)))
        fleet.now += 10_000
        for stream in fleet.streams.values():
            stream.tell(Load())
        assert fleet.route(Part(10, artifact, version(2))) == first
        fleet.now += 10_000
        for stream in fleet.streams.values():
            stream.tell(Load())
        chosen[first] += 1
    assert len(chosen) == 4


def test_among_equals_the_holder_serves() -> None:
    """To wait at the holder takes as long as to compute elsewhere; elsewhere it would be computed once more."""
    for number in range(16):
        fleet = Fleet("w1", "w2")
        artifact = f"default/main/{number}"
        holder = fleet.route(Part(100, artifact, version(1)))
        fleet = Fleet("w1", "w2")
        (other,) = {"w1", "w2"} - {holder}
        fleet.streams[other].tell(Stored(holding(1, artifact, tokens=100)))
        fleet.load(other, queued_tokens=100)
        assert fleet.route(Part(100, artifact, version(1))) == other


def test_a_prompt_with_a_superseded_version_burdens_nobody() -> None:
    fleet = Fleet("w1", "w2")
    fleet.placements.invalidate(PLAN, version(2))
    for _ in range(GROUP_MAX + 1):
        choice = fleet.router.route(Wanted(PLACE, [plan()], round="r"))
        assert choice.dead == (0,)
    assert not any(stream.worker.requests for stream in fleet.streams.values())
    assert not fleet.router._rounds


def test_a_hot_artifact_draws_no_crowd() -> None:
    fleet = Fleet("w1", "w2")
    fleet.holds("w1", tokens=100_000)
    counts = Counter(fleet.route(plan(100_000)) for _ in range(60))
    assert abs(counts["w1"] - counts["w2"]) <= 9, counts
    worker = fleet.streams["w1"].worker
    fleet.now += 100
    fleet.load("w1", running=counts["w1"])
    assert not worker.routed and worker.requests == counts["w1"], "the Load has them now"


def test_a_load_that_was_measured_before_a_request_came_does_not_count_it_as_seen() -> None:
    fleet = Fleet("w1", "w2")
    fleet.route(plan())
    fleet.now += 1
    for name in fleet.streams:
        fleet.load(name)
    assert sum(stream.worker.requests for stream in fleet.streams.values()) == 1


def test_a_request_that_must_be_done_by_now_burdens_nobody() -> None:
    fleet = Fleet("w1", "w2")
    fleet.holds("w1", tokens=200)
    fleet.load("w1", prefill_tokens_per_ms=20.0, decode_ms_per_token=2.0)
    fleet.load("w2", prefill_tokens_per_ms=20.0, decode_ms_per_token=2.0)
    assert fleet.route(plan(200), tokens_max=64) == "w1"
    assert fleet.route(plan(200), tokens_max=64) == "w2", "there it is computed sooner"
    fleet.now += 400
    assert fleet.route(plan(200), tokens_max=1) == "w1"
    fleet.now += 150
    assert fleet.route(plan(200), tokens_max=1) == "w1"


def test_a_cold_artifact_that_is_asked_for_by_many_at_once_is_computed_at_one_place() -> None:
    fleet = Fleet("w1", "w2", "w3")
    assert len({fleet.route(plan(100_000)) for _ in range(5)}) == 1


def test_a_round_keeps_together_while_there_is_room() -> None:
    fleet = Fleet("w1", "w2", "w3")
    counts = Counter(fleet.route(plan(), Part(100), round="r1") for _ in range(GROUP_MAX + 4))
    assert sorted(counts.values()) == [4, GROUP_MAX]
    fleet.placements.leave(fleet.streams[max(counts, key=counts.__getitem__)].worker)
    assert fleet.route(plan(), Part(100), round="r1") == min(counts, key=counts.__getitem__)


def test_a_round_is_split_where_the_tokens_do_not_fit() -> None:
    fleet = Fleet("w1", "w2")
    for name in fleet.streams:
        fleet.load(name, room_tokens=250)
    assert len({fleet.route(Part(100), round="r") for _ in range(3)}) == 1
    assert len({fleet.route(Part(100), round="r") for _ in range(2)}) == 1
    assert [group.tokens for group in fleet.router._rounds[PLACE, "r"]][-1] == 200, "a group of its own"


def test_who_cannot_serve_is_left_out() -> None:
    fleet = Fleet("w1", "w2")
    assert fleet.route(plan(), avoid=["w1"]) == "w2"
    fleet.load("w1", draining=True)
    assert fleet.route(plan()) == "w2"
    fleet.now = 6_000
    fleet.load("w1")
    assert fleet.route(plan()) == "w1", "the other is silent"


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted(Place("default", "elsewhere"), []), "serves this workspace"),
        (Wanted(Place("other", "main"), []), "serves this workspace"),
        (Wanted(PLACE, [], model="another"), "that model"),
        (Wanted(PLACE, [], avoid=["w1"]), "avoided"),
    ],
)
def test_nobody_says_why(wanted: Wanted, why: str) -> None:
    with pytest.raises(NoWorker, match=why):
        Fleet("w1").router.route(wanted)


def test_a_round_whose_name_is_used_for_ever_takes_no_more_memory() -> None:
    fleet = Fleet("w1", "w2", "w3")
    for n in range(20 * GROUP_MAX):
        fleet.now = float(n)
        fleet.route(Part(10), round="r")
    assert len(fleet.router._rounds[PLACE, "r"]) <= 2
    for stream in fleet.streams.values():
        fleet.placements.leave(stream.worker)
    with pytest.raises(NoWorker):
        fleet.route(Part(10), round="r")


def test_nobody_says_who_is_there_and_why_each_cannot() -> None:
    fleet = Fleet("other", "avoided", "draining", "silent", "both")
    fleet.streams["other"].worker.hello = replace(fleet.streams["other"].worker.hello, fingerprint="g")
    for name in ("draining", "both"):
        fleet.load(name, draining=True)
    fleet.now = 5_000
    for name in ("other", "avoided", "draining"):
        fleet.load(name, draining=name == "draining")
    with pytest.raises(NoWorker, match="1 avoided, 2 draining, 1 silent") as nobody:
        fleet.route(model="f", avoid=["avoided"])
    assert nobody.value.found == Found(known=5, other_model=1, excluded=1, draining=2, silent=1)
