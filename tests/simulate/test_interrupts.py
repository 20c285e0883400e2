"""Ctrl-C and killed processes: runs end at once, and leave neither processes nor complaints."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from homenode.cli.exits import CliError
from homenode.cli.main import main
from homenode.cli.simulate.pool import run_all
from homenode.cli.simulate.workload import Workload
from homenode_directory.sweeper import Sweeper
from tests.support.ports import wait_until

JOBS = [(Workload("A", 0.05, 0, steps=4, tokens=64), range(60))]


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even few runs take processes of their own."""
    monkeypatch.setattr("homenode.cli.simulate.pool.FEW", 1)


def test_ctrl_c_in_any_task_ends_the_run_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, left = Sweeper.sweep, [3]

    async def interrupted(self: Sweeper) -> None:
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGINT)
        await sweep(self)

    monkeypatch.setattr(Sweeper, "sweep", interrupted)
    with caplog.at_level(logging.ERROR, "asyncio"):
        assert main(["simulate", "--scenario", "A", "--seeds", "2"]) == 130
        gc.collect()
    assert left[0] <= 0 and not caplog.records and "Task" not in capsys.readouterr().err


@pytest.mark.usefixtures("several")
def test_processes_do_not_hear_ctrl_c() -> None:
    def told(done: int, total: int) -> None:
        for process in multiprocessing.active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)

    (outcomes,) = run_all(JOBS, 2, told)
    assert len(outcomes) == 60


@pytest.mark.usefixtures("several")
def test_an_interrupt_ends_them() -> None:
    def told(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(JOBS, 2, told)
    wait_until(lambda: not multiprocessing.active_children(), what="the processes' end")


#: Says which processes it has started, again and again.
STARTER = """
import multiprocessing
from homenode.cli.simulate.pool import run_all
from homenode.cli.simulate.workload import Workload

if __name__ == "__main__":
    def told(done, total):
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)

    run_all([(Workload("A", 0.05, 0), range(10_000))], 2, told)
"""


def test_they_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pids = next(found for line in starter.stdout if (found := [int(word) for word in line.split()]))
        starter.kill()
    wait_until(lambda: not any(map(lives, pids)), what="the processes' end")


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.usefixtures("several")
def test_one_that_is_killed_is_told() -> None:
    def told(done: int, total: int) -> None:
        if done:
            for process in multiprocessing.active_children():
                process.kill()

    with pytest.raises(CliError, match="killed"):
        run_all(JOBS, 2, told)
