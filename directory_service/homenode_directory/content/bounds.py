"""What keeps content work bounded: a budget of bytes in work, a cache bounded in bytes, one worker per key."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

from homenode_directory.errors import Overloaded

T = TypeVar("T")
V = TypeVar("V")

_IN_PLACE_MAX_BYTES = 16 << 10  # hashing less than this takes less time than handing it to a thread


class ByteBudget:
    """At most `limit_bytes` are in work at once; further work waits in order, at most `waiters_max` at a time.

    Work that is larger than the whole budget counts as the whole budget: it runs, alone.
    """

    def __init__(self, limit_bytes: int, waiters_max: int = 1024) -> None:
        self._limit = limit_bytes
        self._waiters_max = waiters_max
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.used_bytes = 0

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes are free and take them. Raises Overloaded when too many wait already."""
        size = min(size, self._limit)
        if not self._waiters and self.used_bytes + size <= self._limit:
            self.used_bytes += size
            return
        if len(self._waiters) >= self._waiters_max:
            raise Overloaded("too many contents wait to be processed")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(size)
            else:
                self._waiters.remove((size, turn))
                self._wake()
            raise

    def release(self, size: int) -> None:
        """Give `size` bytes back, as they were given to `acquire`."""
        self.used_bytes -= min(size, self._limit)
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            size, turn = self._waiters[0]
            if turn.done():  # cancelled; its own handler takes it out
                break
            if self.used_bytes + size > self._limit:
                break
            self._waiters.popleft()
            self.used_bytes += size
            turn.set_result(None)


class ByteCache(Generic[V]):
    """Values by key, the least recently used dropped first, at most `max_bytes` by the sizes given to `put`."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._entries: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: Hashable) -> V | None:
        """The value, which counts as used now, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Keep `value`, unless it alone exceeds the cache."""
        before = self._entries.pop(key, None)
        if before is not None:
            self.used_bytes -= before[1]
        if size > self._max:
            return
        self._entries[key] = (value, size)
        self.used_bytes += size
        while self.used_bytes > self._max:
            _, (_, freed) = self._entries.popitem(last=False)
            self.used_bytes -= freed

    def drop(self, key: Hashable) -> None:
        """Forget a key."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used_bytes -= entry[1]


class KeyLocks:
    """One worker per key: who comes second waits, and finds the result in the cache."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the key's lock."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, users - 1


class Workers:
    """Runs work on bytes in an executor, within a budget; without an executor, or when it is small, in place."""

    def __init__(self, executor: Executor | None, budget_bytes: int) -> None:
        self._executor = executor
        self.budget = ByteBudget(budget_bytes)

    async def run(self, cost_bytes: int, work: Callable[..., T], *args: object) -> T:
        """`work(*args)`, which handles about `cost_bytes`. Work that was begun keeps its share until it ends.

        Raises what `work` raises, and Overloaded.
        """
        if self._executor is None or cost_bytes <= _IN_PLACE_MAX_BYTES:
            return work(*args)
        await self.budget.acquire(cost_bytes)
        loop = asyncio.get_running_loop()

        def done(_: object) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile, and the budget with it
                loop.call_soon_threadsafe(self.budget.release, cost_bytes)

        try:
            future = self._executor.submit(work, *args)
        except RuntimeError:
            self.budget.release(cost_bytes)
            raise
        future.add_done_callback(done)
        return await asyncio.wrap_future(future)
