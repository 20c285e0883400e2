"""What an active session does, and the time that is measured."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import homenode
from homenode.cli.bench.latency import Latencies
from homenode.cli.bench.plan import KINDS, Plan

#: After an error, so that what refuses is not hammered.
REST_S = 0.02
POOL_BYTES = 1 << 16


class Measuring:
    """The figures of one process. Operations that begin while it is on count."""

    def __init__(self) -> None:
        self.of = {kind: Latencies() for kind in KINDS}
        self.began_s = self.ended_s = 0.0

    def begin(self) -> None:
        """From now on."""
        self.began_s = time.perf_counter()

    def end(self) -> None:
        """Until now."""
        self.ended_s = time.perf_counter()

    @property
    def on(self) -> bool:
        """Whether what begins now counts."""
        return bool(self.began_s) and not self.ended_s

    @property
    def window_s(self) -> float:
        """How long it was on."""
        return self.ended_s - self.began_s

    def so_far(self) -> dict[str, int]:
        """For the progress bar."""
        return {
            "done": sum(one.in_time for one in self.of.values()),
            "errors": sum(one.errors.total() for one in self.of.values()),
        }


class Active:
    """What one session does: one operation after another, each of a kind and on an artifact by chance."""

    def __init__(self, plan: Plan, measuring: Measuring, number: int) -> None:
        self._plan = plan
        self._measuring = measuring
        self._rng = random.Random(f"{plan.prefix}{plan.number}/{number}")
        self._pool = self._rng.randbytes(POOL_BYTES // 2).hex()  # which hardly compresses
        self._written = 0
        self._kinds, self._weights = list(plan.mix), list(plan.mix.values())

    def key(self, number: int) -> str:
        """Of the artifact with that number."""
        return f"{self._plan.prefix}{number}"

    def body(self) -> str:
        """A content that differs from the one before."""
        self._written += 1
        size = self._rng.randint(*self._plan.sizes)
        head = f"{self._written:08x}"
        at = self._rng.randrange(POOL_BYTES)
        pool = self._pool[at:] + self._pool[:at]
        return (head + pool * (size // POOL_BYTES + 1))[:size]

    def _operation(self, kind: str, hn: homenode.Homenode) -> Awaitable[object]:
        key = self.key(self._rng.randrange(self._plan.artifacts))
        do: dict[str, Callable[[], Awaitable[object]]] = {
            "read": lambda: hn.read(key),
            "fetch": lambda: hn.read(key, max_age_ms=0),
            "commit": lambda: hn.put(key, self.body(), base=homenode.ANY),
            "edit": lambda: hn.edit(key, lambda _: self.body()),
            "write": lambda: self._write(hn, key),
        }
        return do[kind]()

    async def _write(self, hn: homenode.Homenode, key: str) -> None:
        async with hn.write(key) as draft:
            assert draft.text is not None  # looked at: what it replaces is seen
            draft.text = self.body()

    async def run(self, hn: homenode.Homenode, stop: asyncio.Event) -> None:
        """Until `stop`. With a rate, an operation's time counts from when it was due, not from when it could begin."""
        interval_s = self._plan.active / self._plan.rate if self._plan.rate else 0.0
        due = time.perf_counter() + self._rng.random() * interval_s
        while not stop.is_set():
            began = time.perf_counter()
            if interval_s:
                if due > began and await _ends(stop, due - began):
                    return
                began, due = due, due + interval_s
            await self._one(hn, began)

    async def _one(self, hn: homenode.Homenode, began: float) -> None:
        (kind,) = self._rng.choices(self._kinds, self._weights)
        on = self._measuring.on and began >= self._measuring.began_s
        try:
            await self._operation(kind, hn)
        except homenode.HomenodeError as failure:
            if on:
                self._measuring.of[kind].errors[type(failure).__name__] += 1
            await asyncio.sleep(max(REST_S, getattr(failure, "retry_after", 0.0)))
            return
        ended = time.perf_counter()
        if on:
            self._measuring.of[kind].note(ended - began, in_time=not self._measuring.ended_s)
        if kind == "read":
            await asyncio.sleep(0)  # a hit waits for nothing, and others are to have their turn


async def _ends(stop: asyncio.Event, seconds: float) -> bool:
    """Wait; whether the end came meanwhile."""
    if seconds > 1.0:  # a long wait is to end early
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            return False
        return True
    await asyncio.sleep(seconds)
    return stop.is_set()
