"""A smoke run of the simulation; `make sim` runs more."""

from __future__ import annotations

import os
import subprocess
import sys

SEEDS = 200
ENVIRONMENT = {**os.environ, "PYTHONHASHSEED": "0"}


def _start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sim", *words]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_many_seeds_keep_every_promise_and_every_fault_fires() -> None:
    halves = [_start("--seeds", f"0..{SEEDS // 2}"), _start("--seeds", f"{SEEDS // 2}..{SEEDS}")]
    for half in halves:
        output, _ = half.communicate()
        assert half.returncode == 0, output


def test_a_seed_gives_the_same_run_again() -> None:
    outputs = {run.communicate()[0] for run in [_start("--seed", "7", "--trace"), _start("--seed", "7", "--trace")]}
    assert len(outputs) == 1
    assert "digest" in outputs.pop()
