"""The embedded store: one SQLite file, one process, every acknowledged commit on disk.

Theory of operation. All changes go to one writer thread. When it is free it takes everything that has queued up, over
all slices, runs it in one transaction and answers after COMMIT, so that one fsync pays for many commits. Reads have a
connection and a thread of their own and do not wait for the disk; they see what was acknowledged.

Each opening has a new identity, so each slice gets a new incarnation when it is adopted: that covers a file restored
from a copy. When the disk is full, commits are refused whole; relief commits use up a small reserve file.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from homenode_directory.store import sqlite_file
from homenode_directory.store.apply import apply
from homenode_directory.store.base import (
    META,
    OFFSET,
    Commit,
    Condition,
    Incarnation,
    LogTrimmed,
    Outcome,
    StoreChanged,
    StoreError,
)
from homenode_directory.store.memory_store import DEFAULT_LOG_MAX, DEFAULT_SLICES
from homenode_directory.store.sqlite_overlay import Meta, Overlay
from homenode_directory.store.sqlite_writer import Writer

SIZE = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
T = TypeVar("T")

FIRST_SURROGATE, FIRST_AFTER_SURROGATES = 0xD800, 0xE000


class SqliteStore:
    """See `Store`. `clock_ms` returns milliseconds since the epoch, `ids` random texts."""

    shared = False

    def __init__(
        self,
        path: Path | str,
        *,
        slices: int = DEFAULT_SLICES,
        log_max: int = DEFAULT_LOG_MAX,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        ids: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.path = Path(path)
        self.slices = slices
        self._log_max = log_max
        self._clock_ms = clock_ms
        self._ids = ids
        self._identity = ids()
        self._closed = True

    async def open(self) -> None:
        """See `Store.open`."""
        self._loop = asyncio.get_running_loop()
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="homenode-sqlite-read")
        connection = await self._loop.run_in_executor(self._reader_thread, self._open)
        self._writer = Writer(self.path, connection, self._log_max)
        self._closed = False

    def _open(self) -> sqlite3.Connection:
        sqlite_file.create(self.path)
        self._lock = sqlite_file.Lock(self.path)
        try:
            connection = sqlite_file.connect(self.path)
            self.slices = sqlite_file.prepare(connection, self.path, self.slices)
            self._reader = sqlite_file.connect(self.path)
            sqlite_file.sync_folder(self.path)
        except (sqlite3.Error, OSError) as error:
            self._lock.release()
            raise StoreError(f"cannot open {self.path}: {error}") from error
        except BaseException:
            self._lock.release()
            raise
        return connection

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await self._read(self._reader.close)
        self._reader_thread.shutdown()
        self._writer.connection.close()
        self._lock.release()

    async def adopt(self, slice_: int, at_least: int) -> Incarnation:
        """See `Store.adopt`."""

        def run(overlay: Overlay) -> Incarnation:
            meta = overlay.meta
            if meta.identity != self._identity or meta.number < at_least:
                meta.number = max(meta.number + 1, at_least, self._clock_ms())
                meta.token = f"{meta.number}-{self._ids()}"
                meta.identity = self._identity
                overlay.flush_meta()
            return Incarnation(meta.number, meta.token)

        adopted: Incarnation = await self._submit(slice_, run, relief=True)
        return adopted

    async def commit(
        self,
        slice_: int,
        incarnation: str,
        commits: Sequence[Commit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        """See `Store.commit`."""

        def run(overlay: Overlay) -> list[Outcome]:
            meta = overlay.meta
            if meta.token != incarnation or meta.identity != self._identity:
                raise StoreChanged("the slice's memory is not the one that was adopted")
            now_ms = self._clock_ms() + int(overlay.field(META, OFFSET) or "0")
            for key, data in blobs:
                overlay.put_blob(key, data)
            return list(apply(overlay, commits, now_ms))

        outcomes: list[Outcome] = await self._submit(slice_, run, commits, relief=relief)
        return outcomes

    async def load(self, slice_: int, keys: Sequence[str], names: Sequence[str] = ()) -> list[Mapping[str, str]]:
        """See `Store.load`."""
        query = "SELECT field, value FROM records WHERE slice = ? AND key = ?"
        if names:
            query += f" AND field IN ({','.join('?' * len(names))})"
        return await self._read(
            lambda: [dict(self._reader.execute(query, (slice_, key, *names)).fetchall()) for key in keys], slice_
        )

    async def ranked(self, slice_: int, key: str) -> Mapping[str, int]:
        """See `Store.ranked`."""
        query = "SELECT member, score FROM ranks WHERE slice = ? AND key = ?"
        return dict(await self._rows(slice_, query, (slice_, key)))

    async def by_prefix(self, slice_: int, key: str, prefix: str, after: str, limit: int) -> list[str]:
        """See `Store.by_prefix`."""
        query = "SELECT member FROM ranks WHERE slice = ? AND key = ? AND member >= ? AND member > ?"
        values: list[Any] = [slice_, key, prefix, after]
        if (end := end_of_prefix(prefix)) is not None:
            query += " AND member < ?"
            values.append(end)
        rows = await self._rows(slice_, f"{query} ORDER BY member LIMIT ?", [*values, limit])
        return [member for (member,) in rows]

    async def by_score(self, slice_: int, key: str, limit: int) -> tuple[list[tuple[str, int]], int]:
        """See `Store.by_score`."""
        offset_query = "SELECT value FROM records WHERE slice = ? AND key = ? AND field = ?"
        query = "SELECT member, score FROM ranks WHERE slice = ? AND key = ? ORDER BY score, member LIMIT ?"

        def read() -> tuple[list[tuple[str, int]], int]:
            offset = self._reader.execute(offset_query, (slice_, META, OFFSET)).fetchone()
            now_ms = self._clock_ms() + int(offset[0] if offset else "0")
            return self._reader.execute(query, (slice_, key, limit)).fetchall(), now_ms

        return await self._read(read, slice_)

    async def read_log(
        self, slice_: int, after: int, limit: int, *, incarnation: str | None = None
    ) -> tuple[list[tuple[int, bytes]], int]:
        """See `Store.read_log`."""
        meta = self._writer.metas.get(slice_, Meta())
        if incarnation is not None and (meta.token, meta.identity) != (incarnation, self._identity):
            raise StoreChanged("the slice's memory is not the one that was adopted")
        head = meta.head
        query = "SELECT sequence, data FROM log WHERE slice = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        entries = await self._rows(slice_, query, (slice_, after, limit))
        gap = bool(entries) and entries[0][0] != after + 1
        if after > head or gap or len(entries) < min(limit, head - after):
            raise LogTrimmed(f"slice {slice_} does not keep all that follows {after}; its head is {head}", head)
        return entries, head

    async def heads(self, slices: Mapping[int, str]) -> Mapping[int, int | None]:
        """See `Store.heads`."""
        found: dict[int, int | None] = {}
        for slice_, token in slices.items():
            self._check(slice_)
            meta = self._writer.metas.get(slice_, Meta())
            found[slice_] = meta.head if (meta.token, meta.identity) == (token, self._identity) else None
        return found

    async def hints(self) -> AsyncIterator[tuple[int, int]]:
        """See `Store.hints`."""
        nobody: tuple[tuple[int, int], ...] = ()
        for hint in nobody:
            yield hint

    async def trim_log(self, slice_: int, keep_from: int) -> None:
        """See `Store.trim_log`."""
        await self._submit(slice_, lambda overlay: overlay.trim(keep_from), relief=True)

    async def put_blobs(self, slice_: int, blobs: Sequence[tuple[str, bytes]]) -> None:
        """See `Store.put_blobs`."""

        def run(overlay: Overlay) -> None:
            for key, data in blobs:
                overlay.put_blob(key, data)

        await self._submit(slice_, run)

    async def get_blob(self, slice_: int, key: str) -> bytes | None:
        """See `Store.get_blob`."""
        rows = await self._rows(slice_, "SELECT data FROM blobs WHERE slice = ? AND key = ?", (slice_, key))
        return rows[0][0] if rows else None

    async def weakness(self) -> str:
        """See `Store.weakness`. Commits are synchronous, and each open is a new incarnation."""
        return ""

    async def condition(self) -> Condition:
        """See `Store.condition`. A commit that cannot be written fails; nothing is written later."""
        return await self._read(lambda: Condition(self._reader.execute(SIZE).fetchone()[0]))

    async def now_ms(self) -> int:
        """See `Store.now_ms`."""
        return self._clock_ms()

    async def _submit(
        self, slice_: int, run: Callable[[Overlay], Any], commits: Sequence[Commit] = (), *, relief: bool = False
    ) -> Any:
        self._check(slice_)
        return await self._writer.submit(slice_, run, commits, relief=relief)

    async def _rows(self, slice_: int, query: str, values: Sequence[Any]) -> list[Any]:
        return await self._read(lambda: self._reader.execute(query, values).fetchall(), slice_)

    async def _read(self, read: Callable[[], T], slice_: int | None = None) -> T:
        if slice_ is not None:
            self._check(slice_)
        try:
            return await self._loop.run_in_executor(self._reader_thread, read)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be read: {error}") from error

    def _check(self, slice_: int) -> None:
        if self._closed:
            raise StoreError("the store is closed")
        if not 0 <= slice_ < self.slices:
            raise StoreError(f"no slice {slice_}: the store has {self.slices}")


def end_of_prefix(prefix: str) -> str | None:
    """The least text that sorts after every text with this prefix; None where there is none."""
    kept = prefix.rstrip(chr(sys.maxunicode))
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(FIRST_AFTER_SURROGATES if last == FIRST_SURROGATE else last)
