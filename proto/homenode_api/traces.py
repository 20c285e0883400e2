"""Trace contexts of both ends, and how spans leave a process. OpenTelemetry is loaded only when `Exported` is made."""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from typing import Any, NamedTuple

LOG = logging.getLogger("homenode.traces")

QUEUE_MAX = 4_096  # spans; what finds no room is dropped
BATCH_MAX = 512
EVERY_MS = 1_000
EXPORT_S = 3.0  # for one batch, retries included
CLOSE_S = 2.0
QUIET_S = 60.0
MISSING = "traces are asked for, but OpenTelemetry is not installed: pip install 'homenode[otel]'"

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_NOISY = ("opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.sdk._shared_internal")


class Context(NamedTuple):
    """A span that others name as their parent."""

    trace_id: int
    span_id: int
    sampled: bool


def parse(traceparent: str) -> Context | None:
    """A W3C traceparent of version 00; None for anything else."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return Context(int(found[1], 16), int(found[2], 16), bool(int(found[3], 16) & 1)) if found is not None else None


class RecordedSpan:
    """A span under way that is recorded; `trace_id` and `traceparent` as W3C writes them."""

    __slots__ = ("_span", "trace_id", "traceparent")

    def __init__(self, span: Any) -> None:
        context = span.get_span_context()
        self._span = span
        self.trace_id = f"{context.trace_id:032x}"
        self.traceparent = f"00-{self.trace_id}-{context.span_id:016x}-01"

    def end(self, outcome: str = "ok") -> None:
        """It is over; `outcome` is "ok" or the name of the error."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("homenode.outcome", outcome)
        if outcome != "ok":
            self._span.set_status(StatusCode.ERROR, outcome)
        self._span.end()


class TracesMissing(Exception):
    """The extra `otel` is not installed."""


class _Quiet(logging.Filter):
    """Lets one line in QUIET_S through: a collector that is gone is not worth more."""

    def __init__(self) -> None:
        super().__init__()
        self._told = -QUIET_S

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        now = time.monotonic()
        if now - self._told < QUIET_S:
            return False
        self._told = now
        return True


_quiet = _Quiet()


class Exported:
    """A tracer whose spans go to an OTLP collector, in batches, from a thread of their own.

    The queue is bounded; a collector that is slow or gone costs spans and one line in the log now and then.

    Args:
        endpoint: http://host:port or https://host:port of OTLP over gRPC.
        service: name of this process's kind.
        version: of this distribution.

    Raises TracesMissing, ValueError for an address that is none.
    """

    def __init__(self, endpoint: str, service: str, version: str) -> None:
        if not re.fullmatch(r"https?://[^/\s@]+/?", endpoint):
            raise ValueError(f"not the address of a collector: {endpoint!r}; say http://host:4317")
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise TracesMissing(MISSING) from None
        for name in _NOISY:
            logging.getLogger(name).addFilter(_quiet)  # the same object, so it is there once
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http:"), timeout=EXPORT_S)
        processor = BatchSpanProcessor(
            exporter, max_queue_size=QUEUE_MAX, max_export_batch_size=BATCH_MAX, schedule_delay_millis=EVERY_MS
        )
        resource = Resource.create({"service.name": service, "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self.tracer: Any = self._provider.get_tracer("homenode", version)

        # No thread can be started while the interpreter ends, so it is there from the start.
        self._ending, self._ended = threading.Event(), threading.Event()
        self._process = os.getpid()
        threading.Thread(target=self._end, name="end of traces", daemon=True).start()

    def _end(self) -> None:
        self._ending.wait()
        self._provider.shutdown()
        self._ended.set()

    def close(self) -> None:
        """Send what is queued, for a short time at most. In a child of the process it does nothing."""
        if self._process == os.getpid():
            self._ending.set()
            self._ended.wait(CLOSE_S)


def chosen(ratio: float) -> bool:
    """Whether a trace that begins here is recorded."""
    return ratio > 0.0 and random.random() < ratio
