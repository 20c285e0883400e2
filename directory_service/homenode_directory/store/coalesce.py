"""Many small calls as few large ones: what is asked while a call is under way goes together in the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

BATCH_MAX = 256
BATCH_WEIGHT_MAX = 8 << 20


class Coalescer(Generic[T, R]):
    """Calls `run` with many items at once, one call at a time; each caller gets the result of its item.

    A call takes at most BATCH_MAX items of at most BATCH_WEIGHT_MAX together (or one that is heavier), as `weigh` says.
    A failure of the call is the failure of all its items.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]], weigh: Callable[[T], int] = lambda item: 1
    ) -> None:
        self._run = run
        self._weigh = weigh
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """The result of `item`. Cancelling the wait does not take the item out of its call."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._call(self._take())
        finally:
            self._task = None

    def _take(self) -> Sequence[tuple[T, asyncio.Future[R]]]:
        count, weight = 0, 0
        for item, _ in self._waiting[:BATCH_MAX]:
            weight += self._weigh(item)
            if count and weight > BATCH_WEIGHT_MAX:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _call(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
