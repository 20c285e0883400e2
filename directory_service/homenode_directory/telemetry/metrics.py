"""What was counted, and how Prometheus gets it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar

from homenode_directory.observer import Usage
from homenode_directory.telemetry.catalog import (
    CONFLICTS,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    HOW,
    OTHER,
    RESULTS,
    UNKNOWN,
    WORKSPACES_MAX,
    WRITES,
)


class Distribution:
    """Counts per bucket. Observing costs a third of a microsecond; the client library's histogram costs several."""

    __slots__ = ("_bounds", "_counts", "_examples", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._examples: dict[int, Exemplar] = {}  # the last of each bucket

    def observe(self, value: float, trace_id: str = "") -> None:
        """Count one value; `trace_id` names a trace that shows it."""
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        if trace_id:
            self._examples[bucket] = Exemplar({"trace_id": trace_id}, value, time.time())

    def buckets(self) -> tuple[list[tuple[str, float, Exemplar | None]], float]:
        """Cumulative counts by upper bound, each with an example, and the sum of all values."""
        names = [*map(str, self._bounds), "+Inf"]
        examples = map(self._examples.get, range(len(names)))
        return list(zip(names, map(float, accumulate(self._counts)), examples, strict=True)), self._sum


class Prometheus(Collector):
    """An `Observer` that counts, and a collector of the client library."""

    def __init__(self, version: str = "", workspaces: Sequence[str] = ()) -> None:
        """`workspaces`: those whose savings are told apart, at most WORKSPACES_MAX."""
        self._workspaces = frozenset(workspaces[:WORKSPACES_MAX])
        self.registry = CollectorRegistry()
        self._version = version
        self._counts = {name: defaultdict(float, dict.fromkeys(d.first, 0.0)) for name, d in COUNTERS.items()}
        self._levels = {name: dict.fromkeys(d.first, 0.0) for name, d in GAUGES.items()}
        self._spreads = {name: {key: Distribution(d.bounds) for key in d.first} for name, d in HISTOGRAMS.items()}
        # What every operation needs.
        self._requests = self._counts["homenode_requests"]
        self._took = self._spreads["homenode_request_seconds"]
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """Everything counted so far, in the client library's terms."""
        for name, described in COUNTERS.items():
            counter = CounterMetricFamily(name, described.text, labels=described.labels)
            for key, value in list(self._counts[name].items()):
                counter.add_metric(key, value)
            yield counter
        for name, described in GAUGES.items():
            gauge = GaugeMetricFamily(name, described.text, labels=described.labels)
            for key, value in list(self._levels[name].items()):
                gauge.add_metric(key, value)
            yield gauge
        for name, described in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, described.text, labels=described.labels)
            for key, spread in list(self._spreads[name].items()):
                buckets, total = spread.buckets()
                histogram.add_metric(key, buckets, total)  # type: ignore[arg-type]
            yield histogram
        build = GaugeMetricFamily("homenode_build_info", "The version of this server; always 1.", labels=("version",))
        build.add_metric((self._version,), 1.0)
        yield build

    def _count(self, name: str, key: tuple[str, ...], n: float = 1) -> None:
        self._counts[name][key] += n

    def _observe(self, name: str, key: tuple[str, ...], value: float, trace_id: str = "") -> None:
        spread = self._spreads[name].get(key)
        if spread is None:
            spread = self._spreads[name][key] = Distribution(HISTOGRAMS[name].bounds)
        spread.observe(value, trace_id)

    def request(self, operation: str, outcome: str, seconds: float, trace_id: str = "") -> None:
        """See `Observer`."""
        self._requests[operation, outcome] += 1
        if outcome != "ok":
            self._count("homenode_refusals", (outcome, operation))
            if outcome in CONFLICTS and operation in WRITES:
                self._count("homenode_conflicts", (outcome,))
        elif operation == "acquire":
            self._observe("homenode_lease_wait_seconds", (), seconds, trace_id)
        took = self._took.get((operation,))
        if took is not None:
            took.observe(seconds, trace_id)
        else:
            self._observe("homenode_request_seconds", (operation,), seconds, trace_id)

    def batch(self, size: int, seconds: float, trace_id: str = "") -> None:
        """See `Observer`."""
        self._observe("homenode_batch_size", (), size)
        self._observe("homenode_batch_seconds", (), seconds, trace_id)

    def store_call(self, kind: str, seconds: float) -> None:
        """See `Observer`."""
        self._observe("homenode_store_seconds", (kind,), seconds)

    def committed(self, n: int = 1) -> None:
        """See `Observer`."""
        self._count("homenode_commits", (), n)

    def delivered(self, kind: str, n: int = 1) -> None:
        """See `Observer`."""
        self._count("homenode_delivered", (kind,), n)

    def resync(self) -> None:
        """See `Observer`."""
        self._count("homenode_resyncs", ())

    def mistake(self, where: str) -> None:
        """See `Observer`."""
        self._count("homenode_mistakes", (where,))

    def clock_jumped(self) -> None:
        """See `Observer`."""
        self._count("homenode_clock_jumps", ())

    def fanout(self, sessions: int) -> None:
        """See `Observer`."""
        self._observe("homenode_fanout", (), sessions)

    def acknowledged(self, seconds: float, trace_id: str = "") -> None:
        """See `Observer`."""
        self._observe("homenode_invalidation_seconds", (), seconds, trace_id)

    def lease_ended(self, cause: str) -> None:
        """See `Observer`."""
        self._count("homenode_lease_ends", (cause,))

    def usage(self, usage: Usage, workspace: str = "") -> None:
        """See `Observer`."""
        for result in RESULTS:
            self._count("homenode_cache_reads", (result,), usage.reads.get(result, 0))
        where = workspace if workspace in self._workspaces else OTHER
        for saved in usage.saved:
            *tokens, size = saved.sums
            for how, count in zip(HOW, tokens, strict=True):
                if count:
                    self._count("homenode_tokens_saved", (how, saved.strategy, where), count)
            self._count("homenode_bytes_saved", ("hit", saved.strategy, where), size)
        if usage.age_ms is not None:
            self._observe("homenode_read_age_seconds", (), usage.age_ms / 1_000)

    def store_failed(self, kind: str) -> None:
        """See `Observer`."""
        self._count("homenode_store_failures", (kind,))

    def incarnation(self) -> None:
        """See `Observer`."""
        self._count("homenode_incarnations", ())

    def loop_lag(self, seconds: float) -> None:
        """The event loop came to a timer so late."""
        self._observe("homenode_event_loop_lag_seconds", (), seconds)

    def lag(self, slice_: int, head: int, delivered: int) -> None:
        """See `Observer`."""
        self._levels["homenode_log_head"][(str(slice_),)] = head
        self._levels["homenode_log_delivered"][(str(slice_),)] = delivered

    def gauge(self, name: str, value: float) -> None:
        """See `Observer`."""
        level = self._levels.get("homenode_" + name)
        if level is not None:
            level[()] = value

    def content(self, kind: str, body_bytes: int, full_bytes: int) -> None:
        """See `Observer`."""
        self._count("homenode_content_bodies", (kind,))
        self._count("homenode_content_bytes", (kind,), body_bytes)
        if kind in ("patch", "chunks", "held"):
            how = "unchanged" if kind == "held" else "delta"
            self._count("homenode_bytes_saved", (how, UNKNOWN, OTHER), max(0, full_bytes - body_bytes))

    def placed(self, kind: str, n: int = 1) -> None:
        """See `Observer`."""
        self._count("homenode_kv_placements", (kind,), n)

    def routed(self, how: str, cached: int, computed: int) -> None:
        """See `Observer`."""
        self._count("homenode_kv_routes", (how,))
        self._count("homenode_kv_routed_tokens", ("cached",), cached)
        self._count("homenode_kv_routed_tokens", ("computed",), computed)
