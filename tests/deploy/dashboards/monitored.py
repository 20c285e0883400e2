"""Two directories over a real Redis, processes of agents, and a real Prometheus with this project's rules."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.dashboards.places import PROMETHEUS
from tests.faults.processes import ROOT
from tests.observe.collector import Collector
from tests.support.ports import HOST, accepts_connections, free_port, wait_until
from tests.support.redis_process import RedisProcess

START_S = 60.0
REDIS_LIMIT = "256mb"
PROCESSES = 3
Sample = tuple[dict[str, str], float]
Series = tuple[dict[str, str], list[tuple[float, float]]]


class Directory:
    """`homenode serve` on ports that it keeps over restarts."""

    def __init__(self, store: str, log: Path, *flags: str) -> None:
        self.port, self.metrics = free_port(), free_port()
        self._log = log
        self._flags = ["--store", store, "--listen", f"{HOST}:{self.port}", "--metrics", f"{HOST}:{self.metrics}"]
        self._flags += flags
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start; `wait` says when it serves."""
        command = [sys.executable, "-m", "homenode.cli.main", "serve", *self._flags, "--session-ttl-ms", "5000"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> None:
        """Until it serves."""
        wait_until(lambda: accepts_connections(self.metrics), timeout_s=START_S, what=f"a directory; see {self._log}")

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal it, and wait."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)


class Monitored:
    """Call `start`, `load` when the idle state was looked at, and `close` in the end."""

    def __init__(self, folder: Path, *flags: str) -> None:
        """`flags` are those of the directories."""
        self.folder = folder
        self._flags = flags
        self.redis = RedisProcess(folder / "redis", {"maxmemory": REDIS_LIMIT})
        self.directories: list[Directory] = []
        self._others: list[subprocess.Popen[bytes]] = []
        self._prometheus = ""
        self.deadline = math.inf
        self.traces: Collector | None = None

    def start(self) -> Monitored:
        """Redis, two directories and Prometheus; returns when Prometheus has scraped both a few times."""
        self.redis.start()
        self.directories = [
            Directory(self.redis.url, self.folder / f"directory{n}.log", *self._flags) for n in range(2)
        ]
        for directory in self.directories:
            directory.start()
        self._start_prometheus()
        for directory in self.directories:
            directory.wait()
        wait_until(
            lambda: self.value('min(count_over_time(process_start_time_seconds{job="homenode"}[1m]))') >= 3,
            timeout_s=START_S,
            what="scrapes of both directories",
        )
        return self

    @property
    def url(self) -> str:
        """The directories' address."""
        return f"homenode://{','.join(f'{HOST}:{directory.port}' for directory in self.directories)}/main"

    def _start_prometheus(self) -> None:
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
        del config["alerting"]
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] == "homenode"]
        targets = [f"{HOST}:{directory.metrics}" for directory in self.directories]
        config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        path, address = self.folder / "prometheus.yml", f"{HOST}:{free_port()}"
        path.write_text(yaml.safe_dump(config))
        command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder / 'tsdb'}"]
        command += [f"--web.listen-address={address}", "--enable-feature=exemplar-storage", "--log.level=warn"]
        with (self.folder / "prometheus.log").open("wb") as log:
            self._others.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        self._prometheus = f"http://{address}"
        wait_until(lambda: accepts_connections(int(address.rpartition(":")[2])), what="Prometheus")

    def load(self) -> None:
        """Start the agents; one more process takes a lease and is killed with it."""
        for number in range(PROCESSES):
            self._others.append(self._agents("work", str(number)))
        holder = self._agents("hold", "held.md", stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        holder.communicate()

    def _agents(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.deploy.dashboards.agents", self.url, *words]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, **more)

    def kill_directory(self) -> None:
        """The one with more sessions is gone at once, and comes back at the same place."""
        sessions = {labels["instance"]: value for labels, value in self.query("homenode_sessions")}
        busier = max(self.directories, key=lambda one: sessions.get(f"{HOST}:{one.metrics}", 0.0))
        busier.end()
        busier.start()
        busier.wait()

    def ask(self, path: str, **parameters: str) -> Any:
        """The data that Prometheus answers."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._prometheus}/api/v1/{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Sample]:
        """The expression now: labels and value of each series; what is not a number is left out."""
        result = self.ask("query", query=expression)["result"]
        samples = [(one["metric"], float(one["value"][1])) for one in result]
        return [(labels, value) for labels, value in samples if not math.isnan(value)]

    def value(self, expression: str) -> float:
        """The only value of an expression; not a number where it has none."""
        samples = self.query(expression)
        return samples[0][1] if len(samples) == 1 else math.nan

    def between(self, expression: str, start: float, end: float, step_s: float) -> list[Series]:
        """The expression over time."""
        found = self.ask("query_range", query=expression, start=str(start), end=str(end), step=str(step_s))["result"]
        return [(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in found]

    def close(self) -> None:
        """End everything."""
        for process in self._others:
            if process.poll() is None:
                process.terminate()
        for process in self._others:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for directory in self.directories:
            directory.end()
        self.redis.kill()
