"""Time limits: nobody holds a server's resources by doing nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import grpc
import pytest

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import servicer, transfers
from homenode_directory.api.parts import Parts
from tests.api.client import content, refused
from tests.api.conftest import Served, serve


def _limit(served: Served, **limits: float) -> Parts:
    parts = served.server.endpoint.parts
    served.server.endpoint.parts = replace(parts, limits=replace(parts.limits, **limits))
    return served.server.endpoint.parts


async def test_a_stream_without_a_session_is_closed(served: Served) -> None:
    _limit(served, idle_s=0.2)
    idle, used = served.stream(), served.stream()
    await used.attach(await served.open())
    while await idle.read():
        pass
    assert await idle.call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await used.send(pb.Operation(session=1, ping=pb.Ping(sent_at=5)))
    assert (await used.event("bookmark")).echo == 5


async def test_a_writer_that_stops_sending_is_cut(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "STALL_S", 0.2)
    header = pb.ContentHeader(
        hash=hashlib.sha256(b"").digest(), size=4, encoding=pb.CONTENT_ENCODING_SNAPSHOT, encoded_size=13
    )
    call = served.stub.WriteContent()
    await call.write(
        pb.WriteContentRequest(header=pb.WriteContentHeader(session_id=await served.open(), content=header))
    )
    assert (await refused(call)).reason == t.ERROR_REASON_DEADLINE_EXCEEDED


async def test_a_call_without_a_deadline_has_the_servers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "CALL_LIMIT_S", 0.2)
    one, two = await served.open(), await served.open()
    first = pb.AcquireRequest(session_id=one, request_id=1, key="k", lease_id="A", create=True)
    await served.stub.Acquire(first)
    second = pb.AcquireRequest(session_id=two, request_id=1, key="k", lease_id="B", create=True, wait_ms=300)
    error = await refused(served.stub.Acquire(second))
    assert error.reason in (t.ERROR_REASON_WAIT_TIMEOUT, t.ERROR_REASON_DEADLINE_EXCEEDED)


async def test_streams_are_counted() -> None:
    async with serve(streams_max=2) as served:
        streams = [served.stream() for _ in range(2)]
        for stream in streams:
            await stream.attach(await served.open())
        third = served.stream()
        assert not await third.read()
        assert await third.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        streams[0].call.cancel()
        for _ in range(100):
            again = served.stream()
            await again.send(pb.Operation(session=1, ping=pb.Ping()))
            if await again.read():
                break
        else:
            raise AssertionError("no place became free")


@pytest.mark.redis
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_the_same_over_every_store(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "redis":
        store = request.getfixturevalue("redis_url")
    else:
        store = f"sqlite:///{request.getfixturevalue('tmp_path')}/store.sqlite3"
    async with serve(store=store) as served:
        writer, reader = await served.open(), await served.open()
        stream = served.stream()
        await stream.attach(reader)
        request_ = pb.CommitRequest(session_id=writer, request_id=1, key="k", absent=True, content=content(b"1"))
        first = await served.stub.Commit(request_)
        assert (await served.stub.Commit(request_)).version == first.version
        await stream.send(pb.Operation(session=1, request_id=2, read=pb.ReadRequest(key="k", share=True)))
        assert (await stream.answer(2)).read.version == first.version
        request_ = pb.CommitRequest(session_id=writer, request_id=2, key="k", any=True, content=content(b"2"))
        second = await served.stub.Commit(request_)
        told = (await stream.until(lambda i: i.invalidation.version == second.version)).invalidation
        await stream.send(
            pb.Operation(session=1, ack=pb.Ack(keys=[pb.AckedKey(key="k", version=told.version, fence=told.fence)])),
            pb.Operation(session=1, ping=pb.Ping(sent_at=3)),
        )
        assert (await stream.event("bookmark")).position.sequence >= told.sequence
        await served.stub.CloseSession(pb.CloseSessionRequest(session_id=reader))
        await stream.send(pb.Operation(session=1, ping=pb.Ping(sent_at=4)))
        assert (await stream.event("session_ended")).error.reason == t.ERROR_REASON_SESSION_LOST
