"""Whatever comes in: a typed error, no internals, and the server still serves."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from homenode_api.patch import compress
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.api.client import content, error_of, refused
from tests.api.conftest import Served

INVALID = t.ERROR_REASON_INVALID_ARGUMENT
TOO_LARGE = t.ERROR_REASON_TOO_LARGE
SESSION_LOST = t.ERROR_REASON_SESSION_LOST
BODY = content(b"body")
BOMB = compress(b"\0" * (64 << 20))

HOSTILE_KEYS = {
    "empty": "",
    "long": "x" * 513,
    "long in bytes": "ä" * 257,
    "newline": "a\nb",
    "nul": "a\0b",
    "delete": "a\x7fb",
    "c1 control": "a\x85b",
    "line separator": "a\u2028b",
    "not NFC": "a\u0308",
}


def _commit(**fields: Any) -> pb.CommitRequest:
    request = {"request_id": 1, "key": "k", "absent": True, "content": BODY} | fields
    if request.keys() & {"any", "version"}:
        del request["absent"]
    return pb.CommitRequest(**{name: value for name, value in request.items() if value is not None})


def _body(data: bytes = b"body", **fields: Any) -> t.Content:
    return t.Content(**({"hash": hashlib.sha256(data).digest(), "size": len(data)} | fields))


def _acquire(**fields: Any) -> pb.AcquireRequest:
    return pb.AcquireRequest(**({"request_id": 1, "key": "k", "lease_id": "L", "create": True} | fields))


def _patch(patch: bytes, base: bytes = b"0" * 32, more: Sequence[bytes] = ()) -> t.Content:
    return _body(patches=t.PatchChain(base_hash=base, patches=[patch, *more]))


def _policy(**fields: Any) -> pb.SetPolicyRequest:
    return pb.SetPolicyRequest(request_id=1, key="k", policy=t.Policy(**fields))


def _many(*keys: str, request_id: int = 1, content: t.Content | None = BODY) -> pb.CommitManyRequest:
    items = [pb.CommitItem(key=key, any=True, content=content) for key in keys]
    return pb.CommitManyRequest(request_id=request_id, items=items)


def _many_without_base() -> pb.CommitManyRequest:
    return pb.CommitManyRequest(request_id=1, items=[pb.CommitItem(key="a")])


def _of_snapshot(snapshot: str) -> pb.ReadRequest:
    return pb.ReadRequest(key="k", version=t.Version(incarnation=1, n=1), snapshot=snapshot)


def _token(fence: int) -> pb.Token:
    return pb.Token(lease_id="L", incarnation=1, fence=fence)


def _handoff(**fields: Any) -> pb.HandoffRequest:
    return pb.HandoffRequest(request_id=1, key="k", token=_token(1), **fields)


# name, method, request, reason
CASES: list[tuple[str, str, Any, int]] = [
    *((f"key: {name}", "Read", pb.ReadRequest(key=key), INVALID) for name, key in HOSTILE_KEYS.items()),
    *((f"commit key: {name}", "Commit", _commit(key=key), INVALID) for name, key in HOSTILE_KEYS.items()),
    ("acquire key", "Acquire", _acquire(key="\r"), INVALID),
    ("release key", "Release", pb.ReleaseRequest(key=""), INVALID),
    ("renew key", "Renew", pb.RenewRequest(key="", lease_id="L"), INVALID),
    ("policy key", "SetPolicy", pb.SetPolicyRequest(request_id=1, key=""), INVALID),
    ("stat key", "Stat", pb.StatRequest(key=""), INVALID),
    ("history key", "History", pb.HistoryRequest(key="\x01"), INVALID),
    ("list prefix", "List", pb.ListRequest(prefix="x" * 513), INVALID),
    ("list after", "List", pb.ListRequest(after="\x1b"), INVALID),
    ("list limit", "List", pb.ListRequest(limit=1001), INVALID),
    ("no request id: commit", "Commit", _commit(request_id=0), INVALID),
    ("no request id: acquire", "Acquire", _acquire(request_id=0), INVALID),
    ("no request id: policy", "SetPolicy", pb.SetPolicyRequest(key="k"), INVALID),
    ("no request id: release", "Release", pb.ReleaseRequest(key="k", lease_id="L"), INVALID),
    ("request id too large", "Commit", _commit(request_id=2**53), INVALID),
    ("no base", "Commit", _commit(absent=None), INVALID),
    ("absent is false", "Commit", _commit(absent=False), INVALID),
    ("any is false", "Commit", _commit(any=False), INVALID),
    ("base too large", "Commit", _commit(version=t.Version(incarnation=1, n=2**53)), INVALID),
    ("base incarnation too large", "Commit", _commit(version=t.Version(incarnation=2**64 - 1, n=1)), INVALID),
    ("hash too short", "Commit", _commit(content=_body(hash=b"x" * 31)), INVALID),
    ("hash missing", "Commit", _commit(content=t.Content(size=4)), INVALID),
    ("too large", "Commit", _commit(content=_body(size=(256 << 20) + 1)), TOO_LARGE),
    ("too large for one piece", "Commit", _commit(content=_body(size=64 << 20, snapshot=BOMB)), TOO_LARGE),
    ("size of 2^64 - 1", "Commit", _commit(content=_body(size=2**64 - 1)), TOO_LARGE),
    ("inline too large", "Commit", _commit(content=_body(size=40_000, snapshot=b"x" * 40_000)), TOO_LARGE),
    ("held in a commit", "Commit", _commit(content=_body(held=True)), INVALID),
    ("body not there", "Commit", _commit(content=_body(b"nobody wrote this")), t.ERROR_REASON_CONTENT_MISSING),
    ("snapshot is no frame", "Commit", _commit(content=_body(snapshot=b"body")), INVALID),
    ("snapshot is empty", "Commit", _commit(content=_body(snapshot=b"")), INVALID),
    ("snapshot of other bytes", "Commit", _commit(content=_body(snapshot=compress(b"evil"))), INVALID),
    ("snapshot of another size", "Commit", _commit(content=_body(snapshot=compress(b"longer"))), INVALID),
    ("snapshot with a tail", "Commit", _commit(content=_body(snapshot=compress(b"body") + b"!")), INVALID),
    ("snapshot that expands", "Commit", _commit(content=_body(snapshot=BOMB)), INVALID),
    ("snapshot that expands, size told", "Commit", _commit(content=_body(size=4 << 20, snapshot=BOMB)), INVALID),
    ("no patch", "Commit", _commit(content=_body(patches=t.PatchChain(base_hash=b"0" * 32))), INVALID),
    ("two patches", "Commit", _commit(content=_patch(b"", more=[b""])), INVALID),
    ("base of a patch too short", "Commit", _commit(content=_patch(b"", b"0")), INVALID),
    ("base of a patch unknown", "Commit", _commit(content=_patch(b"\1\0\0\4body")), t.ERROR_REASON_CONTENT_MISSING),
    ("metadata too large", "Commit", _commit(metadata=t.Metadata(tags=["x" * 17_000])), TOO_LARGE),
    ("metadata of a delete", "Commit", _commit(content=None, any=True, metadata=t.Metadata(tags=["x"])), INVALID),
    ("delete of nothing", "Commit", _commit(content=None, any=True), t.ERROR_REASON_NOT_FOUND),
    ("keep without token", "Commit", _commit(keep=True), INVALID),
    ("token without lease", "Commit", _commit(token=pb.Token(fence=1)), INVALID),
    ("token never given", "Commit", _commit(token=pb.Token(lease_id="Z", fence=1)), t.ERROR_REASON_STALE_FENCE),
    ("fence too large", "Commit", _commit(token=pb.Token(lease_id="L", fence=2**64 - 1)), INVALID),
    ("lease id missing", "Acquire", _acquire(lease_id=""), INVALID),
    ("lease id too long", "Acquire", _acquire(lease_id="x" * 65), INVALID),
    ("lease id with tab", "Acquire", _acquire(lease_id="a\tb"), INVALID),
    ("term too short", "Acquire", _acquire(ttl_ms=999), INVALID),
    ("term too long", "Acquire", _acquire(ttl_ms=60_001), INVALID),
    ("wait too long", "Acquire", _acquire(wait_ms=600_001), INVALID),
    ("nine hashes held", "Acquire", _acquire(have=[b"0" * 32] * 9), INVALID),
    ("renew of nothing", "Renew", pb.RenewRequest(key="k", lease_id="L"), t.ERROR_REASON_LEASE_LOST),
    ("renew too long", "Renew", pb.RenewRequest(key="k", lease_id="L", ttl_ms=2**32 - 1), INVALID),
    ("held hash of wrong length", "Read", pb.ReadRequest(key="k", have=[b"short"]), INVALID),
    ("unknown level", "Read", pb.ReadRequest(key="k", consistency=99), INVALID),  # type: ignore[arg-type]
    ("version too large", "Read", pb.ReadRequest(key="k", version=t.Version(n=2**60)), INVALID),
    ("unknown policy", "SetPolicy", _policy(consistency=7), INVALID),
    ("unknown push", "SetPolicy", _policy(push=-1), INVALID),
    ("policy of both", "SetPolicy", pb.SetPolicyRequest(request_id=1, key="k", prefix="k"), INVALID),
    ("policy of a long prefix", "SetPolicy", pb.SetPolicyRequest(request_id=1, prefix="x" * 513), INVALID),
    ("policy of a bad prefix", "SetPolicy", pb.SetPolicyRequest(request_id=1, prefix="a\x00"), INVALID),
    ("no request id: prefix", "SetPolicy", pb.SetPolicyRequest(prefix="k"), INVALID),
    ("settled too large", "KeepAlive", pb.KeepAliveRequest(settled_below=2**63), INVALID),
    ("resolve of 0", "Resolve", pb.ResolveRequest(request_ids=[0]), INVALID),
    ("snapshot of nothing asked twice", "Snapshot", pb.SnapshotRequest(request_id=1, keys=["k", "k"]), INVALID),
    ("snapshot without request id", "Snapshot", pb.SnapshotRequest(keys=["k"]), INVALID),
    ("snapshot of too many", "Snapshot", pb.SnapshotRequest(request_id=1, keys=map(str, range(257))), INVALID),
    ("snapshot key", "Snapshot", pb.SnapshotRequest(request_id=1, keys=["\x01"]), INVALID),
    ("snapshot for too long", "Snapshot", pb.SnapshotRequest(request_id=1, keys=["k"], ttl_ms=2**32 - 1), INVALID),
    ("release of no snapshot", "ReleaseSnapshot", pb.ReleaseSnapshotRequest(snapshot="x"), INVALID),
    ("release of another's", "ReleaseSnapshot", pb.ReleaseSnapshotRequest(snapshot="main~x/1"), INVALID),
    ("read of a snapshot elsewhere", "Read", _of_snapshot("other~x/1"), INVALID),
    ("read of a snapshot that is gone", "Read", _of_snapshot("main~x/1"), t.ERROR_REASON_NOT_FOUND),
    ("joint commit of nothing", "CommitMany", pb.CommitManyRequest(request_id=1), INVALID),
    ("joint commit without request id", "CommitMany", _many("a", request_id=0), INVALID),
    ("joint commit of one twice", "CommitMany", _many("a", "a"), INVALID),
    ("joint commit of too many", "CommitMany", _many(*map(str, range(65))), INVALID),
    ("joint commit without base", "CommitMany", _many_without_base(), INVALID),
    ("joint delete of nothing", "CommitMany", _many("a", "b", content=None), t.ERROR_REASON_NOT_FOUND),
    ("joint commit, body not there", "CommitMany", _many("a", content=_body(b"gone")), t.ERROR_REASON_CONTENT_MISSING),
    ("gate of nothing", "Gate", pb.GateRequest(), INVALID),
    ("gate of one twice", "Gate", pb.GateRequest(items=[pb.GateItem(key="k")] * 2), INVALID),
    ("gate fence too large", "Gate", pb.GateRequest(items=[pb.GateItem(key="k", token=_token(2**60))]), INVALID),
    ("handoff to nobody", "Handoff", _handoff(to=""), INVALID),
    ("handoff to another workspace", "Handoff", _handoff(to="other~x"), INVALID),
    ("handoff without lease", "Handoff", _handoff(to="main~x"), t.ERROR_REASON_STALE_FENCE),
    ("handoff for too long", "Handoff", _handoff(to="main~x", ttl_ms=60_001), INVALID),
    ("resolve of too many", "Resolve", pb.ResolveRequest(request_ids=range(1, 2_000)), INVALID),
]  # fmt: skip


@pytest.mark.parametrize(("method", "request_", "reason"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
async def test_unary_calls_refuse(served: Served, method: str, request_: Any, reason: int) -> None:
    request = type(request_).FromString(request_.SerializeToString())
    request.session_id = await served.open()
    error = await refused(getattr(served.stub, method)(request))
    assert error.reason == reason, t.ErrorReason.Name(error.reason) + ": " + error.message
    _says_nothing_internal(error.message)
    assert await served.open(), "the server still serves"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.OpenSessionRequest(), INVALID),
        (pb.OpenSessionRequest(workspace="a/b"), INVALID),
        (pb.OpenSessionRequest(workspace="x" * 129), INVALID),
        (pb.OpenSessionRequest(workspace="a~b"), INVALID),
        (pb.OpenSessionRequest(workspace="ok", name="a\nb"), INVALID),
        (pb.OpenSessionRequest(workspace="ok", name="x" * 129), INVALID),
        (pb.OpenSessionRequest(workspace="ok", ttl_ms=4_999), INVALID),
        (pb.OpenSessionRequest(workspace="ok", ttl_ms=300_001), INVALID),
        (pb.OpenSessionRequest(workspace="ok", seen_incarnation=2**53), INVALID),
    ],
)
async def test_sessions_that_cannot_be_opened(served: Served, request_: pb.OpenSessionRequest, reason: int) -> None:
    assert (await refused(served.stub.OpenSession(request_))).reason == reason


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        ("", INVALID),
        ("main", INVALID),
        ("main~", INVALID),
        ("~x", INVALID),
        ("main~x\n", INVALID),
        ("ma/in~x", INVALID),
        ("main~" + "x" * 65, INVALID),
        ("main~never-opened", SESSION_LOST),
        ("other~never-opened", SESSION_LOST),
    ],
)
async def test_sessions_that_are_none(served: Served, session: str, reason: int) -> None:
    stub = served.stub
    requests = [
        stub.Read(pb.ReadRequest(session_id=session, key="k")),
        stub.Commit(_commit(session_id=session)),
        stub.Acquire(_acquire(session_id=session)),
        stub.Stat(pb.StatRequest(session_id=session, key="k")),
        stub.List(pb.ListRequest(session_id=session)),
        stub.History(pb.HistoryRequest(session_id=session, key="k")),
        stub.KeepAlive(pb.KeepAliveRequest(session_id=session)),
        stub.Watch(pb.WatchRequest(session_id=session)).read(),
        stub.ReadContent(pb.ReadContentRequest(session_id=session, key="k", version=t.Version(n=1))).read(),
        stub.WriteContent(iter([pb.WriteContentRequest(header=pb.WriteContentHeader(session_id=session))])),
    ]
    for request in requests:
        assert (await refused(request)).reason == reason


async def test_messages_that_are_no_messages(served: Served) -> None:
    rng = random.Random(7)
    samples = [b"\xff", b"\x1a\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f", *(rng.randbytes(40) for _ in range(50))]
    codes = set()
    for method in ("Read", "Commit", "OpenSession"):
        raw = served.channel.unary_unary(f"/homenode_api.v1.DirectoryService/{method}")
        for sample in samples:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw(sample)
            _says_nothing_internal(caught.value.details() or "")
            codes.add(caught.value.code())
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    for method in ("Watch", "ReadContent"):
        stream = served.channel.unary_stream(f"/homenode_api.v1.DirectoryService/{method}")(b"\xff")
        assert (await refused(stream.read())).reason == INVALID
    session = served.channel.stream_stream("/homenode_api.v1.DirectoryService/Session")(iter([b"\xff\xff"]))
    assert (await refused(session.read())).reason == INVALID
    assert await served.open()


async def test_unknown_fields_are_ignored(served: Served) -> None:
    raw = served.channel.unary_unary("/homenode_api.v1.DirectoryService/OpenSession")
    request = pb.OpenSessionRequest(workspace="main").SerializeToString() + b"\xfa\x3f\x03abc\xc8\x3e\x07"
    assert pb.OpenSessionResponse.FromString(await raw(request)).session_id.startswith("main~")


async def test_unknown_methods(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.channel.unary_unary("/homenode_api.v1.DirectoryService/Format")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], INVALID),
        ([pb.WriteContentRequest(data=b"x")], INVALID),
        ([pb.WriteContentRequest()], INVALID),
        (["header", pb.WriteContentRequest(data=b"x" * 99)], INVALID),
        (["header"], INVALID),
        (["header", "header"], INVALID),
        (["header", pb.WriteContentRequest(data=b"\x28\xb5\x2f\xfd" + b"\0" * 9)], INVALID),
    ],
    ids=["nothing", "no header", "empty", "too much", "too little", "two headers", "no frame"],
)
async def test_content_streams_that_break_the_rules(served: Served, messages: list[Any], reason: int) -> None:
    session = await served.open()
    header = pb.ContentHeader(
        hash=hashlib.sha256(b"body").digest(), size=4, encoding=pb.CONTENT_ENCODING_SNAPSHOT, encoded_size=13
    )
    head = pb.WriteContentRequest(header=pb.WriteContentHeader(session_id=session, content=header))
    sent = [head if message == "header" else message for message in messages]
    assert (await refused(served.stub.WriteContent(iter(sent)))).reason == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"size": 2**40, "encoded_size": len(BOMB)}, TOO_LARGE),
        ({"size": 4 << 20, "encoded_size": len(BOMB)}, INVALID),
        ({"size": 64, "encoded_size": 2**50}, INVALID),
        ({"size": 64, "encoded_size": len(BOMB), "encoding": 0}, INVALID),
        ({"size": 64, "encoded_size": len(BOMB), "encoding": 9}, INVALID),
        ({"size": 64, "encoded_size": len(BOMB), "encoding": pb.CONTENT_ENCODING_PATCH}, INVALID),
        ({"size": 64, "hash": b"?", "encoded_size": len(BOMB)}, INVALID),
    ],
)
async def test_content_that_expands(served: Served, fields: dict[str, Any], reason: int) -> None:
    session = await served.open()
    header = pb.ContentHeader(**({"hash": b"0" * 32, "encoding": pb.CONTENT_ENCODING_SNAPSHOT} | fields))
    messages = [
        pb.WriteContentRequest(header=pb.WriteContentHeader(session_id=session, content=header)),
        pb.WriteContentRequest(data=BOMB),
    ]
    assert (await refused(served.stub.WriteContent(iter(messages)))).reason == reason


async def test_read_content_needs_a_version(served: Served) -> None:
    session = await served.open()
    call = served.stub.ReadContent(pb.ReadContentRequest(session_id=session, key="k"))
    assert (await refused(call.read())).reason == INVALID
    call = served.stub.ReadContent(pb.ReadContentRequest(session_id=session, key="k", version=t.Version(n=9)))
    assert (await refused(call.read())).reason == t.ERROR_REASON_NOT_FOUND


async def test_operations_out_of_order_on_a_stream(served: Served) -> None:
    session, other = await served.open(), await served.open()
    stream = served.stream()
    await stream.send(
        pb.Operation(session=1, request_id=1, read=pb.ReadRequest(key="k")),
        pb.Operation(session=1, request_id=2),
        pb.Operation(session=1, request_id=3, ping=pb.Ping()),
        pb.Operation(session=1, request_id=4, detach=pb.Detach()),
        pb.Operation(session=1, request_id=5, attach=pb.Attach(session_id="nonsense")),
        pb.Operation(session=1, request_id=6, attach=pb.Attach(session_id="main~unknown")),
    )
    for request_id in range(1, 6):
        assert (await stream.answer(request_id)).error.reason == INVALID
    assert (await stream.answer(6)).error.reason == SESSION_LOST
    await stream.attach(session, request_id=7)
    await stream.send(
        pb.Operation(session=1, request_id=8, attach=pb.Attach(session_id=other)),
        pb.Operation(session=2, request_id=9, attach=pb.Attach(session_id=session)),
        pb.Operation(session=1, request_id=10, ack=pb.Ack(keys=[pb.AckedKey(key="a\nb")])),
        pb.Operation(session=1, request_id=15, ack=pb.Ack(keys=[pb.AckedKey(key="k")] * 4_097)),
        pb.Operation(session=1, request_id=11, ping=pb.Ping(settled_below=2**60)),
        pb.Operation(session=1, request_id=12, watch=pb.WatchRequest(prefix="\0")),
        pb.Operation(session=1, request_id=0, watch=pb.WatchRequest()),
        pb.Operation(session=1, request_id=13, unwatch=pb.UnwatchRequest(watch_id=999)),
        pb.Operation(session=1, request_id=14, commit=_commit(session_id="main~forged", request_id=99)),
    )
    for request_id, number in ((8, 1), (9, 2), (10, 1), (15, 1), (11, 1), (12, 1), (0, 1)):
        assert (await stream.answer(request_id, number)).error.reason == INVALID, request_id
    assert (await stream.answer(14)).commit.version.n == 1, "operations on the stream carry their own ids"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (pb.SessionRequest(operations=[pb.Operation()] * 513), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SessionRequest(number=2), grpc.StatusCode.UNAVAILABLE),
        (
            pb.SessionRequest(operations=[pb.Operation(commit=_commit(content=_body(snapshot=b"x" * (5 << 20))))]),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
    ],
    ids=["too many operations", "a frame was lost", "too large"],
)
async def test_frames_that_end_their_stream(served: Served, frame: pb.SessionRequest, code: grpc.StatusCode) -> None:
    bystander = served.stream()
    await bystander.attach(await served.open())
    stream = served.stream()
    await stream.attach(await served.open())
    frame.number = frame.number and 9
    await stream.call.write(frame)
    while await stream.read():
        pass
    assert await stream.call.code() is code
    _says_nothing_internal(await stream.call.details())
    await bystander.send(pb.Operation(session=1, ping=pb.Ping(sent_at=1)))
    assert (await bystander.event("bookmark")).echo == 1


async def test_fuzzed_frames(served: Served) -> None:
    rng = random.Random(11)
    session = await served.open()
    seed = pb.SessionRequest(
        operations=[
            pb.Operation(session=1, request_id=1, attach=pb.Attach(session_id=session)),
            pb.Operation(session=1, request_id=2, commit=_commit()),
            pb.Operation(session=1, request_id=3, acquire=_acquire()),
            pb.Operation(session=1, request_id=4, read=pb.ReadRequest(key="k", have=[b"0" * 32])),
            pb.Operation(session=1, request_id=5, list=pb.ListRequest(prefix="k", limit=3)),
        ]
    ).SerializeToString()
    raw = served.channel.stream_stream("/homenode_api.v1.DirectoryService/Session")
    for _ in range(150):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        call = raw(iter([bytes(data)]))
        try:
            async for frame in call:
                for item in pb.SessionResponse.FromString(frame).items:
                    assert item.answer.error.reason != t.ERROR_REASON_INTERNAL, item
        except grpc.aio.AioRpcError as failure:
            assert error_of(failure).reason in (INVALID, t.ERROR_REASON_UNAVAILABLE), "a frame number may be hit"
    assert await served.open()


def _says_nothing_internal(text: str) -> None:
    for word in ("Traceback", "Error(", "homenode_directory", ".py", "Exception", "proto"):
        assert word not in text or text.startswith("the message is malformed"), text
