"""What streams and calls are made of, put together once by the composition root."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import validate
from homenode_directory.api.calls import Caller, Calls
from homenode_directory.api.errors import rejected
from homenode_directory.api.hub import Hub
from homenode_directory.api.liveness import Liveness
from homenode_directory.api.outbox import QueueBounds
from homenode_directory.api.transfers import Transfers
from homenode_directory.clock import Clock
from homenode_directory.delivery import Delivery
from homenode_directory.directory import Directory
from homenode_directory.observer import Observer
from homenode_directory.place import Position
from homenode_directory.savings import Ledger
from homenode_directory.sinks import Resync, Sink
from homenode_directory.store.base import LogTrimmed
from homenode_directory.tracing import CURRENT, Span, Tracer, trace_id


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one stream may have under way."""

    frame_operations: int = 512
    in_flight: int = 1024
    stream_sessions: int = 4096
    session_watches: int = 64
    pending_acks: int = 8192
    idle_s: float = 60.0  # a stream that carries no session for so long is closed


@dataclass(frozen=True, slots=True)
class Parts:
    """The server below the transport. `tenant` is whose workspaces the callers see."""

    directory: Directory
    delivery: Delivery
    transfers: Transfers
    calls: Calls
    liveness: Liveness
    hub: Hub
    observer: Observer
    clock: Clock
    savings: Ledger
    bounds: validate.Bounds = field(default_factory=validate.Bounds)
    limits: StreamLimits = field(default_factory=StreamLimits)
    queues: QueueBounds = field(default_factory=QueueBounds)
    tenant: str = "default"
    max_age_ms: int = 3_000
    bookmark_ms: int = 1_000
    server_version: str = ""
    consistency: str = "lazy"  # of artifacts without a policy of their own
    tracer: Tracer | None = None

    def begin_span(self, name: str, message: object, traceparent: str, slice_: int | None = None) -> Span | None:
        """An operation begins: what this task, or one that it starts, asks of the directory from now on is for it."""
        assert self.tracer is not None
        span = self.tracer.operation(name, traceparent, getattr(message, "key", ""), slice_)
        CURRENT.set(span.traceparent if span is not None else "")
        return span

    async def watch(self, session: str, watch: int, prefix: str, after: Position | None, sink: Sink) -> Position:
        """Start a watch. Where the log no longer has what came after `after`, it starts now, behind a RESYNC."""
        try:
            try:
                return await self.delivery.watch(session, watch, prefix, after)
            except LogTrimmed:
                position = await self.delivery.watch(session, watch, prefix, None)
                sink.push(Resync(session, position))
                return position
        except KeyError:
            raise rejected(t.ERROR_REASON_UNAVAILABLE, "the session has left this stream") from None

    def measure_acks(self, caller: Caller, keys: Iterable[pb.AckedKey]) -> None:
        """Tell the observer how long after the commit each copy was gone: by slice time, less what the SDK waited."""
        now_ms = self.directory.slice_of(caller.place).time.believed_ms
        for acked in keys:
            committed_ms, trace = self.delivery.told(caller.session, caller.prefix + acked.key, acked.fence)
            if committed_ms and now_ms:
                seconds = max(0.0, (now_ms - committed_ms) / 1_000 - acked.held_us / 1_000_000)
                self.observer.acknowledged(seconds, trace_id(trace))

    def wire_limits(self) -> pb.Limits:
        """The bounds that clients are told."""
        return pb.Limits(
            artifact_bytes=self.bounds.artifact_bytes,
            inline_bytes=self.bounds.inline_bytes,
            key_bytes=validate.KEY_BYTES_MAX,
            frame_operations=self.limits.frame_operations,
            in_flight_operations=self.limits.in_flight,
        )
