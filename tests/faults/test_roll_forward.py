"""A server is killed, or the store restarted, while a strict commit is prepared: it is published all the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import directory_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t
from tests.api.client import StreamClient, content
from tests.client.server_process import ServerProcess
from tests.conftest import RedisFactory
from tests.faults.conftest import ServerFactory
from tests.faults.raw import TIMEOUT_S, open_session, stub
from tests.support.ports import wait_until_async
from tests.support.redis_process import RedisProcess

pytestmark = pytest.mark.redis

FLAGS = {"term_ms": 1_000, "consistency": "strict"}
SESSION_MS = 60_000


@pytest.fixture
async def redis(redis_factory: RedisFactory) -> RedisProcess:
    """The store."""
    return redis_factory(settings={"appendfsync": "always"})


@pytest.fixture
async def pair(redis: RedisProcess, store_server: ServerFactory) -> AsyncIterator[list[ServerProcess]]:
    """Two servers over it."""
    servers = [await store_server(redis, **FLAGS).start() for _ in range(2)]
    yield servers


def commit(session: str, request: int, data: bytes) -> pb.CommitRequest:
    """Overwrite the artifact."""
    return pb.CommitRequest(session_id=session, request_id=request, key="k", any=True, content=content(data))


async def state(service: rpc.DirectoryServiceStub, session: str) -> pb.StatResponse:
    """The artifact as the directory sees it."""
    return await service.Stat(pb.StatRequest(session_id=session, key="k"), timeout=TIMEOUT_S)


async def prepared(
    one: rpc.DirectoryServiceStub, two: rpc.DirectoryServiceStub
) -> tuple[str, str, asyncio.Future[pb.CommitResponse], StreamClient]:
    """A commit through one server that waits for a reader at the other, who does not acknowledge."""
    writer, reader = await open_session(one, SESSION_MS), await open_session(two, SESSION_MS)
    await one.Commit(commit(writer, 1, b"old"), timeout=TIMEOUT_S)
    stream = StreamClient(two)
    await stream.attach(reader)
    await stream.send(pb.Operation(session=1, request_id=2, read=pb.ReadRequest(key="k", share=True)))
    assert (await stream.answer(2)).read.cacheable
    under_way = asyncio.ensure_future(one.Commit(commit(writer, 2, b"new"), timeout=TIMEOUT_S))
    await stream.event("invalidation")
    assert (await state(two, reader)).state == t.STATE_PREPARED
    return writer, reader, under_way, stream


async def test_another_server_publishes_what_a_killed_one_has_prepared(pair: list[ServerProcess]) -> None:
    async with stub(pair[0].port) as one, stub(pair[1].port) as two:
        writer, reader, under_way, _ = await prepared(one, two)
        pair[0].kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await under_way
        again = await two.Commit(commit(writer, 2, b"new"), timeout=TIMEOUT_S)
        assert again.version.n == 2 and again.level == t.CONSISTENCY_STRICT
        assert (await state(two, reader)).version == again.version


async def test_a_server_that_comes_back_alone_publishes_what_it_had_prepared(pair: list[ServerProcess]) -> None:
    async with stub(pair[0].port) as one, stub(pair[1].port) as two:
        writer, _, under_way, _ = await prepared(one, two)
        for server in pair:
            server.kill()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await under_way
        await pair[0].start()
        outcomes = await one.Resolve(pb.ResolveRequest(session_id=writer, request_ids=[2, 3]), timeout=TIMEOUT_S)
        two_, three = outcomes.outcomes
        assert two_.answer.commit.version.n == 2 and three.never


async def test_a_commit_that_was_prepared_before_the_store_restarted_is_published_after_a_term(
    pair: list[ServerProcess], redis: RedisProcess
) -> None:
    async with stub(pair[0].port) as one, stub(pair[1].port) as two:
        _, _, under_way, _ = await prepared(one, two)
        redis.restart()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await under_way

        async def published() -> bool:
            try:
                found = await state(two, await open_session(two))
            except grpc.aio.AioRpcError:
                return False
            return bool(found.version.n == 2 and found.state != t.STATE_PREPARED)

        await wait_until_async(published, what="the version of the old incarnation", timeout_s=60)
        fresh = await open_session(one)
        assert (await one.Commit(commit(fresh, 1, b"next"), timeout=TIMEOUT_S)).version.n == 3
