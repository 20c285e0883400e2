"""Lease arithmetic: the holder's deadline never lies behind the directory's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from homenode.clock import NS_PER_MS
from homenode.leases import DRIFT, LeaseRecord, deadline_ns
from homenode.versions import Position, Version

TTL_MS = 10_000


def lease(sent_ms: int = 0) -> LeaseRecord:
    return LeaseRecord("a", "l1", (1, 5), TTL_MS, sent_ms * NS_PER_MS, Version(1, 1))


@given(
    sent_ns=st.integers(0, 10**15),
    way_ns=st.integers(0, 10**10),
    ttl_ms=st.integers(1_000, 60_000),
    rate=st.floats(1 - DRIFT, 1 + DRIFT),
)
def test_a_lease_that_lives_here_lives_there(sent_ns: int, way_ns: int, ttl_ms: int, rate: float) -> None:
    """The directory grants `way_ns` after the send, and its clock runs at `rate` of ours."""
    ends_there_ns = sent_ns + way_ns + ttl_ms * NS_PER_MS / rate
    assert deadline_ns(sent_ns, ttl_ms) < ends_there_ns


def test_remaining_falls_to_zero_and_stays() -> None:
    record = lease()
    assert 9_800 < record.remaining_ns(0) / NS_PER_MS < TTL_MS
    assert record.remaining_ns(TTL_MS * NS_PER_MS) == 0


def test_a_renewal_counts_only_when_the_log_up_to_it_has_been_applied() -> None:
    record = lease()
    before_ns = record.deadline_ns
    record.renewed(3_000 * NS_PER_MS, TTL_MS, Position(1, 8))
    assert record.deadline_ns == before_ns
    record.applied(Position(1, 7))
    assert record.deadline_ns == before_ns
    record.applied(Position(1, 8))
    assert record.deadline_ns == before_ns + 3_000 * NS_PER_MS


def test_a_renewal_counts_from_its_send() -> None:
    record = lease()
    record.renewed(1_000 * NS_PER_MS, 5_000, Position(1, 1))
    record.applied(Position(1, 1))
    assert record.deadline_ns == deadline_ns(0, TTL_MS)  # a shorter term does not shorten what was granted


def test_after_lost_events_a_waiting_renewal_proves_nothing() -> None:
    record = lease()
    before_ns = record.deadline_ns
    record.renewed(3_000 * NS_PER_MS, TTL_MS, Position(1, 8))
    record.forget_extensions()
    record.applied(Position(1, 9))
    assert record.deadline_ns == before_ns


def test_the_first_cause_stands_and_nothing_remains() -> None:
    record = lease()
    record.lost("expired")
    record.lost("session_lost")
    assert record.cause == "expired"
    assert record.remaining_ns(0) == 0


def test_unapplied_renewals_are_bounded() -> None:
    record = lease()
    for i in range(1_000):
        record.renewed(i, TTL_MS, Position(1, 10_000 + i))
    record.applied(Position(1, 20_000))
    assert not record.waits_for_log
