"""The demo as `make run` runs it: processes, a kill, a control arm, a verdict that holds."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from homenode.cli.demo import script
from tests.cli.conftest import COMMAND, Cli, Served, stop
from tests.conftest import RedisFactory

LIMIT_S = 180


def play(tmp_path: Path, *flags: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    """Run the demo to its end: what it printed, and its figures."""
    figures = tmp_path / "figures.json"
    command = [*COMMAND, "demo", "--dir", str(tmp_path / "state"), "--json", str(figures), *flags]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, **environment},
        cwd=tmp_path,
    )
    return done, json.loads(figures.read_text()) if figures.exists() else {}


@pytest.mark.slow
def test_every_promise_is_kept(tmp_path: Path) -> None:
    done, found = play(tmp_path, "--serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", DEMO_ONLY="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERDICT: every promise was kept" in done.stdout
    assert "is killed (-9)" in done.stdout
    # By which of its rules depends on how long it slept, and on what it has heard when it writes.
    assert re.search(r"late commit is refused: \w+, its lease was over: \w+", done.stdout), done.stdout
    assert "EDITS LOST" in done.stdout
    assert done.stderr == ""
    ours, control = found["homenode"], found["control"]
    assert isinstance(ours, dict) and isinstance(control, dict)
    assert ours["acknowledged"] == ours["present"] > 50
    assert ours["stale_beyond"] == 0
    assert control["acknowledged"] > 50
    # The stopped writer's late write in the control arm undoes what others wrote meanwhile, whatever the timing.
    assert len(control["lost"]) > 0
    assert ours["tokens"] < control["tokens"]


@pytest.mark.slow
def test_the_final_pages_are_files_with_every_edit(tmp_path: Path) -> None:
    done, found = play(tmp_path, "--turns", "16", "--seed", "11")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (path for path in (tmp_path / "state").iterdir() if path.is_dir())
    texts = [(run / "pages" / page).read_text() for page in script.PAGES]
    ours = found["homenode"]
    assert isinstance(ours, dict)
    assert sum(script.counter(text) for text in texts) == ours["acknowledged"]
    assert len({id for text in texts for id in script.ids_in(text)}) == ours["acknowledged"]


@pytest.mark.slow
@pytest.mark.redis
def test_on_redis(tmp_path: Path, redis_factory: RedisFactory) -> None:
    done, found = play(tmp_path, "--turns", "16", "--store", redis_factory().url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["verdict"]["holds"] is True  # type: ignore[index]


@pytest.mark.slow
def test_at_a_directory_elsewhere_again_and_again(tmp_path: Path, served: Served, cli: Cli) -> None:
    done, found = play(tmp_path, "--url", f"{served.address}/ignored", "--turns", "16", "--plays", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("VERDICT: every promise was kept") == 2
    assert found["verdict"]["holds"] is True and found["seed"] == 8  # type: ignore[index]
    (run,) = (path for path in (tmp_path / "state").iterdir() if path.is_dir())
    assert not (run / "directory.sqlite3").exists()
    for pages, workspace in (("pages", run.name), ("pages-1", f"{run.name}-1")):
        there = cli("--url", f"{served.address}/{workspace}", "cat", script.PLAN)
        assert there.out == (run / pages / script.PLAN).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    command = [*COMMAND, "demo", "--dir", str(tmp_path)]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    while "is killed (-9)" not in demo.stdout.readline():
        assert demo.poll() is None
    started = descendants(demo.pid)
    assert len(started) > 5
    _, err = stop(demo, number)
    assert (demo.returncode, "Traceback" in err) == (130, False)
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def descendants(pid: int) -> list[int]:
    """Processes that this one has started and that still run."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def test_a_taken_port_is_named(cli: Cli, served: Served, tmp_path: Path) -> None:
    address = served.address.removeprefix("homenode://")
    result = cli("demo", "--dir", str(tmp_path), "--listen", address)
    assert result.code == 1
    assert f"cannot listen on {address}" in result.err
    assert "--listen HOST:PORT" in result.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--turns", "3"), 2, "16 to 10000"),
        (("--seed", "x"), 2, "--seed"),
        (("--listen", "nowhere"), 1, "cannot listen on nowhere (not an address)"),
        (("--store", "mysql://x"), 1, "did not start: store"),
        (("--plays", "0"), 2, "1 to 10000"),
        (("--url", "homenode://h/w", "--serve"), 2, "--serve is for a directory of the demo's own"),
        (("--url", "homenode://h/w", "--store", "memory://"), 2, "--store is for a directory of the demo's own"),
        (("--url", "embedded://x"), 2, "cannot share an embedded directory"),
        (
            (
                "--url",
                "homenode://nowhere.invalid/w",
            ),
            5,
            "nowhere.invalid",
        ),
    ],
)
def test_wrong_input_is_named(cli: Cli, tmp_path: Path, args: tuple[str, ...], code: int, said: str) -> None:
    result = cli("demo", "--dir", str(tmp_path), *args)
    assert result.code == code
    assert said in result.err
