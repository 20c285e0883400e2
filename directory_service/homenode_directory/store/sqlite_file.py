"""The file of an embedded store: its lock, its schema, and room kept for the day the disk is full."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

from homenode_directory.store.base import StoreError, StoreLocked

FORMAT = 2
APPLICATION_ID = 0x486F4E6F  # "HoNo"
LOG_FILE_PAGES = 1_000
RESERVE_BYTES = 8 << 20
"""Twice what the write-ahead log grows to: enough to move it into the main file, after which its own room is free."""

STATEMENTS_KEPT = 256
BUSY_TIMEOUT_MS = 5_000

SCHEMA = """
CREATE TABLE store (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE slices (
  slice INTEGER PRIMARY KEY, number INTEGER NOT NULL, token TEXT NOT NULL, identity TEXT NOT NULL, head INTEGER NOT NULL
);
CREATE TABLE records (
  slice INTEGER, key TEXT, field TEXT, value TEXT NOT NULL, PRIMARY KEY (slice, key, field)
) WITHOUT ROWID;
CREATE TABLE ranks (
  slice INTEGER, key TEXT, member TEXT, score INTEGER NOT NULL, PRIMARY KEY (slice, key, member)
) WITHOUT ROWID;
CREATE INDEX ranks_by_score ON ranks (slice, key, score, member);
CREATE TABLE blobs (slice INTEGER NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL, UNIQUE (slice, key));
CREATE TABLE log (slice INTEGER, sequence INTEGER, data BLOB NOT NULL, PRIMARY KEY (slice, sequence)) WITHOUT ROWID;
"""


class Lock:
    """Exclusive use of a store's file, held until `release` or the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot lock {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._file, 32).decode(errors="replace").strip()
            os.close(self._file)
            raise StoreLocked(
                f"{path} is open in another process (pid {owner or 'unknown'}). To share it, run `homenode serve` on it"
                " and connect to that"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, str(os.getpid()).encode())

    def release(self) -> None:
        """Let another process open the store."""
        os.close(self._file)


class Reserve:
    """A file of dead weight beside the store. Given up when the disk is full, it lets relief commits go on."""

    def __init__(self, path: Path) -> None:
        self._path = Path(f"{path}.reserve")

    def fill(self) -> bool:
        """Whether the reserve is there, made anew if the disk has room for it."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_size == RESERVE_BYTES:
                return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(file, 0, RESERVE_BYTES)
        except OSError:
            self.give_up()
            return False
        finally:
            os.close(file)
        return True

    def give_up(self) -> bool:
        """Free the reserve's room; whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


def create(path: Path) -> None:
    """Make the file and its folder where they are missing, readable by their owner only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"cannot use {path}: {error.strerror}") from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection that commits durably: a commit returns after the write-ahead log is on disk."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS_KEPT)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_FILE_PAGES}")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def prepare(connection: sqlite3.Connection, path: Path, slices: int) -> int:
    """Create or check the schema; returns the number of slices that the store was made with."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute("INSERT INTO store VALUES ('slices', ?)", (str(slices),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
        return slices
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is a database, but not a Homenode store")
    if version != FORMAT:
        raise StoreError(f"{path} has format {version}; this version of Homenode reads format {FORMAT}")
    return int(connection.execute("SELECT value FROM store WHERE name = 'slices'").fetchone()[0])


def sync_folder(path: Path) -> None:
    """Make the names of new files durable."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
