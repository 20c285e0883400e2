"""The thread that alone changes an embedded store: whatever has queued up goes into one transaction.

Jobs of all slices share it, so that one fsync pays for many commits. Results go back to the event loop after COMMIT.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homenode_directory.store import sqlite_file
from homenode_directory.store.base import Commit, StoreError, StoreFull
from homenode_directory.store.sqlite_overlay import Meta, Overlay, flush, prefetch

JOBS_PER_TRANSACTION_MAX = 256
QUEUE_MAX = 65_536
TRIM_EVERY = 1_024


@dataclass(frozen=True, slots=True)
class Job:
    """Work of the writer thread: `run` changes an overlay, `relief` may use the reserve."""

    slice: int
    run: Callable[[Overlay], Any]
    future: asyncio.Future[Any]
    commits: Sequence[Commit] = ()
    relief: bool = False


Answer = tuple[Job, Any]


class Writer:
    """The writer thread of one store. `metas` is what is committed, per slice; others may read it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, log_max: int) -> None:
        self.metas: dict[int, Meta] = {}
        self._path = path
        self.connection = connection
        self._log_max = log_max
        self._loop = asyncio.get_running_loop()
        self._reserve = sqlite_file.Reserve(path)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._broken = ""
        for slice_, *row in connection.execute("SELECT slice, number, token, identity, head FROM slices"):
            self.metas[slice_] = Meta(*row)
        self._thread = threading.Thread(target=self._run, name="homenode-sqlite-write", daemon=True)
        self._thread.start()

    async def submit(
        self, slice_: int, run: Callable[[Overlay], Any], commits: Sequence[Commit] = (), *, relief: bool = False
    ) -> Any:
        """What `run` returns, once it is on disk. `commits` is what it will apply."""
        if self._jobs.qsize() >= QUEUE_MAX:
            raise StoreError("the store's queue is full; nothing was applied")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put(Job(slice_, run, future, commits, relief))
        return await future

    async def close(self) -> None:
        """Finish what was submitted."""
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    # --- on the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
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
                with contextlib.suppress(RuntimeError):  # the event loop has ended, and with it whoever waited
                    self._loop.call_soon_threadsafe(_resolve, answers)

    def _run_group(self, jobs: Sequence[Job]) -> list[Answer]:
        """Each job with its result or exception."""
        try:
            return self._run_if_room(jobs)
        except StoreFull as full:
            return self._run_when_full(jobs, full)
        except StoreError as error:
            return [(job, error) for job in jobs]
        except Exception as error:  # a value that SQLite cannot hold; it must not hurt the other jobs
            if len(jobs) > 1:
                return [answer for job in jobs for answer in self._run_group([job])]
            return [(jobs[0], StoreError(f"not a storable commit: {error}"))]

    def _run_if_room(self, jobs: Sequence[Job]) -> list[Answer]:
        """Run jobs if that leaves room for relief. Raises StoreFull."""
        if not all(job.relief for job in jobs) and not self._reserve.fill() and not self._has_free_pages():
            raise StoreFull("the disk is full; nothing was applied")
        try:
            return self._transact(jobs)
        except StoreFull:
            self._empty_log_file()
            return self._transact(jobs)

    def _run_when_full(self, jobs: Sequence[Job], full: StoreFull) -> list[Answer]:
        """Relief jobs may use up the reserve; of the others, each that fits by itself goes through."""
        relief = [job for job in jobs if job.relief]
        answers: list[Answer] = []
        if relief:
            try:
                self._reserve.give_up()
                answers += self._run_if_room(relief)
            except StoreError as error:
                answers += [(job, error) for job in relief]
        for job in jobs:
            if not job.relief:
                try:
                    if len(jobs) == 1:
                        raise full
                    answers += self._run_if_room([job])
                except StoreError as error:
                    answers.append((job, error))
        return answers

    def _has_free_pages(self) -> bool:
        """Whether the file itself holds a reserve's worth of unused pages."""
        try:
            (pages,), (size,) = (
                self.connection.execute(f"PRAGMA {p}").fetchone() for p in ("freelist_count", "page_size")
            )
        except sqlite3.Error:
            return False
        return bool(pages * size >= sqlite_file.RESERVE_BYTES)

    def _empty_log_file(self) -> None:
        """Move the write-ahead log into the main file, where there may be room; otherwise nothing changes."""
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _transact(self, jobs: Sequence[Job]) -> list[Answer]:
        if self._broken:
            raise StoreError(self._broken)
        overlays: dict[int, Overlay] = {}
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            answers = list(self._run_jobs(jobs, overlays))
            flush(self.connection, overlays.values())
            for overlay in overlays.values():
                before = self.metas.get(overlay.slice, Meta()).head
                if before // TRIM_EVERY != overlay.head // TRIM_EVERY:
                    overlay.trim(overlay.head - self._log_max + 1)
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        for overlay in overlays.values():
            self.metas[overlay.slice] = overlay.meta
        return answers

    def _run_jobs(self, jobs: Sequence[Job], overlays: dict[int, Overlay]) -> Iterable[Answer]:
        for job in jobs:
            if job.slice not in overlays:
                overlays[job.slice] = Overlay(self.connection, job.slice, self.metas.get(job.slice, Meta()))
        prefetch(self.connection, overlays, ((job.slice, commit) for job in jobs for commit in job.commits))
        for job in jobs:
            try:
                yield job, job.run(overlays[job.slice])
            except (StoreError, TypeError) as error:
                yield job, error

    def _failure(self, error: sqlite3.Error) -> StoreError:
        """Undo the transaction. After anything but a full disk, what is on disk is uncertain until it is read anew."""
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                return StoreFull("the disk is full; nothing was applied")
        except sqlite3.Error as second:
            error = second
        self._broken = f"{self._path} failed ({error}); it has to be opened again"
        return StoreError(self._broken)


def _resolve(answers: Sequence[Answer]) -> None:
    for job, answer in answers:
        if job.future.done():
            continue
        if isinstance(answer, BaseException):
            job.future.set_exception(answer)
        else:
            job.future.set_result(answer)
