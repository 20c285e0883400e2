"""What a cached read costs beside a plain dictionary look-up, in the same run.

    .venv/bin/python -m tests.bench.hit_bench [--json FILE]

Rounds are interleaved; each figure is the median of the rounds, in CPU time of the thread, so that a busy machine does
not count. Rows hit_dict and hit_await of the targets.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import homenode

ROUNDS = 9
LOOPS = 100_000
ARTIFACTS = 1_000


async def measure() -> dict[str, float]:
    """Nanoseconds a call, of each kind."""
    async with homenode.connect("embedded://", agent="bench") as hn:
        keys = [f"notes/{i}.md" for i in range(ARTIFACTS)]
        await asyncio.gather(*(hn.put(key, f"note {i}") for i, key in enumerate(keys)))
        await asyncio.gather(*(hn.read(key) for key in keys))
        plain = {key: hn.read_cached(key) for key in keys}
        assert all(plain.values())
        key = keys[ARTIFACTS // 2]
        rounds: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            await asyncio.sleep(0.3)  # the stream lives on between the rounds
            rounds.setdefault("dict", []).append(_timed(_look_up, plain, key))
            rounds.setdefault("read_cached", []).append(_timed(_read_cached, hn, key))
            rounds.setdefault("await read", []).append(await _read(hn, key))
        misses = hn.stats().misses
        assert misses == ARTIFACTS, f"{misses - ARTIFACTS} reads were not hits"
        return {name: statistics.median(values) for name, values in rounds.items()}


def _timed(call: Callable[..., None], *arguments: object) -> float:
    call(*arguments)
    gc.disable()
    start = time.thread_time_ns()
    call(*arguments)
    spent = time.thread_time_ns() - start
    gc.enable()
    return spent / LOOPS


def _look_up(plain: dict[str, object], key: str) -> None:
    for _ in range(LOOPS):
        plain[key]


def _read_cached(hn: homenode.Homenode, key: str) -> None:
    for _ in range(LOOPS):
        hn.read_cached(key)


async def _read(hn: homenode.Homenode, key: str) -> float:
    gc.disable()
    start = time.thread_time_ns()
    for _ in range(LOOPS):
        await hn.read(key)
    spent = time.thread_time_ns() - start
    gc.enable()
    return spent / LOOPS


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    found = asyncio.run(measure())
    rows = []
    for row, name, target in (("hit_dict", "read_cached", 10.0), ("hit_await", "await read", 16.0)):
        ratio = found[name] / found["dict"]
        peer = f"dict look-up {found['dict']:4.0f} ns"
        print(f"{name:<12} {found[name]:6.0f} ns   {peer}   {ratio:5.1f}x (at most {target}x)")
        rows.append(
            {"id": row, "ours": found[name], "peer": found["dict"], "ratio": ratio, "target": target,
             "met": ratio <= target, "unit": "ns", "n": ROUNDS * LOOPS}
        )  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
