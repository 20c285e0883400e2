"""Processes of the campaign. Each writes records, one JSON object a line, which outlive a SIGKILL of the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
END_WAIT_S = 90.0

Record = dict[str, Any]


class Recorder:
    """Appends records to a file; a record is in the kernel's hands when `write` returns."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **record: Any) -> None:
        """One record."""
        os.write(self._fd, json.dumps(record).encode() + b"\n")


def read_records(path: Path) -> list[Record]:
    """What was recorded so far."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


class Script:
    """`python -m tests.faults.MODULE RECORDS ARGS…`."""

    def __init__(self, module: str, records: Path, args: tuple[object, ...]) -> None:
        self._path = records
        command = [sys.executable, "-m", f"tests.faults.{module}", str(records), *map(str, args)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)

    @property
    def records(self) -> list[Record]:
        """What it recorded so far."""
        return read_records(self._path)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait()

    async def stop(self) -> list[Record]:
        """Ask it to finish, and return all that it recorded. Raises AssertionError if it failed."""
        self.signal(signal.SIGTERM)
        status = await asyncio.to_thread(self.process.wait, END_WAIT_S)
        assert status == 0, f"{self.process.args} ended with {status}"
        return self.records


def stop_on_sigterm() -> asyncio.Event:
    """An event that SIGTERM sets, for scripts: finish what is under way and end."""
    stop = asyncio.Event()
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no VmRSS")
