"""Streams under load: bounds, slow consumers, many clients, sessions that move."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import weakref
from collections.abc import Mapping

import grpc
import pytest

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api.carried import SessionSink
from homenode_directory.api.outbox import Outbox, QueueBounds
from homenode_directory.observer import SILENT
from homenode_directory.place import Position
from homenode_directory.protocol.model import Version
from homenode_directory.sinks import Invalidation
from homenode_directory.store.base import StoreError
from tests.api.client import StreamClient, content
from tests.api.conftest import Served, serve
from tests.support.interpreted import INTERPRETED
from tests.support.ports import wait_until_async

NARROW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]


def _commit(key: str, data: bytes = b"x", **base: object) -> pb.CommitRequest:
    return pb.CommitRequest(key=key, content=content(data), **(base or {"any": True}))  # type: ignore[arg-type]


async def test_many_operations_of_a_frame_are_committed_together(served: Served) -> None:
    stream = served.stream()
    await stream.attach(await served.open())
    reads = [pb.Operation(session=1, request_id=n, read=pb.ReadRequest(key="none")) for n in range(2, 402)]
    await stream.send(*reads)
    await stream.answer(401)
    assert len(stream.frames) < 20, "answers travel many a frame"


async def test_readers_that_hold_the_content_get_the_answer_that_others_get(served: Served) -> None:
    session, other = await served.open(), await served.open()
    stream = served.stream()
    await stream.attach(session)
    number = 1
    for data in (b"one", b"two"):
        commit = _commit("k", data)
        commit.session_id, commit.request_id = other, number
        await served.stub.Commit(commit)
        held = [hashlib.sha256(data).digest()]
        for share in (False, True, True):
            number += 1
            read = pb.ReadRequest(key="k", have=held, share=share)
            await stream.send(pb.Operation(session=1, request_id=number, read=read))
            got = (await stream.answer(number)).read
            assert got.content.held and got.cacheable is share
            whole = await served.stub.Read(pb.ReadRequest(session_id=other, key="k", share=share))
            assert got.as_of.incarnation == whole.as_of.incarnation and got.as_of.sequence <= whole.as_of.sequence
            for message in (got, whole):
                message.ClearField("content")
                message.ClearField("as_of")
            assert got == whole


async def test_one_operation_too_many_is_refused_not_the_stream() -> None:
    async with serve(stream_in_flight=8) as served:
        holder = await served.open()
        await served.stub.Acquire(
            pb.AcquireRequest(session_id=holder, request_id=1, key="k", lease_id="H", create=True)
        )
        stream = served.stream()
        await stream.attach(await served.open())
        acquires = [
            pb.Operation(
                session=1,
                request_id=n,
                acquire=pb.AcquireRequest(key="k", lease_id=f"L{n}", create=True, wait_ms=60_000),
            )
            for n in range(2, 14)
        ]
        await stream.send(*acquires)
        for request_id in range(10, 14):
            error = (await stream.answer(request_id)).error
            assert error.reason == t.ERROR_REASON_OVERLOADED and error.retry_after_ms > 0
        await stream.send(pb.Operation(session=1, ping=pb.Ping(sent_at=6)))
        assert (await stream.event("bookmark")).echo == 6, "signs of life are taken whatever the load"
        await served.stub.CloseSession(pb.CloseSessionRequest(session_id=holder))
        assert (await stream.answer(2)).acquire.token.fence


async def test_attaches_and_signs_of_life_are_no_reason_to_refuse_operations() -> None:
    """Thousands of sessions on a stream attach at once when it is new, and each of them pings every second."""
    async with serve(stream_in_flight=4) as served:
        sessions = [await served.open() for _ in range(20)]
        stream = served.stream()
        await stream.attach(sessions[0])
        attaches = [
            pb.Operation(session=n, request_id=1, attach=pb.Attach(session_id=session))
            for n, session in enumerate(sessions[1:], 2)
        ]
        await stream.send(*attaches, *_stats(10))
        await _not_found(stream, 10)
        for n in range(2, 21):
            assert (await stream.answer(1, n)).WhichOneof("what") == "attach"
        await stream.send(*(pb.Operation(session=n, ping=pb.Ping(sent_at=n)) for n in range(1, 21)), *_stats(20))
        await _not_found(stream, 20)


def _stats(first: int) -> list[pb.Operation]:
    return [pb.Operation(session=1, request_id=first + n, stat=pb.StatRequest(key="k")) for n in range(4)]


async def _not_found(stream: StreamClient, first: int) -> None:
    for n in range(4):
        assert (await stream.answer(first + n)).error.reason == t.ERROR_REASON_NOT_FOUND


async def test_a_slow_consumer_is_resynced_and_nobody_else() -> None:
    async with serve(queue_events=32) as served:
        key = "slow/" + "k" * 500
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{served.api.port}", options=NARROW)
        slow, quick = StreamClient(rpc.DirectoryServiceStub(channel)), served.stream()
        writer = await served.open()
        for stream in (slow, quick):
            await stream.attach(await served.open())
            await stream.send(pb.Operation(session=1, request_id=2, watch=pb.WatchRequest(prefix="slow/")))
            await stream.answer(2)
        commits = 1_500
        end = quick.until(lambda i: i.WhichOneof("what") == "change" and i.change.version.n == commits)
        reading = asyncio.create_task(end)
        for number in range(1, commits + 1):
            request = _commit(key)
            request.session_id, request.request_id = writer, number
            await served.stub.Commit(request)
        last = await reading
        changes = [item.change.version.n for item in quick.items if item.WhichOneof("what") == "change"]
        assert changes == list(range(1, commits + 1)), "who reads misses nothing"
        position = (await slow.event("resync")).position
        await slow.until(lambda i: i.WhichOneof("what") == "change" and i.change.version.n == commits)
        behind = [i.change.sequence for i in slow.items if i.WhichOneof("what") == "change"]
        assert len(behind) < commits
        resyncs = [i.resync.position.sequence for i in slow.items if i.WhichOneof("what") == "resync"]
        assert len(resyncs) == 1 and position.sequence <= last.change.sequence
        index = [i.WhichOneof("what") for i in slow.items].index("resync")
        following = [i.change.sequence for i in slow.items[index + 1 :] if i.WhichOneof("what") == "change"]
        assert following == list(range(position.sequence + 1, last.change.sequence + 1)), "no gap behind a RESYNC"
        await channel.close()


async def test_sixty_four_clients_at_once(served: Served) -> None:
    async def client(number: int) -> int:
        channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{served.api.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        stub = rpc.DirectoryServiceStub(channel)
        try:
            opened = await stub.OpenSession(pb.OpenSessionRequest(workspace="main", name=f"client {number}"))
            stream = StreamClient(stub)
            await stream.attach(opened.session_id)
            mine = 0
            for request_id in range(2, 12):
                await stream.send(
                    pb.Operation(session=1, request_id=2 * request_id, commit=_commit(f"own/{number}")),
                    pb.Operation(session=1, request_id=2 * request_id + 1, commit=_commit("shared")),
                )
                for one in (2 * request_id, 2 * request_id + 1):
                    answer = await stream.answer(one)
                    assert answer.WhichOneof("what") == "commit", answer
                    mine += 1
            return mine
        finally:
            await channel.close()

    done = await asyncio.gather(*(client(number) for number in range(64)))
    assert done == [20] * 64
    session = await served.open()
    shared = await served.stub.Stat(pb.StatRequest(session_id=session, key="shared"))
    assert shared.version.n == 640, "every acknowledged commit counts once"


async def test_a_session_moves_to_the_stream_that_attached_last(served: Served) -> None:
    session, writer = await served.open(), await served.open()
    old, new = served.stream(), served.stream()
    await old.attach(session)
    await old.send(pb.Operation(session=1, request_id=2, commit=_commit("k")))
    first = (await old.answer(2)).commit
    held = pb.Holding(key="k", version=first.version)
    attached = await new.attach(session, request_id=3, resume=first.as_of, holdings=[held])
    assert not attached.resync and attached.position == first.as_of
    request = _commit("k", b"y")
    request.session_id, request.request_id = writer, 1
    await served.stub.Commit(request)
    assert (await new.until(lambda i: i.invalidation.by == writer)).invalidation.version.n == 2
    await old.send(pb.Operation(session=1, request_id=4, read=pb.ReadRequest(key="k")))
    assert (await old.answer(4)).error.reason == t.ERROR_REASON_INVALID_ARGUMENT
    assert not [item for item in old.items if item.invalidation.by == writer], "the old stream hears nothing of it"


async def test_a_session_with_more_copies_than_are_kept_track_of_attaches_anew(served: Served) -> None:
    served.server.delivery.copies_max = 3
    session = await served.open()
    stream = served.stream()
    await stream.attach(session)
    with contextlib.suppress(grpc.aio.AioRpcError):  # it is ended as soon as there are too many
        for number in range(5):
            await stream.send(pb.Operation(session=1, request_id=10 + number, commit=_commit(f"k{number}")))
    while await stream.read():
        pass
    last = max(item.answer.commit.version.incarnation for item in stream.items)
    held = pb.Holding(key="k0", version=t.Version(incarnation=last, n=1))
    again = served.stream()
    await again.attach(session, request_id=3, holdings=[held])
    await again.send(pb.Operation(session=1, request_id=4, read=pb.ReadRequest(key="k0", share=True)))
    assert (await again.answer(4)).read.cacheable
    assert len(list(served.server.delivery.shared_by(session))) <= 3


async def test_events_before_the_attach_is_answered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homenode_directory.api.carried.EARLY_MAX", 4)
    outbox = Outbox(QueueBounds(), SILENT)
    sink = SessionSink(outbox, 1, lambda number: None)
    sink.position = Position(5, 0)
    for sequence in range(1, 8):
        sink.push(Invalidation("k", Version(5, sequence), 1, sequence, "other", False))
    sink.begin()
    outbox.close()
    frame = await outbox.next_frame()
    assert frame is not None
    items = pb.SessionResponse.FromString(frame).items
    told = [(i.WhichOneof("what"), i.resync.position.sequence or i.invalidation.sequence) for i in items]
    assert told == [("resync", 5), ("invalidation", 6), ("invalidation", 7)]


async def test_resume_replays_what_was_missed_behind_the_answer(served: Served) -> None:
    session, writer = await served.open(), await served.open()
    stream = served.stream()
    await stream.attach(session)
    await stream.send(pb.Operation(session=1, request_id=2, commit=_commit("k")))
    first = (await stream.answer(2)).commit
    stream.call.cancel()
    for number in (1, 2):
        request = _commit("k", b"%d" % number)
        request.session_id, request.request_id = writer, number
        await served.stub.Commit(request)
    again = served.stream()
    held = pb.Holding(key="k", version=first.version)
    await again.attach(session, request_id=3, resume=first.as_of, holdings=[held])
    await again.until(lambda i: i.WhichOneof("what") == "invalidation" and i.invalidation.version.n == 3)
    assert [item.WhichOneof("what") for item in again.items][:3] == ["answer", "invalidation", "invalidation"]
    future = t.Position(incarnation=first.as_of.incarnation, sequence=10_000)
    third = served.stream()
    assert (await third.attach(session, request_id=4, resume=future, holdings=[held])).resync


async def test_an_attach_that_the_store_failed_can_be_tried_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await served.open()
    stream = served.stream()
    store = served.server.store
    ranked, failures = store.ranked, [StoreError("cut")]

    async def cut(slice_: int, key: str) -> Mapping[str, int]:
        if failures:
            raise failures.pop()
        return await ranked(slice_, key)

    monkeypatch.setattr(store, "ranked", cut)
    await stream.send(pb.Operation(session=1, request_id=1, attach=pb.Attach(session_id=session, number=1)))
    assert (await stream.answer(1)).error.reason == t.ERROR_REASON_UNAVAILABLE
    await stream.send(pb.Operation(session=1, request_id=3, attach=pb.Attach(session_id=session, number=2)))
    assert (await stream.answer(3)).HasField("attach")
    await stream.send(pb.Operation(session=1, ping=pb.Ping(sent_at=5)))
    assert (await stream.event("bookmark")).echo == 5


async def test_operations_behind_an_attach_wait_for_it(served: Served) -> None:
    sessions = [await served.open() for _ in range(20)]
    stream = served.stream()
    operations = []
    for number, session in enumerate(sessions):
        operations += [
            pb.Operation(session=number, request_id=1, attach=pb.Attach(session_id=session)),
            pb.Operation(session=number, request_id=2, commit=_commit(f"k/{number}")),
            pb.Operation(session=number, ping=pb.Ping(sent_at=number + 1)),
        ]
    await stream.send(*operations)
    for number in range(20):
        assert (await stream.answer(2, number)).commit.version.n == 1
        assert (await stream.event("bookmark", number)).echo == number + 1
    kinds = [item.answer.request_id for item in stream.items if item.WhichOneof("what") == "answer"]
    assert kinds.index(2) > kinds.index(1)


async def test_a_session_that_ends_is_told_and_leaves_the_stream(served: Served) -> None:
    one, two = await served.open(), await served.open()
    stream = served.stream()
    await stream.attach(one, number=1)
    await stream.attach(two, number=2)
    await served.stub.CloseSession(pb.CloseSessionRequest(session_id=one))
    await stream.send(pb.Operation(session=1, ping=pb.Ping(sent_at=1)))
    assert (await stream.event("session_ended")).error.reason == t.ERROR_REASON_SESSION_LOST
    await stream.send(pb.Operation(session=2, ping=pb.Ping(sent_at=2)))
    assert (await stream.event("bookmark", 2)).echo == 2


@INTERPRETED
async def test_a_client_that_vanishes_leaves_nothing_behind(served: Served) -> None:
    hub = served.server.endpoint.parts.hub
    holder = await served.open()
    await served.stub.Acquire(pb.AcquireRequest(session_id=holder, request_id=1, key="k", lease_id="H", create=True))
    carried: list[weakref.ref[object]] = []
    for _ in range(5):
        stream = served.stream()
        session = await served.open()
        await stream.attach(session)
        wait = pb.AcquireRequest(key="k", lease_id="L", create=True, wait_ms=600_000)
        await stream.send(pb.Operation(session=1, request_id=2, acquire=wait))
        owner = hub.owner(session)
        assert owner is not None
        await wait_until_async(lambda owner=owner: owner.load()[1] == 1, what="the acquire waits")  # type: ignore[misc]
        carried.append(weakref.ref(owner))
        del owner
        stream.call.cancel()
    await wait_until_async(lambda: len(hub) == 0, what="streams are closed")
    assert not any(served.server.delivery.attached(session) for session in (holder, session))

    def gone() -> bool:
        gc.collect()
        return not any(stream() for stream in carried)

    await wait_until_async(gone, what="nothing keeps a closed stream, not even an acquire that still waits")


@INTERPRETED
async def test_who_does_not_read_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    most, queue = [0], Outbox.answer

    def answer(self: Outbox, number: int, piece: bytes) -> None:
        queue(self, number, piece)
        most[0] = max(most[0], self.answers)

    monkeypatch.setattr(Outbox, "answer", answer)
    async with serve(stream_in_flight=64) as served:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{served.api.port}", options=NARROW)
        stream = StreamClient(rpc.DirectoryServiceStub(channel))
        frames, each = 200, 100

        async def write() -> None:
            for number in range(frames):
                first = number * each
                await stream.send(*(pb.Operation(session=9, request_id=first + n) for n in range(1, each + 1)))

        writing = asyncio.ensure_future(write())
        await wait_until_async(lambda: most[0] > 128, what="the stream is full")
        await stream.answer(frames * each, 9)
        await writing
        assert len(stream.items) == frames * each and most[0] <= 128 + each
        await channel.close()


async def test_the_end_of_a_call_undoes_no_commit(served: Served) -> None:
    session = await served.open()
    for number in range(1, 30):
        request = _commit(f"cut/{number}")
        request.session_id, request.request_id = session, number
        call = served.stub.Commit(request)
        await asyncio.sleep(0.0005 * (number % 5))
        call.cancel()
        again = await served.stub.Commit(request)
        assert again.version.n == 1, "the same request has one effect, wherever its first attempt was cut"
