"""Spans of the SDK, by OpenTelemetry: requests of agents to the directory, and invalidations. Never hits.

An application that uses OpenTelemetry gets them among its own, under whatever span is current where an agent asks. Else
`connect(otlp_endpoint=…)`, or HOMENODE_OTLP_ENDPOINT, names a collector, and HOMENODE_TRACE_RATIO which part of the
traces that begin here is recorded. Without either nothing of this is loaded.
"""

from __future__ import annotations

import atexit
import os
import sys
from importlib import metadata
from typing import Any

from homenode.errors import InvalidArgument
from homenode_api.traces import LOG, Exported, RecordedSpan, TracesMissing, chosen, parse

SERVICE = "homenode-agent"
RATIO = "0.01"

_exported: dict[str, Exported | None] = {}  # by collector; it lives as long as the process


class Spans:
    """Makes the spans of one connection. `ratio`: of traces that begin here, where no provider decides that; else 1."""

    def __init__(self, tracer: Any, ratio: float = 1.0) -> None:
        self._tracer = tracer
        self._ratio = ratio

    def request(self, kind: str) -> RecordedSpan | None:
        """A request begins, in the caller's context. None: it is not recorded."""
        from opentelemetry.trace import SpanKind, get_current_span

        parent = get_current_span().get_span_context()
        if not (parent.trace_flags.sampled if parent.is_valid else chosen(self._ratio)):
            return None
        span = self._tracer.start_span(f"homenode {kind}", kind=SpanKind.CLIENT)
        return RecordedSpan(span) if span.get_span_context().trace_flags.sampled else None

    def invalidated(self, traceparent: str, *, deleted: bool) -> None:
        """An invalidation of a commit that is recorded has been applied."""
        parent = parse(traceparent)
        if parent is None or not parent.sampled:
            return
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context

        remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(1))
        within = set_span_in_context(NonRecordingSpan(remote), Context())
        attributes = {"homenode.deleted": deleted}
        self._tracer.start_span("homenode invalidate", within, SpanKind.CONSUMER, attributes=attributes).end()


def spans(endpoint: str = "") -> Spans | None:
    """What this process records, and where it sends it; None: nothing. Raises InvalidArgument for a wrong setting."""
    endpoint = endpoint or os.environ.get("HOMENODE_OTLP_ENDPOINT", "")
    if "opentelemetry.sdk.trace" in sys.modules:
        from opentelemetry import trace

        own = not _exported and not endpoint
        if own or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return Spans(trace.get_tracer("homenode", _version()))
    if not endpoint:
        return None
    if endpoint not in _exported:
        try:
            exported = _exported[endpoint] = Exported(endpoint, SERVICE, _version())
            atexit.register(exported.close)
        except TracesMissing as missing:
            LOG.warning("%s", missing)
            _exported[endpoint] = None
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
    known = _exported[endpoint]
    return None if known is None else Spans(known.tracer, _ratio())


def _version() -> str:
    try:
        return metadata.version("homenode")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return ""


def _ratio() -> float:
    text = os.environ.get("HOMENODE_TRACE_RATIO", RATIO)
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise InvalidArgument(f"HOMENODE_TRACE_RATIO must be a number from 0 to 1, not {text!r}")
    return ratio
