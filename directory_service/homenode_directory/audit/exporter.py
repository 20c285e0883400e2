"""Keeps a log archive up to date: follows every slice's log and appends what is new.

It keeps no place of its own: the archive says up to where each slice is exported, so a restart goes on there, whoever
does it. Of several servers that were given the same archive the one that has its lock writes, and the others wait for
it. Nothing of the directory waits for the archive. When it cannot be written the exporter says so, counts it, and tries
again; what the store has trimmed by then is a gap, and the archive says so.

The store's memory may have been lost and have grown again since the last look. Entries say their incarnation, so the
first of a new incarnation shows where the old memory ended; what was exported beyond that is told to be undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from dataclasses import dataclass
from pathlib import Path

from homenode_directory.audit.live import head_of, oldest, record_after
from homenode_directory.audit.writer import (
    ArchiveBusy,
    ArchiveWriter,
    Reached,
    entry_line,
    gap_line,
    incarnation_line,
)
from homenode_directory.errors import ConfigError
from homenode_directory.mistakes import Mistakes
from homenode_directory.observer import SILENT, Observer
from homenode_directory.store.base import LogTrimmed, Store, StoreError
from homenode_directory.store.fields import decode_log

LOG = logging.getLogger("homenode.archive")

PAGE = 512


@dataclass(frozen=True, slots=True)
class Pace:
    """How often it looks. A slice that was quiet for `quiet_after` looks is looked at every so many rounds only."""

    period_ms: int = 200
    quiet_after: int = 10
    again_ms: int = 2_000  # after a failure, or while another process writes
    last_ms: int = 5_000  # for what is left when the server stops


class Exporter:
    """Follows the log until closed."""

    def __init__(
        self,
        store: Store,
        path: str,
        *,
        pace: Pace | None = None,
        observer: Observer = SILENT,
        mistakes: Mistakes | None = None,
        file_bytes_max: int | None = None,
    ) -> None:
        self._store = store
        self._path = Path(path)
        self._pace = pace or Pace()
        self._observer = observer
        self._mistakes = mistakes or Mistakes()
        self._file_bytes_max = file_bytes_max
        self._writer: ArchiveWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._quiet: dict[int, int] = {}
        self._round = 0
        self._failing = False
        self.failures = 0

    def exported(self, slice_: int) -> int | None:
        """The last sequence of a slice that is archived; None: this process does not write the archive."""
        writer = self._writer
        if writer is None:
            return None
        reached = writer.reached.get(slice_)
        return reached.sequence if reached is not None else 0

    async def open(self) -> None:
        """Open the archive before anything is served, so that a wrong path is told at once. Raises ConfigError.

        That another process has it, or the disk is full, is none of that: it is tried again, as at any later time.
        """
        try:
            await self._opened()
        except ArchiveBusy:
            pass
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise ConfigError(f"log_archive: {failure}") from None

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Export what is left, as far as that goes quickly, and stop."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._pace.last_ms / 1_000)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _run(self) -> None:
        while True:
            pause_ms, last = self._pace.period_ms, self._closing.is_set()
            try:
                await self.round(everything=last)
                self._works()
            except StoreError:
                pass  # it is told where it happens
            except (ArchiveBusy, OSError) as failure:
                self._fails(failure)
                pause_ms = self._pace.again_ms
            except Exception as mistake:
                self._mistakes.tell("archive", mistake)
                pause_ms = self._pace.again_ms
            if last:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_ms / 1_000)

    def _works(self) -> None:
        if self._failing:
            self._failing = False
            LOG.warning("the log archive is written again")

    def _fails(self, failure: Exception) -> None:
        if isinstance(failure, ArchiveBusy):
            LOG.debug("%s", failure)
            return
        self.failures += 1
        self._observer.gauge("archive_failures", self.failures)
        if not self._failing:
            self._failing = True
            LOG.error("the log archive cannot be written: %s; the directory goes on, and it is tried again", failure)

    # --- one round ----------------------------------------------------------------------------------------------------

    async def round(self, *, everything: bool = False) -> None:
        """Export what is new. Raises ArchiveBusy, OSError, StoreError."""
        writer = await self._opened()
        self._round += 1
        for slice_ in range(self._store.slices):
            quiet = self._quiet.get(slice_, 0)
            if not everything and quiet > self._pace.quiet_after and (self._round + slice_) % self._pace.quiet_after:
                continue
            moved = False
            while await self._export(writer, slice_):
                moved = True
            self._quiet[slice_] = 0 if moved else quiet + 1

    async def _opened(self) -> ArchiveWriter:
        if self._writer is None:
            options = {} if self._file_bytes_max is None else {"file_bytes_max": self._file_bytes_max}
            writer = ArchiveWriter(self._path, self._store.slices, **options)
            await asyncio.to_thread(writer.open)
            self._writer = writer
        return self._writer

    async def _export(self, writer: ArchiveWriter, slice_: int) -> bool:
        """One page of a slice; whether there may be more."""
        at = writer.reached.get(slice_)
        if at is None:
            return await self._first(writer, slice_)
        try:
            entries, _ = await self._store.read_log(slice_, at.sequence, PAGE)
        except LogTrimmed as trimmed:
            return await self._trimmed(writer, slice_, at, trimmed.head)
        if not entries:
            return False
        if decode_log(entries[0][1]).incarnation != at.incarnation:
            began = await self._beginning(slice_, at)
            if began is not None and began.sequence != at.sequence:
                await self._renew(writer, slice_, began)
                return True
        lines, incarnation = [], at.incarnation
        for sequence, data in entries:
            number = decode_log(data).incarnation
            if number != incarnation:
                lines.append(incarnation_line(slice_, number, sequence - 1))
                incarnation = number
            lines.append(entry_line(slice_, sequence, data))
        await self._append(writer, slice_, lines, Reached(incarnation, entries[-1][0]))
        return len(entries) == PAGE

    async def _first(self, writer: ArchiveWriter, slice_: int) -> bool:
        """A slice of which nothing is archived yet: it begins with what the store has."""
        after = await oldest(self._store, slice_, await head_of(self._store, slice_))
        record = await record_after(self._store, slice_, after)
        if record is None:
            return False
        await self._renew(writer, slice_, Reached(record.incarnation, after))
        return True

    async def _trimmed(self, writer: ArchiveWriter, slice_: int, at: Reached, head: int) -> bool:
        """What follows is not there: it was trimmed, or the memory is another one."""
        began = await self._beginning(slice_, at)
        if began is not None and began.sequence < at.sequence:
            await self._renew(writer, slice_, began)
            return True
        after = await oldest(self._store, slice_, head, at.sequence)  # where the memory is older: as it was, as yet
        if after > at.sequence:
            text = f"trimmed before it was exported ({after - at.sequence} entries)"
            LOG.error("the log archive has a gap: slice %d, %d to %d, %s", slice_, at.sequence + 1, after, text)
            lines = [gap_line(slice_, at.sequence + 1, after, text)]
            await self._append(writer, slice_, lines, Reached(at.incarnation, after))
        return after > at.sequence

    async def _beginning(self, slice_: int, at: Reached) -> Reached | None:
        """After what the log's first entry of a later incarnation than `at` comes; None: there is none."""
        high = await head_of(self._store, slice_)
        low = await oldest(self._store, slice_, high)
        found: Reached | None = None
        while low <= high:
            middle = (low + high) // 2
            record = await record_after(self._store, slice_, middle)
            if record is not None and record.incarnation > at.incarnation:
                found, high = Reached(record.incarnation, middle), middle - 1
            elif record is None:
                high = middle - 1
            else:
                low = middle + 1
        return found

    async def _renew(self, writer: ArchiveWriter, slice_: int, began: Reached) -> None:
        at = writer.reached.get(slice_)
        if at is not None and began.sequence < at.sequence:
            LOG.error("the store has lost what slice %d did after entry %d", slice_, began.sequence)
        await self._append(writer, slice_, [incarnation_line(slice_, began.incarnation, began.sequence)], began)

    async def _append(self, writer: ArchiveWriter, slice_: int, lines: list[bytes], reached: Reached) -> None:
        await asyncio.to_thread(writer.append, lines, {slice_: reached})
