"""`homenode simulate --live`: agents in processes of their own come to what the simulation comes to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

import homenode
from homenode.cli.main import main
from tests.cli.conftest import COMMAND, Served


def test_live_runs_come_to_what_the_simulation_comes_to(served: Served, capsys) -> None:
    url = f"{served.address}/live"
    words = ["--scenario", "D", "--steps", "8", "--tokens", "256", "--seeds", "2", "--strategy", "lazy,eager"]
    code = main(["simulate", "--live", url, *words, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and [one["agree"] for one in told["live"]] == [True, True]
    main(["simulate", *words, "--json"])
    simulated = json.loads(capsys.readouterr().out)
    assert [row["fetches_mean"] for row in told["rows"]] == [row["fetches_mean"] for row in simulated["rows"]]
    with homenode.connect_sync(url) as hn:
        assert not hn.list("simulate/")


@pytest.mark.parametrize("how", ["agent", "command", "Ctrl-C"])
def test_whatever_is_killed_ends_the_run_and_leaves_nothing(served: Served, how: str) -> None:
    url = f"{served.address}/killed-{how[0]}"
    words = ["simulate", "--live", url, "--scenario", "D", "--tokens", "64", "--seeds", "1", "--steps", "400"]
    run = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with homenode.connect_sync(url) as hn:
            while not any(stat.version.n > 1 for stat in hn.list("simulate/")):  # agents write
                assert run.poll() is None
                time.sleep(0.05)
            if how == "agent":
                listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(run.pid)], capture_output=True, text=True)
                os.kill(int(listed.stdout.split()[0]), signal.SIGKILL)
            else:
                run.send_signal(signal.SIGTERM if how == "command" else signal.SIGINT)
            said = run.communicate(timeout=60)[1]
            assert run.returncode == (1 if how == "agent" else 130)
            assert ("the process of an agent has ended" in said) == (how == "agent") and "Traceback" not in said
            assert not hn.list("simulate/")
    finally:
        run.kill()


def test_a_live_run_needs_a_directory_that_runs(capsys) -> None:
    assert main(["simulate", "--live", "embedded://", "--seeds", "1", "--steps", "1", "--json"]) == 2
    assert (
        main(["simulate", "--live", "homenode://127.0.0.1:1/main", "--seeds", "1", "--steps", "1", "--timeout", "1"])
        == 5
    )
    assert capsys.readouterr().err
