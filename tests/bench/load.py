"""One load, in a process of its own: prints operations a second, latencies and its CPU time as a line of JSON.

`python -m tests.bench.load KIND ADDRESS CLIENTS SECONDS` with KIND one of acquire, commit, etcd_get, etcd_swap.
Each client works on a key of its own and has one operation under way at a time.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import homenode
from tests.bench.etcd import EtcdClient

VALUE_BYTES = 1_024
Operation = Callable[[], Awaitable[object]]


def _body(number: int) -> str:
    return random.Random(number).randbytes(VALUE_BYTES // 2).hex()


async def homenode_clients(kind: str, address: str, clients: int) -> list[Operation]:
    """Sessions of one process, which share one stream."""
    run = f"{random.getrandbits(32):08x}"
    sessions = [await homenode.connect(f"homenode://{address}/bench", agent=f"c{n}") for n in range(clients)]
    return [await _homenode_operation(kind, hn, f"{run}/{n}", n) for n, hn in enumerate(sessions)]


async def _homenode_operation(kind: str, hn: homenode.Homenode, key: str, number: int) -> Operation:
    body = _body(number)
    await hn.put(key, body)
    count = 0

    async def acquire() -> None:
        await hn.read(key, max_age_ms=0)

    async def commit() -> None:
        nonlocal count
        count += 1
        await hn.put(key, f"{body[:500]}{count:08d}{body[508:]}")

    return acquire if kind == "acquire" else commit


async def etcd_clients(kind: str, address: str, clients: int) -> list[Operation]:
    """Clients of one process, each with a connection of its own."""
    return [await _etcd_operation(kind, EtcdClient(address), f"bench/{n}".encode(), n) for n in range(clients)]


async def _etcd_operation(kind: str, client: EtcdClient, key: bytes, number: int) -> Operation:
    body = _body(number).encode()
    await client.put(key, body)
    _, revision = await client.get(key)

    async def get() -> None:
        await client.get(key)

    async def swap() -> None:
        nonlocal revision
        revision = await client.swap(key, revision, body)
        assert revision

    return get if kind == "etcd_get" else swap


async def measure(operations: list[Operation], seconds: float) -> dict[str, float]:
    """Run every operation in a loop of its own."""
    took_s: list[float] = []
    until = time.perf_counter() + seconds

    async def loop(operation: Operation) -> None:
        while (started := time.perf_counter()) < until:
            await operation()
            took_s.append(time.perf_counter() - started)

    await asyncio.gather(*(operation() for operation in operations))
    cpu, started = time.process_time(), time.perf_counter()
    until = started + seconds
    await asyncio.gather(*(loop(operation) for operation in operations))
    elapsed = time.perf_counter() - started
    quantiles = statistics.quantiles(took_s, n=100)
    return {
        "per_s": len(took_s) / elapsed,
        "p50_ms": quantiles[49] * 1_000,
        "p99_ms": quantiles[98] * 1_000,
        "client_cpu_us": (time.process_time() - cpu) / len(took_s) * 1e6,
        "n": len(took_s),
    }


async def main(kind: str, address: str, clients: int, seconds: float) -> None:
    """Set up, measure, print."""
    make = etcd_clients if kind.startswith("etcd") else homenode_clients
    print(json.dumps(await measure(await make(kind, address, clients), seconds)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
