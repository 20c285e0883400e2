"""What came of a load, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from homenode.cli.bench.latency import PERCENTILES, Latencies, total
from homenode.cli.bench.plan import KINDS, Plan
from homenode.cli.bench.server import Watched
from homenode.cli.output import Output, console, table

MIB = 1 << 20
#: A process of the load that uses more of a core than this is what was measured.
BUSY = 0.9


class Outcome:
    """The figures of all processes together.

    Attributes:
        lost: sessions without a connection in the end; replaced: sessions that the directory ended meanwhile.
        left: artifacts that were not removed.
        busiest: the greatest share of a core that a process of the load used.
    """

    def __init__(self, plan: Plan, watched: list[Watched]) -> None:
        self.plan = plan
        self.watched = watched
        self.of = {kind: Latencies() for kind in KINDS}
        self.window_s = self.cpu_s = self.busiest = 0.0
        self.processes = self.sessions = self.lost = self.replaced = self.hits = self.misses = self.left = 0
        self.interrupted = False

    def add(self, result: dict[str, Any]) -> None:
        """What one process has measured."""
        self.processes += 1
        self.window_s = max(self.window_s, result["window_s"])
        for kind, dumped in result["operations"].items():
            self.of[kind].add(dumped)
        self.cpu_s += result["cpu_s"]
        self.busiest = max(self.busiest, result["cpu_s"] / max(result["window_s"], 1e-9))
        for name in ("sessions", "lost", "replaced", "hits", "misses"):
            setattr(self, name, getattr(self, name) + result[name])

    @property
    def all(self) -> Latencies:
        """Every kind together."""
        return total(self.of.values())

    def per_s(self, one: Latencies) -> float:
        """Throughput."""
        return one.in_time / self.window_s if self.window_s else 0.0

    def shown(self) -> Iterator[tuple[str, Latencies]]:
        """Each kind that occurred, and all together where there are several."""
        there = [(kind, one) for kind, one in self.of.items() if one.count or one.errors]
        yield from there
        if len(there) > 1:
            yield "all", self.all


def _figures(outcome: Outcome, one: Latencies) -> dict[str, Any]:
    times = {f"p{percent:g}_ms": round(one.percentile_s(percent) * 1e3, 3) for percent in PERCENTILES}
    return {
        "count": one.count,
        "per_s": round(outcome.per_s(one), 2),
        **times,
        "max_ms": round(one.longest_s * 1e3, 3),
        "errors": dict(one.errors),
    }


def _process(outcome: Outcome, one: Watched) -> dict[str, Any]:
    done, window_s = max(1, outcome.all.in_time), max(outcome.window_s, 1e-9)
    return {
        "pid": one.pid,
        "name": one.name,
        "cores": round(one.cpu_s / window_s, 3),
        "cpu_us_per_operation": round(one.cpu_s / done * 1e6, 1),
        "memory_before_bytes": one.before,
        "memory_sessions_bytes": one.opened,
        "memory_most_bytes": one.most,
    }


def as_json(outcome: Outcome) -> dict[str, Any]:
    """For programs."""
    plan = outcome.plan
    return {
        "active": plan.active,
        "idle": plan.idle,
        "artifacts": plan.artifacts,
        "sizes": list(plan.sizes),
        "mix": dict(plan.mix),
        "rate": plan.rate,
        "own_streams": plan.own_streams,
        "seconds": round(outcome.window_s, 3),
        "interrupted": outcome.interrupted,
        "operations": {kind: _figures(outcome, one) for kind, one in outcome.shown()},
        "sessions": {"open": outcome.sessions, "lost": outcome.lost, "replaced": outcome.replaced},
        "cached": {"hits": outcome.hits, "misses": outcome.misses},
        "load": {
            "processes": outcome.processes,
            "cpu_s": round(outcome.cpu_s, 3),
            "busiest": round(outcome.busiest, 3),
        },
        "processes": [_process(outcome, one) for one in outcome.watched],
        "prefix": plan.prefix,
        "left": outcome.left,
    }


def tell(outcome: Outcome, out: Output) -> None:
    """For people."""
    plan, screen = outcome.plan, console()
    low, high = plan.sizes
    size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    streams = "a stream each" if plan.own_streams else "streams shared"
    processes = f"{outcome.processes} process" + ("" if outcome.processes == 1 else "es")
    out.line(
        f"{plan.active:,} active and {plan.idle:,} idle sessions in {processes}, {streams}; "
        f"{plan.artifacts:,} artifacts of {size} bytes; {outcome.window_s:.1f} s"
        + (", interrupted" if outcome.interrupted else "")
    )
    columns = ("OPERATION", "COUNT", "PER S", *(f"P{percent:g} MS" for percent in PERCENTILES), "MAX MS", "ERRORS")
    rows = [(kind, *_row(outcome, one)) for kind, one in outcome.shown()]
    screen.print(table(columns, rows, right=columns[1:]))
    for kind, one in outcome.of.items():
        for error, count in one.errors.most_common():
            out.line(f"error: {kind}: {error}, {count:,} times")
    if outcome.hits:
        out.line(f"{100 * outcome.hits / (outcome.hits + outcome.misses):.1f} % of the reads were served from caches")
    if outcome.lost or outcome.replaced:
        out.line(f"{outcome.lost:,} sessions without a connection in the end, {outcome.replaced:,} ended meanwhile")
    if outcome.watched:
        screen.print(_processes(outcome))
    out.line(f"the load itself used {outcome.cpu_s / max(outcome.window_s, 1e-9):.2f} cores")
    if outcome.busiest > BUSY:
        out.note("a process of the load was busy all the time: what was measured is the load; try more --processes")
    if outcome.left:
        out.note(f"{outcome.left:,} artifacts are left under {plan.prefix}")


def _row(outcome: Outcome, one: Latencies) -> tuple[str, ...]:
    found = _figures(outcome, one)
    times = (found[f"p{percent:g}_ms"] for percent in PERCENTILES)
    ms = (f"{value:.2f}" for value in (*times, found["max_ms"]))
    return f"{one.count:,}", f"{found['per_s']:,.0f}", *ms, f"{one.errors.total():,}"


def _processes(outcome: Outcome) -> Any:
    columns = ("PROCESS", "PID", "CORES", "CPU US/OP", "MIB BEFORE", "WITH SESSIONS", "MOST", "KB/SESSION")
    rows = []
    for one in outcome.watched:
        found = _process(outcome, one)
        each = (one.opened - one.before) / 1e3 / outcome.sessions if one.opened and outcome.sessions else 0.0
        memory = (f"{value / MIB:.0f}" for value in (one.before, one.opened, one.most))
        cpu = f"{found['cores']:.2f}", f"{found['cpu_us_per_operation']:.0f}"
        rows.append((one.name, str(one.pid), *cpu, *memory, f"{each:.1f}"))
    return table(columns, rows, right=columns[1:])
