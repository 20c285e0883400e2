"""The two judges of linearizability agree on random histories, and each knows right from wrong where it is plain."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from homenode.history.operations import Kind, Operation
from homenode.history.report import judge
from homenode.history.zones import check
from homenode.versions import ABSENT, ANY, Base, Version
from tests.history.random_histories import corrupt, honest
from tests.history.search import linearizable


def compare(seed: int) -> tuple[bool, bool]:
    """Whether the history of this seed was left honest, and the verdict of both."""
    rng = random.Random(seed)
    history = honest(rng, size=rng.randrange(2, 15), clients=rng.randrange(1, 5))
    left_honest = seed % 3 == 0
    if not left_honest:
        history = corrupt(rng, history)
    zones, search = check(history), linearizable(history)
    told = "\n".join(map(str, sorted(history, key=lambda o: o.start_ns)))
    assert (zones is None) == search, f"seed {seed}: zones say {zones}, the search says {search}:\n{told}"
    return left_honest, search


def test_both_judges_agree(histories: int) -> None:
    verdicts = {True: 0, False: 0}
    for seed in range(histories):
        left_honest, linear = compare(seed)
        assert linear or not left_honest, f"seed {seed} is refused, and happened"
        verdicts[linear] += 1
    assert min(verdicts.values()) > histories / 6, verdicts


# --- by hand ------------------------------------------------------------------------------------------------------


def read(agent: str, start: int, end: int, n: int, hash_: str = "") -> Operation:
    return Operation(Kind.READ, "k", agent, agent, start, end, Version(1, n), hash=hash_, asked="fresh")


def nothing(agent: str, start: int, end: int) -> Operation:
    return Operation(Kind.READ, "k", agent, agent, start, end, absent=True, refused="NotFound", asked="fresh")


def gone(agent: str, start: int, end: int, n: int) -> Operation:
    return replace(nothing(agent, start, end), version=Version(1, n))


def write(agent: str, start: int, end: int | None, n: int | None, base: int | Base, hash_: str = "") -> Operation:
    over = Version(1, base) if isinstance(base, int) else base
    made = Version(1, n) if n is not None else None
    return Operation(Kind.WRITE, "k", agent, agent, start, end, made, base=over, hash=hash_)


def delete(agent: str, start: int, end: int | None, n: int | None, base: int | Base) -> Operation:
    return replace(write(agent, start, end, n, base), kind=Kind.DELETE)


def refused(agent: str, start: int, end: int, base: int | Base, current: int) -> Operation:
    return replace(write(agent, start, end, current, base), refused="VersionConflict")


def policy(start: int, end: int) -> Operation:
    return Operation(Kind.POLICY, "k", "p", "p", start, end)


CREATED = write("w", 0, 1, 1, ABSENT)
SECOND = write("w", 2, 3, 2, 1)

CASES: dict[str, tuple[list[Operation], str]] = {
    "nothing happened": ([], ""),
    "one after the other": ([CREATED, read("r", 2, 3, 1), write("w", 4, 5, 2, 1), read("r", 6, 7, 2)], ""),
    "old during the write": ([CREATED, SECOND, read("a", 2, 3, 1), read("b", 2, 3, 2)], ""),
    "old, but begun before anybody saw the new": (
        [CREATED, write("w", 2, 9, 2, 1), read("a", 3, 4, 2), read("b", 3, 5, 1)], "",
    ),
    "old after a completed write": ([CREATED, SECOND, read("a", 4, 5, 1)], "stale"),
    "old after another's completed read of the new": (
        [CREATED, write("w", 2, 9, 2, 1), read("a", 3, 4, 2), read("b", 5, 6, 1)], "stale",
    ),
    "new before it was begun to be written": ([CREATED, read("a", 2, 3, 2), write("w", 4, 5, 2, 1)], "stale"),
    "lost update": ([CREATED, write("a", 2, 3, 2, 1), write("b", 4, 5, 3, 1)], "lost update"),
    "one version for two writes": ([CREATED, write("a", 2, 3, 2, 1), write("b", 2, 3, 2, 1)], "reuse"),
    "one version with two contents": ([write("w", 0, 1, 1, ABSENT, "x"), read("a", 2, 3, 1, "y")], "reuse"),
    "a deletion that is read": ([CREATED, delete("w", 2, 3, 2, 1), read("a", 4, 5, 2)], "reuse"),
    "never written": ([CREATED, read("a", 2, 3, 2)], "never written"),
    "nobody wrote what a refusal names": ([CREATED, refused("a", 2, 3, 1, 7)], "never written"),
    "an unknown write is seen much later": ([CREATED, write("a", 2, None, None, 1), read("b", 90, 91, 2)], ""),
    "an unknown write is never seen": ([CREATED, write("a", 2, None, None, 1), read("b", 90, 91, 1)], ""),
    "an unknown write is seen and gone": (
        [CREATED, write("a", 2, None, None, 1), read("b", 4, 5, 2), read("b", 6, 7, 1)], "stale",
    ),
    "an unknown write is seen before it is begun": (
        [CREATED, read("b", 2, 3, 2), write("a", 4, None, None, 1)], "never written",
    ),
    "an unknown write of another content": (
        [CREATED, write("a", 2, None, None, 1, "x"), read("b", 4, 5, 2, "y")], "never written",
    ),
    "a version made by a change of policy": ([CREATED, policy(2, 3), read("b", 4, 5, 2)], ""),
    "a change of policy that was refused": (
        [CREATED, replace(policy(2, 3), refused="LeaseDenied"), read("b", 4, 5, 2)],
        "never written",
    ),
    "one unknown write, twice": (
        [CREATED, write("a", 2, None, None, ANY, "x"), read("b", 4, 5, 2, "x"), read("b", 6, 7, 3, "x")],
        "never written",
    ),
    "an unknown write over another base": (
        [CREATED, SECOND, write("a", 4, None, None, 1), read("b", 6, 7, 3)], "never written",
    ),
    "deleted and made again": ([CREATED, delete("w", 2, 3, 2, 1), gone("a", 4, 5, 2), write("w", 6, 7, 3, ABSENT)], ""),
    "made again over what is there": ([CREATED, write("a", 2, 3, 2, ABSENT)], "register"),
    "made again after a delete nobody heard of": (
        [CREATED, delete("a", 2, None, None, 1), write("b", 4, 5, 3, ABSENT)], "",
    ),
    "no number for the delete nobody heard of": (
        [CREATED, delete("a", 2, None, None, 1), write("b", 4, 5, 2, ABSENT)], "register",
    ),
    "deleted twice": ([CREATED, delete("a", 2, 3, 2, 1), delete("b", 4, 5, 3, ANY)], "register"),
    "nothing before it was made": ([nothing("a", 0, 1), write("w", 0, 3, 1, ABSENT)], ""),
    "nothing after it was made": ([CREATED, nothing("a", 2, 3)], "stale"),
    "nothing after it was deleted": ([CREATED, delete("w", 2, 3, 2, 1), nothing("a", 4, 5)], ""),
    "nothing between two reads": ([CREATED, read("a", 2, 3, 1), nothing("a", 4, 5), read("a", 6, 7, 1)], "stale"),
    "gone before the delete was begun": ([CREATED, gone("a", 2, 3, 2), delete("w", 4, 5, 2, 1)], "stale"),
    "nothing before a delete of unknown outcome": (
        [CREATED, nothing("a", 4, 5), delete("w", 6, None, None, 1), gone("a", 8, 9, 2)],
        "stale",
    ),
    "an unknown write over what nobody wrote": ([CREATED, write("a", 2, None, None, 5)], "never written"),
    "over a version that was not yet begun": ([CREATED, write("a", 2, 9, 3, 2), write("w", 4, 5, 2, 1)], "stale"),
    "refused for what was not there yet": ([CREATED, refused("a", 2, 3, 1, 2), write("w", 4, 5, 2, 1)], "stale"),
    "refused for what is there": ([CREATED, SECOND, refused("a", 4, 5, 1, 2)], ""),
    "over a version that comes later": ([CREATED, write("a", 2, 3, 2, 5)], "lost update"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_both_judges_know_what_is_right(name: str) -> None:
    history, rule = CASES[name]
    found = check(history)
    assert (found.rule if found is not None else "") == rule, found
    assert linearizable(history) == (rule == "")


def test_the_search_knows_that_a_write_follows_its_very_base() -> None:
    """The zone check lets somebody who saw nothing at all pass where a delete of unknown outcome was begun."""
    history = [CREATED, delete("w", 2, None, None, 1), nothing("a", 4, 5), write("b", 6, 7, 3, 1)]
    assert not linearizable(history)
    assert check(history) is None


def test_versions_of_writers_that_were_not_recorded_are_let_pass() -> None:
    history = [CREATED, read("a", 2, 3, 5), write("w", 4, 5, 6, 5)]
    assert check(history) is not None
    assert check(history, all_writers=False) is None
    assert check([*history, read("b", 6, 7, 5)], all_writers=False) is not None


def test_a_large_history_is_judged_in_a_breath() -> None:
    history = [CREATED]
    for n in range(2, 30_000):
        history += [write(f"w{n % 8}", 2 * n, 2 * n + 3, n, n - 1), read("r", 2 * n + 4, 2 * n + 5, n)]
    assert check(history) is None
    history.append(read("r", 50_000, 50_001, 20_000))
    found = check(history)
    assert found is not None and found.rule == "stale"


# --- what lazy promises -------------------------------------------------------------------------------------------


def hit(agent: str, start: int, n: int) -> Operation:
    return Operation(Kind.HIT, "k", agent, agent, start, start, Version(1, n), level="lazy")


@pytest.mark.parametrize(
    ("history", "rules"),
    [
        ([CREATED, SECOND, hit("a", 4, 1), hit("a", 5, 2)], []),
        ([CREATED, SECOND, hit("a", 4, 2), hit("a", 5, 1)], ["went back"]),
        ([CREATED, SECOND, hit("a", 4, 2), hit("b", 5, 1)], []),
        ([CREATED, SECOND, hit("w", 4, 1)], ["went back"]),  # its own write
        ([CREATED, SECOND, hit("w", 2, 1)], []),
        ([CREATED, SECOND, hit("a", 13, 1)], []),
        ([CREATED, SECOND, hit("a", 14, 1)], ["too old"]),
        ([CREATED, write("w", 2, None, None, 1), read("b", 4, 5, 2), hit("a", 16, 1)], ["too old"]),
        ([CREATED, write("a", 2, 3, 2, 1), write("b", 4, 5, 3, 1)], ["lost update", "lost update", "lost update"]),
        ([CREATED, write("a", 2, 3, 3, ANY)], ["twice"]),
        ([CREATED, write("a", 2, 3, 3, ANY), write("b", 2, None, None, 1)], []),
        ([CREATED, delete("a", 2, 3, 2, 1), write("a", 4, 5, 9, ABSENT)], []),
        ([CREATED, write("a", 2, 3, 1, ANY)], ["reuse", "twice"]),
        ([CREATED, hit("a", 4, 2)], ["never written"]),
        ([CREATED, hit("a", 1, 2), SECOND], ["never written"]),
        ([CREATED, write("w", 2, None, None, 1), hit("a", 4, 2)], []),
        ([CREATED, hit("a", 4, 1), replace(hit("b", 5, 1), hash="x")], ["reuse"]),
        ([write("w", 0, 1, 1, ABSENT, "y"), replace(hit("b", 5, 1), hash="x")], ["never written"]),
    ],
)
def test_promises_of_lazy(history: list[Operation], rules: list[str]) -> None:
    verdict = judge(history, max_age_ms=10 / 1e6)
    assert [found.rule for found in verdict.findings] == rules


def test_figures_of_a_history() -> None:
    lost = replace(read("a", 6, 20, 1), version=None, refused="Unavailable")
    history = [CREATED, SECOND, hit("a", 9, 1), lost, write("a", 30, None, None, ANY), refused("a", 31, 40, 1, 2)]
    verdict = judge(history)
    assert (verdict.operations, verdict.refused) == (
        {"write": 4, "read": 1, "hit": 1, "unknown": 1},
        {"Unavailable": 1, "VersionConflict": 1},
    )
    assert (verdict.stale, verdict.oldest_ms, verdict.longest_gap_ms) == ({"hit": 1}, 6 / 1e6, 20 / 1e6)
    assert abs(verdict.availability - 4 / 6) < 1e-9
    assert verdict.as_dict()["findings"] == []
