"""The three ways of a round, of which the bench takes the time, come to the same."""

from __future__ import annotations

import time

import torch

from homenode_kv.bench import collective
from homenode_kv.bench.rows import Bench
from homenode_kv.bench.shapes import random_engine
from homenode_kv.bench.timing import in_turns

SIZES = collective.Sizes(segments=2, segment_tokens=64, own_tokens=16, task_tokens=4)


def test_all_ways_compute_the_same_prompts() -> None:
    """With one block chosen of four the ways may differ in which; with all of them they may not."""
    engine = random_engine("random-tiny", "cpu")
    segments, requests = collective.round_of(engine, 3, SIZES)
    before, collective.SHARE = collective.SHARE, 1.0
    try:
        one = collective.collective(engine, segments, requests)
        each = collective.serial(engine, segments, requests)
        group = collective.batched(engine, segments, requests)
    finally:
        collective.SHARE = before
    for at, request in enumerate(requests):
        dense = engine.prefill(request.tokens).logits[-1]
        for logits in (
            one.forwards[request.member].logits[-1],
            each[at].forwards[request.member].logits[-1],
            group.logits[at],
        ):
            assert torch.allclose(logits, dense, atol=1e-4)


def test_ten_agents_decide_once() -> None:
    rows = {row.id: row for row in collective._measured(Bench(shape="random-tiny"), (10,), SIZES, 1)}
    assert set(rows) == {"collective/10/speedup-over-serial", "collective/10/speedup-over-batched"}
    for row in rows.values():
        beside = row.beside
        assert (beside["launches"], beside["launches_serial"]) == (4, 40)
        assert (beside["lookups"], beside["lookups_serial"]) == (2, 20)
        assert beside["checked_tokens_serial"] == 10 * beside["checked_tokens"] == 10 * 128
        assert beside["off_first"] > 0 and beside["off_others_most"] > 0
        assert not row.trained


def test_on_a_cpu_waiting_is_no_time() -> None:
    threads = torch.get_num_threads()
    found = in_turns({"waits": lambda: time.sleep(0.2), "works": lambda: sum(range(200_000))}, 1, "cpu")
    assert found["waits"] < found["works"]
    assert torch.get_num_threads() == threads
