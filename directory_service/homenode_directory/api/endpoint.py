"""The service without a transport: what gRPC and the in-process endpoint both serve."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from homenode_api.chunks import ChunkMessage
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import savings, validate, wire
from homenode_directory.api.calls import Caller
from homenode_directory.api.errors import invalid, outcome_of, rejected
from homenode_directory.api.kv import KvEndpoint
from homenode_directory.api.parts import Parts
from homenode_directory.api.sessions import Sessions
from homenode_directory.api.stream import Stream
from homenode_directory.api.transfers import Incoming, Outgoing
from homenode_directory.api.watch import Watch
from homenode_directory.routing import Routing
from homenode_directory.tracing import CURRENT

Unary = Callable[[Any], Awaitable[Any]]

_OPERATIONS: dict[str, tuple[str, type[Any]]] = {
    "Read": ("read", pb.ReadRequest),
    "Commit": ("commit", pb.CommitRequest),
    "Acquire": ("acquire", pb.AcquireRequest),
    "Renew": ("renew", pb.RenewRequest),
    "Release": ("release", pb.ReleaseRequest),
    "SetPolicy": ("set_policy", pb.SetPolicyRequest),
    "ListPolicies": ("list_policies", pb.ListPoliciesRequest),
    "Stat": ("stat", pb.StatRequest),
    "List": ("list", pb.ListRequest),
    "History": ("history", pb.HistoryRequest),
    "Snapshot": ("snapshot", pb.SnapshotRequest),
    "ReleaseSnapshot": ("release_snapshot", pb.ReleaseSnapshotRequest),
    "CommitMany": ("commit_many", pb.CommitManyRequest),
    "Gate": ("gate", pb.GateRequest),
    "Handoff": ("handoff", pb.HandoffRequest),
}


class Endpoint:
    """Every method of DirectoryService, on messages. Refusals and failures are exceptions (see `errors.error_of`).

    `unary` maps a method's name to its request type and the call; `kv` has KvRoutingService.
    """

    def __init__(self, parts: Parts, routing: Routing) -> None:
        self.parts = parts
        self.kv = KvEndpoint(parts, routing)
        sessions = Sessions(parts)
        self.unary: dict[str, tuple[type[Any], Unary]] = {
            "OpenSession": (pb.OpenSessionRequest, self._counted("open_session", sessions.open)),
            "KeepAlive": (pb.KeepAliveRequest, self._counted("keep_alive", sessions.keep_alive)),
            "CloseSession": (pb.CloseSessionRequest, self._counted("close_session", sessions.close)),
            "MissingChunks": (pb.MissingChunksRequest, self._counted("missing_chunks", self.missing_chunks)),
            "Savings": (pb.SavingsRequest, self._counted("savings", self.savings)),
            "Resolve": (pb.ResolveRequest, self._counted("resolve", sessions.resolve)),
        }
        for method, (name, kind) in _OPERATIONS.items():
            self.unary[method] = kind, self._counted(name, self._operation(name))

    def open_stream(self, ready: Callable[[], None] | None = None) -> Stream:
        """A new Session stream; `ready` is called when it has something to send. Raises Rejected."""
        self._take_streams()
        return Stream(self.parts, ready)

    def watch(self, m: pb.WatchRequest) -> AsyncIterator[pb.WatchResponse]:
        """Changes under a prefix. Raises Rejected."""
        self._take_streams()
        return Watch(self.parts, m).responses()

    async def read_content(self, m: pb.ReadContentRequest) -> AsyncGenerator[Outgoing, None]:
        """A content in chunks. Raises Rejected."""
        parts = self.parts
        place = validate.session(parts.tenant, m.session_id)
        key = validate.key(m.key)
        if not m.HasField("version"):
            raise invalid("version is missing")
        wanted = wire.version_in(m.version)
        found = wire.accept(await parts.calls.earlier(place, m.session_id, key, wanted, m.snapshot))
        messages = parts.transfers.read(place, wire.retained(found, wanted), m)
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield message

    async def write_content(self, messages: AsyncIterator[Incoming]) -> pb.WriteContentResponse:
        """Keep a content for a commit to come. Raises Rejected."""
        parts = self.parts
        try:
            first = await anext(messages)
        except StopAsyncIteration:
            raise invalid("the header is missing") from None
        if isinstance(first, ChunkMessage) or first.WhichOneof("what") != "header":
            raise invalid("the first message must be the header")
        place = validate.session(parts.tenant, first.header.session_id)
        wire.alive(await parts.directory.confirm_session(place, first.header.session_id))
        return await parts.transfers.write(place, first.header.content, messages)

    async def missing_chunks(self, m: pb.MissingChunksRequest) -> pb.MissingChunksResponse:
        """Which chunks of a content to come are not stored. Raises Rejected."""
        parts = self.parts
        place = validate.session(parts.tenant, m.session_id)
        wire.alive(await parts.directory.confirm_session(place, m.session_id))
        return await parts.transfers.missing(place, m)

    async def savings(self, m: pb.SavingsRequest) -> pb.SavingsResponse:
        """What the agents of the workspace have saved. Raises Rejected."""
        parts = self.parts
        place = validate.session(parts.tenant, m.session_id)
        wire.alive(await parts.directory.confirm_session(place, m.session_id))
        return savings.response(await parts.savings.told(place))

    def _take_streams(self) -> None:
        if self.parts.hub.draining:
            raise rejected(t.ERROR_REASON_UNAVAILABLE, "the server is about to stop")
        if self.parts.hub.full:
            raise rejected(t.ERROR_REASON_OVERLOADED, "too many streams are open", retry_after_ms=1_000)

    def _operation(self, name: str) -> Unary:
        calls = self.parts.calls

        async def call(m: Any) -> Any:
            place = validate.session(self.parts.tenant, m.session_id)
            request_id = getattr(m, "request_id", 0)
            caller = Caller(place, m.session_id)
            return await calls.result(caller, calls.by_name[name](caller, request_id, m))

        return call

    def _counted(self, name: str, call: Unary) -> Unary:
        observer, clock, tracer = self.parts.observer, self.parts.clock, self.parts.tracer

        async def counted(m: Any) -> Any:
            started, outcome = clock(), "ok"
            span = self.parts.begin_span(name, m, CURRENT.get()) if tracer is not None else None
            try:
                return await call(m)
            except BaseException as failure:
                outcome = outcome_of(failure)
                raise
            finally:
                if span is not None:
                    span.end(outcome)
                observer.request(name, outcome, (clock() - started) / 1_000, span.trace_id if span is not None else "")

        return counted
