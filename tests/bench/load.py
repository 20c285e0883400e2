"""One load, in a process of its own: `python -m tests.bench.load KIND ADDRESS CLIENTS OPTIONS`.

KIND is `module.function` of this package: a coroutine function of (address, clients, **options) that sets up and
returns what can be measured for some seconds. Prints `ready`; then each line of input is a number of seconds, and the
line that answers it says what was measured in them, as JSON. By hand:
`echo 3 | python -m tests.bench.load homenode_load.commit 127.0.0.1:7400 64 {}`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

Operation = Callable[[], Awaitable[object]]


class Measurable(Protocol):
    """What a load's setup returns."""

    async def measure(self, seconds: float) -> dict[str, float]:
        """Figures: `n` operations, and whatever else."""


def latencies(took_s: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    if len(took_s) < 2:
        return {"p50_ms": 0.0, "p99_ms": 0.0}
    quantiles = statistics.quantiles(took_s, n=100)
    return {"p50_ms": quantiles[49] * 1_000, "p99_ms": quantiles[98] * 1_000}


class Loops:
    """Clients that do one operation after another, each with one under way.

    Args:
        operations: one for each client.
        weight: how many operations one call stands for.
    """

    def __init__(self, operations: Sequence[Operation], weight: int = 1) -> None:
        self._operations = operations
        self._weight = weight

    async def measure(self, seconds: float) -> dict[str, float]:
        """See `Measurable`."""
        took_s: list[float] = []
        started = time.perf_counter()
        until = started + seconds

        async def loop(operation: Operation) -> None:
            clock, note = time.perf_counter, took_s.append
            began = clock()
            while began < until:
                await operation()
                ended = clock()
                note(ended - began)
                began = ended

        await asyncio.gather(*(loop(operation) for operation in self._operations))
        elapsed, n = time.perf_counter() - started, len(took_s) * self._weight
        return {"n": n, "per_s": n / elapsed, **latencies(took_s)}


async def _serve(kind: str, address: str, clients: int, options: dict[str, object]) -> None:
    module, _, function = kind.rpartition(".")
    make = getattr(importlib.import_module(f"tests.bench.{module}"), function)
    load: Measurable = await make(address, clients, **options)
    gc.freeze()  # what was set up is not looked at again and again
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        cpu = time.process_time()
        figures = await load.measure(float(line))
        figures["client_cpu_us"] = (time.process_time() - cpu) / max(figures["n"], 1) * 1e6
        print(json.dumps(figures), flush=True)


def main() -> None:
    """Set up, then measure for each line of input."""
    kind, address, clients, text = sys.argv[1:]
    options = json.loads(text)
    if options.pop("uvloop", False):
        import uvloop

        uvloop.run(_serve(kind, address, int(clients), options))
    else:
        asyncio.run(_serve(kind, address, int(clients), options))


if __name__ == "__main__":
    main()
