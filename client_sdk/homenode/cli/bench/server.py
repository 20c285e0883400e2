"""Processes of this machine that are watched while a load runs: what memory and CPU time they use."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"


def listeners(port: int) -> list[int]:
    """The processes that listen on a TCP port of this machine, as far as they can be seen."""
    sockets = set[str]()
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (PROC / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{words[9]}]")
    return sorted(pid for pid in _pids() if sockets & _open(pid)) if sockets else []


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdecimal()]


def _open(pid: int) -> set[str]:
    try:
        return {os.readlink(file) for file in (PROC / str(pid) / "fd").iterdir()}
    except OSError:  # another user's, or it has ended
        return set()


@dataclass(frozen=True, slots=True)
class Use:
    """What a process has used: seconds of CPU since its start, and bytes of memory now."""

    cpu_s: float
    memory_bytes: int


def use_of(pid: int) -> Use | None:
    """What a process uses; None where that cannot be seen."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return Use(ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * resource.getpagesize())


def name_of(pid: int) -> str:
    """What a process is called: the module or program that it runs."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    plain = [os.path.basename(word.decode(errors="replace")) for word in words if word and not word.startswith(b"-")]
    return next((word for word in plain if not word.startswith("python")), "?")


class Watched:
    """One process, looked at now and then.

    Attributes:
        before, opened: memory before there was a session of the load, and with all of them.
        most: the greatest that was seen.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.name = name_of(pid)
        self.before = self.opened = self.most = 0
        self._cpu_began = self._cpu_ended = 0.0
        if use := use_of(pid):
            self.before = self.most = use.memory_bytes

    def look(self) -> Use | None:
        """Its memory, for `most`."""
        use = use_of(self.pid)
        if use is not None:
            self.most = max(self.most, use.memory_bytes)
        return use

    def opened_now(self) -> None:
        """All sessions are open."""
        if use := self.look():
            self.opened = use.memory_bytes

    def begin(self) -> None:
        """CPU time counts from now on."""
        if use := self.look():
            self._cpu_began = self._cpu_ended = use.cpu_s

    def end(self) -> None:
        """Until now, or a later call."""
        if use := self.look():
            self._cpu_ended = use.cpu_s

    @property
    def cpu_s(self) -> float:
        """CPU time between `begin` and `end`."""
        return self._cpu_ended - self._cpu_began
