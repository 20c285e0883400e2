"""A directory that says exactly what a test tells it to, and a clock that the test turns."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import homenode
from homenode.clock import NS_PER_MS
from homenode.errors import Unavailable
from homenode_api.patch import compress
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t

POLL_S = 0.002
WAIT_S = 10.0

Answer = dict[str, Any]
Handler = Callable[[pb.Operation], Answer | None]


async def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait until `condition()` is true, and give its value."""
    end = asyncio.get_running_loop().time() + WAIT_S
    while True:
        value = condition()
        if value:
            return value
        assert asyncio.get_running_loop().time() < end, f"{what} did not come true"
        await asyncio.sleep(POLL_S)


class TurnedClock:
    """Real time, plus what the test adds."""

    def __init__(self) -> None:
        self.added_ns = 0

    def __call__(self) -> int:
        return int(asyncio.get_event_loop_policy().get_event_loop().time() * 1e9) + self.added_ns

    def pass_ms(self, ms: int) -> None:
        """Let time pass at once, as a suspended machine does."""
        self.added_ns += ms * NS_PER_MS


class ScriptedStream:
    """The client's end of a stream."""

    def __init__(self, directory: ScriptedDirectory) -> None:
        self._directory = directory
        self._down: asyncio.Queue[pb.SessionResponse | None] = asyncio.Queue()
        self._sent = 0
        self.operations: list[pb.Operation] = []
        self.frames = 0
        self.over = False

    async def write(self, frame: pb.SessionRequest) -> None:
        if self.over:
            raise Unavailable("the stream is over")
        self.frames += 1
        assert frame.number == self.frames
        for operation in frame.operations:
            copy = pb.Operation.FromString(operation.SerializeToString())
            self.operations.append(copy)
            self._directory.receive(self, copy)

    async def read(self) -> pb.SessionResponse | None:
        frame = await self._down.get()
        if frame is None:
            raise Unavailable("the stream broke")
        return frame

    def cancel(self) -> None:
        self.over = True
        self._down.put_nowait(None)

    def send(self, *items: pb.Item, number: int | None = None) -> None:
        """Send items in a frame."""
        self._sent += 1
        self._down.put_nowait(pb.SessionResponse(items=items, number=self._sent if number is None else number))

    def named(self, kind: str) -> list[pb.Operation]:
        """The operations of that kind that came."""
        return [operation for operation in self.operations if operation.HasField(kind)]


class ScriptedDirectory:
    """A `homenode.transport.Transport`. Handlers by operation; what has none stays unanswered.

    Attributes:
        pings: whether pings are answered with bookmarks.
        position: head of the log, told in every answer.
        lease_ms: what bookmarks let strict copies live; 0: nothing.
        outcomes: what Resolve says, by request id; a missing one is unknown.
    """

    hosts = 1

    def __init__(self) -> None:
        self.streams: list[ScriptedStream] = []
        self.handlers: dict[str, Handler] = {"read": lambda _: None}
        self.calls: list[tuple[str, Any]] = []
        self.pings = True
        self.reachable = True
        self.resync = False
        self.position = (1, 10)
        self.lease_ms = 0
        self.strongest = t.CONSISTENCY_STRICT
        self.opened = 0
        self.in_flight = 1024
        self.outcomes: dict[int, dict[str, Any]] = {}
        self.contents: dict[str, tuple[tuple[int, int], bytes]] = {}
        self.strict: set[str] = set()  # artifacts that are

    # what a test uses

    @property
    def stream(self) -> ScriptedStream:
        """The newest stream."""
        return self.streams[-1]

    def number(self) -> int:
        """The session's number on the newest stream."""
        return self.stream.named("attach")[-1].session

    def at(self) -> t.Position:
        """The head of the log."""
        return t.Position(incarnation=self.position[0], sequence=self.position[1])

    def hold(self, key: str, n: int, data: bytes, incarnation: int | None = None) -> None:
        """Let reads of `key` give this."""
        self.contents[key] = ((incarnation or self.position[0], n), data)
        self.handlers["read"] = self.answer_read

    def answer_read(self, operation: pb.Operation) -> Answer:
        """What `hold` said."""
        key = operation.read.key
        if key not in self.contents:
            return {"error": t.Error(reason=t.ERROR_REASON_NOT_FOUND, message="there is no such artifact")}
        version, data = self.contents[key]
        response = read_response(version, data, self.at())
        beyond = operation.read.consistency == t.CONSISTENCY_STRICT and key not in self.strict
        if beyond or key in self.strict:
            response.level = t.CONSISTENCY_STRICT
        response.cacheable = operation.read.share and not beyond
        return {"read": response}

    def event(self, **what: Any) -> None:
        """Send one event to the session."""
        self.stream.send(pb.Item(session=self.number(), **what))

    def invalidate(self, key: str, n: int, **more: Any) -> None:
        """Send an invalidation, and move the head."""
        self.position = (self.position[0], self.position[1] + 1)
        version = t.Version(incarnation=self.position[0], n=n)
        self.event(invalidation=pb.Invalidation(key=key, version=version, fence=n, sequence=self.position[1], **more))

    def bookmark(self, echo: int, lease_ms: int = 0) -> None:
        """Send a bookmark of the present head."""
        self.event(bookmark=pb.Bookmark(position=self.at(), echo=echo, lease_ms=lease_ms))

    def answer(self, operation: pb.Operation, **what: Any) -> None:
        """Answer an operation now."""
        answer = pb.Answer(request_id=operation.request_id, **what)
        self.stream.send(pb.Item(session=operation.session, answer=answer))

    # what the SDK uses

    def receive(self, stream: ScriptedStream, operation: pb.Operation) -> None:
        kind = operation.WhichOneof("what")
        if kind == "attach" and "attach" not in self.handlers:
            position = self.at() if self.resync or not operation.attach.HasField("resume") else operation.attach.resume
            self.answer(operation, attach=pb.AttachResponse(position=position, resync=self.resync))
        elif kind == "ping":
            if self.pings:
                bookmark = pb.Bookmark(position=self.at(), echo=operation.ping.sent_at, lease_ms=self.lease_ms)
                stream.send(pb.Item(session=operation.session, bookmark=bookmark))
        elif kind in self.handlers:
            found = self.handlers[kind](operation)
            if found is not None:
                self.answer(operation, **found)

    def session(self) -> ScriptedStream:
        stream = ScriptedStream(self)
        self.streams.append(stream)
        if not self.reachable:
            stream.cancel()
        return stream

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        self.calls.append((method, request))
        if not self.reachable:
            raise Unavailable("no route")
        if method == "OpenSession":
            self.opened += 1
            return pb.OpenSessionResponse(
                session_id=f"main~{self.opened}", position=self.at(), ttl_ms=30_000, term_ms=10_000, max_age_ms=3_000,
                bookmark_ms=1_000, limits=pb.Limits(in_flight_operations=self.in_flight), strongest=self.strongest,
            )  # fmt: skip
        if method == "Resolve":
            outcomes = [
                pb.Outcome(request_id=i, **self.outcomes.get(i, {"unknown": True})) for i in request.request_ids
            ]
            return pb.ResolveResponse(outcomes=outcomes)
        return pb.CloseSessionResponse()

    async def read_content(self, request: pb.ReadContentRequest, timeout_s: float) -> AsyncIterator[Any]:
        raise Unavailable("not scripted")
        yield

    async def write_content(self, requests: AsyncIterator[pb.WriteContentRequest], timeout_s: float) -> Any:
        raise Unavailable("not scripted")

    async def next_server(self) -> None:
        pass

    async def close(self) -> None:
        pass


def content_of(data: bytes) -> t.Content:
    """A content with its body as a snapshot."""
    return t.Content(hash=hashlib.sha256(data).digest(), size=len(data), snapshot=compress(data))


def read_response(version: tuple[int, int], data: bytes, as_of: t.Position, **more: Any) -> pb.ReadResponse:
    """A cacheable answer to a read."""
    return pb.ReadResponse(
        version=t.Version(incarnation=version[0], n=version[1]), content=content_of(data), cacheable=True,
        level=t.CONSISTENCY_LAZY, as_of=as_of, **more,
    )  # fmt: skip


async def connect(directory: ScriptedDirectory, **settings: Any) -> tuple[homenode.Homenode, TurnedClock]:
    """A connection to it, and its clock."""
    clock = TurnedClock()
    hn = await homenode.connect(
        "homenode://scripted/main", transport=directory, clock=clock, seed=1, **{"timeout_ms": 5_000, **settings}
    )
    return hn, clock
