"""Strict artifacts over the wire: what a client that is not our SDK sees."""

from __future__ import annotations

import pytest

from homenode_api.v1 import directory_pb2 as pb
from tests.api.conftest import Served, serve


def ping(sent_at: int) -> pb.Operation:
    """A sign of life of session 1."""
    return pb.Operation(session=1, ping=pb.Ping(sent_at=sent_at))


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
