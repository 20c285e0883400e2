"""Strict artifacts over the wire: what a client that is not our SDK sees. Terms are as short as they may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.api.client import StreamClient, content, refused
from tests.api.conftest import Served, serve

STRICT, LAZY = t.CONSISTENCY_STRICT, t.CONSISTENCY_LAZY
ANSWER_S = 30.0


@pytest.fixture
async def strict() -> AsyncIterator[Served]:
    """A server whose artifacts are strict unless told otherwise, after the quarantine that follows its start."""
    async with serve(term_ms=1_000, consistency="strict") as served:
        await committed(served, await served.open(), "calm", 1)
        yield served


def ping(sent_at: int, session: int = 1) -> pb.Operation:
    """A sign of life."""
    return pb.Operation(session=session, ping=pb.Ping(sent_at=sent_at))


def ack(event: pb.Invalidation) -> pb.Operation:
    """Session 1 has dropped its copy."""
    acked = pb.AckedKey(key=event.key, version=event.version, fence=event.fence)
    return pb.Operation(session=1, ack=pb.Ack(keys=[acked]))


def committing(served: Served, session: str, key: str, request: int, data: bytes = b"x") -> Any:
    """A commit under way."""
    message = pb.CommitRequest(session_id=session, request_id=request, key=key, any=True, content=content(data))
    return asyncio.ensure_future(served.stub.Commit(message, timeout=ANSWER_S))


async def committed(
    served: Served, session: str, key: str, request: int, data: bytes = b"x", level: int = STRICT
) -> pb.CommitResponse:
    """A commit, answered."""
    answer = await committing(served, session, key, request, data)
    assert answer.level == level
    return answer


async def read(served: Served, session: str, key: str, **more: Any) -> pb.ReadResponse:
    """A read that asks the directory."""
    return await served.stub.Read(pb.ReadRequest(session_id=session, key=key, **more), timeout=ANSWER_S)


async def reader(served: Served, key: str) -> StreamClient:
    """A stream whose session 1 holds a copy."""
    stream = served.stream()
    await stream.attach(await served.open())
    await stream.send(pb.Operation(session=1, request_id=2, read=pb.ReadRequest(key=key, share=True)))
    answer = (await stream.answer(2)).read
    assert answer.cacheable and answer.level == STRICT
    return stream


@pytest.mark.parametrize(
    ("term_ms", "ttl_ms", "lease_ms"),
    [
        pytest.param(10_000, 30_000, 10_000, id="the server's term"),
        pytest.param(10_000, 6_100, 5_000, id="a session that ends before that"),
    ],
)
async def test_a_bookmark_says_how_long_strict_copies_may_be_served(term_ms: int, ttl_ms: int, lease_ms: int) -> None:
    async with serve(term_ms=term_ms) as served:
        stream = served.stream()
        await stream.attach(await served.open(ttl_ms=ttl_ms))
        await stream.send(ping(77))
        bookmark = await stream.event("bookmark")
    assert (bookmark.echo, bookmark.lease_ms) == (77, lease_ms)


async def test_a_ping_of_a_session_that_is_over_earns_nothing(served: Served) -> None:
    session = await served.open()
    stream = served.stream()
    await stream.attach(session)
    await served.stub.CloseSession(pb.CloseSessionRequest(session_id=session))
    await stream.send(ping(77))
    await stream.event("session_ended")
    assert not any(item.bookmark.lease_ms for item in stream.items)


async def test_a_commit_is_answered_when_the_last_copy_is_gone_and_not_before(strict: Served) -> None:
    writer = await strict.open()
    first = await committed(strict, writer, "k", 1, b"old")
    stream = await reader(strict, "k")
    under_way = committing(strict, writer, "k", 2, b"new")
    event = await stream.event("invalidation")
    assert event.prepared and event.version.n == first.version.n + 1

    meanwhile = await read(strict, writer, "k", share=True)
    assert (meanwhile.version, meanwhile.level, meanwhile.cacheable) == (first.version, STRICT, False)
    stat = await strict.stub.Stat(pb.StatRequest(session_id=writer, key="k"))
    assert stat.state == t.STATE_PREPARED
    assert not under_way.done()

    await stream.send(ack(event))
    answer = await under_way
    assert answer.version == event.version and answer.as_of.sequence > event.sequence
    assert (await read(strict, writer, "k")).version == event.version


async def test_a_silent_reader_holds_a_commit_up_for_its_lease_only(strict: Served) -> None:
    writer = await strict.open()
    await committed(strict, writer, "k", 1)
    await reader(strict, "k")
    answer = await committed(strict, writer, "k", 2)
    assert answer.version.n == 2


async def test_watchers_hear_of_a_version_when_it_is_published(strict: Served) -> None:
    writer = await strict.open()
    await committed(strict, writer, "k", 1)
    stream = await reader(strict, "k")
    await stream.send(pb.Operation(session=1, request_id=3, watch=pb.WatchRequest(prefix="k")))
    await stream.answer(3)
    under_way = committing(strict, writer, "k", 2)
    event = await stream.event("invalidation")
    await stream.send(ping(1))
    await stream.event("bookmark")
    assert not any(item.WhichOneof("what") == "change" for item in stream.items)
    await stream.send(ack(event))
    change = await stream.event("change")
    assert change.version == event.version and change.sequence > event.sequence and change.by == writer
    await under_way


async def test_the_same_request_waits_for_the_same_publish(strict: Served) -> None:
    writer = await strict.open()
    await committed(strict, writer, "k", 1)
    stream = await reader(strict, "k")
    twice = [committing(strict, writer, "k", 2), committing(strict, writer, "k", 2)]
    await stream.send(ack(await stream.event("invalidation")))
    first, second = await asyncio.gather(*twice)
    assert first.version == second.version and first.version.n == 2


async def test_what_became_of_a_prepared_commit_is_told_when_it_is_published(strict: Served) -> None:
    writer = await strict.open()
    await committed(strict, writer, "k", 1)
    stream = await reader(strict, "k")
    under_way = committing(strict, writer, "k", 2)
    event = await stream.event("invalidation")
    asked = asyncio.ensure_future(
        strict.stub.Resolve(pb.ResolveRequest(session_id=writer, request_ids=[1, 2, 3]), timeout=ANSWER_S)
    )
    await asyncio.wait({asked}, timeout=0.3)
    assert not asked.done(), "the commit is neither done nor given up"
    await stream.send(ack(event))
    one, two, three = (await asked).outcomes
    assert (one.answer.commit.version.n, two.answer.commit.version.n, three.never) == (1, 2, True)
    assert two.answer.commit.level == STRICT
    assert (await under_way).version.n == 2


async def test_a_level_changes_when_the_copies_of_the_other_are_gone() -> None:
    async with serve(term_ms=1_000) as served:
        writer = await served.open()
        await committed(served, writer, "k", 1, b"x", LAZY)
        asked = await read(served, writer, "k", share=True, consistency=STRICT)
        assert (asked.level, asked.cacheable) == (STRICT, False)
        for request, level, other in ((2, STRICT, LAZY), (3, LAZY, STRICT)):
            stream = served.stream()
            await stream.attach(await served.open())
            await stream.send(pb.Operation(session=1, request_id=2, read=pb.ReadRequest(key="k", share=True)))
            assert (await stream.answer(2)).read.level == other
            message = pb.SetPolicyRequest(
                session_id=writer, request_id=request, key="k", policy=t.Policy(consistency=level)
            )
            changing = asyncio.ensure_future(served.stub.SetPolicy(message, timeout=ANSWER_S))
            event = await stream.event("invalidation")
            assert event.prepared and not changing.done()
            await stream.send(ack(event))
            await changing
            found = await read(served, writer, "k", share=True)
            assert (found.level, found.version) == (level, event.version)


async def test_the_strongest_level_is_told_when_a_session_opens(served: Served) -> None:
    opened = await served.stub.OpenSession(pb.OpenSessionRequest(workspace="main"))
    assert opened.strongest == STRICT


async def test_where_the_store_is_too_weak_strict_is_refused_and_no_level_is_lowered_silently(strict: Served) -> None:
    writer = await strict.open()
    await committed(strict, writer, "k", 1)

    async def weak() -> str:
        return "Redis has a replica that nobody waits for"

    strict.server.store.weakness = weak  # type: ignore[method-assign]
    await strict.server.directory.look_at_store()
    opened = await strict.stub.OpenSession(pb.OpenSessionRequest(workspace="main"))
    assert opened.strongest == LAZY
    assert (await read(strict, writer, "k", share=True)).level == LAZY
    assert (await committed(strict, writer, "k", 2, b"y", LAZY)).version.n == 2
    error = await refused(read(strict, writer, "k", consistency=STRICT))
    assert error.reason == t.ERROR_REASON_UNSUPPORTED and "replica" in error.message
    policy = pb.SetPolicyRequest(session_id=writer, request_id=3, key="k", policy=t.Policy(consistency=LAZY))
    await strict.stub.SetPolicy(policy, timeout=ANSWER_S)
    back = pb.SetPolicyRequest(session_id=writer, request_id=4, key="k", policy=t.Policy(consistency=STRICT))
    assert (await refused(strict.stub.SetPolicy(back, timeout=ANSWER_S))).reason == t.ERROR_REASON_UNSUPPORTED
    stream = strict.stream()
    await stream.attach(writer)
    await stream.send(ping(5))
    assert (await stream.event("bookmark")).lease_ms == 0
