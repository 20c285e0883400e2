"""Starts what the rows measure, and lets loads take turns."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

from tests.bench.etcd import EtcdProcess
from tests.bench.processes import ROOT, ServerProcess, cpu_s
from tests.support.redis_process import RedisProcess

READY = "ready"


@dataclass
class Measured:
    """One round of one load.

    Attributes:
        figures: what the load says: per_s, p50_ms, p99_ms, n, and its own.
        cpu_us: CPU time for each operation, by process: client, and server and store or the peer.
    """

    figures: dict[str, float]
    cpu_us: dict[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.figures[name]


def _used(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far, by process."""
    return {name: cpu_s(pid) for name, pid in pids.items()}


class Load(Protocol):
    """Something that can be measured for a while, again and again."""

    def measure(self, seconds: float) -> Measured:
        """One round."""

    def close(self) -> None:
        """No more rounds."""


class ProcessLoad:
    """`tests.bench.load` in a process of its own, set up once and warm from then on.

    Args:
        kind, address, clients, options: see `load`.
        pids: processes whose CPU time counts for the operations, by what they are.
    """

    def __init__(
        self, kind: str, address: str, clients: int, options: Mapping[str, Any], pids: Mapping[str, int]
    ) -> None:
        self._pids = dict(pids)
        # Whose client it is makes no difference: all of them run on uvloop, which their callers may choose too.
        text = json.dumps({"uvloop": True, **options})
        words = [sys.executable, "-m", "tests.bench.load", kind, address, str(clients), text]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        if self._answer() != READY:
            raise RuntimeError(f"the load {kind} could not be set up")

    @property
    def pid(self) -> int:
        """Process id of the load."""
        return self._process.pid

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def _answer(self) -> str:
        line = self._pipe(self._process.stdout).readline().strip()
        if not line:
            raise RuntimeError(f"the load process has ended with status {self._process.wait(10)}")
        return line

    def measure(self, seconds: float) -> Measured:
        """One round."""
        before = _used(self._pids)
        print(seconds, file=self._pipe(self._process.stdin), flush=True)
        figures: dict[str, float] = json.loads(self._answer())
        done = max(figures["n"], 1)
        cpu = {"client": figures.pop("client_cpu_us", 0.0)}
        return Measured(figures, cpu | {name: (s - before[name]) / done * 1e6 for name, s in _used(self._pids).items()})

    def close(self) -> None:
        """End the process."""
        self._pipe(self._process.stdin).close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe(self._process.stdout).close()


class CommandLoad:
    """A load generator of somebody else's, run once for each round.

    Args:
        words: makes its command line for a number of seconds.
        read: makes figures of its output.
        pids: see `ProcessLoad`.
    """

    def __init__(
        self, words: Callable[[float], list[str]], read: Callable[[str], dict[str, float]], pids: Mapping[str, int]
    ) -> None:
        self._words = words
        self._read = read
        self._pids = dict(pids)

    def measure(self, seconds: float) -> Measured:
        """One round."""
        before = _used(self._pids)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = self._words(seconds)
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 60)
        if done.returncode:
            raise RuntimeError(f"{words[0]} failed: {done.stderr[-500:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures = self._read(done.stdout)
        n = max(figures["n"], 1)
        client_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        cpu = {"client": client_s / n * 1e6}
        return Measured(figures, cpu | {name: (s - before[name]) / n * 1e6 for name, s in _used(self._pids).items()})

    def close(self) -> None:
        """Nothing is left."""


class Bench:
    """What is measured, started when it is first needed.

    Args:
        folder: for data; on a disk, because fsync is compared with fsync.
        rounds, seconds: of each load.
        peers: whether to measure the peers too.
    """

    def __init__(self, folder: Path, *, rounds: int, seconds: float, peers: bool = True) -> None:
        self.folder = folder
        self.rounds = rounds
        self.seconds = seconds
        self.peers = peers
        self._stack = ExitStack()

    @cached_property
    def redis(self) -> RedisProcess:
        """The directory's store: every write is on disk before it is acknowledged."""
        redis = RedisProcess(self.folder / "redis", {"appendfsync": "always"})
        redis.start()
        self._stack.callback(redis.stop)
        return redis

    @cached_property
    def server(self) -> ServerProcess:
        """A directory server over `redis`."""
        server = ServerProcess(self.redis.url, self.folder / "server.log")
        self._stack.callback(server.close)
        server.wait_ready()
        return server

    @cached_property
    def etcd(self) -> EtcdProcess:
        """One etcd with its data on the same disk."""
        etcd = EtcdProcess(self.folder / "etcd")
        self._stack.callback(etcd.close)
        etcd.wait_ready()
        return etcd

    def ours(self, kind: str, clients: int, **options: Any) -> Load:
        """A load on the directory."""
        pids = {"server": self.server.pid, "store": self.redis.pid}
        return self._added(ProcessLoad(kind, self.server.address, clients, options, pids))

    def on_etcd(self, kind: str, clients: int, **options: Any) -> Load:
        """A load on etcd from Python."""
        return self._added(ProcessLoad(kind, self.etcd.address, clients, options, {"etcd": self.etcd.pid}))

    def on_redis(self, kind: str, clients: int, **options: Any) -> Load:
        """A load on Redis itself from Python."""
        options["redis_port"] = self.redis.port
        return self._added(ProcessLoad(kind, "", clients, options, {"redis": self.redis.pid}))

    def alone(self, kind: str, clients: int, **options: Any) -> Load:
        """A load that brings all that it needs, in its own process."""
        return self._added(ProcessLoad(kind, "", clients, options, {}))

    def _added(self, load: ProcessLoad) -> ProcessLoad:
        self._stack.callback(load.close)
        return load

    def take_turns(self, loads: Mapping[str, Load]) -> dict[str, list[Measured]]:
        """Rounds of all loads in turn, after one short round of each to warm up. Ends the loads."""
        found: dict[str, list[Measured]] = {name: [] for name in loads}
        for load in loads.values():
            load.measure(min(self.seconds, 0.5))
        for _ in range(self.rounds):
            for name, load in loads.items():
                found[name].append(load.measure(self.seconds))
        for load in loads.values():
            load.close()
        return found

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
