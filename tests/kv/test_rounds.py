"""The barrier of a round: who is computed together, and when."""

from __future__ import annotations

import pytest

from homenode_kv.errors import NoSuchRound, RoundRefused
from homenode_kv.rounds import Group, Rounds


class Gate:
    """Rounds whose groups are written down as (members, late)."""

    def __init__(self, **limits: int) -> None:
        self.groups: list[tuple[list[str], bool]] = []
        self.rounds: Rounds[str, str] = Rounds(self._released, **limits)

    def _released(self, group: Group[str, str]) -> None:
        self.groups.append((list(group.requests), group.late))
        for member, future in group.futures.items():
            if future.set_running_or_notify_cancel():
                future.set_result(group.requests[member].upper())


def test_the_last_member_releases_the_group() -> None:
    gate = Gate()
    gate.rounds.begin("r", ["a", "b", "c"], 2.0, 0.0)
    waiting = [gate.rounds.join("r", member, f"prompt {member}", 0.1) for member in "cab"]
    assert gate.groups == [(["c", "a", "b"], False)]
    assert [future.result(0) for future in waiting] == ["PROMPT C", "PROMPT A", "PROMPT B"]
    assert len(gate.rounds) == 0
    with pytest.raises(NoSuchRound):
        gate.rounds.join("r", "a", "again", 0.2)


def test_at_the_deadline_who_is_there_goes_and_late_joiners_are_a_group_of_their_own() -> None:
    gate = Gate()
    gate.rounds.begin("r", "abcd", 2.0, 0.0)
    gate.rounds.join("r", "a", "", 0.5)
    gate.rounds.tick(1.9)
    assert gate.groups == [] and gate.rounds.next_deadline == 2.0
    gate.rounds.tick(2.0)
    assert gate.groups == [(["a"], False)]
    gate.rounds.join("r", "c", "", 3.5)
    assert gate.rounds.next_deadline == 5.5, "the late ones wait for each other just as long"
    gate.rounds.join("r", "b", "", 4.0)
    gate.rounds.tick(5.5)
    assert gate.groups[1:] == [(["c", "b"], True)]
    gate.rounds.tick(7.4)
    assert len(gate.rounds) == 1
    gate.rounds.tick(7.5)
    assert len(gate.rounds) == 0, "nobody came for as long again"


def test_a_commit_waits_for_nobody() -> None:
    gate = Gate()
    gate.rounds.begin("r", "abc", 2.0, 0.0)
    gate.rounds.join("r", "b", "", 0.1)
    gate.rounds.commit("r", 0.2)
    assert gate.groups == [(["b"], False)]
    for member in "ac":
        gate.rounds.join("r", member, "", 0.3)
    assert gate.groups[1:] == [(["a", "c"], True)]
    with pytest.raises(NoSuchRound):
        gate.rounds.commit("r", 0.4)


def test_a_round_to_which_nobody_comes_is_forgotten() -> None:
    gate = Gate()
    gate.rounds.begin("r", "ab", 2.0, 0.0)
    gate.rounds.tick(2.0)
    gate.rounds.tick(4.0)
    assert len(gate.rounds) == 0 and gate.groups == [] and gate.rounds.next_deadline is None


def test_who_leaves_is_not_waited_for() -> None:
    gate = Gate()
    gate.rounds.begin("r", "abc", 2.0, 0.0)
    gone = gate.rounds.join("r", "a", "", 0.1)
    gate.rounds.leave("r", "a", 0.2)
    assert gone.cancelled()
    gate.rounds.join("r", "b", "", 0.3)
    gate.rounds.leave("r", "c", 0.4)
    gate.rounds.leave("r", "c", 0.4)
    assert gate.groups == [(["b"], False)]
    with pytest.raises(NoSuchRound):
        gate.rounds.join("r", "a", "", 0.5)


def test_rounds_are_bounded_and_strangers_refused() -> None:
    gate = Gate(rounds_max=1, members_max=2)
    gate.rounds.begin("r", "ab", 2.0, 0.0)
    gate.rounds.begin("r", "ba", 2.0, 0.0)  # the same again
    refused = [("r", "ac", 2.0), ("s", "ab", 2.0), ("s", "abc", 2.0), ("s", "", 2.0), ("s", "a", 0.0)]
    for round_id, members, wait_s in refused:
        with pytest.raises(RoundRefused):
            gate.rounds.begin(round_id, members, wait_s, 0.0)
    gate.rounds.join("r", "a", "", 0.0)
    for member in "ac":
        with pytest.raises(RoundRefused):
            gate.rounds.join("r", member, "", 0.0)
    with pytest.raises(NoSuchRound):
        gate.rounds.join("s", "a", "", 0.0)
