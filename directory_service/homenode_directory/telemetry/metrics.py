"""What was counted, and how Prometheus gets it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

LATENCY_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BYTES_PER_TOKEN = 4


class Distribution:
    """Counts per bucket. Observing costs a third of a microsecond; the client library's histogram costs several."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, and the sum of all values."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True)), self._sum


# Counters: name -> (help, labels). Their increments are dictionary updates, exposed when somebody asks.
COUNTERS = {
    "homenode_requests": ("Operations answered.", ("operation", "outcome")),
    "homenode_refusals": ("Operations refused or failed.", ("reason", "operation")),
    "homenode_commits": ("Versions published.", ()),
    "homenode_delivered": ("Events sent to streams.", ("kind",)),
    "homenode_resyncs": ("Sessions told that events were lost.", ()),
    "homenode_mistakes": ("Unexpected exceptions in what goes on all the same; the log has them.", ("where",)),
    "homenode_content_bodies": ("Bodies sent.", ("kind",)),
    "homenode_content_bytes": ("Bytes of bodies sent.", ("kind",)),
    "homenode_tokens_saved": ("Tokens (of about 4 bytes) kept off the wire.", ()),
}
GAUGES = {
    "homenode_streams": ("Open streams and watches.", ()),
    "homenode_sessions": ("Sessions attached here.", ()),
    "homenode_leases": ("Write leases that this server knows of.", ()),
    "homenode_queued_events": ("Events that wait for a stream.", ()),
    "homenode_in_flight": ("Operations under way.", ()),
    "homenode_log_head": ("Last sequence of a slice's log.", ("slice",)),
    "homenode_log_delivered": ("Sequence up to which it is sent.", ("slice",)),
    "homenode_archive_failures": ("Times that the log archive could not be written.", ()),
}
HISTOGRAMS = {
    "homenode_request_seconds": ("Time to the answer.", ("operation",), LATENCY_S),
    "homenode_batch_size": ("Transitions of a group commit.", (), SIZES),
    "homenode_batch_seconds": ("Time of a group commit.", (), LATENCY_S),
    "homenode_store_seconds": ("Time of a store call.", ("kind",), LATENCY_S),
}


class Prometheus(Collector):
    """An `Observer` that counts, and a collector of the client library."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counts: dict[str, dict[tuple[str, ...], float]] = {name: defaultdict(float) for name in COUNTERS}
        self._levels: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in GAUGES}
        self._spreads: dict[str, dict[tuple[str, ...], Distribution]] = {name: {} for name in HISTOGRAMS}
        for counters in (COUNTERS, GAUGES):
            for name, (_, labels) in counters.items():
                if not labels:
                    (self._counts if counters is COUNTERS else self._levels)[name][()] = 0.0
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Everything counted so far, in the client library's terms."""
        for name, (text, labels) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=labels)
            for key, value in list(self._counts[name].items()):
                counter.add_metric(key, value)
            yield counter
        for name, (text, labels) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for key, value in list(self._levels[name].items()):
                gauge.add_metric(key, value)
            yield gauge
        for name, (text, labels, _) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, text, labels=labels)
            for key, spread in list(self._spreads[name].items()):
                buckets, total = spread.buckets()
                histogram.add_metric(key, buckets, total)
            yield histogram

    def _observe(self, name: str, key: tuple[str, ...], value: float) -> None:
        spread = self._spreads[name].get(key)
        if spread is None:
            spread = self._spreads[name][key] = Distribution(HISTOGRAMS[name][2])
        spread.observe(value)

    def request(self, operation: str, outcome: str, seconds: float) -> None:
        """See `Observer`."""
        self._counts["homenode_requests"][operation, outcome] += 1
        if outcome != "ok":
            self._counts["homenode_refusals"][outcome, operation] += 1
        self._observe("homenode_request_seconds", (operation,), seconds)

    def batch(self, size: int, seconds: float) -> None:
        """See `Observer`."""
        self._observe("homenode_batch_size", (), size)
        self._observe("homenode_batch_seconds", (), seconds)

    def store_call(self, kind: str, seconds: float) -> None:
        """See `Observer`."""
        self._observe("homenode_store_seconds", (kind,), seconds)

    def committed(self, n: int = 1) -> None:
        """See `Observer`."""
        self._counts["homenode_commits"][()] += n

    def delivered(self, kind: str, n: int = 1) -> None:
        """See `Observer`."""
        self._counts["homenode_delivered"][(kind,)] += n

    def resync(self) -> None:
        """See `Observer`."""
        self._counts["homenode_resyncs"][()] += 1

    def mistake(self, where: str) -> None:
        """See `Observer`."""
        self._counts["homenode_mistakes"][(where,)] += 1

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
        self._counts["homenode_content_bodies"][(kind,)] += 1
        self._counts["homenode_content_bytes"][(kind,)] += body_bytes
        if kind != "snapshot":
            self._counts["homenode_tokens_saved"][()] += max(0, full_bytes - body_bytes) / BYTES_PER_TOKEN
