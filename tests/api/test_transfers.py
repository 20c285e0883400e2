"""Large contents over gRPC without the SDK: what is wrong is refused, and nobody holds memory by waiting."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from homenode_api.chunks import CHUNK_BYTES
from homenode_api.patch import compress, make_patch
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import transfers
from tests.api.client import refused
from tests.api.conftest import Served, serve
from tests.support.ports import wait_until_async

INVALID, TOO_LARGE = t.ERROR_REASON_INVALID_ARGUMENT, t.ERROR_REASON_TOO_LARGE
MISSING = t.ERROR_REASON_CONTENT_MISSING

DATA = random.Random(1).randbytes(5 * CHUNK_BYTES + 5)
PIECES = [DATA[at : at + CHUNK_BYTES] for at in range(0, len(DATA), CHUNK_BYTES)]
CHUNKS = [pb.Chunk(hash=hashlib.sha256(piece).digest(), size=len(piece)) for piece in PIECES]
HASH = hashlib.sha256(DATA).digest()


def header(session: str, **fields: Any) -> pb.WriteContentRequest:
    """The first message of an upload."""
    content = {"hash": HASH, "size": len(DATA), "encoding": pb.CONTENT_ENCODING_CHUNKS, "chunks": CHUNKS} | fields
    return pb.WriteContentRequest(header=pb.WriteContentHeader(session_id=session, content=pb.ContentHeader(**content)))


def chunk(place: int, data: bytes | None = None, **form: bytes) -> pb.WriteContentRequest:
    """A chunk of it."""
    return pb.WriteContentRequest(chunk=pb.ChunkBody(index=place, **(form or {"raw": data or PIECES[place]})))


ALL = [chunk(place) for place in range(len(PIECES))]


async def upload(served: Served, *messages: Any, **fields: Any) -> Any:
    """The call of an upload; awaited it gives the answer."""
    session = await served.open()
    return served.stub.WriteContent(iter([header(session, **fields), *messages]), timeout=20)


async def missing(served: Served, session: str) -> list[int]:
    """Places of chunks that the server lacks."""
    request = pb.MissingChunksRequest(session_id=session, hashes=[one.hash for one in CHUNKS])
    return list((await served.stub.MissingChunks(request)).missing)


async def commit(served: Served, session: str, request_id: int = 1) -> pb.CommitResponse:
    """Make it the artifact "big"."""
    content = t.Content(hash=HASH, size=len(DATA))
    return await served.stub.Commit(
        pb.CommitRequest(session_id=session, request_id=request_id, key="big", absent=True, content=content)
    )


def reading(served: Served, session: str, version: t.Version, **more: Any) -> Any:
    """The call that reads it."""
    request = pb.ReadContentRequest(session_id=session, key="big", version=version, **more)
    return served.stub.ReadContent(request, timeout=20)


async def test_an_upload_its_commit_and_reads(served: Served) -> None:
    session = await served.open()
    assert await missing(served, session) == list(range(6))
    assert (await (await upload(served, *ALL))).hash == HASH
    assert await missing(served, session) == []
    done = await commit(served, session)
    answer = await served.stub.Read(pb.ReadRequest(session_id=session, key="big", share=True))
    assert answer.content == t.Content(hash=HASH, size=len(DATA)) and answer.cacheable
    messages = [message async for message in reading(served, session, done.version)]
    assert messages[0].header == header(session).header.content
    assert [m.chunk.index for m in messages[1:]] == list(range(6))
    assert b"".join(m.chunk.raw for m in messages[1:]) == DATA
    some = reading(served, session, done.version, have_chunks=[CHUNKS[1].hash, CHUNKS[5].hash], first_chunk=1)
    assert [m.chunk.index async for m in some][1:] == [2, 3, 4]
    assert len([m async for m in reading(served, session, done.version, header_only=True)]) == 1
    assert len([m async for m in reading(served, session, done.version, first_chunk=99)]) == 1


async def test_chunks_may_be_compressed_left_out_and_doubled(served: Served) -> None:
    text = b"a line of text\n" * 69_000
    pieces = [text, PIECES[0], text, text, PIECES[1]]
    data = b"".join(pieces)
    chunks = [pb.Chunk(hash=hashlib.sha256(piece).digest(), size=len(piece)) for piece in pieces]
    fields = {"hash": hashlib.sha256(data).digest(), "size": len(data), "chunks": chunks}
    messages = [chunk(0, zstd=compress(text)), chunk(1, PIECES[0]), chunk(4, PIECES[1])]
    assert (await (await upload(served, *messages, **fields))).hash == fields["hash"]
    again = await upload(served, **fields)
    assert (await again).hash == fields["hash"]


async def test_chunks_may_be_patches(served: Served) -> None:
    session = await served.open()
    assert (await served.stub.MissingChunks(pb.MissingChunksRequest(session_id=session))).patches
    await (await upload(served, *ALL))
    first = await commit(served, session)
    piece = PIECES[2][:500] + b"!" + PIECES[2][501:]
    data = b"".join([*PIECES[:2], piece, *PIECES[3:]])
    chunks = [*CHUNKS[:2], pb.Chunk(hash=hashlib.sha256(piece).digest(), size=len(piece)), *CHUNKS[3:]]
    hash_ = hashlib.sha256(data).digest()
    patch = chunk(2, patch=make_patch(PIECES[2], piece), base=CHUNKS[2].hash)
    fields = {"hash": hash_, "size": len(data), "chunks": chunks}
    assert (await (await upload(served, patch, **fields))).hash == hash_
    content = t.Content(hash=hash_, size=len(data))
    request = pb.CommitRequest(session_id=session, request_id=2, key="big", version=first.version, content=content)
    version = (await served.stub.Commit(request)).version
    names = [one.hash for one in CHUNKS]
    whole = [m.chunk for m in [m async for m in reading(served, session, version)][1:]]
    assert b"".join(one.raw for one in whole) == data
    sent = [m.chunk async for m in reading(served, session, version, have=[HASH], have_chunks=names)][1:]
    assert [(one.index, one.base, len(one.patch) < 20) for one in sent] == [(2, CHUNKS[2].hash, True)]
    for more in ({}, {"have": [hash_]}, {"have": [b"?" * 32]}):
        sent = [m.chunk async for m in reading(served, session, version, have_chunks=names, **more)][1:]
        assert [(one.index, one.raw) for one in sent] == [(2, piece)], more
    others = [one.hash for one in CHUNKS if one is not CHUNKS[2]]
    sent = [m.chunk async for m in reading(served, session, version, have=[HASH], have_chunks=others)][1:]
    assert [(one.index, one.raw) for one in sent] == [(2, piece)], "only from what the reader says it has"


SHORT = pb.Chunk(hash=CHUNKS[0].hash, size=5)


@pytest.mark.parametrize(
    ("fields", "messages", "reason"),
    [
        ({"size": 257 << 20}, ALL, TOO_LARGE),
        ({"size": len(DATA) + 1}, ALL, INVALID),
        ({"chunks": CHUNKS[:-1]}, ALL, INVALID),
        ({"chunks": []}, ALL, INVALID),
        ({"chunks": [SHORT, *CHUNKS[1:]]}, ALL, INVALID),
        ({"chunks": [pb.Chunk(hash=b"x", size=CHUNK_BYTES), *CHUNKS[1:]]}, ALL, INVALID),
        ({"chunks": [pb.Chunk(hash=HASH, size=len(DATA))]}, ALL, INVALID),
        ({"size": 1, "chunks": [pb.Chunk(hash=HASH, size=1)]}, [], INVALID),
        ({"encoded_size": 5}, ALL, INVALID),
        ({"base_hash": HASH}, ALL, INVALID),
        ({"encoding": pb.CONTENT_ENCODING_SNAPSHOT, "encoded_size": 5}, [], TOO_LARGE),
        ({"hash": b"?"}, ALL, INVALID),
        ({"hash": hashlib.sha256(b"another").digest()}, ALL, INVALID),
        ({}, [*ALL[:5], chunk(5, b"wrong")], INVALID),
        ({}, [ALL[0], chunk(1, PIECES[2])], INVALID),
        ({}, [chunk(0, zstd=compress(bytes(64 << 20)))], INVALID),
        ({}, [chunk(0, zstd=b"junk")], INVALID),
        ({}, [chunk(0, bytes(2 << 20))], INVALID),
        ({}, [chunk(6, b"x")], INVALID),
        ({}, [ALL[0], ALL[0]], INVALID),
        ({}, [pb.WriteContentRequest(data=b"x")], INVALID),
        ({}, [pb.WriteContentRequest(chunk=pb.ChunkBody(index=0))], INVALID),
        ({}, [pb.WriteContentRequest()], INVALID),
        ({}, ALL[:5], MISSING),
        ({}, [ALL[1], ALL[0]], MISSING),
        ({}, [ALL[0], chunk(1, patch=b"junk", base=CHUNKS[0].hash)], MISSING),
        ({}, [ALL[0], chunk(1, patch=make_patch(PIECES[0], PIECES[2]), base=CHUNKS[0].hash)], MISSING),
        ({}, [ALL[0], chunk(1, patch=make_patch(PIECES[0], PIECES[0][:5]), base=CHUNKS[0].hash)], MISSING),
        ({}, [ALL[0], chunk(1, patch=make_patch(b"", PIECES[1][:9]), base=HASH)], MISSING),
        ({}, [ALL[0], chunk(1, patch=b"x", base=b"no hash")], INVALID),
        ({}, [ALL[0], chunk(1, patch=b"x")], INVALID),
        ({}, [ALL[0], chunk(1, raw=PIECES[1], base=CHUNKS[0].hash)], INVALID),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_refused_and_no_content_kept(
    served: Served, fields: dict[str, Any], messages: list[Any], reason: int
) -> None:
    error = await refused(await upload(served, *messages, **fields))
    assert error.reason == reason, error
    session = await served.open()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await commit(served, session)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert served.server.endpoint.parts.transfers.budget.used_bytes == 0


async def test_questions_about_chunks_are_checked(served: Served) -> None:
    session = await served.open()
    for hashes, name in (([b"x"], session), ([HASH] * 1_025, session), ([HASH], "main~nobody"), ([HASH], "")):
        error = await refused(served.stub.MissingChunks(pb.MissingChunksRequest(session_id=name, hashes=hashes)))
        assert error.reason in (INVALID, t.ERROR_REASON_SESSION_LOST)
    assert (await served.stub.MissingChunks(pb.MissingChunksRequest(session_id=session))).missing == []
    await (await upload(served, *ALL))
    version = (await commit(served, session)).version
    for more in ({"have_chunks": [b"x"]}, {"have_chunks": [HASH] * 1_025}):
        assert (await refused(reading(served, session, version, **more).read())).reason == INVALID


async def test_a_list_as_a_base_of_a_patch_is_not_loaded(served: Served) -> None:
    await (await upload(served, *ALL))
    session = await served.open()
    content = t.Content(hash=HASH, size=5)
    content.patches.base_hash = HASH
    content.patches.patches.append(b"\x01\x00\x00\x05abcde")
    request = pb.CommitRequest(session_id=session, request_id=1, key="k", absent=True, content=content)
    assert (await refused(served.stub.Commit(request))).reason == MISSING


async def test_a_reader_that_stalls_gives_its_budget_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "STALL_S", 0.3)
    budget = served.server.endpoint.parts.transfers.budget
    session = await served.open()
    await (await upload(served, *ALL))
    version = (await commit(served, session)).version
    # A reader that takes in nothing that it was not asked for.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.api.port}", options) as channel:
        request = pb.ReadContentRequest(session_id=session, key="big", version=version)
        stalled = [rpc.DirectoryServiceStub(channel).ReadContent(request) for _ in range(3)]
        for call in stalled:
            assert (await call.read()).HasField("header")
        assert budget.used_bytes > 0
        await wait_until_async(lambda: budget.used_bytes == 0, what="they give it back")
        for call in stalled:
            with pytest.raises(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    pass
    good = [message async for message in reading(served, session, version)]
    assert len(good) == 1 + len(PIECES)


async def test_a_writer_that_stalls_gives_its_budget_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "STALL_S", 0.3)
    budget = served.server.endpoint.parts.transfers.budget
    call = served.stub.WriteContent()
    await call.write(header(await served.open()))
    await call.write(ALL[0])
    assert (await refused(call)).reason == t.ERROR_REASON_DEADLINE_EXCEEDED
    assert budget.used_bytes == 0
    assert 0 not in await missing(served, await served.open()), "what came is kept for the next try"


async def test_a_reader_that_goes_away_gives_its_budget_back(served: Served) -> None:
    budget = served.server.endpoint.parts.transfers.budget
    session = await served.open()
    await (await upload(served, *ALL))
    call = reading(served, session, (await commit(served, session)).version)
    assert (await call.read()).HasField("header")
    call.cancel()
    await wait_until_async(lambda: budget.used_bytes == 0, what="it gives it back")


async def test_transfers_wait_for_room_and_are_refused_when_it_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "TURN_WAIT_S", 0.3)
    async with serve(work_bytes=8 << 20) as served:

        async def endless(session: str) -> AsyncIterator[pb.WriteContentRequest]:
            yield header(session)
            await asyncio.sleep(60)

        calls = [served.stub.WriteContent(endless(await served.open())) for _ in range(2)]
        budget = served.server.endpoint.parts.transfers.budget
        await wait_until_async(lambda: budget.used_bytes == 8 << 20, what="two uploads take all")
        error = await refused(await upload(served, *ALL))
        assert error.reason == t.ERROR_REASON_OVERLOADED and error.retry_after_ms > 0
        for call in calls:
            call.cancel()
        await wait_until_async(lambda: budget.used_bytes == 0, what="there is room again")
        assert (await (await upload(served, *ALL))).hash == HASH
