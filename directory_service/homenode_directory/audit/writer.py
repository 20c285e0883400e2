"""Writes a log archive (`archive` describes it). Blocking: the exporter calls it in a thread.

Lines are on the disk when `append` returns. A file that is continued after a restart is read first: an unfinished last
line is cut off; a damaged file is set aside under another name, and the slices are exported again from where it began,
as far as the store still has them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from homenode_directory.audit.archive import FORMAT, SUFFIX, read_heads, seal

LOG = logging.getLogger("homenode.archive")

FILE_BYTES_MAX = 64 << 20
PREFIX = "log-"
DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True)
class Reached:
    """Up to where a slice is archived: the incarnation, and the last sequence."""

    incarnation: int
    sequence: int


class ArchiveBusy(Exception):
    """Another process writes this archive."""


class ArchiveWriter:
    """The end of one archive, to which nobody else appends meanwhile.

    Args:
        path: a file, or a folder, in which files of about `file_bytes_max` follow each other. What ends in `.jsonl` and
            is no folder is a file; a folder is made where there is none.
        slices: of the store.
    """

    def __init__(self, path: Path, slices: int, *, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self.reached: dict[int, Reached] = {}
        self.failures = 0
        self._folder = path if path.is_dir() or path.suffix != SUFFIX else None
        self._file = path
        self._slices = slices
        self._file_bytes_max = file_bytes_max
        self._fd = -1
        self._lock = -1
        self._crc = 0
        self._size = 0
        self._number = 0
        self._appending = threading.Lock()

    # --- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Continue the archive, or begin it. Raises ArchiveBusy, OSError."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        lock = self._folder / ".lock" if self._folder is not None else self._file.with_name(self._file.name + ".lock")
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._continue()
        except BlockingIOError:
            self.close()
            raise ArchiveBusy(f"another process writes the archive {self._folder or self._file}") from None
        except BaseException:
            self.close()
            raise

    def _continue(self) -> None:
        while True:
            last = self._last_file()
            if last is None or last.stat().st_size == 0:
                self._begin(last)
                return
            heads = read_heads(last)
            if heads.damage is None:
                break
            aside = last.with_name(f"{last.name}{DAMAGED}-{os.urandom(3).hex()}")
            LOG.error("the archive is damaged at %s; set aside as %s", heads.damage, aside.name)
            self.failures += 1
            os.rename(last, aside)
            self.reached = {slice_: Reached(*at) for slice_, at in heads.began.items()}
            if self._folder is None or self._last_file() is None:
                self._begin(None)
                return
        self.reached = {slice_: Reached(*at) for slice_, at in heads.reached.items()}
        self._fd = os.open(last, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._fd, heads.size)
        self._crc, self._size = heads.crc, heads.size

    def _last_file(self) -> Path | None:
        if self._folder is None:
            return self._file if self._file.exists() else None
        names = sorted(self._folder.glob(PREFIX + "*" + SUFFIX))
        if names:
            with contextlib.suppress(ValueError):
                self._number = max(self._number, int(names[-1].stem.removeprefix(PREFIX)))
        return names[-1] if names else None

    def _begin(self, path: Path | None) -> None:
        """A new file; its first line says up to where each slice is archived before it."""
        if path is None:
            path = self._file
            if self._folder is not None:
                self._number += 1
                path = self._folder / f"{PREFIX}{self._number:06d}{SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._crc, self._size = fd, 0, 0
        heads = [[slice_, at.incarnation, at.sequence] for slice_, at in sorted(self.reached.items())]
        self._write([_body({"archive": FORMAT, "slices": self._slices, "heads": heads})])
        _sync_folder(path.parent)

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(self, bodies: Sequence[bytes], reached: dict[int, Reached]) -> None:
        """Lines (objects as text, without checksums), after which the slices are archived up to `reached`.

        Raises OSError where they cannot be written; then none of them are.
        """
        with self._appending:
            if self._folder is not None and self._size >= self._file_bytes_max:
                self._begin(None)
            self._write(bodies)
            self.reached.update(reached)

    def _write(self, bodies: Sequence[bytes]) -> None:
        crc, lines = self._crc, []
        for body in bodies:
            line, crc = seal(body, crc)
            lines.append(line)
        data = b"".join(lines)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except OSError:
            self.failures += 1
            os.ftruncate(self._fd, self._size)
            raise
        self._crc, self._size = crc, self._size + len(data)

    def close(self) -> None:
        """Let others have it, once what is being appended is there."""
        with self._appending:
            for fd in (self._fd, self._lock):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lock = -1


def entry_line(slice_: int, sequence: int, data: bytes) -> bytes:
    """A log entry as the store keeps it."""
    return b'{"slice":%d,"sequence":%d,"entry":%s}' % (slice_, sequence, data)


def incarnation_line(slice_: int, number: int, after: int) -> bytes:
    """Entries that follow `after` are of this incarnation."""
    return _body({"slice": slice_, "incarnation": number, "after": after})


def gap_line(slice_: int, first: int, last: int, why: str) -> bytes:
    """These entries are missing, and why."""
    return _body({"slice": slice_, "gap": [first, last], "why": why})


def _body(said: dict[str, object]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
