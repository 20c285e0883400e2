"""A store that tells an observer how long its calls take, and the log when it fails and when it is back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import TypeVar

from homenode_directory.clock import Clock
from homenode_directory.observer import Observer
from homenode_directory.store.base import (
    Commit,
    Condition,
    Incarnation,
    LogTrimmed,
    Outcome,
    Store,
    StoreChanged,
    StoreError,
)

TEXT_MAX = 200
QUIET_MS = 5_000.0

LOG = logging.getLogger("homenode.store")

T = TypeVar("T")


class TimedStore:
    """Passes every call on; failed ones count too."""

    def __init__(self, store: Store, observer: Observer, clock: Clock) -> None:
        self._store = store
        self._observer = observer
        self._clock = clock
        self._failing_since: float | None = None
        self._told = -QUIET_MS
        self.slices = store.slices
        self.shared = store.shared

    async def _timed(self, kind: str, call: Awaitable[T]) -> T:
        started = self._clock()
        try:
            done = await call
        except (StoreChanged, LogTrimmed):  # it answers
            raise
        except StoreError as failure:
            self._observer.store_failed(kind)
            self._fails(kind, failure)
            raise
        finally:
            self._observer.store_call(kind, (self._clock() - started) / 1_000)
        if self._failing_since is not None:
            self._is_back()
        return done

    def _fails(self, kind: str, failure: StoreError) -> None:
        """One line for each time that it fails, not for each call, and not many."""
        now = self._clock()
        if self._failing_since is None and now - self._told >= QUIET_MS and kind != "open":  # that one ends the server
            self._failing_since = self._told = now
            LOG.warning("the store fails: %s", str(failure)[:TEXT_MAX], extra={"method": kind})

    def _is_back(self) -> None:
        failed_ms = self._clock() - (self._failing_since or 0)
        self._failing_since = None
        LOG.warning("the store answers again", extra={"took_ms": round(failed_ms)})

    async def open(self) -> None:
        """See `Store`."""
        await self._timed("open", self._store.open())
        self.slices = self._store.slices

    async def close(self) -> None:
        """See `Store`."""
        await self._store.close()

    async def adopt(self, slice_: int, at_least: int) -> Incarnation:
        """See `Store`."""
        return await self._timed("adopt", self._store.adopt(slice_, at_least))

    async def commit(
        self,
        slice_: int,
        incarnation: str,
        commits: Sequence[Commit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        """See `Store`."""
        call = self._store.commit(slice_, incarnation, commits, relief=relief, blobs=blobs)
        return await self._timed("commit", call)

    async def load(self, slice_: int, keys: Sequence[str], names: Sequence[str] = ()) -> list[Mapping[str, str]]:
        """See `Store`."""
        return await self._timed("load", self._store.load(slice_, keys, names))

    async def ranked(self, slice_: int, key: str) -> Mapping[str, int]:
        """See `Store`."""
        return await self._timed("ranked", self._store.ranked(slice_, key))

    async def by_prefix(self, slice_: int, key: str, prefix: str, after: str, limit: int) -> list[str]:
        """See `Store`."""
        return await self._timed("by_prefix", self._store.by_prefix(slice_, key, prefix, after, limit))

    async def by_score(self, slice_: int, key: str, limit: int) -> tuple[list[tuple[str, int]], int]:
        """See `Store`."""
        return await self._timed("by_score", self._store.by_score(slice_, key, limit))

    async def read_log(
        self, slice_: int, after: int, limit: int, *, incarnation: str | None = None
    ) -> tuple[list[tuple[int, bytes]], int]:
        """See `Store`."""
        return await self._timed("read_log", self._store.read_log(slice_, after, limit, incarnation=incarnation))

    async def heads(self, slices: Mapping[int, str]) -> Mapping[int, int | None]:
        """See `Store`."""
        return await self._timed("heads", self._store.heads(slices))

    def hints(self) -> AsyncIterator[tuple[int, int]]:
        """See `Store`."""
        return self._store.hints()

    async def trim_log(self, slice_: int, keep_from: int) -> None:
        """See `Store`."""
        await self._timed("trim_log", self._store.trim_log(slice_, keep_from))

    async def put_blobs(self, slice_: int, blobs: Sequence[tuple[str, bytes]]) -> None:
        """See `Store`."""
        await self._timed("put_blobs", self._store.put_blobs(slice_, blobs))

    async def get_blob(self, slice_: int, key: str) -> bytes | None:
        """See `Store`."""
        return await self._timed("get_blob", self._store.get_blob(slice_, key))

    async def weakness(self) -> str:
        """See `Store`."""
        return await self._timed("weakness", self._store.weakness())

    async def condition(self) -> Condition:
        """See `Store`."""
        return await self._timed("condition", self._store.condition())

    async def now_ms(self) -> int:
        """See `Store`."""
        return await self._timed("now", self._store.now_ms())
