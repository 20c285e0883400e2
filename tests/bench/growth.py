"""How the directory grows: throughput over sessions and artifacts, and the spread of a change over sharers.

The slope is the exponent of the power law that fits the points best: 0 means that growth costs nothing, 1 (for a time)
that it costs in proportion.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Sequence
from typing import Any

from tests.bench.filling import fill
from tests.bench.homenode_load import body
from tests.bench.many_load import SMALL_BYTES
from tests.bench.running import Bench

SESSIONS = (1, 8, 64, 512, 5_000)
ARTIFACTS = (100, 1_000, 10_000, 100_000, 1_000_000)
SHARERS = (1, 10, 100, 1_000)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The exponent of the power law through (x, y), by least squares of the logarithms."""
    if len(points) < 2:
        return math.nan
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    return statistics.linear_regression(xs, ys).slope


def measure(bench: Bench) -> list[dict[str, Any]]:
    """All series."""
    return [
        _series(
            "growth_sessions_acquire",
            "sessions",
            "operations/s",
            _points(bench, "homenode_load.acquire", SESSIONS, "per_s"),
        ),
        _series(
            "growth_sessions_commit",
            "sessions",
            "operations/s",
            _points(bench, "homenode_load.commit", SESSIONS, "per_s"),
        ),
        *_artifacts(bench),
        _series(
            "growth_sharers",
            "sharers of an artifact",
            "ms, p50 to the last",
            _points(bench, "spread_load.homenode_sharers", SHARERS, "p50_ms"),
        ),
    ]


def _series(id: str, over: str, unit: str, points: list[tuple[float, float]]) -> dict[str, Any]:
    found = {"id": id, "over": over, "unit": unit, "points": points, "slope": slope(points)}
    shown = "  ".join(f"{x:,.0f}: {y:,.1f}" for x, y in points)
    print(f"{id:26} {unit} over {over}: {shown}   slope {found['slope']:+.2f}", flush=True)
    return found


def _points(bench: Bench, kind: str, counts: Sequence[int], figure: str) -> list[tuple[float, float]]:
    """One point for each number of clients; what cannot be measured is said and left out."""
    points: list[tuple[float, float]] = []
    for count in counts:
        try:
            rounds = bench.take_turns({"load": bench.ours(kind, count)})["load"]
        except RuntimeError as failure:
            print(f"{kind} with {count:,}: not measured: {failure}", flush=True)
            continue
        points.append((count, statistics.median(measured[figure] for measured in rounds)))
    return points


def _artifacts(bench: Bench) -> list[dict[str, Any]]:
    commits, reads, memory, made = [], [], [], 0
    for wanted in ARTIFACTS:
        asyncio.run(fill(bench.redis, bench.server.address, body(0, SMALL_BYTES), made, wanted))
        made = wanted
        with bench.redis.client() as client:
            memory.append((wanted, float(client.info("memory")["used_memory"]) / 1e6))
        found = bench.take_turns({"many": bench.ours("many_load.many", 64, artifacts=wanted)})["many"]
        commits.append((wanted, statistics.median(measured["commits_per_s"] for measured in found)))
        reads.append((wanted, statistics.median(measured["reads_per_s"] for measured in found)))
    return [
        _series("growth_artifacts_commit", "artifacts", "operations/s", commits),
        _series("growth_artifacts_read", "artifacts", "operations/s", reads),
        _series("growth_artifacts_memory", "artifacts", "MB in Redis", memory),
    ]
