"""The rule book, event by event: the scenarios in `scenarios/`, and what text cannot say.

A scenario that changed on purpose is rewritten by `REWRITE_SCENARIOS=1 pytest tests/protocol/test_steps.py` and
reviewed as a diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homenode_directory.protocol.effects import Denial, Done, Reason, Result
from homenode_directory.protocol.events import Base, Commit, SetPolicy
from homenode_directory.protocol.facts import Facts
from homenode_directory.protocol.model import ABSENT_ENTRY, Content, Entry, Level, Policy, Version
from homenode_directory.protocol.transitions import step
from tests.protocol.scenario import Scenario

FILES = sorted(Path(__file__).with_name("scenarios").glob("*.txt"))
REWRITE = "REWRITE_SCENARIOS"


def played(text: str) -> str:
    """The scenario with what the rule book answers now."""
    scenario, out = Scenario(), []
    for block in text.strip().split("\n\n"):
        head = block.split("\n----")[0]
        lines = [line for line in head.splitlines() if line and not line.startswith("#")]
        answers = [scenario.run(line) for line in lines]
        said = [answer for answer in answers if answer != "ok"]
        out.append("\n".join([head, "----", *said]) if said else head)
    return "\n\n".join(out) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    written = path.read_text()
    now = played(written)
    if os.environ.get(REWRITE):
        path.write_text(now)
        return
    assert now == written


def test_a_stored_answer_is_given_again_and_nothing_is_judged() -> None:
    done = Done(Version(1, 1))
    facts = Facts(now_ms=1, incarnation=1, request=1, digest="d", stored=Result("A", 1, "d", done))
    commit = Commit("A", Content("h", 1), Base.ANY)
    assert step(ABSENT_ENTRY, commit, facts).answer == done
    assert step(ABSENT_ENTRY, commit, facts).entry is ABSENT_ENTRY


def test_a_stored_answer_is_not_given_to_another_request() -> None:
    facts = Facts(now_ms=1, incarnation=1, request=1, digest="e", stored=Result("A", 1, "d", Done(Version(1, 1))))
    answer = step(ABSENT_ENTRY, Commit("A", Content("h", 1), Base.ANY), facts).answer
    assert isinstance(answer, Denial) and answer.reason is Reason.INVALID_ARGUMENT


def test_a_settled_request_is_not_judged_again() -> None:
    facts = Facts(now_ms=1, incarnation=1, request=4, digest="d", settled_below=5)
    decision = step(ABSENT_ENTRY, Commit("A", Content("h", 1), Base.ANY), facts)
    assert isinstance(decision.answer, Denial) and decision.answer.reason is Reason.INVALID_ARGUMENT
    assert decision.entry is ABSENT_ENTRY and not decision.results


def test_a_change_of_level_outlasts_copies_that_were_given_under_a_greater_age() -> None:
    hour_ms = 3_600_000
    entry = Entry(3, Version(1, 1), 1, Content("h", 1), sharers={"B": 1}, policy=Policy(max_age_ms=hour_ms))
    facts = Facts(now_ms=1_000, incarnation=1, now_max_ms=1_010)
    shorter = step(entry, SetPolicy("A", Policy(max_age_ms=1_000)), facts).entry
    assert shorter is not None and shorter.pending is None
    for now_ms in (1_000, 1_000 + 2 * hour_ms):  # they are confirmed with their own age for as long as they exist
        facts = Facts(now_ms=now_ms, incarnation=1, now_max_ms=now_ms + 10)
        strict = step(shorter, SetPolicy("A", Policy(level=Level.STRICT)), facts).entry
        assert strict is not None and strict.pending is not None
        assert strict.pending.until_ms > now_ms + hour_ms
