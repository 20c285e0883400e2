"""Metrics and logs. The root alone imports this; everything else tells an `Observer`.

Labels come from closed sets: operations, reasons, kinds, slices. Never keys, agents, sessions or content.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

LATENCY_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BYTES_PER_TOKEN = 4
REQUEST_BYTES_MAX = 8_192
REQUEST_WAIT_S = 5.0
CONNECTIONS_MAX = 32
EXTRA = ("incident", "method", "outcome", "took_ms", "address", "store", "slices", "port", "version")


class Prometheus:
    """An `Observer` that counts."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = r = registry or CollectorRegistry()
        self._requests = Counter("homenode_requests", "Operations answered.", ["operation", "outcome"], registry=r)
        self._latency = Histogram(
            "homenode_request_seconds", "Time to the answer.", ["operation"], buckets=LATENCY_S, registry=r
        )
        self._batch = Histogram("homenode_batch_size", "Transitions of a group commit.", buckets=SIZES, registry=r)
        self._batch_s = Histogram("homenode_batch_seconds", "Time of a group commit.", buckets=LATENCY_S, registry=r)
        self._store = Histogram(
            "homenode_store_seconds", "Time of a store call.", ["kind"], buckets=LATENCY_S, registry=r
        )
        self._commits = Counter("homenode_commits", "Versions published.", registry=r)
        self._denied = Counter("homenode_denied", "Requests that the rules refused.", ["reason"], registry=r)
        self._delivered = Counter("homenode_delivered", "Events sent to streams.", ["kind"], registry=r)
        self._resyncs = Counter("homenode_resyncs", "Sessions told that events were lost.", registry=r)
        self._head = Gauge("homenode_log_head", "Last sequence of a slice's log.", ["slice"], registry=r)
        self._done = Gauge("homenode_log_delivered", "Sequence up to which it is sent.", ["slice"], registry=r)
        self._levels = {
            name: Gauge(f"homenode_{name}", text, registry=r)
            for name, text in (
                ("streams", "Open streams and watches."),
                ("sessions", "Sessions attached here."),
                ("leases", "Write leases granted here."),
                ("queued_events", "Events that wait for a stream."),
                ("in_flight", "Operations under way."),
            )
        }
        self._bodies = Counter("homenode_content_bodies", "Bodies sent.", ["kind"], registry=r)
        self._bytes = Counter("homenode_content_bytes", "Bytes of bodies sent.", ["kind"], registry=r)
        self._saved = Counter(
            "homenode_tokens_saved",
            "Tokens (of about 4 bytes) kept off the wire.",
            registry=r,
        )
        self._children: dict[tuple[str, ...], Counter | Histogram] = {}

    def request(self, operation: str, outcome: str, seconds: float) -> None:
        """See `Observer`."""
        self._child("q", self._requests, operation, outcome).inc()  # type: ignore[union-attr]
        self._child("l", self._latency, operation).observe(seconds)  # type: ignore[union-attr]

    def _child(self, kind: str, metric: Counter | Histogram, *labels: str) -> Counter | Histogram:
        """A metric's child; looking it up in the library costs several microseconds each time."""
        child = self._children.get((kind, *labels))
        if child is None:
            child = self._children[kind, *labels] = metric.labels(*labels)
        return child

    def batch(self, size: int, seconds: float) -> None:
        """See `Observer`."""
        self._batch.observe(size)
        self._batch_s.observe(seconds)

    def store_call(self, kind: str, seconds: float) -> None:
        """See `Observer`."""
        self._store.labels(kind).observe(seconds)

    def committed(self, n: int = 1) -> None:
        """See `Observer`."""
        self._commits.inc(n)

    def denied(self, reason: str) -> None:
        """See `Observer`."""
        self._denied.labels(reason).inc()

    def delivered(self, kind: str, n: int = 1) -> None:
        """See `Observer`."""
        self._child("d", self._delivered, kind).inc(n)  # type: ignore[union-attr]

    def resync(self) -> None:
        """See `Observer`."""
        self._resyncs.inc()

    def lag(self, slice_: int, head: int, delivered: int) -> None:
        """See `Observer`."""
        self._head.labels(str(slice_)).set(head)
        self._done.labels(str(slice_)).set(delivered)

    def gauge(self, name: str, value: float) -> None:
        """See `Observer`."""
        level = self._levels.get(name)
        if level is not None:
            level.set(value)

    def content(self, kind: str, body_bytes: int, full_bytes: int) -> None:
        """See `Observer`."""
        self._bodies.labels(kind).inc()
        self._bytes.labels(kind).inc(body_bytes)
        if kind != "snapshot":
            self._saved.inc(max(0, full_bytes - body_bytes) / BYTES_PER_TOKEN)


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
