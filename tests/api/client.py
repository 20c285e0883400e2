"""A plain client of the wire contract: stubs and messages, no SDK."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from homenode_api.patch import compress
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t

WAIT_S = 20.0


def content(data: bytes) -> t.Content:
    """A body in a frame."""
    return t.Content(hash=hashlib.sha256(data).digest(), size=len(data), snapshot=compress(data))


def error_of(failure: grpc.aio.AioRpcError) -> t.Error:
    """Our Error in a status' details; checks that ErrorInfo names the same reason."""
    for name, value in failure.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            info, error = error_details_pb2.ErrorInfo(), t.Error()
            assert status.details[0].Unpack(info) and status.details[1].Unpack(error)
            assert info.domain == "homenode"
            assert f"ERROR_REASON_{info.reason}" == t.ErrorReason.Name(error.reason)
            assert status.code == failure.code().value[0]
            return error
    raise AssertionError(f"no details in {failure!r}")


async def refused(call: Any) -> t.Error:
    """The Error that a unary call ends with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as failure:
        return error_of(failure)
    raise AssertionError(f"not refused: {answer}")


class StreamClient:
    """One Session stream; takes frames apart, so that tests can wait for one answer or event."""

    def __init__(self, stub: rpc.DirectoryServiceStub) -> None:
        self.call = stub.Session()
        self.items: list[pb.Item] = []
        self.frames: list[int] = []
        self.number = 0

    async def send(self, *operations: pb.Operation) -> None:
        """One frame."""
        self.number += 1
        await self.call.write(pb.SessionRequest(operations=operations, number=self.number))

    async def read(self) -> bool:
        """Take one frame; False at the end, whose status `call` has."""
        try:
            frame = await asyncio.wait_for(self.call.read(), WAIT_S)
        except grpc.aio.AioRpcError:
            return False
        if frame is grpc.aio.EOF:
            return False
        self.frames.append(len(frame.items))
        assert frame.number == len(self.frames)
        self.items.extend(frame.items)
        return True

    async def until(self, wanted: Callable[[pb.Item], bool]) -> pb.Item:
        """The first item, from the beginning, that is wanted; reads as far as needed."""
        seen = 0
        while True:
            for item in self.items[seen:]:
                if wanted(item):
                    return item
            seen = len(self.items)
            assert await self.read(), f"the stream ended: {await self.call.code()} {await self.call.details()}"

    async def answer(self, request_id: int, session: int = 1) -> pb.Answer:
        """The answer to a request."""
        item = await self.until(
            lambda i: i.session == session and i.WhichOneof("what") == "answer" and i.answer.request_id == request_id
        )
        return item.answer

    async def event(self, kind: str, session: int = 1) -> Any:
        """The first event of a kind."""
        return getattr(await self.until(lambda i: i.session == session and i.WhichOneof("what") == kind), kind)

    async def attach(self, session_id: str, number: int = 1, request_id: int = 1, **more: Any) -> pb.AttachResponse:
        """Bring a session onto this stream."""
        await self.send(
            pb.Operation(session=number, request_id=request_id, attach=pb.Attach(session_id=session_id, **more))
        )
        answer = await self.answer(request_id, number)
        assert answer.WhichOneof("what") == "attach", answer
        return answer.attach
