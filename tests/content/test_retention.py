"""Which versions go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homenode_directory.content.retention import Retained, RetentionPolicy, outlived

NOW = 1_000_000
EXACT = RetentionPolicy(keep=3, slack=0)


def history(count: int) -> list[Retained]:
    """Versions 1 to count, one a second and the last now."""
    return [Retained(n, NOW - 1000 * (count - n)) for n in range(1, count + 1)]


def test_nothing_goes_while_there_are_few() -> None:
    assert outlived(history(3), EXACT, now_ms=NOW) == ()
    assert outlived([], EXACT, now_ms=NOW) == ()


def test_the_oldest_go() -> None:
    assert outlived(history(5), EXACT, now_ms=NOW) == (1, 2)
    assert outlived(history(5)[::-1], EXACT, now_ms=NOW) == (1, 2)


def test_the_default_keeps_16_and_cuts_in_one_go() -> None:
    assert outlived(history(24), RetentionPolicy(), now_ms=NOW) == ()
    assert outlived(history(25), RetentionPolicy(), now_ms=NOW) == tuple(range(1, 10))


def test_a_history_is_to_be_looked_at_again_when_it_may_be_cut() -> None:
    policy = RetentionPolicy()
    for length in range(1, 40):
        left = length - len(outlived(history(length), policy, now_ms=NOW))
        room = policy.room(length)
        assert not outlived(history(left + room - 1), policy, now_ms=NOW), "too early"
        assert outlived(history(left + room), policy, now_ms=NOW), "too late"


def test_versions_go_by_age_but_the_current_stays() -> None:
    policy = RetentionPolicy(age_ms=1500)
    assert outlived(history(5), policy, now_ms=NOW) == (1, 2, 3)
    assert outlived(history(5), policy, now_ms=NOW + 99_000) == (1, 2, 3, 4)


@pytest.mark.parametrize("fields", [{"keep": 0}, {"slack": -1}, {"age_ms": -1}])
def test_a_policy_without_sense_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        RetentionPolicy(**fields)


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 3), st.none() | st.integers(0, 30_000))
def test_the_current_version_and_the_newest_of_those_young_enough_stay(
    count: int, keep: int, slack: int, age_ms: int | None
) -> None:
    versions = history(count)
    gone = set(outlived(versions, RetentionPolicy(keep, slack, age_ms), now_ms=NOW))
    stay = [version for version in versions if version.n not in gone]
    assert versions[-1] in stay and len(stay) <= keep + slack
    assert stay == versions[len(gone) :], "older ones go first"
    assert all(version.committed_ms >= NOW - age_ms for version in stay[:-1] if age_ms is not None)
