"""The service in this process: the same streams and calls, without gRPC."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from homenode_api.patch import compress, decompress
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api.errors import Rejected
from homenode_directory.api.local import LocalEndpoint
from homenode_directory.server import Server, build
from tests.api.client import content
from tests.api.conftest import SETTINGS
from tests.support.interpreted import INTERPRETED


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = build(SETTINGS, threads=0)
    await one.start()
    yield one
    await one.close()


async def _open(local: LocalEndpoint) -> str:
    return (await local.call("OpenSession", pb.OpenSessionRequest(workspace="main"), 20)).session_id


def _commit(session: str, request_id: int, key: str, data: bytes) -> pb.CommitRequest:
    return pb.CommitRequest(session_id=session, request_id=request_id, key=key, any=True, content=content(data))


async def test_a_stream(server: Server) -> None:
    local = LocalEndpoint(server.endpoint)
    session, stream = await _open(local), local.session()
    frame = pb.SessionRequest(
        operations=[
            pb.Operation(session=1, request_id=1, attach=pb.Attach(session_id=session)),
            pb.Operation(session=1, request_id=2, commit=_commit("", 0, "k", b"x")),
        ]
    )
    await stream.write(frame)
    frame.Clear()  # the frame is the sender's own
    items: list[pb.Item] = []
    while not any(item.answer.HasField("commit") for item in items):
        answer = await stream.read()
        assert answer is not None
        items.extend(answer.items)
    assert items[0].answer.WhichOneof("what") == "attach"
    stream.finish()
    assert await stream.read() is None
    assert len(server.endpoint.parts.hub) == 0


async def test_a_frame_that_breaks_the_rules_ends_its_stream(server: Server) -> None:
    stream = LocalEndpoint(server.endpoint).session()
    await stream.write(pb.SessionRequest(operations=[pb.Operation()] * 600))
    with pytest.raises(Rejected) as caught:
        await stream.read()
    assert caught.value.error.reason == t.ERROR_REASON_INVALID_ARGUMENT


async def test_cancelled_streams_end(server: Server) -> None:
    stream = LocalEndpoint(server.endpoint).session()
    stream.cancel()
    assert await stream.read() is None
    await stream.write(pb.SessionRequest())


async def test_calls_and_contents(server: Server) -> None:
    local = LocalEndpoint(server.endpoint)
    session, data = await _open(local), os.urandom(300_000)
    name, frame = hashlib.sha256(data).digest(), compress(data)
    header = pb.ContentHeader(hash=name, size=len(data), encoding=pb.CONTENT_ENCODING_SNAPSHOT, encoded_size=len(frame))

    async def messages() -> AsyncIterator[pb.WriteContentRequest]:
        yield pb.WriteContentRequest(header=pb.WriteContentHeader(session_id=session, content=header))
        yield pb.WriteContentRequest(data=frame)

    assert (await local.write_content(messages(), 20)).hash == name
    request = _commit(session, 1, "big", b"")
    request.content.CopyFrom(t.Content(hash=name, size=len(data)))
    done = await local.call("Commit", request, 20)
    read = pb.ReadContentRequest(session_id=session, key="big", version=done.version)
    parts = [part async for part in local.read_content(read, 20)]
    assert decompress(b"".join(part.data for part in parts[1:]), size=len(data), max_size=len(data)) == data
    with pytest.raises(Rejected) as caught:
        await local.call("Read", pb.ReadRequest(session_id=session, key="none"), 20)
    assert caught.value.error.reason == t.ERROR_REASON_NOT_FOUND
    with pytest.raises(Rejected) as caught:
        await local.call("Acquire", pb.AcquireRequest(session_id=session, key="none"), 20)
    assert caught.value.error.reason == t.ERROR_REASON_INVALID_ARGUMENT


@INTERPRETED
async def test_the_unexpected_is_told_by_number_only(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    local = LocalEndpoint(server.endpoint)
    session = await _open(local)

    async def broken(*_: object) -> None:
        raise RuntimeError("a secret of the inside")

    server.directory.history = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(Rejected) as caught:
        await local.call("History", pb.HistoryRequest(session_id=session, key="k"), 20)
    error = caught.value.error
    assert error.reason == t.ERROR_REASON_INTERNAL and "secret" not in error.message
    (record,) = (record for record in caplog.records if record.name == "homenode.api")
    assert error.message.endswith(record.incident)  # type: ignore[attr-defined]


async def test_answers_survive_a_restart_on_sqlite(tmp_path: Path) -> None:
    settings = replace(SETTINGS, store=f"sqlite:///{tmp_path}/store.sqlite3")
    first = build(settings)
    await first.start()
    local = LocalEndpoint(first.endpoint)
    session = await _open(local)
    done = await local.call("Commit", _commit(session, 1, "k", b"one"), 20)
    await first.close()

    second = build(settings)
    await second.start()
    try:
        local = LocalEndpoint(second.endpoint)
        again = await local.call("Commit", _commit(session, 1, "k", b"one"), 20)
        assert again.version == done.version, "the same request gives the same answer"
        with pytest.raises(Rejected) as caught:
            await local.call("Commit", _commit(session, 2, "k", b"two"), 20)
        assert caught.value.error.reason == t.ERROR_REASON_SESSION_LOST, "sessions end with the incarnation"
        fresh = await _open(local)
        read = await local.call("Read", pb.ReadRequest(session_id=fresh, key="k"), 20)
        assert read.version == done.version and read.content.size == 3
        assert read.as_of.incarnation > done.version.incarnation
    finally:
        await second.close()
