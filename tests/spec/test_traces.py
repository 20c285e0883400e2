"""Logs of real runs are explained by the specification, corrupted ones are not. `make traces` validates many more."""

from __future__ import annotations

import dataclasses

import pytest

from homenode_directory.audit.items import Logged, Renewed
from homenode_directory.protocol import events
from homenode_directory.protocol.effects import Inv, Shared
from homenode_directory.protocol.model import Content, Version
from homenode_directory.store.fields import LogRecord
from tests.spec.trace_faults import SPOILS
from tests.spec.trace_module import Run, runs_of
from tests.spec.trace_runs import in_memory, simulated
from tests.spec.traces import ACTIONS, UNLOGGED, kinds, validate, with_corruptions

pytestmark = pytest.mark.xdist_group("traces")  # which share their runs

SEEDS = 60
ENOUGH = {*SPOILS, "handed_off", "expired", "released", "session_lost", "PolicySet", "Refused", "Inherit"}


def _shows(run: Run) -> set[str]:
    """What a run has: ways to corrupt it, and kinds of events."""
    events = [event for line in run.lines for event in line.events]
    causes = {event.what[1] for event in events if isinstance(event.what, tuple)}
    corruptible = {name for name, spoil in SPOILS.items() if any(True for _ in spoil(run))}
    inherits = {"Inherit" for event in events if event.kind == "Prepared" and not event.session}
    return corruptible | {event.kind for event in events} | causes | inherits


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """The first driven runs that have something which those before them lack, and a simulated one."""
    chosen, shown = simulated(1), set[str]()
    for seed in range(SEEDS):
        for run in (run for strict in (True, False) for run in in_memory(seed, strict=strict)):
            if _shows(run) - shown:
                chosen.append(run)
                shown |= _shows(run)
        if shown >= ENOUGH:
            break
    return chosen


@pytest.mark.tlc
def test_sound_logs_are_explained_corrupted_ones_are_not_and_nothing_is_left_out(runs: list[Run]) -> None:
    batch = with_corruptions(runs, 1)
    verdict = validate(batch)
    assert verdict.wrong(batch) == []
    assert verdict.actions == ACTIONS
    assert kinds(batch) == set(SPOILS)


def test_every_event_is_an_action_that_must_be_seen() -> None:
    names = {
        name
        for name, event in vars(events).items()
        if isinstance(event, type) and dataclasses.is_dataclass(event) and event.__module__ == events.__name__
    }
    assert names - ACTIONS == UNLOGGED


def test_every_run_is_long_enough_to_say_something(runs: list[Run]) -> None:
    assert len(runs) > 3
    assert all(len(run.lines) > 5 for run in runs)


def _logged(sequence: int, incarnation: int, n: int) -> Logged:
    inv = Inv(Version(incarnation, n), n, Content(f"h{incarnation}{n}", 1), "main~a")
    return Logged(0, sequence, LogRecord("t/w/k", n, (inv, Shared("main~b", n)), 1_000 * sequence, incarnation), "")


def test_what_a_store_has_lost_ends_one_run_and_another_goes_on_from_what_it_kept() -> None:
    items = [_logged(1, 5, 1), _logged(2, 5, 2), _logged(3, 5, 3), Renewed(0, 9, 1, ""), _logged(2, 9, 2)]
    lost, kept = runs_of("r", items)
    assert [line.sequence for line in lost.lines] == [1, 2, 3]
    assert [(line.sequence, line.incarnation) for line in kept.lines] == [(1, 1), (2, 2)]
    assert kept.lines[1].events[0].version == (2, 2)
