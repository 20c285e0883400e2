"""The cache: what may be served when, and what a late reply may not do. Time is an argument throughout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode.artifact import NEVER, Artifact
from homenode.cache import Cache, CopyPolicy
from homenode.clock import NS_PER_MS
from homenode.versions import Version
from homenode.view import Shown

DELTA_MS = 3_000
POLICY = CopyPolicy(DELTA_MS)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def artifact(key: str, n: int, *, incarnation: int = 1, data: bytes | None = None) -> Artifact:
    body = f"{key} {n}".encode() if data is None else data
    return Artifact(key, Version(incarnation, n), body, hash=sha(body), clock=lambda: 0)


@pytest.fixture
def cache() -> Cache:
    made = Cache()
    made.freshness.confirm(0)
    return made


def test_no_copy_is_served_for_longer_than_its_session_lives(cache: Cache) -> None:
    cache.freshness.live_ms = 1_000
    assert cache.install(artifact("a", 1), CopyPolicy(3_600_000))
    assert cache.serve("a", 900 * NS_PER_MS) is not None
    assert cache.serve("a", 1_000 * NS_PER_MS) is None


def test_a_copy_is_served_until_the_greatest_age_after_the_last_confirmed_ping(cache: Cache) -> None:
    copy = artifact("a", 1)
    assert cache.install(copy, POLICY)
    last_ns = DELTA_MS * NS_PER_MS - 1
    assert cache.serve("a", last_ns) is copy
    assert cache.serve("a", last_ns + 1) is None
    cache.freshness.confirm(10 * NS_PER_MS)
    assert cache.serve("a", last_ns + 1) is copy


def test_age_counts_from_the_send_of_the_ping_not_from_its_echo(cache: Cache) -> None:
    cache.install(artifact("a", 1), POLICY)
    cache.freshness.confirm(5 * NS_PER_MS)  # the echo came much later; nothing here knows when
    assert cache.serve("a", (5 + DELTA_MS) * NS_PER_MS) is None


def test_an_old_echo_moves_nothing_back(cache: Cache) -> None:
    cache.install(artifact("a", 1), POLICY)
    cache.freshness.confirm(1_000 * NS_PER_MS)
    cache.freshness.confirm(10 * NS_PER_MS)
    assert cache.serve("a", 3_500 * NS_PER_MS) is not None


def test_nothing_is_served_before_the_stream_has_confirmed_anything() -> None:
    cache = Cache()
    cache.install(artifact("a", 1), POLICY)
    assert cache.serve("a", 0) is None


def test_a_lost_stream_closes_every_window_until_the_next_echo(cache: Cache) -> None:
    copy, short = artifact("a", 1), artifact("b", 1)
    cache.install(copy, POLICY)
    cache.install(short, CopyPolicy(100))
    cache.freshness.close()
    assert cache.serve("a", 1) is None
    assert cache.serve("b", 1) is None
    cache.freshness.confirm(50 * NS_PER_MS)
    assert cache.serve("a", 60 * NS_PER_MS) is copy
    assert cache.serve("b", 60 * NS_PER_MS) is short


def test_whoever_kept_a_reference_cannot_be_served_after_an_invalidation(cache: Cache) -> None:
    copy = artifact("a", 1)
    cache.install(copy, POLICY)
    cache.invalidate("a", Version(1, 2))
    assert copy.window is NEVER
    cache.freshness.confirm(1)
    assert copy.window.until_ns < 0
    assert cache.serve("a", 1) is None


def test_an_invalidation_for_the_held_version_or_an_older_one_takes_nothing(cache: Cache) -> None:
    copy = artifact("a", 5)
    cache.install(copy, POLICY)
    cache.invalidate("a", Version(1, 5))
    cache.invalidate("a", Version(1, 3))
    assert cache.serve("a", 1) is copy


def test_a_reply_below_the_floor_is_never_cached(cache: Cache) -> None:
    cache.begin_fill("a")
    cache.invalidate("a", Version(1, 7))  # overtakes the reply
    assert not cache.install(artifact("a", 6), POLICY)
    cache.end_fill("a")
    assert cache.serve("a", 1) is None
    assert cache.install(artifact("a", 7), POLICY)


def test_a_reply_that_says_nothing_new_keeps_the_copy_as_it_is(cache: Cache) -> None:
    copy = artifact("a", 4)
    cache.install(copy, POLICY)
    assert cache.renew("a", Version(1, 4), "lazy", CopyPolicy(DELTA_MS), 50 * NS_PER_MS) is copy
    assert copy.fetched_ns == 50 * NS_PER_MS
    assert cache.renew("a", Version(1, 4), "lazy", POLICY, 10 * NS_PER_MS) is copy
    assert copy.fetched_ns == 50 * NS_PER_MS  # it was known to be current then
    assert cache.serve("a", 1) is copy


def test_a_reply_that_says_something_new_or_counts_reads_renews_nothing(cache: Cache) -> None:
    cache.install(artifact("a", 4), POLICY)
    assert cache.renew("a", Version(1, 5), "lazy", POLICY, 0) is None
    assert cache.renew("a", Version(1, 4), "strict", POLICY, 0) is None
    assert cache.renew("a", Version(1, 4), "lazy", CopyPolicy(DELTA_MS + 1), 0) is None
    counted = CopyPolicy(DELTA_MS, max_reads=2)
    cache.install(artifact("b", 1), counted)
    assert cache.renew("b", Version(1, 1), "lazy", counted, 0) is None


TAKEN: list[Callable[[Cache], None]] = [
    lambda cache: cache.invalidate("a", Version(1, 5)),
    lambda cache: cache.drop("a"),
    lambda cache: cache.forfeit("a"),
    lambda cache: cache.drop_all(),
]


@pytest.mark.parametrize("take", TAKEN)
def test_nothing_is_renewed_once_the_permission_was_taken(cache: Cache, take: Callable[[Cache], None]) -> None:
    cache.install(artifact("a", 4), POLICY)
    take(cache)
    assert cache.renew("a", Version(1, 4), "lazy", POLICY, 0) is None


def test_an_older_reply_does_not_replace_a_newer_copy(cache: Cache) -> None:
    newer = artifact("a", 4)
    cache.install(newer, POLICY)
    assert not cache.install(artifact("a", 3), POLICY)
    assert cache.serve("a", 1) is newer


def test_what_was_shown_or_written_is_the_least_that_may_be_shown(cache: Cache) -> None:
    cache.saw("a", Version(1, 3))
    assert not cache.may_show("a", Version(1, 2))
    assert cache.may_show("a", Version(1, 3))
    assert cache.may_show("b", Version(1, 1))


def test_a_floor_from_an_announced_version_does_not_forbid_to_show_the_published_one(cache: Cache) -> None:
    cache.saw("a", Version(1, 3))
    cache.invalidate("a", Version(1, 4))  # a strict commit that is prepared, not published
    assert cache.may_show("a", Version(1, 3))
    assert not cache.install(artifact("a", 3), POLICY)


def test_another_incarnation_forgets_floors_and_keeps_bytes(cache: Cache) -> None:
    copy = artifact("a", 9)
    cache.install(copy, POLICY)
    cache.remember("a", Version(1, 9), copy.hash, copy.bytes)
    cache.drop_all(floors=True)
    assert cache.serve("a", 1) is None
    assert cache.content(copy.hash) == copy.bytes
    assert cache.have("a") == [copy.hash]
    assert cache.install(artifact("a", 2, incarnation=2), POLICY)


def test_a_resync_takes_permissions_and_keeps_floors(cache: Cache) -> None:
    cache.install(artifact("a", 9), POLICY)
    cache.drop_all()
    assert cache.serve("a", 1) is None
    assert not cache.install(artifact("a", 8), POLICY)


def test_max_reads_counts_and_then_asks_again(cache: Cache) -> None:
    cache.install(artifact("a", 1), CopyPolicy(DELTA_MS, max_reads=2))
    assert cache.serve("a", 1) is not None
    assert cache.serve("a", 1) is not None
    assert cache.serve("a", 1) is None
    assert not cache.install(artifact("b", 1), CopyPolicy(DELTA_MS, max_reads=0))


def test_bytes_are_bounded_and_a_copy_goes_with_its_bytes() -> None:
    cache = Cache(bytes_max=1_000)
    cache.freshness.confirm(0)
    copies = [artifact(f"k{i}", 1, data=bytes([i]) * 300) for i in range(5)]
    for copy in copies:
        copy.used = False
        cache.install(copy, POLICY)
    assert cache.bytes_held <= 1_000
    served = [copy.key for copy in copies if cache.serve(copy.key, 1) is not None]
    assert "k0" not in served
    assert "k4" in served
    assert all(copy.window is NEVER for copy in copies if copy.key not in served)


def test_a_copy_that_is_hit_outlives_one_that_is_not() -> None:
    cache = Cache(bytes_max=1_000)
    cache.freshness.confirm(0)
    for i in range(3):
        cache.install(artifact(f"k{i}", 1, data=bytes([i]) * 300), POLICY)
    for i in range(3):
        copy = cache.copy(f"k{i}")
        assert copy is not None
        copy.used = False
        if i == 0:
            copy.viewers.append(Shown(copy))
            copy.viewers[0].hits += 1  # all that a hit does
    cache.install(artifact("k3", 1, data=b"\xff" * 300), POLICY)
    assert cache.serve("k0", 1) is not None
    assert cache.serve("k1", 1) is None


def test_bytes_of_versions_that_fell_out_of_the_known_ones_go_too(cache: Cache) -> None:
    bodies = [f"version {n}".encode() for n in range(30)]
    for n, body in enumerate(bodies, 1):
        cache.remember("a", Version(1, n), sha(body), body)
    assert cache.bytes_held == sum(map(len, bodies[-16:]))
    assert cache.content(sha(bodies[0])) is None
    assert cache.have("a") == [sha(body) for body in bodies[:-9:-1]]
    assert cache.hash_at("a", Version(1, 1)) is None
    assert cache.hash_at("a", Version(1, 20)) == sha(bodies[19])


def test_bytes_stay_while_another_version_another_artifact_or_the_copy_has_them(cache: Cache) -> None:
    body = b"again and again"
    cache.remember("a", Version(1, 1), sha(body), body)
    cache.remember("b", Version(1, 1), sha(body), body)
    for n in range(2, 40):
        cache.remember("a", Version(1, n), sha(b"%d" % n), b"%d" % n)
    assert cache.content(sha(body)) == body  # b's
    copy = artifact("c", 1, data=body)
    cache.install(copy, POLICY)
    for n in range(2, 40):
        cache.remember("b", Version(1, n), sha(b"%d" % n), b"%d" % n)
    assert cache.content(sha(body)) == body  # c's copy
    cache.drop("c")
    assert cache.content(sha(body)) is None


def test_a_content_larger_than_the_cache_is_not_kept() -> None:
    cache = Cache(bytes_max=100)
    cache.freshness.confirm(0)
    assert not cache.install(artifact("a", 1, data=b"x" * 101), POLICY)
    assert cache.bytes_held == 0


def test_lines_are_bounded_but_a_floor_stays_while_a_reply_is_under_way() -> None:
    cache = Cache(lines_max=4)
    cache.freshness.confirm(0)
    cache.begin_fill("waiting")
    cache.invalidate("waiting", Version(1, 7))
    for i in range(20):
        cache.install(artifact(f"k{i}", 1), POLICY)
    assert not cache.install(artifact("waiting", 6), POLICY)
    assert sum(1 for _ in cache.holdings()) <= 5


def test_greatest_ages_are_bounded_and_rounded_down(cache: Cache) -> None:
    for age_ms in range(1, 200):
        copy = artifact(f"k{age_ms}", 1)
        cache.install(copy, CopyPolicy(age_ms))
        assert copy.window.max_age_ns <= age_ms * NS_PER_MS


keys = st.sampled_from("ab")
numbers = st.integers(1, 6)
steps = st.one_of(
    st.tuples(st.just("inv"), keys, numbers),
    st.tuples(st.just("reply"), keys, numbers),
    st.tuples(st.just("confirm"), keys, numbers),
    st.tuples(st.just("close"), keys, numbers),
    st.tuples(st.just("drop"), keys, numbers),
    st.tuples(st.just("time"), keys, numbers),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40))
def test_whatever_comes_in_whatever_order_a_hit_is_fresh_and_not_known_to_be_old(
    run: list[tuple[str, str, int]],
) -> None:
    cache = Cache()
    now_ms, confirmed_ms = 0, -1
    newest: dict[str, int] = {}
    refs: list[Artifact] = []
    for what, key, n in run:
        if what == "inv":
            cache.invalidate(key, Version(1, n))
            newest[key] = max(newest.get(key, 0), n)
        elif what == "reply":
            copy = artifact(key, n)
            refs.append(copy)
            if cache.install(copy, CopyPolicy(2)):
                newest[key] = max(newest.get(key, 0), n)
        elif what == "confirm":
            confirmed_ms = now_ms
            cache.freshness.confirm(now_ms * NS_PER_MS)
        elif what == "close":
            confirmed_ms = -1
            cache.freshness.close()
        elif what == "drop":
            cache.drop_all()
        else:
            now_ms += n
        now_ns = now_ms * NS_PER_MS
        for copy in refs:
            if now_ns < copy.window.until_ns:  # what the hit path asks
                assert copy.version is not None
                assert copy.version.n >= newest[copy.key]
                assert confirmed_ms >= 0
                assert now_ms - confirmed_ms < 2
                assert cache.copy(copy.key) is copy
