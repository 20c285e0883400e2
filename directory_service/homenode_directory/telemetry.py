"""Metrics and logs. The root alone imports this; everything else tells an `Observer`.

Labels come from closed sets: operations, reasons, kinds, slices. Never keys, agents, sessions or content.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

LATENCY_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BYTES_PER_TOKEN = 4
REQUEST_BYTES_MAX = 8_192
REQUEST_WAIT_S = 5.0
CONNECTIONS_MAX = 32
EXTRA = ("incident", "method", "outcome", "took_ms", "address", "store", "slices", "port", "version")


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
    "homenode_commits": ("Versions published.", ()),
    "homenode_denied": ("Requests that the rules refused.", ("reason",)),
    "homenode_delivered": ("Events sent to streams.", ("kind",)),
    "homenode_resyncs": ("Sessions told that events were lost.", ()),
    "homenode_content_bodies": ("Bodies sent.", ("kind",)),
    "homenode_content_bytes": ("Bytes of bodies sent.", ("kind",)),
    "homenode_tokens_saved": ("Tokens (of about 4 bytes) kept off the wire.", ()),
}
GAUGES = {
    "homenode_streams": ("Open streams and watches.", ()),
    "homenode_sessions": ("Sessions attached here.", ()),
    "homenode_leases": ("Write leases granted here.", ()),
    "homenode_queued_events": ("Events that wait for a stream.", ()),
    "homenode_in_flight": ("Operations under way.", ()),
    "homenode_log_head": ("Last sequence of a slice's log.", ("slice",)),
    "homenode_log_delivered": ("Sequence up to which it is sent.", ("slice",)),
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

    def denied(self, reason: str) -> None:
        """See `Observer`."""
        self._counts["homenode_denied"][(reason,)] += 1

    def delivered(self, kind: str, n: int = 1) -> None:
        """See `Observer`."""
        self._counts["homenode_delivered"][(kind,)] += n

    def resync(self) -> None:
        """See `Observer`."""
        self._counts["homenode_resyncs"][()] += 1

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


class MetricsServer:
    """Serves GET /metrics and GET /healthz over HTTP/1.1, one request a connection."""

    def __init__(self, registry: CollectorRegistry, healthy: Callable[[], bool]) -> None:
        self._registry = registry
        self._healthy = healthy
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_BYTES_MAX)
        actual: int = self._server.sockets[0].getsockname()[1]
        return actual

    async def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_WAIT_S)
                writer.write(self._response(head.split(b"\r\n", 1)[0].split(b" ")))
                await asyncio.wait_for(writer.drain(), REQUEST_WAIT_S)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # an unfinished or oversize request gets no answer
        finally:
            self._connections -= 1
            writer.close()

    def _response(self, request: list[bytes]) -> bytes:
        path = request[1].split(b"?")[0] if len(request) == 3 and request[0] == b"GET" else b""
        if path == b"/metrics":
            return _http("200 OK", CONTENT_TYPE_LATEST, generate_latest(self._registry))
        if path == b"/healthz":
            healthy = self._healthy()
            status, text = ("200 OK", b"ok\n") if healthy else ("503 Service Unavailable", b"stopping\n")
            return _http(status, "text/plain", text)
        return _http("404 Not Found", "text/plain", b"there are /metrics and /healthz\n")


def _http(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


class JsonLines(logging.Formatter):
    """One JSON object a line; of a record's extras only the known ones."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, getattr(record, name)) for name in EXTRA if hasattr(record, name))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        extras = " ".join(f"{name}={getattr(record, name)}" for name in EXTRA if hasattr(record, name))
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname.lower()}: "
        text += f"{record.getMessage()} {extras}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logs(level: str, form: str) -> None:
    """Write this process's log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
