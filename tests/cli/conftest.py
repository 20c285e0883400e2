"""A real server process, and the command line in this process: importing it anew for each call would cost a second."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homenode.cli.main import main

COMMAND = [sys.executable, "-m", "homenode.cli.main"]
START_S = 60.0

_workspaces = itertools.count(1)


@dataclass(frozen=True)
class Served:
    """A server process and where it is."""

    process: subprocess.Popen[str]
    address: str
    metrics: str


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The only line of output, parsed."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def error(self) -> dict[str, Any]:
        """The error that --json printed."""
        (line,) = self.err.splitlines()
        found: dict[str, Any] = json.loads(line)["error"]
        return found


def start_server(*flags: str) -> Served:
    """`homenode serve` on free ports; returns when it serves."""
    command = [*COMMAND, "--json", "serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the server ended: {process.communicate()[1]}"
    ready = json.loads(line)
    return Served(process, ready["url"].rpartition("/")[0], ready["metrics"])


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    """Signal a process and wait; returns what it still printed."""
    process.send_signal(number)
    try:
        return process.communicate(timeout=30)
    finally:
        process.kill()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server with a SQLite file for all tests of the command line; each test has its own workspace."""
    served = start_server("--store", f"sqlite:///{tmp_path_factory.mktemp('served') / 'directory.sqlite3'}")
    yield served
    stop(served.process)


@pytest.fixture
def url(served: Served) -> str:
    """A workspace of the test's own."""
    return f"{served.address}/test-{next(_workspaces)}"


Cli = Callable[..., Result]


@pytest.fixture
def cli(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("put", "a.md", stdin="text")` runs a command on the test's workspace."""
    monkeypatch.setenv("HOMENODE_URL", url)

    def run(*args: str, stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capsys.readouterr()
        code = main(list(args))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    return run


def spawn(*args: str, url: str, **environment: str) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    return subprocess.Popen(
        [*COMMAND, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOMENODE_URL": url, **environment},
    )


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A file with three lines."""
    path = tmp_path / "page.md"
    path.write_text("one\ntwo\nthree\n")
    return path
