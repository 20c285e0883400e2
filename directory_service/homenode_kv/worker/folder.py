"""What a worker's folder keeps besides KV: the tenant's secret, how often the worker was started, and a lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

SALT_BYTES = 32
EPOCH_MAX = 2**53  # a directory takes no higher one


@contextlib.contextmanager
def owned(folder: Path | None) -> Iterator[None]:
    """Makes the folder, for its owner's eyes alone, and keeps other workers out. Raises OSError where one is in it."""
    if folder is None:
        yield
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another worker is at work in {folder}: each needs a folder of its own") from None
        yield
    finally:
        os.close(lock)


def epoch(folder: Path | None) -> int:
    """Higher than that of every earlier start, as far as clock or folder remember."""
    now = int(time.time() * 1000)
    if folder is None:
        return now
    path = folder / "epoch"
    with contextlib.suppress(OSError, ValueError):
        before = int(path.read_text())
        now = max(now, before + 1) if before + 1 < EPOCH_MAX else now
    part = path.with_suffix(".part")
    part.write_text(str(now))
    part.replace(path)
    return now


def secret(folder: Path | None) -> bytes:
    """The tenant's secret, made at the first start; files of the disk tier are found with it alone."""
    if folder is None:
        return secrets.token_bytes(SALT_BYTES)
    path = folder / "salt"
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = secrets.token_bytes(SALT_BYTES)
        part = path.with_suffix(".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(found)
        part.replace(path)
    if len(found) != SALT_BYTES:
        raise OSError(f"{path} holds no secret of {SALT_BYTES} bytes: remove it, and what was kept with it is lost")
    return found
