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

SEEDS = (12, 25)  # together they have every action and room for every kind of corruption


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    driven = [run for seed in SEEDS for strict in (False, True) for run in in_memory(seed, strict=strict)]
    return [*driven, *simulated(1)]


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
    assert len(runs) > 2 * len(SEEDS)
    assert all(len(run.lines) > 10 for run in runs)


def _logged(sequence: int, incarnation: int, n: int) -> Logged:
    inv = Inv(Version(incarnation, n), n, Content(f"h{incarnation}{n}", 1), "main~a")
    return Logged(0, sequence, LogRecord("t/w/k", n, (inv, Shared("main~b", n)), 1_000 * sequence, incarnation), "")


def test_what_a_store_has_lost_ends_one_run_and_another_goes_on_from_what_it_kept() -> None:
    items = [_logged(1, 5, 1), _logged(2, 5, 2), _logged(3, 5, 3), Renewed(0, 9, 1, ""), _logged(2, 9, 2)]
    lost, kept = runs_of("r", items)
    assert [line.sequence for line in lost.lines] == [1, 2, 3]
    assert [(line.sequence, line.incarnation) for line in kept.lines] == [(1, 1), (2, 2)]
    assert kept.lines[1].events[0].version == (2, 2)
