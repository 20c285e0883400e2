"""Every operation, as a unary call and on the stream."""

from __future__ import annotations

import hashlib
import os

import pytest

from homenode_api.patch import compress, decompress, make_patch
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.api.client import content, refused
from tests.api.conftest import Served


async def test_unary_calls_cover_an_artifacts_life(served: Served) -> None:
    stub, session = served.stub, await served.open(name="writer")
    created = await stub.Commit(
        pb.CommitRequest(session_id=session, request_id=1, key="plan.md", absent=True, content=content(b"one"))
    )
    assert created.version.n == 1 and created.level == t.CONSISTENCY_LAZY and not created.HasField("token")

    read = await stub.Read(pb.ReadRequest(session_id=session, key="plan.md", share=True))
    assert decompress(read.content.snapshot, size=3, max_size=3) == b"one"
    assert read.cacheable and read.level == t.CONSISTENCY_LAZY and read.version == created.version

    held = await stub.Read(pb.ReadRequest(session_id=session, key="plan.md", have=[read.content.hash]))
    assert held.content.held and not held.cacheable

    lease = await stub.Acquire(pb.AcquireRequest(session_id=session, request_id=2, key="plan.md", lease_id="L1"))
    assert lease.token.fence > 0 and lease.ttl_ms == 10_000 and lease.version == created.version
    renewed = await stub.Renew(pb.RenewRequest(session_id=session, key="plan.md", lease_id="L1", ttl_ms=20_000))
    assert renewed.ttl_ms == 20_000

    second = await stub.Commit(
        pb.CommitRequest(
            session_id=session,
            request_id=3,
            key="plan.md",
            version=created.version,
            content=t.Content(
                hash=hashlib.sha256(b"one two").digest(),
                size=7,
                patches=t.PatchChain(
                    base_hash=hashlib.sha256(b"one").digest(), patches=[make_patch(b"one", b"one two")]
                ),
            ),
            metadata=t.Metadata(values={"a": "ä"}, tags=["x"], media_type="text/markdown"),
            token=lease.token,
            keep=True,
        )
    )
    assert second.version.n == 2 and second.token.fence > lease.token.fence

    stat = await stub.Stat(pb.StatRequest(session_id=session, key="plan.md"))
    assert stat.state == t.STATE_MODIFIED and stat.holder == session and stat.size == 7
    assert 0 < stat.holder_remaining_ms <= 20_000 and stat.metadata.values["a"] == "ä"

    await stub.Release(pb.ReleaseRequest(session_id=session, request_id=4, key="plan.md", lease_id="L1"))
    await stub.Release(pb.ReleaseRequest(session_id=session, request_id=41, key="plan.md"))
    await stub.SetPolicy(
        pb.SetPolicyRequest(session_id=session, request_id=5, key="plan.md", policy=t.Policy(max_age_ms=500))
    )
    stat = await stub.Stat(pb.StatRequest(session_id=session, key="plan.md"))
    assert stat.state == t.STATE_INVALID and stat.policy.max_age_ms == 500 and not stat.policy.HasField("max_reads")

    history = await stub.History(pb.HistoryRequest(session_id=session, key="plan.md"))
    assert [entry.version.n for entry in history.versions] == [2, 1]
    old = await stub.Read(pb.ReadRequest(session_id=session, key="plan.md", version=created.version))
    assert old.content.size == 3 and not old.cacheable

    listed = await stub.List(pb.ListRequest(session_id=session, prefix="plan"))
    assert [one.key for one in listed.artifacts] == ["plan.md"] and not listed.more

    deleted = await stub.Commit(
        pb.CommitRequest(session_id=session, request_id=6, key="plan.md", version=second.version)
    )
    assert deleted.version.n == 3
    gone = await refused(stub.Read(pb.ReadRequest(session_id=session, key="plan.md")))
    assert gone.reason == t.ERROR_REASON_NOT_FOUND and gone.current == deleted.version

    kept = await stub.KeepAlive(pb.KeepAliveRequest(session_id=session, settled_below=6))
    assert kept.ttl_ms == 30_000 and kept.position.sequence > 0
    await stub.CloseSession(pb.CloseSessionRequest(session_id=session))
    over = await refused(stub.KeepAlive(pb.KeepAliveRequest(session_id=session)))
    assert over.reason == t.ERROR_REASON_SESSION_LOST


async def test_stream_carries_every_operation(served: Served) -> None:
    session = await served.open()
    stream = served.stream()
    await stream.attach(session)
    await stream.send(
        pb.Operation(session=1, request_id=2, commit=pb.CommitRequest(key="a/1", absent=True, content=content(b"x"))),
        pb.Operation(session=1, request_id=3, watch=pb.WatchRequest(prefix="a/")),
    )
    answer = await stream.answer(2)
    assert answer.commit.version.n == 1, answer
    first = answer.commit
    assert (await stream.answer(3)).WhichOneof("what") == "watch"
    await stream.send(
        pb.Operation(session=1, request_id=4, read=pb.ReadRequest(key="a/1", share=True)),
        pb.Operation(session=1, request_id=5, acquire=pb.AcquireRequest(key="a/1", lease_id="L")),
        pb.Operation(session=1, request_id=6, stat=pb.StatRequest(key="a/1")),
        pb.Operation(session=1, request_id=7, list=pb.ListRequest(prefix="a")),
        pb.Operation(session=1, request_id=8, history=pb.HistoryRequest(key="a/1")),
        pb.Operation(session=1, request_id=9, renew=pb.RenewRequest(key="a/1", lease_id="L")),
        pb.Operation(session=1, request_id=10, release=pb.ReleaseRequest(key="a/1", lease_id="L")),
        pb.Operation(session=1, request_id=11, set_policy=pb.SetPolicyRequest(key="a/1", policy=t.Policy())),
    )
    kinds = {4: "read", 5: "acquire", 6: "stat", 7: "list", 8: "history", 9: "renew", 10: "release", 11: "set_policy"}
    for request_id, kind in kinds.items():
        answer = await stream.answer(request_id)
        assert answer.WhichOneof("what") == kind, answer
    # Operations of one frame go on side by side, so what needs their outcome comes in a later one.
    await stream.send(
        pb.Operation(
            session=1, request_id=12, commit=pb.CommitRequest(key="a/1", version=first.version, content=content(b"y"))
        )
    )
    assert (await stream.answer(12)).commit.version.n == 2
    change = (await stream.until(lambda i: i.WhichOneof("what") == "change" and i.change.version.n == 2)).change
    assert (change.watch_id, change.key, change.size, change.by) == (3, "a/1", 1, session)
    await stream.send(pb.Operation(session=1, ping=pb.Ping(sent_at=78)))
    bookmark = (await stream.until(lambda i: i.bookmark.echo == 78)).bookmark
    assert bookmark.position.sequence >= change.sequence
    await stream.send(
        pb.Operation(session=1, unwatch=pb.UnwatchRequest(watch_id=3)), pb.Operation(session=1, detach=pb.Detach())
    )
    await stream.call.done_writing()
    while await stream.read():
        pass
    assert (await stream.call.code()).name == "OK"


async def test_a_commit_invalidates_the_copies_of_others(served: Served) -> None:
    reader, writer = await served.open(), await served.open()
    stream = served.stream()
    await stream.attach(reader)
    await served.stub.Commit(
        pb.CommitRequest(session_id=writer, request_id=1, key="k", absent=True, content=content(b"1"))
    )
    await stream.send(pb.Operation(session=1, request_id=2, read=pb.ReadRequest(key="k", share=True)))
    assert (await stream.answer(2)).read.cacheable
    done = await served.stub.Commit(
        pb.CommitRequest(session_id=writer, request_id=2, key="k", any=True, content=content(b"2"))
    )
    told = await stream.event("invalidation")
    assert (told.key, told.version, told.by, told.deleted) == ("k", done.version, writer, False)
    acked = pb.AckedKey(key="k", version=told.version, fence=told.fence)
    await stream.send(pb.Operation(session=1, ack=pb.Ack(keys=[acked])))


async def test_large_bodies_travel_on_content_streams(served: Served) -> None:
    session, data = await served.open(), os.urandom(700_000)
    name = hashlib.sha256(data).digest()

    async def write(encoded: bytes, header: pb.ContentHeader) -> pb.WriteContentResponse:
        head = pb.WriteContentHeader(session_id=session, content=header)
        messages = [pb.WriteContentRequest(header=head)]
        step = 256 * 1024
        messages += [pb.WriteContentRequest(data=encoded[i : i + step]) for i in range(0, len(encoded), step)]
        return await served.stub.WriteContent(iter(messages))

    frame = compress(data)
    snapshot = pb.ContentHeader(
        hash=name, size=len(data), encoding=pb.CONTENT_ENCODING_SNAPSHOT, encoded_size=len(frame)
    )
    assert (await write(frame, snapshot)).hash == name
    done = await served.stub.Commit(
        pb.CommitRequest(
            session_id=session, request_id=1, key="big", absent=True, content=t.Content(hash=name, size=len(data))
        )
    )
    read = await served.stub.Read(pb.ReadRequest(session_id=session, key="big"))
    assert read.content.WhichOneof("body") is None
    parts = [
        part
        async for part in served.stub.ReadContent(
            pb.ReadContentRequest(session_id=session, key="big", version=done.version)
        )
    ]
    body = b"".join(part.data for part in parts[1:])
    assert parts[0].header.encoded_size == len(body) and max(len(part.data) for part in parts[1:]) <= 256 * 1024
    assert decompress(body, size=len(data), max_size=len(data)) == data

    # A reader who holds the first version gets a patch of the second, which fits into a frame.
    changed = data[:1000] + b"!" + data[1000:]
    patch = make_patch(data, changed)
    await served.stub.Commit(
        pb.CommitRequest(
            session_id=session,
            request_id=2,
            key="big",
            version=done.version,
            content=t.Content(
                hash=hashlib.sha256(changed).digest(),
                size=len(changed),
                patches=t.PatchChain(base_hash=name, patches=[patch]),
            ),
        )
    )
    read = await served.stub.Read(pb.ReadRequest(session_id=session, key="big", have=[name]))
    assert read.content.patches.base_hash == name and sum(map(len, read.content.patches.patches)) < 200


async def test_a_queued_acquire_is_answered_when_the_lease_is_free(served: Served) -> None:
    one, two = await served.open(), await served.open()
    stream = served.stream()
    await stream.attach(two)
    held = await served.stub.Acquire(
        pb.AcquireRequest(session_id=one, request_id=1, key="w", lease_id="A", create=True)
    )
    await stream.send(
        pb.Operation(session=1, request_id=2, acquire=pb.AcquireRequest(key="w", lease_id="B", create=True)),
        pb.Operation(
            session=1, request_id=3, acquire=pb.AcquireRequest(key="w", lease_id="C", create=True, wait_ms=60_000)
        ),
    )
    denial = (await stream.answer(2)).error
    assert denial.reason == t.ERROR_REASON_HELD and denial.holder == one and denial.retry_after_ms > 0
    await served.stub.Release(pb.ReleaseRequest(session_id=one, request_id=2, key="w", lease_id="A"))
    granted = (await stream.answer(3)).acquire
    assert granted.token.fence > held.token.fence


async def test_watch_as_a_server_stream(served: Served) -> None:
    session, writer = await served.open(), await served.open()
    call = served.stub.Watch(pb.WatchRequest(session_id=session, prefix="n/"))
    assert (await call.read()).WhichOneof("what") == "started"
    for number, key in enumerate(("n/1", "other", "n/2"), 1):
        await served.stub.Commit(
            pb.CommitRequest(session_id=writer, request_id=number, key=key, absent=True, content=content(b"z"))
        )
    assert [(await call.read()).change.key for _ in range(2)] == ["n/1", "n/2"]
    second = served.stub.Watch(pb.WatchRequest(session_id=session))
    assert (await refused(second.read())).reason == t.ERROR_REASON_UNSUPPORTED
    call.cancel()


async def test_idempotent_requests(served: Served) -> None:
    session = await served.open()
    request = pb.CommitRequest(session_id=session, request_id=1, key="i", absent=True, content=content(b"one"))
    first = await served.stub.Commit(request)
    again = await served.stub.Commit(request)
    assert again.version == first.version
    bare = pb.CommitRequest(session_id=session, request_id=1, key="i", absent=True, content=content(b"one"))
    bare.content.ClearField("snapshot")
    assert (await served.stub.Commit(bare)).version == first.version, "the encoding of a body is no part of a request"
    other = pb.CommitRequest(session_id=session, request_id=1, key="i", absent=True, content=content(b"two"))
    assert (await refused(served.stub.Commit(other))).reason == t.ERROR_REASON_INVALID_ARGUMENT
    denied = pb.CommitRequest(session_id=session, request_id=2, key="i", absent=True, content=content(b"two"))
    for _ in range(2):
        error = await refused(served.stub.Commit(denied))
        assert error.reason == t.ERROR_REASON_ALREADY_EXISTS and error.current == first.version


async def test_resolve_tells_what_became_of_requests(served: Served) -> None:
    session = await served.open()
    done = await served.stub.Commit(
        pb.CommitRequest(session_id=session, request_id=1, key="r", absent=True, content=content(b"one"))
    )
    resolved = await served.stub.Resolve(pb.ResolveRequest(session_id=session, request_ids=[1, 2]))
    assert [outcome.WhichOneof("what") for outcome in resolved.outcomes] == ["answer", "never"]
    assert resolved.outcomes[0].answer.commit.version == done.version
    late = pb.CommitRequest(session_id=session, request_id=2, key="r", any=True, content=content(b"two"))
    assert (await refused(served.stub.Commit(late))).reason == t.ERROR_REASON_SESSION_LOST


@pytest.mark.parametrize("count", [150])
async def test_lists_come_in_pages(served: Served, count: int) -> None:
    session = await served.open()
    for number in range(count):
        await served.stub.Commit(
            pb.CommitRequest(
                session_id=session, request_id=number + 1, key=f"p/{number:04}", absent=True, content=content(b"c")
            )
        )
    seen: list[str] = []
    while True:
        page = await served.stub.List(
            pb.ListRequest(session_id=session, prefix="p/", after=seen[-1] if seen else "", limit=40)
        )
        seen += [one.key for one in page.artifacts]
        if not page.more:
            break
    assert seen == [f"p/{number:04}" for number in range(count)]
