"""Which of several servers the SDK uses."""

from __future__ import annotations

import random
from collections import Counter

from homenode.clock import NS_PER_MS
from homenode.servers import REST_MS, Servers

A, B, C = "a:1", "b:1", "c:1"


class Now:
    """A clock that a test turns."""

    ns = 0

    def __call__(self) -> int:
        return self.ns

    def later(self, ms: int) -> None:
        self.ns += ms * NS_PER_MS


def servers(*hosts: str, seed: int = 1) -> tuple[Servers, Now]:
    """Some servers, and the time."""
    now = Now()
    return Servers(hosts, clock=now, rng=random.Random(seed)), now


def test_clients_begin_at_different_servers() -> None:
    first = Counter(servers(A, B, C, seed=seed)[0].current for seed in range(300))
    assert set(first) == {A, B, C} and min(first.values()) > 50


def test_clients_of_a_dead_server_spread_over_the_others() -> None:
    taken: Counter[str] = Counter()
    for seed in range(300):
        some, _ = servers(A, B, C, seed=seed)
        if some.current == A:
            assert some.next()
            taken[some.current] += 1
    assert set(taken) == {B, C} and min(taken.values()) > 20


def test_a_server_that_failed_rests_while_there_are_others() -> None:
    some, now = servers(A, B, C)
    dead = some.current
    for _ in range(3):  # the others fail too, but answer in between
        some.next()
        assert some.current != dead
        some.answered()
        now.later(REST_MS[0] // 8)
    now.later(REST_MS[0])
    seen = set()
    for _ in range(20):
        some.next()
        seen.add(some.current)
        now.later(REST_MS[0])
    assert dead in seen


def test_when_all_rest_it_is_the_one_whose_rest_ends_first() -> None:
    some, now = servers(A, B)
    first = some.current
    some.next()
    second = some.current
    now.later(REST_MS[0] // 2 - 1)  # both rest, the second one for longer
    for _ in range(3):
        if some.current == second:
            some.next()
    assert some.current == first != second


def test_a_dead_server_is_tried_ever_more_rarely() -> None:
    some, now = servers(A, B)
    dead = some.current
    tried = []
    for _ in range(600):  # ten minutes in which the other one fails each second, though it answers
        if some.current == dead:
            tried.append(now.ns)
        else:
            some.answered()
        some.next()
        now.later(1_000)
    assert 5 < len(tried) < 60


def test_one_server_is_kept() -> None:
    some, _ = servers(A, A)
    assert len(some) == 1
    assert not some.next()
    assert some.current == A
