"""A smoke run of the simulation; `make sim` runs more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sim.mutants import MUTANTS
from tests.support.interpreted import INTERPRETED

SEEDS = 160
PART = 80  # enough for every fault to fire
DRILLS = 6
#: A broken rule must show in the first drills.
FOUND_WITHIN = 2
ENVIRONMENT = {**os.environ, "PYTHONHASHSEED": "0"}


def simulate(*words: str) -> str:
    """Run `python -m tests.sim`, which has to succeed; what it printed."""
    command = [sys.executable, "-m", "tests.sim", *words]
    # Tasks of a server that was killed may be told of on stderr, with addresses.
    done = subprocess.run(command, env=ENVIRONMENT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_many_seeds_keep_every_promise_and_every_fault_fires(first: int) -> None:
    simulate("--seeds", f"{first}..{first + PART}")


@pytest.mark.slow
def test_drills_of_strict_consistency_find_nothing() -> None:
    simulate("--drill", "--seeds", str(DRILLS))


@INTERPRETED
@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_every_broken_rule_of_strict_consistency_is_found(name: str) -> None:
    assert f"{name}: found by seed" in simulate("--mutant", name, "--seeds", str(FOUND_WITHIN))


def test_a_seed_gives_the_same_run_again() -> None:
    first, again = (simulate("--seed", "7", "--trace") for _ in range(2))
    assert first == again and "digest" in first
