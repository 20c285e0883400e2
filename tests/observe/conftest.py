"""Servers and agents as processes, and a collector."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.conftest import ROOT
from tests.observe.collector import Collector, collecting

WAIT_S = 60


@dataclass
class Process:
    """A process that is talked to line by line."""

    process: subprocess.Popen[str]
    log: Path

    def hears(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, self.log.read_text()
        return line

    def say(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Let it end in peace; its log."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        else:
            self.process.terminate()
        assert self.process.wait(WAIT_S) == 0, self.log.read_text()
        return self.log.read_text()


@dataclass
class Served:
    """`homenode serve`, with metrics on."""

    process: Process
    url: str
    metrics: str

    def scrape(self, accept: str = "text/plain") -> str:
        """Its metrics as text."""
        with urlopen(Request(self.metrics + "/metrics", headers={"Accept": accept}), timeout=WAIT_S) as answer:
            return str(answer.read().decode())

    def value(self, series: str) -> float:
        """One series, by its name and labels; 0 where there is none."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.scrape(), re.MULTILINE)
        return float(found[1]) if found is not None else 0.0


Serve = Callable[..., Served]
Agents = Callable[..., Process]


@pytest.fixture
def start(short_tmp: Path) -> Iterator[Callable[..., Process]]:
    """Starts Python modules as processes; they end with the test."""
    made: list[subprocess.Popen[str]] = []

    def start(*arguments: str, stdin: int | None = None, **variables: str) -> Process:
        log = short_tmp / f"log{len(made)}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("HOMENODE_", "OTEL_"))}
        with log.open("w") as errors:
            made.append(
                subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    stdin=stdin, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environ | variables,
                )
            )  # fmt: skip
        return Process(made[-1], log)

    yield start
    for process in made:
        process.kill()
        process.wait()
        for end in (process.stdin, process.stdout):
            if end is not None:
                end.close()


@pytest.fixture
def serve(start: Callable[..., Process], short_tmp: Path) -> Serve:
    """`serve("--otlp-endpoint", …)` is a server with a SQLite file of its own."""

    def serve(*flags: str, store: str = "", **variables: str) -> Served:
        address = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--drain-ms", "200")
        store = store or f"sqlite:///{short_tmp}/store.sqlite3"
        process = start("homenode_directory", "--store", store, *address, *flags, **variables)
        ports = re.findall(r"port=(\d+)", process.hears())
        return Served(process, f"homenode://127.0.0.1:{ports[0]}/main", f"http://127.0.0.1:{ports[1]}")

    return serve


@pytest.fixture
def agent(start: Callable[..., Process]) -> Agents:
    """`agent("writer", url)` is ready."""

    def agent(*arguments: str, **variables: str) -> Process:
        process = start("tests.observe.agent", *arguments, stdin=subprocess.PIPE, **variables)
        assert process.hears() == "ready"
        return process

    return agent


@pytest.fixture
def collector() -> Iterator[Collector]:
    """At work."""
    with collecting() as collector:
        yield collector
