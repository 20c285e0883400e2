"""The processes that are measured, and what CPU time they have used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.ports import HOST, accepts_connections, free_port, wait_until

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "build" / "compiled"


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, all its threads, to the nanosecond."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total_ns += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
    return total_ns / 1e9


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no VmRSS of process {pid}")


class ServerProcess:
    """`homenode serve` over a store, as an operator runs it."""

    def __init__(self, store: str, log: Path) -> None:
        self.port = free_port()
        self._log = log
        homenode = Path(sys.executable).with_name("homenode")
        command = [str(homenode), "serve", "--store", store, "--listen", self.address, "--metrics", "off"]
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT)

    @property
    def address(self) -> str:
        """host:port"""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Until it listens. Raises RuntimeError if it ends instead."""
        ended = self._process.poll
        wait_until(lambda: accepts_connections(self.port) or ended() is not None, what="the server listens")
        if ended() is not None:
            raise RuntimeError(f"homenode serve ended at its start:\n{self._log.read_text()[-2000:]}")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
