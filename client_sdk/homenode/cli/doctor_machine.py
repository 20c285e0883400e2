"""The doctor's look at this machine, where a server or a store runs on it: limits, kernel, folders."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from homenode.cli.findings import FAULT, NOTE, OK, WARN, Finding

FILES_MIN = 8_192
FREE_BYTES_MIN = 256 << 20
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LOOPBACK = ("127.", "localhost", "[::1]", "::1")


def is_here(host: str) -> bool:
    """Whether the host is this machine, as far as its name says."""
    return host.startswith(LOOPBACK)


def files() -> Finding:
    """How many files and connections a process may have. A server that is started from here inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES_MIN:
        advice = f"every stream is an open file: ulimit -n {FILES_MIN} (LimitNOFILE= in systemd) before servers start"
        return Finding("open files", WARN, f"{soft} here (at most {hard})", advice)
    return Finding("open files", OK, f"{soft} here")


def kernel() -> Iterator[Finding]:
    """What Redis needs of the kernel when it runs here."""
    overcommit = _read(OVERCOMMIT)
    if overcommit and overcommit != "1":
        advice = "sysctl vm.overcommit_memory=1: else Redis may fail to fork, and then refuses every commit"
        yield Finding("overcommit", WARN, f"vm.overcommit_memory is {overcommit}", advice)
    elif overcommit:
        yield Finding("overcommit", OK, "vm.overcommit_memory is 1")
    if "[always]" in _read(HUGE_PAGES):
        advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: it makes forks of Redis slow"
        yield Finding("huge pages", NOTE, "transparent huge pages are always on", advice)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def archive(path: Path) -> Finding:
    """The folder, or the file's folder, to which servers export the log."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return Finding("log archive", FAULT, f"there is no folder {folder}", "create it: servers do not start without")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("log archive", FAULT, f"{folder} is not writable by this user", "the server's user must own it")
    free = room(folder)
    if free < FREE_BYTES_MIN:
        advice = "make room: the log is kept in the store until it is exported, up to twice --log-keep"
        return Finding("log archive", WARN, f"{folder}: {free >> 20} MiB free", advice)
    return Finding("log archive", OK, f"{folder}: {free >> 20} MiB free")


def room(folder: Path) -> int:
    """Bytes that are free to this user."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
