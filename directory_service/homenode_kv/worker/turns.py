"""One engine, one thread, and the line before it.

Calls wait in the order in which they came; when too many wait the next one is refused with the time after which a place
may be free. Work that no caller waits for (what was superseded, what is built ahead) goes to the same thread, between
calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from homenode_api.v1 import types_pb2 as t
from homenode_kv.worker.refusals import Refused

R = TypeVar("R")

RETRY_MS = (50, 10_000)  # bounds of what a refused caller is told
LEFT_S = 0.005  # how often work is looked at that nobody waits for any more
_WEIGHT = 0.2  # of one call in the mean time of a call


class Turns:
    """Admission and order of calls.

    Args:
        waiting_max: most calls that wait.

    Attributes:
        waiting, running: how many.
        tokens: of the prompts of those that wait.
        busy_ms: mean time of a call's turn.
        on_idle: called when a turn ends and nobody waits for the next.
    """

    def __init__(self, waiting_max: int) -> None:
        self.waiting_max = waiting_max
        self.waiting = self.running = self.tokens = 0
        self.busy_ms = 0.0
        self.on_idle: Callable[[], None] = lambda: None
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    def admit(self) -> None:
        """Raises Refused where the line is full."""
        if self.waiting >= self.waiting_max:
            low, high = RETRY_MS
            retry_ms = min(high, max(low, int(self.busy_ms * (self.waiting + 1) / 2)))
            raise Refused(
                t.ERROR_REASON_OVERLOADED, f"{self.waiting} calls wait for this worker", retry_after_ms=retry_ms
            )

    @contextlib.asynccontextmanager
    async def turn(self, tokens: int = 0) -> AsyncIterator[float]:
        """Waits for the call's turn; gives how long that took, in ms. Raises Refused where the line is full."""
        self.admit()
        began = time.monotonic()
        self.waiting += 1
        self.tokens += tokens
        try:
            await self._turn.acquire()
        finally:
            self.waiting -= 1
            self.tokens -= tokens
        entered = time.monotonic()
        self.running += 1
        try:
            yield (entered - began) * 1000
        finally:
            self.running -= 1
            self._turn.release()
            took_ms = (time.monotonic() - entered) * 1000
            self.busy_ms += _WEIGHT * (took_ms - self.busy_ms) if self.busy_ms else took_ms
            if not self.waiting:
                self.on_idle()

    async def run(self, work: Callable[[], R]) -> R:
        """Runs `work` on the engine's thread. A caller that is cancelled keeps its turn until work that has begun ends.

        Otherwise the next call would ask whether its versions hold, and then wait for the thread.
        """
        under_way = self._thread.submit(work)
        try:
            return await asyncio.wrap_future(under_way)
        except asyncio.CancelledError:
            while not (under_way.cancel() or under_way.done()):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(LEFT_S)
            raise

    def close(self) -> None:
        """Ends the thread when its work is done."""
        self._thread.shutdown(wait=True, cancel_futures=True)
