"""Spans of a server, by OpenTelemetry: operations, and the group commits that they wait for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homenode_api.traces import Context, Exported, RecordedSpan, chosen, parse

SERVICE = "homenode-directory"


class Spans:
    """A `tracing.Tracer`: what the caller records is recorded here too; of the rest, a part.

    Args:
        endpoint: of the collector.
        ratio: of the operations that come without a trace context, how many are recorded.
        keys: whether spans name artifacts.
        version: of this server.

    Raises TracesMissing, ValueError for an address that is none.
    """

    def __init__(self, endpoint: str, ratio: float, keys: bool, version: str) -> None:
        self._exported = Exported(endpoint, SERVICE, version)
        self._tracer = self._exported.tracer
        self._ratio = ratio
        self._keys = keys

    def close(self) -> None:
        """Send what is queued, for a short time at most."""
        self._exported.close()

    def operation(self, name: str, traceparent: str, key: str, slice_: int | None) -> RecordedSpan | None:
        """See `Tracer`."""
        parent = parse(traceparent) if traceparent else None
        if not (parent.sampled if parent is not None else chosen(self._ratio)):
            return None
        from opentelemetry.trace import SpanKind

        attributes: dict[str, Any] = {"homenode.operation": name}
        if slice_ is not None:
            attributes["homenode.slice"] = slice_
        if key and self._keys:
            attributes["homenode.key"] = key
        return RecordedSpan(
            self._tracer.start_span(f"directory {name}", _inside(parent), SpanKind.SERVER, attributes=attributes)
        )

    def batch(self, waiting: Sequence[str], slice_: int, size: int) -> RecordedSpan:
        """See `Tracer`. The first of the operations is the parent, the others are linked."""
        from opentelemetry.trace import Link, SpanKind

        contexts = [context for one in dict.fromkeys(waiting) if (context := parse(one)) is not None]
        links = [Link(_linked(context)) for context in contexts[1:]]
        attributes: dict[str, Any] = {"homenode.slice": slice_, "homenode.batch_size": size}
        parent = _inside(contexts[0] if contexts else None)
        return RecordedSpan(
            self._tracer.start_span("store commit", parent, SpanKind.CLIENT, attributes=attributes, links=links)
        )


def _linked(context: Context) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=TraceFlags(1))


def _inside(parent: Context | None) -> Any:
    """OpenTelemetry's context of a span's children; of none: that of a root."""
    from opentelemetry.context import Context as Root
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    return Root() if parent is None else set_span_in_context(NonRecordingSpan(_linked(parent)), Root())
