"""A smoke run of the simulation; `make sim` runs more."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.sim.mutants import MUTANTS

SEEDS = 160
DRILLS = 6
#: A broken rule must show in the first drills.
FOUND_WITHIN = 2
ENVIRONMENT = {**os.environ, "PYTHONHASHSEED": "0"}


def _start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sim", *words]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_many_seeds_keep_every_promise_and_every_fault_fires() -> None:
    halves = [_start("--seeds", f"0..{SEEDS // 2}"), _start("--seeds", f"{SEEDS // 2}..{SEEDS}")]
    for half in halves:
        output, _ = half.communicate()
        assert half.returncode == 0, output


def test_drills_of_strict_consistency_find_nothing() -> None:
    drills = _start("--drill", "--seeds", str(DRILLS))
    output, _ = drills.communicate()
    assert drills.returncode == 0, output


def test_every_broken_rule_of_strict_consistency_is_found() -> None:
    hunts = {name: _start("--mutant", name, "--seeds", str(FOUND_WITHIN)) for name in MUTANTS}
    for name, hunt in hunts.items():
        output, _ = hunt.communicate()
        assert hunt.returncode == 0, output
        assert f"{name}: found by seed" in output


def test_a_seed_gives_the_same_run_again() -> None:
    outputs = {run.communicate()[0] for run in [_start("--seed", "7", "--trace"), _start("--seed", "7", "--trace")]}
    assert len(outputs) == 1
    assert "digest" in outputs.pop()
