"""The embedded store: one SQLite file, one process, every acknowledged commit on disk.

Theory of operation. All changes go to one writer thread. When it is free it takes everything that has queued up, over
all slices, runs it in one transaction and answers after COMMIT, so that one fsync pays for many commits. Reads have a
connection and a thread of their own and do not wait for the disk; they see what was acknowledged.

Each opening has a new identity, so each slice gets a new incarnation when it is adopted: that covers a file restored
from a copy. When the disk is full, commits are refused whole; relief commits use up a small reserve file.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from homenode_directory.store import sqlite_file
from homenode_directory.store.apply import apply
from homenode_directory.store.base import (
    META,
    OFFSET,
    Commit,
    Incarnation,
    LogTrimmed,
    Outcome,
    StoreChanged,
    StoreError,
    StoreFull,
)
from homenode_directory.store.memory_store import DEFAULT_LOG_MAX, DEFAULT_SLICES
from homenode_directory.store.sqlite_overlay import Meta, Overlay

T = TypeVar("T")

JOBS_PER_TRANSACTION_MAX = 256
QUEUE_MAX = 65_536
TRIM_EVERY = 1_024
FIRST_SURROGATE, FIRST_AFTER_SURROGATES = 0xD800, 0xE000


@dataclass(frozen=True, slots=True)
class Job:
    """Work of the writer thread: `run` changes an overlay, `relief` may use the reserve."""

    slice: int
    run: Callable[[Overlay], Any]
    future: asyncio.Future[Any]
    commits: Sequence[Commit] = ()
    relief: bool = False


Answer = tuple[Job, Any]


class SqliteStore:
    """See `Store`. `clock_ms` returns milliseconds since the epoch, `ids` random texts."""

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
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="homenode-sqlite-read")
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._metas: dict[int, Meta] = {}
        self._broken = ""
        self._closed = True

    async def open(self) -> None:
        """See `Store.open`."""
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._reader_thread, self._open)
        self._closed = False
        self._writer_thread = threading.Thread(target=self._write_loop, name="homenode-sqlite-write", daemon=True)
        self._writer_thread.start()

    def _open(self) -> None:
        sqlite_file.create(self.path)
        self._lock = sqlite_file.Lock(self.path)
        try:
            self._writer = sqlite_file.connect(self.path)
            self.slices = sqlite_file.prepare(self._writer, self.path, self.slices)
            self._reader = sqlite_file.connect(self.path)
            for slice_, *row in self._writer.execute("SELECT slice, number, token, identity, head FROM slices"):
                self._metas[slice_] = Meta(*row)
            self._reserve = sqlite_file.Reserve(self.path)
            self._reserve.fill()
            sqlite_file.sync_folder(self.path)
        except (sqlite3.Error, StoreError) as error:
            self._lock.release()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot open {self.path}: {error}") from error

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._writer_thread.join)
        await self._read(self._reader.close)
        self._reader_thread.shutdown()
        self._writer.close()
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
        self, slice_: int, incarnation: str, commits: Sequence[Commit], *, relief: bool = False
    ) -> list[Outcome]:
        """See `Store.commit`."""

        def run(overlay: Overlay) -> list[Outcome]:
            meta = overlay.meta
            if meta.token != incarnation or meta.identity != self._identity:
                raise StoreChanged("the slice's memory is not the one that was adopted")
            now_ms = self._clock_ms() + int(overlay.field(META, OFFSET) or "0")
            return list(apply(overlay, commits, now_ms))

        outcomes: list[Outcome] = await self._submit(slice_, run, commits, relief=relief)
        return outcomes

    async def load(self, slice_: int, keys: Sequence[str]) -> list[Mapping[str, str]]:
        """See `Store.load`."""
        query = "SELECT field, value FROM records WHERE slice = ? AND key = ?"
        return await self._read(
            lambda: [dict(self._reader.execute(query, (slice_, key)).fetchall()) for key in keys], slice_
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
        meta = self._metas.get(slice_, Meta())
        if incarnation is not None and (meta.token, meta.identity) != (incarnation, self._identity):
            raise StoreChanged("the slice's memory is not the one that was adopted")
        head = meta.head
        query = "SELECT sequence, data FROM log WHERE slice = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        entries = await self._rows(slice_, query, (slice_, after, limit))
        gap = bool(entries) and entries[0][0] != after + 1
        if after > head or gap or len(entries) < min(limit, head - after):
            raise LogTrimmed(f"slice {slice_} does not keep all that follows {after}; its head is {head}")
        return entries, head

    async def trim_log(self, slice_: int, keep_from: int) -> None:
        """See `Store.trim_log`."""
        await self._submit(slice_, lambda overlay: overlay.trim(keep_from), relief=True)

    async def put_blob(self, slice_: int, key: str, data: bytes) -> None:
        """See `Store.put_blob`."""
        await self._submit(slice_, lambda overlay: overlay.put_blob(key, data))

    async def get_blob(self, slice_: int, key: str) -> bytes | None:
        """See `Store.get_blob`."""
        rows = await self._rows(slice_, "SELECT data FROM blobs WHERE slice = ? AND key = ?", (slice_, key))
        return rows[0][0] if rows else None

    async def now_ms(self) -> int:
        """See `Store.now_ms`."""
        return self._clock_ms()

    # --- on the event loop ---------------------------------------------------------------------------------------

    async def _submit(
        self, slice_: int, run: Callable[[Overlay], Any], commits: Sequence[Commit] = (), *, relief: bool = False
    ) -> Any:
        self._check(slice_)
        if self._jobs.qsize() >= QUEUE_MAX:
            raise StoreError("the store's queue is full; nothing was applied")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put(Job(slice_, run, future, commits, relief))
        return await future

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

    # --- on the writer thread ------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        running = True
        while running:
            jobs: list[Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == JOBS_PER_TRANSACTION_MAX or self._jobs.empty():
                    break
                job = self._jobs.get()
            running = job is not None
            if jobs:
                answers = self._run_group(jobs)
                self._loop.call_soon_threadsafe(_resolve, answers)

    def _run_group(self, jobs: Sequence[Job]) -> list[Answer]:
        """Each job with its result or exception."""
        try:
            if not self._reserve.fill() and not all(job.relief for job in jobs):
                raise StoreFull("the disk is full; nothing was applied")
            return self._transact(jobs)
        except StoreFull as full:
            return self._run_when_full(jobs, full)
        except StoreError as error:
            return [(job, error) for job in jobs]
        except Exception as error:  # a value that SQLite cannot hold; it must not hurt the other jobs
            if len(jobs) > 1:
                return [answer for job in jobs for answer in self._run_group([job])]
            return [(jobs[0], StoreError(f"not a storable commit: {error}"))]

    def _run_when_full(self, jobs: Sequence[Job], full: StoreFull) -> list[Answer]:
        """Relief jobs may use up the reserve; of the others, each that fits by itself goes through."""
        relief = [job for job in jobs if job.relief]
        answers = self._relieve(relief) if relief else []
        for job in jobs:
            if not job.relief:
                try:
                    if len(jobs) == 1 or not self._reserve.fill():
                        raise full
                    answers += self._transact([job])
                except StoreError as error:
                    answers.append((job, error))
        return answers

    def _relieve(self, jobs: Sequence[Job]) -> list[Answer]:
        for _ in range(2):
            try:
                return self._transact(jobs)
            except StoreFull as full:
                failure: StoreError = full
                if not self._reserve.give_up():
                    break
            except StoreError as error:
                failure = error
                break
        return [(job, failure) for job in jobs]

    def _transact(self, jobs: Sequence[Job]) -> list[Answer]:
        if self._broken:
            raise StoreError(self._broken)
        connection = self._writer
        overlays: dict[int, Overlay] = {}
        try:
            connection.execute("BEGIN IMMEDIATE")
            answers = list(self._run_jobs(jobs, overlays))
            for overlay in overlays.values():
                before = self._metas.get(overlay.slice, Meta()).head
                overlay.flush()
                if before // TRIM_EVERY != overlay.head // TRIM_EVERY:
                    overlay.trim(overlay.head - self._log_max + 1)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        for overlay in overlays.values():
            self._metas[overlay.slice] = overlay.meta
        return answers

    def _run_jobs(self, jobs: Sequence[Job], overlays: dict[int, Overlay]) -> Iterable[Answer]:
        wanted: dict[int, list[Commit]] = {}
        for job in jobs:
            wanted.setdefault(job.slice, []).extend(job.commits)
        for slice_, commits in wanted.items():
            overlay = overlays[slice_] = Overlay(self._writer, slice_, self._metas.get(slice_, Meta()))
            overlay.prefetch(commits)
        for job in jobs:
            try:
                yield job, job.run(overlays[job.slice])
            except (StoreError, TypeError) as error:
                yield job, error

    def _failure(self, error: sqlite3.Error) -> StoreError:
        """Undo the transaction. After anything but a full disk, what is on disk is uncertain until it is read anew."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                return StoreFull("the disk is full; nothing was applied")
        except sqlite3.Error as second:
            error = second
        self._broken = f"{self.path} failed ({error}); it has to be opened again"
        return StoreError(self._broken)


def end_of_prefix(prefix: str) -> str | None:
    """The least text that sorts after every text with this prefix; None where there is none."""
    kept = prefix.rstrip(chr(sys.maxunicode))
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(FIRST_AFTER_SURROGATES if last == FIRST_SURROGATE else last)


def _resolve(answers: Sequence[Answer]) -> None:
    for job, answer in answers:
        if job.future.done():
            continue
        if isinstance(answer, BaseException):
            job.future.set_exception(answer)
        else:
            job.future.set_result(answer)
