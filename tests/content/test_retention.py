"""Which versions go, and that what stays never leans on them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homenode_directory.content.retention import Retained, RetentionPlan, RetentionPolicy, plan_retention

NOW = 1_000_000
EXACT = RetentionPolicy(keep=3, slack=0)


def history(count: int, *, snapshots: tuple[int, ...] = (1,)) -> list[Retained]:
    """Versions 1 to count, one a second and the last now; each a patch from the one before, but for the snapshots."""
    return [
        Retained(n, f"h{n}", "" if n in snapshots else f"h{n - 1}", NOW - 1000 * (count - n))
        for n in range(1, count + 1)
    ]


def test_nothing_goes_while_there_are_few() -> None:
    assert plan_retention(history(3), EXACT, now_ms=NOW) == RetentionPlan()
    assert plan_retention([], EXACT, now_ms=NOW) == RetentionPlan()


def test_the_oldest_go_and_the_oldest_retained_becomes_a_snapshot() -> None:
    assert plan_retention(history(5), EXACT, now_ms=NOW) == RetentionPlan(("h3",), (1, 2))


def test_a_snapshot_need_not_be_written_again() -> None:
    assert plan_retention(history(5, snapshots=(1, 3)), EXACT, now_ms=NOW) == RetentionPlan((), (1, 2))


def test_the_default_keeps_16_and_cuts_in_one_go() -> None:
    assert plan_retention(history(24), RetentionPolicy(), now_ms=NOW) == RetentionPlan()
    assert plan_retention(history(25), RetentionPolicy(), now_ms=NOW).drop == tuple(range(1, 10))


def test_a_history_is_to_be_looked_at_again_when_it_may_be_cut() -> None:
    policy = RetentionPolicy()
    for length in range(1, 40):
        left = length - len(plan_retention(history(length), policy, now_ms=NOW).drop)
        room = policy.room(length)
        assert not plan_retention(history(left + room - 1), policy, now_ms=NOW).drop, "too early"
        assert plan_retention(history(left + room), policy, now_ms=NOW).drop, "too late"


def test_versions_go_by_age_but_the_current_stays() -> None:
    policy = RetentionPolicy(age_ms=1500)
    assert plan_retention(history(5), policy, now_ms=NOW) == RetentionPlan(("h4",), (1, 2, 3))
    assert plan_retention(history(5), policy, now_ms=NOW + 99_000) == RetentionPlan(("h5",), (1, 2, 3, 4))


def test_pinned_versions_stay_and_are_made_independent() -> None:
    assert plan_retention(history(6), EXACT, now_ms=NOW, pinned={2}) == RetentionPlan(("h2", "h4"), (1, 3))


def test_a_content_that_is_retained_under_another_version_stays_a_base() -> None:
    versions = [
        Retained(1, "a", "", NOW),
        Retained(2, "b", "a", NOW),
        Retained(3, "a", "", NOW),
        Retained(4, "c", "b", NOW),
    ]
    assert plan_retention(versions, EXACT, now_ms=NOW) == RetentionPlan((), (1,))


@pytest.mark.parametrize("fields", [{"keep": 0}, {"slack": -1}, {"age_ms": -1}])
def test_a_policy_without_sense_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        RetentionPolicy(**fields)


@given(st.data())
def test_what_stays_is_readable_from_what_stays(data: st.DataObject) -> None:
    versions: list[Retained] = []
    stored: dict[str, str] = {}
    for n in range(1, data.draw(st.integers(1, 30)) + 1):
        hash_ = data.draw(st.sampled_from([f"h{n}", *stored]))
        stored.setdefault(hash_, data.draw(st.sampled_from(["", *stored])))
        versions.append(Retained(n, hash_, stored[hash_], data.draw(st.integers(0, NOW))))
    policy = RetentionPolicy(data.draw(st.integers(1, 8)), data.draw(st.integers(0, 3)), data.draw(st.integers(0, NOW)))
    pinned = data.draw(st.sets(st.integers(1, 30), max_size=3))

    plan = plan_retention(versions, policy, now_ms=NOW, pinned=pinned)

    kept = [version for version in versions if version.n not in plan.drop]
    hashes = {version.hash for version in kept}
    bases = stored | dict.fromkeys(plan.rewrite, "")
    assert versions[-1] in kept and all(version in kept for version in versions if version.n in pinned)
    assert set(plan.rewrite) <= hashes
    assert all(bases[hash_] in hashes | {""} for hash_ in hashes)
