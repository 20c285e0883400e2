"""A round computed together, against each prompt computed alone."""

from __future__ import annotations

import dataclasses
import functools
import math
import random

import pytest
import torch

from homenode_kv.collector import Collected, collect
from homenode_kv.composing import Private, Request, Shared
from homenode_kv.diffs import Mirror
from homenode_kv.engine import Engine
from homenode_kv.errors import InvalidTokens, PromptTooLong, WrongShape
from homenode_kv.ident import SegmentKey
from homenode_kv.layout import KEYS
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT, Kind
from homenode_kv.segments import Segments
from tests.kv.models import deviation, engine, model, tokens

CLOSE = 1e-5
FINGERPRINT, SALT = "f" * 16, b"tenant"
TEXTS = [tuple(tokens(count, seed=count)) for count in (64, 40, 96)]  # 2, 2 and 3 blocks
SAME_FOR_ALL = ("lookups", "loads", "bases", "rotations", "checks", "selections", "passes")


def key(text: tuple[int, ...]) -> SegmentKey:
    return SegmentKey.of(FINGERPRINT, SALT, text)


def shared(text: tuple[int, ...]) -> Shared:
    return Shared(key(text), text)


def kept(blocks: int = 64, texts: tuple[tuple[int, ...], ...] = tuple(TEXTS)) -> Segments:
    segments = Segments(Pool(Pages(engine().geometry, blocks)))
    for text in texts:
        segments.put(key(text), text, engine().prefill(text).kv, EXACT)
    return segments


def member(number: int) -> Request:
    """A history of its own, the three segments, a task of its own."""
    history = Private(tuple(tokens(7 + 5 * (number % 4), seed=100 + number)))
    return Request(f"agent {number}", (history, *map(shared, TEXTS), Private(tuple(tokens(6, seed=200 + number)))))


def group(size: int) -> list[Request]:
    return [member(number) for number in range(size)]


def run(size: int, share: float = 0.25, **more: object) -> Collected:
    return collect(engine(), kept(), group(size), share=share, **more)


@functools.cache
def three() -> Collected:
    return run(3)


def test_refreshing_all_is_each_ones_own_prefill() -> None:
    done = run(3, share=1.0)
    assert done.provenance == EXACT
    for request in group(3):
        dense = engine().prefill(request.tokens)
        assert deviation(done.forwards[request.member].kv, dense.kv) < CLOSE
        assert deviation(done.forwards[request.member].logits, dense.logits) < CLOSE


def test_a_model_of_two_layers_is_checked_on_its_last() -> None:
    """As a prompt that is composed alone is: the check layer is the third where there is one."""
    shallow = Engine(model(num_hidden_layers=2))
    segments = Segments(Pool(Pages(shallow.geometry, 64)))
    done = [collect(shallow, segments, group(2), share=0.25, **more) for more in ({}, {"layer": 1})]
    assert done[0].plan.refreshed == done[1].plan.refreshed
    assert done[0].plan.left == done[1].plan.left
    assert all(0 < off < 2 for off in done[0].plan.left.values())


@pytest.mark.parametrize("chosen_by", ["union", "master"])
def test_a_group_gets_what_each_would_get_from_the_same_selection(chosen_by: str) -> None:
    """Composed by hand, one by one, from the canonical bases and the plan's blocks."""
    done = run(3, chosen_by=chosen_by)
    assert sum(map(len, done.plan.refreshed)) == math.ceil(0.25 * 7)
    as_by_hand(done, group(3))


def as_by_hand(done: Collected, requests: list[Request]) -> None:
    chosen = dict(zip(done.plan.shared, done.plan.refreshed, strict=True))
    for request in requests:
        composed = torch.zeros(engine().geometry.shape(len(request.tokens)))
        compute, place = [], 0
        for part in request.parts:
            here = range(place, place + len(part.tokens))
            if isinstance(part, Shared):
                composed[:, :, here] = engine().rotation.shift(engine().prefill(part.tokens).kv, place)
                compute += [at for at in here if (at - place) // 32 in chosen[part.key]]
            elif part.kv is None:
                compute += here
            else:
                composed[:, :, here] = part.kv
            place += len(part.tokens)
        alone = engine().refresh(request.tokens, composed, sorted({*compute, place - 1}))
        assert deviation(done.forwards[request.member].kv, alone.kv) < CLOSE
        assert deviation(done.forwards[request.member].logits, alone.logits) < CLOSE


@pytest.mark.parametrize("seed", range(6))
def test_groups_of_any_make_get_what_each_would_get(seed: int) -> None:
    chance = random.Random(seed)
    requests = []
    for number in range(chance.randint(1, 5)):
        parts: list[Private | Shared] = []
        for at in range(chance.randint(1, 5)):
            text = tuple(tokens(chance.randint(1, 40), seed=1000 * seed + 10 * number + at))
            kept_kv = engine().prefill(text).kv if not at and chance.random() < 0.5 else None
            parts.append(chance.choice([Private(text, kept_kv), shared(chance.choice(TEXTS))]))
        requests.append(Request(f"agent {number}", tuple(parts)))
    chosen_by = chance.choice(["union", "master"])
    done = collect(engine(), kept(), requests, share=chance.random() or 1.0, chosen_by=chosen_by)
    as_by_hand(done, requests)


def test_decisions_and_launches_do_not_grow_with_the_group() -> None:
    two, twenty = run(2).plan.counts, run(20).plan.counts
    same = [(name, getattr(two, name), getattr(twenty, name)) for name in SAME_FOR_ALL]
    assert same == [(name, value, value) for name, value in zip(SAME_FOR_ALL, (3, 3, 0, 1, 1, 1, 1), strict=True)]
    grown = {field.name for field in dataclasses.fields(two)} - set(SAME_FOR_ALL)
    assert grown == {"rotated_bytes", "checked_tokens", "refreshed_tokens", "own_tokens"}
    for name in grown:
        assert getattr(twenty, name) > getattr(two, name) > 0, name
    assert twenty.rotated_bytes == 10 * two.rotated_bytes == 20 * 200 * engine().geometry.token_bytes // 2


@pytest.mark.parametrize("size", [2, 20])
def test_what_is_counted_is_what_is_launched(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters are not taken at their word: calls of the model, the rotation and the pool are counted too."""
    machine, segments, calls = engine(), kept(), []

    def watch(owner: object, name: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (calls.append(name), real(*a, **k))[1])

    watch(machine._model, "forward")
    watch(type(machine.rotation), "turn")
    watch(segments, "find")
    watch(segments, "use")
    watch(torch.Tensor, "topk")
    collect(machine, segments, group(size), share=0.25)
    assert {name: calls.count(name) for name in sorted(set(calls))} == {
        "find": 3, "forward": 2, "topk": 1, "turn": 1, "use": 3,
    }  # fmt: skip


def test_what_is_further_off_than_allowed_is_refreshed_beside_the_share() -> None:
    free, bound = run(3, share=1 / 7), max(run(3, share=3 / 7).plan.left.values())
    done = run(3, share=1 / 7, error_max=bound)
    assert max(free.plan.left.values()) > bound >= max(done.plan.left.values())
    assert sum(map(len, done.plan.refreshed)) == 3
    as_by_hand(done, group(3))
    assert run(3, share=0.0, error_max=bound).plan.refreshed == done.plan.refreshed
    assert run(3, share=1 / 7, error_max=100.0).plan.refreshed == free.plan.refreshed
    given_up = run(3, share=1 / 7, error_max=bound, refresh_max=2 / 7)
    assert given_up.provenance == EXACT and sum(map(len, given_up.plan.refreshed)) == 7


def test_a_check_of_the_master_alone_does_not_grow_either() -> None:
    two, twenty = run(2, chosen_by="master").plan, run(20, chosen_by="master").plan
    assert two.counts.checked_tokens == twenty.counts.checked_tokens
    assert set(twenty.left) == {"agent 0"}, "what is left is known of the one that was checked"
    assert set(twenty.deviation) == {f"agent {number}" for number in range(20)}, "the other members' error is told"
    assert set(run(2).plan.left) == {"agent 0", "agent 1"}
    assert run(2, chosen_by="master").provenance.error == math.inf
    assert run(1, chosen_by="master").provenance.error < math.inf


def test_the_blocks_with_the_farthest_tokens_are_chosen() -> None:
    """Against a selection by hand: with all else computed, the check's fresh keys are those of a dense prefill."""
    layer, scores = 2, torch.zeros(7)
    for request in group(3):
        dense = engine().prefill(request.tokens).kv[layer, KEYS].flatten(1)
        place = len(request.parts[0].tokens)
        blocks = 0
        for text in TEXTS:
            moved = engine().rotation.shift(engine().prefill(text).kv, place)[layer, KEYS].flatten(1)
            fresh = dense[place : place + len(text)]
            off = (fresh - moved).norm(dim=1) / fresh.norm(dim=1)
            for at, rows in enumerate(off.split(32), blocks):
                scores[at] = max(scores[at], rows.max())
            place, blocks = place + len(text), blocks + math.ceil(len(text) / 32)
    best = sorted(scores.topk(2).indices.tolist())
    starts = (0, 2, 4)
    ours = [start + block for start, blocks in zip(starts, three().plan.refreshed, strict=True) for block in blocks]
    assert ours == best


def test_the_master_is_the_member_that_deviated_least() -> None:
    plan = three().plan
    assert plan.deviation[plan.master] == min(plan.deviation.values()) > 0
    assert three().provenance.kind is Kind.APPROXIMATE
    assert three().provenance.error == max(plan.left.values()) > 0


def test_composites_differ_in_refreshed_blocks_above_layer_0_alone() -> None:
    done = three()
    members = {name: done.composite(name) for name in done.forwards}
    blocks, layers = 7, engine().geometry.layers
    for name in members.keys() - {done.plan.master}:
        mirror = Mirror.of(members[name], members[done.plan.master])
        assert mirror.place.numel() == 2 * (layers - 1), name
        assert mirror.place.min() >= blocks
        assert mirror.dirty_share == pytest.approx(2 / 7 * (layers - 1) / layers)


def test_a_composite_is_what_the_prompt_has_at_its_place() -> None:
    done, request = three(), member(1)
    composite, place = done.composite("agent 1"), len(request.parts[0].tokens)
    kv = done.forwards["agent 1"].kv
    for text, start in zip(TEXTS, (0, 64, 128), strict=True):
        here = engine().rotation.shift(composite[:, :, start : start + len(text)], place)
        assert deviation(here[1:], kv[1:, :, place : place + len(text)]) < CLOSE
        place += len(text)
    with pytest.raises(KeyError):
        done.composite("nobody")


def test_segments_that_are_not_kept_are_computed_once_and_kept() -> None:
    segments = kept(texts=(TEXTS[0],))
    first = collect(engine(), segments, group(4), share=0.25).plan.counts
    again = collect(engine(), segments, group(4), share=0.25).plan.counts
    assert (first.loads, first.bases) == (1, 2)
    assert (again.loads, again.bases) == (3, 0)


def test_a_round_without_room_to_keep_its_bases_is_computed_all_the_same() -> None:
    full = collect(engine(), kept(1, texts=()), group(2), share=0.25)
    assert full.plan.counts.bases == 3
    assert torch.equal(full.forwards["agent 0"].logits, run(2).forwards["agent 0"].logits)


def test_own_kv_is_used_as_it_is_and_not_computed() -> None:
    history = tuple(tokens(40, seed=9))
    own = Private(history, engine().prefill(history).kv)
    requests = [
        Request("kept", (own, shared(TEXTS[0]), Private((5, 6)))),
        Request("not kept", (Private(history), shared(TEXTS[0]), Private((5, 6)))),
    ]
    done = collect(engine(), kept(), requests, share=0.5)
    assert done.plan.counts.own_tokens == 2 + 42
    one, other = done.forwards.values()
    assert torch.equal(one.kv[:, :, :40], own.kv)
    assert deviation(one.logits, other.logits) < CLOSE


def test_members_may_read_other_segments_in_another_order() -> None:
    requests = [
        Request("a", (Private((5, 6, 7)), shared(TEXTS[0]), shared(TEXTS[1]), Private((8,)))),
        Request("b", (shared(TEXTS[1]), Private((9,)), shared(TEXTS[0]))),
        Request("c", (Private(tuple(tokens(12))),)),
    ]
    done = collect(engine(), kept(), requests, share=1.0)
    for request in requests:
        assert deviation(done.forwards[request.member].logits, engine().prefill(request.tokens).logits) < CLOSE
    part = collect(engine(), kept(), requests, share=0.25)
    alone = Mirror.of(part.composite("a"), part.composite("c"))
    assert alone.place.numel() == 2, "what a member does not read is as it is kept"


def test_a_group_that_shares_nothing_is_one_pass() -> None:
    requests = [Request(f"agent {at}", (Private(tuple(tokens(20 + at, seed=at))),)) for at in range(3)]
    done = collect(engine(), kept(), requests, share=0.25)
    assert (done.plan.counts.checks, done.plan.counts.rotations, done.plan.counts.passes) == (0, 0, 1)
    assert done.provenance == EXACT
    for request in requests:
        assert deviation(done.forwards[request.member].logits, engine().prefill(request.tokens).logits) < CLOSE
    with pytest.raises(ValueError):
        done.composite("agent 0")


def test_bad_groups_are_refused() -> None:
    for requests, share in (([], 0.5), ([member(1), member(1)], 0.5), (group(2), 0.0), (group(2), 1.5)):
        with pytest.raises(ValueError):
            collect(engine(), kept(), requests, share=share)
    with pytest.raises(InvalidTokens):
        collect(engine(), kept(), [Request("a", ())], share=0.5)
    with pytest.raises(PromptTooLong):
        collect(engine(), kept(), [Request("a", (Private((5,) * 513),))], share=0.5)
    with pytest.raises(WrongShape):
        collect(engine(), kept(), [Request("a", (Private((5, 6), engine().prefill([5]).kv),))], share=0.5)
