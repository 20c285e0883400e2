"""Writes a history down: JSON lines, in the form that `operations` describes.

A line that says a write begins is in the kernel's hands before the write is sent. Other lines wait in a buffer of at
most `BUFFER_BYTES`, and go with the first line that comes `FLUSH_NS` after the last time: a process that dies takes a
few reads with it, never a write. Recording never makes an operation fail: where the file cannot be written, or is full,
it stops, says so in the file as far as that is possible, and in the log.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from homenode.clock import Clock, boot_clock
from homenode.history.operations import SUFFIX

LOG = logging.getLogger("homenode.history")

BUFFER_BYTES = 64 << 10
FLUSH_NS = 200_000_000
FILE_BYTES_MAX = 4 << 30


class Recorder:
    """Appends to one file; several processes may append to the same.

    Args:
        path: a file, or an existing folder, in which each process gets a file of its own.
        bytes_max: most bytes that this process writes.
    """

    def __init__(self, path: str | Path, *, clock: Clock | None = None, bytes_max: int = FILE_BYTES_MAX) -> None:
        self.clock = clock or boot_clock()
        self.process = secrets.token_hex(4)
        self.stopped = ""
        place = Path(path)
        if place.is_dir():
            place = place / f"history-{self.process}{SUFFIX}"
        self._fd = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._pid = os.getpid()
        self._left = bytes_max
        self._buffer: list[bytes] = []
        self._size = 0
        self._flushed_ns = 0
        self._count = 0
        self._lock = threading.RLock()  # a blocking connection's hits come from any thread
        atexit.register(self.flush)
        at_ms = time.time_ns() // 1_000_000
        self.write({"history": 1, "boot": _boot_id(), "process": self.process, "at_ms": at_ms}, now=True)

    def begin(self, **said: Any) -> str:
        """A write is about to be sent; returns its id."""
        with self._lock:
            self._count += 1
            named = f"{self.process}.{self._count}"
        self.write({"id": named, **said}, now=True)
        return named

    def write(self, line: dict[str, Any], *, now: bool = False) -> None:
        """One line. Never raises."""
        if self.stopped:
            return
        data = json.dumps(line, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
        with self._lock:
            self._buffer.append(data)
            self._size += len(data)
            clock_ns = self.clock()
            if now or self._size >= BUFFER_BYTES or clock_ns - self._flushed_ns >= FLUSH_NS:
                self._flushed_ns = clock_ns
                self._flush()

    def flush(self) -> None:
        """Hand everything to the kernel."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        data, size, self._buffer, self._size = b"".join(self._buffer), self._size, [], 0
        if self.stopped or not size or os.getpid() != self._pid:  # a forked child has the parent's lines too
            return
        if size > self._left:
            self._stop("the history is full")
            return
        try:
            if os.write(self._fd, data) != size:
                self._stop("the disk is full")
        except OSError as error:
            self._stop(str(error))
        self._left -= size

    def close(self) -> None:
        """Flush; nothing is recorded afterwards."""
        self.flush()
        self.stopped = self.stopped or "closed"
        atexit.unregister(self.flush)

    def _stop(self, why: str) -> None:
        self.stopped = why
        LOG.warning("nothing more is recorded: %s", why)
        line = b"\n" + json.dumps({"stopped": why, "process": self.process}).encode() + b"\n"
        try:
            os.write(self._fd, line)
        except OSError:
            pass


def _boot_id() -> str:
    """Names the run of this machine whose clock the times are of."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


_recorders: dict[str, Recorder] = {}


def recorder_at(path: str) -> Recorder:
    """The process's recorder for this path. Raises OSError."""
    found = _recorders.get(path)
    if found is None or found.stopped == "closed" or found._pid != os.getpid():
        found = _recorders[path] = Recorder(path)
    return found
