"""The placement index against a naive model, and its bounds."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode_directory.kv_routing.model import (
    Event,
    Holding,
    Load,
    Noted,
    Removed,
    Snapshot,
    Stored,
    Tier,
    TierChanged,
)
from homenode_directory.kv_routing.placements import (
    Bounds,
    Crowded,
    Hello,
    Outcome,
    Placements,
    StaleEpoch,
    Worker,
)
from homenode_directory.place import Place
from homenode_directory.protocol.model import Version

PLACE = Place("default", "main")
PLAN = "default/main/plan.md"


def version(n: int) -> Version:
    return Version(7, n)


def holding(n: int = 1, artifact: str = PLAN, tokens: int = 100, digest: str = "", **more: object) -> Holding:
    return Holding(digest or f"{artifact}@{n}", artifact, version(n), tokens, **more)  # type: ignore[arg-type]


class Stream:
    """A worker as its stream has it: numbers its events, and answers what it is asked."""

    def __init__(self, placements: Placements, name: str = "w1", epoch: int = 1, place: Place = PLACE) -> None:
        self.asked = 0
        self.placements = placements
        self.sequence = 1
        self.held: dict[str, Holding] = {}
        hello = Hello(place, name, epoch, f"{name}:1", fingerprint="f")
        self.worker: Worker = placements.join(hello, self._ask)

    def _ask(self) -> None:
        self.asked += self.sequence == 1 or not self.worker.gone

    def tell(self, event: Event, *, lost: bool = False) -> Outcome | None:
        """Send an event, which the network may lose."""
        self.sequence += 1
        if isinstance(event, Stored):
            self.held[event.holding.digest] = event.holding
        elif isinstance(event, Removed):
            self.held.pop(event.digest, None)
        elif isinstance(event, TierChanged) and event.digest in self.held:
            self.held[event.digest] = replace(self.held[event.digest], tier=event.tier)
        return None if lost else self.placements.apply(self.worker, self.sequence, event)

    def snapshot(self, pages: int = 1) -> None:
        """Send everything that is held."""
        held = list(self.held.values())
        size = -(-len(held) // pages) or 1
        for page in range(pages):
            piece = Snapshot(tuple(held[page * size : (page + 1) * size]), page == 0, page == pages - 1)
            self.tell(piece)


@pytest.fixture
def placements() -> Placements:
    return Placements(lambda: 0.0)


def names(placements: Placements, artifact: str, n: int) -> set[str]:
    return {worker.hello.name for worker in placements.holders("", artifact, version(n))}


def test_a_worker_is_believed_from_its_first_snapshot_on(placements: Placements) -> None:
    stream = Stream(placements)
    assert stream.tell(Load()) is Outcome.BEHIND
    assert stream.tell(Stored(holding())) is Outcome.BEHIND and stream.asked == 1
    assert not names(placements, PLAN, 1)
    stream.snapshot(pages=2)
    assert names(placements, PLAN, 1) == {"w1"}
    assert stream.tell(Stored(holding(2))) is Outcome.APPLIED
    assert names(placements, PLAN, 2) == {"w1"}


def test_a_hole_asks_once_for_a_snapshot_which_replaces_everything(placements: Placements) -> None:
    stream = Stream(placements)
    stream.snapshot()
    stream.tell(Stored(holding()))
    stream.tell(Removed(holding().digest), lost=True)
    assert stream.tell(Stored(holding(1, "default/main/b"))) is Outcome.BEHIND
    assert stream.tell(Stored(holding(1, "default/main/c"))) is Outcome.BEHIND
    assert stream.asked == 2
    assert names(placements, PLAN, 1) == {"w1"}, "what was known stays until the snapshot is complete"
    stream.snapshot()
    assert not names(placements, PLAN, 1)
    assert names(placements, "default/main/c", 1) == {"w1"}


def test_an_event_between_the_pieces_of_a_snapshot_is_a_hole(placements: Placements) -> None:
    stream = Stream(placements)
    stream.tell(Snapshot((holding(),), True, False))
    assert stream.tell(Load(running=1)) is Outcome.APPLIED
    assert stream.tell(Noted()) is Outcome.BEHIND
    assert stream.tell(Snapshot((), False, True)) is Outcome.BEHIND
    assert not names(placements, PLAN, 1) and stream.asked == 2


def test_a_repeated_event_changes_nothing(placements: Placements) -> None:
    stream = Stream(placements)
    stream.snapshot()
    stream.tell(Stored(holding()))
    stream.tell(Removed(holding().digest))
    assert placements.apply(stream.worker, stream.sequence - 1, Stored(holding())) is Outcome.REPEATED
    assert not names(placements, PLAN, 1)


def test_load_is_taken_even_from_a_worker_that_is_behind(placements: Placements) -> None:
    stream = Stream(placements)
    stream.tell(Load(queued=3))
    assert stream.worker.requests == 3


def test_a_stale_epoch_is_refused_and_a_later_one_replaces(placements: Placements) -> None:
    first = Stream(placements, epoch=5)
    first.snapshot()
    first.tell(Stored(holding()))
    with pytest.raises(StaleEpoch):
        Stream(placements, epoch=4)
    second = Stream(placements, epoch=6)
    assert not names(placements, PLAN, 1), "another process holds nothing of it"
    assert first.tell(Stored(holding())) is Outcome.GONE
    placements.leave(second.worker)
    with pytest.raises(StaleEpoch):
        Stream(placements, epoch=5)


def test_the_same_epoch_may_come_again_over_another_stream(placements: Placements) -> None:
    Stream(placements, epoch=5)
    again = Stream(placements, epoch=5)
    again.snapshot()
    assert again.tell(Stored(holding())) is Outcome.APPLIED


def test_the_holdings_of_a_worker_vanish_with_its_stream(placements: Placements) -> None:
    stream = Stream(placements)
    stream.snapshot()
    stream.tell(Stored(holding()))
    placements.leave(stream.worker)
    placements.leave(stream.worker)
    assert not names(placements, PLAN, 1) and not list(placements.workers(PLACE))


def test_a_commit_takes_older_versions_out_of_routing_and_keeps_late_ones_out(placements: Placements) -> None:
    stream = Stream(placements)
    stream.snapshot()
    stream.tell(Stored(holding(1)))
    stream.tell(Stored(holding(2)))
    placements.invalidate(PLAN, version(2))
    assert not names(placements, PLAN, 1)
    assert names(placements, PLAN, 2) == {"w1"}
    stream.tell(Stored(holding(1)))  # it was computed while the commit came
    assert not names(placements, PLAN, 1)
    assert placements.dead(PLAN, version(1)) and not placements.dead(PLAN, version(2))
    stream.tell(TierChanged(holding(1).digest, Tier.HOST))
    stream.snapshot()
    assert not names(placements, PLAN, 1) and names(placements, PLAN, 2) == {"w1"}
    placements.invalidate(PLAN, version(1))  # applied twice, or late
    assert names(placements, PLAN, 2) == {"w1"}


def test_workspaces_see_only_their_own_workers(placements: Placements) -> None:
    other = Place("other", "main")
    Stream(placements, "w1")
    theirs = Stream(placements, "w1", place=other)
    theirs.snapshot()
    theirs.tell(Stored(holding(1, "other/main/plan.md")))
    assert [w.hello.place for w in placements.workers(PLACE)] == [PLACE]
    assert not names(placements, PLAN, 1)
    placements.forget(lambda place: place == other)
    assert theirs.asked == 2 and not names(placements, "other/main/plan.md", 1)


def test_a_lost_memory_forgets_versions_that_were_lost_with_it(placements: Placements) -> None:
    stream = Stream(placements)
    placements.invalidate(PLAN, version(9))
    placements.forget(lambda place: True)
    stream.snapshot()
    stream.tell(Stored(holding(8)))
    assert names(placements, PLAN, 8) == {"w1"}


def test_what_is_kept_is_bounded() -> None:
    placements = Placements(lambda: 0.0, Bounds(workers=2, holdings=3, floors=4, epochs=2))
    stream = Stream(placements)
    Stream(placements, "w2")
    with pytest.raises(Crowded):
        Stream(placements, "w3")
    stream.snapshot()
    for n in range(1, 9):
        stream.tell(Stored(holding(1, f"default/main/{n}")))
    assert len(stream.worker.holdings) == 3
    stream.snapshot(pages=3)
    assert len(stream.worker.holdings) == 3
    for n in range(10):
        placements.invalidate(f"default/main/x{n}", version(2))
    assert len(placements._floors) == 4


ARTIFACTS = [f"default/main/{name}" for name in "ab"]


def naive(streams: list[Stream], floors: dict[str, int], artifact: str, n: int) -> set[str]:
    """Who holds a version, by going through everything that workers hold."""
    if n < floors.get(artifact, 0):
        return set()
    return {
        stream.worker.hello.name
        for stream in streams
        if not stream.worker.gone
        for held in stream.held.values()
        if held.artifact == artifact and held.version.n == n
    }


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 120), loss=st.sampled_from([0.0, 0.05, 0.3]))
def test_the_index_agrees_with_a_naive_one(seed: int, steps: int, loss: float) -> None:
    rng = random.Random(seed)
    placements = Placements(lambda: 0.0)
    streams = [Stream(placements, f"w{i}", epoch=1) for i in range(3)]
    floors: dict[str, int] = {}
    for step in range(steps):
        at = rng.randrange(3)
        stream = streams[at]
        artifact, n = rng.choice(ARTIFACTS), rng.randint(1, 6)
        held = holding(n, artifact, digest=str(rng.randrange(12)), tier=rng.choice(list(Tier)))
        lost = rng.random() < loss
        match rng.randrange(9):
            case 0 | 1 | 2:
                stream.tell(Stored(held), lost=lost)
            case 3:
                stream.tell(Removed(held.digest), lost=lost)
            case 4:
                stream.tell(TierChanged(held.digest, held.tier), lost=lost)
            case 5:
                floors[artifact] = max(n, floors.get(artifact, 0))
                placements.invalidate(artifact, version(n))
            case 6:
                stream.snapshot(rng.randint(1, 3))
            case 7:
                placements.leave(stream.worker)
                streams[at] = Stream(placements, f"w{at}", epoch=step + 2)
            case 8:
                stream.tell(Load(running=rng.randrange(5)), lost=lost)
        for artifact in ARTIFACTS:  # whatever was lost: nothing dead is found
            for n in range(1, floors.get(artifact, 0)):
                assert not names(placements, artifact, n)
    for stream in streams:
        stream.snapshot(2)
        stream.held = {d: h for d, h in stream.held.items() if h.version.n >= floors.get(h.artifact, 0)}
    for artifact in ARTIFACTS:
        for n in range(1, 7):
            assert names(placements, artifact, n) == naive(streams, floors, artifact, n)
    for stream in streams:
        assert stream.worker.holdings == stream.held
        placements.leave(stream.worker)
    assert not placements._held
