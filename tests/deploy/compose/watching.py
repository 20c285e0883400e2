"""The load from outside, watched: what became of its operations, from when to when."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field

from tests.deploy.compose.machine import ROOT, Failed, Machine

PROCESSES, AGENTS = 3, 4
END_S = 60.0


@dataclass(frozen=True, slots=True)
class Operation:
    """One edit of one agent. Times are seconds of the monotonic clock; `error` is empty where it was acknowledged."""

    began: float
    ended: float
    error: str


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two times."""

    acknowledged: int
    failed: tuple[str, ...]
    longest_s: float
    stall_s: float

    @property
    def text(self) -> str:
        """In a line."""
        worst = f"longest operation {self.longest_s:.2f} s, longest stall of all {self.stall_s:.2f} s"
        return f"{self.acknowledged} acknowledged, {len(self.failed)} failed, {worst}"


@dataclass
class Load:
    """Agents in processes of their own that go on until `finish`."""

    machine: Machine
    url: str
    operations: list[Operation] = field(default_factory=list)
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start them."""
        for _ in range(PROCESSES):
            command = self.machine.inside(sys.executable, "-m", "tests.deploy.compose.load", self.url, str(AGENTS))
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            listening = threading.Thread(target=self._listen, args=(process,), daemon=True)
            listening.start()
            self._processes.append(process)
            self._threads.append(listening)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            self.operations.append(Operation(said["began"], said["ended"], said["error"] or ""))

    def check(self) -> None:
        """Raises Failed where a process has ended."""
        if any(process.poll() is not None for process in self._processes):
            raise Failed("a process of the load has ended before its time")

    def window(self, since: float, until: float) -> Window:
        """Operations that ended between two times."""
        within = sorted((o for o in list(self.operations) if since <= o.ended <= until), key=lambda o: o.ended)
        good = [o for o in within if not o.error]
        ends = [since, *(o.ended for o in good), until]
        return Window(
            len(good),
            tuple(o.error for o in within if o.error),
            max((o.ended - o.began for o in within), default=0.0),
            max(after - before for before, after in zip(ends, ends[1:], strict=False)),
        )

    def finish(self) -> None:
        """Let the agents end what they are at. Raises Failed where one does not end well."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        codes = [process.wait(END_S) for process in self._processes]
        for thread in self._threads:
            thread.join(END_S)
        if any(codes):
            raise Failed(f"the load's processes ended with {codes}")

    def kill(self) -> None:
        """End what is left of it."""
        for process in self._processes:
            process.kill()
            process.wait()
