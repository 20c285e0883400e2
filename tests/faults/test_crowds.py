"""Many clients, floods and a client that does not listen: everybody else is served, and is told what to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

import homenode
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.api.client import StreamClient
from tests.client.server_process import ServerProcess
from tests.conftest import RedisFactory
from tests.faults import apart, raw
from tests.faults.conftest import Report, Scale, ScriptFactory, ServerFactory
from tests.faults.crowd import KEYS
from tests.faults.processes import resident_bytes
from tests.support.ports import wait_until_async

PROCESSES = 4
CLIENTS = 64
WAIT_S = 120.0


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
async def test_64_clients_at_once(
    store: str, store_server: ServerFactory, scripts: ScriptFactory, scale: Scale, report: Report
) -> None:
    """No connection is reset, and every call is answered."""
    # Bookmarks at leisure: a client takes five intervals of silence for a dead connection, and the machine may be busy.
    server = await store_server(store, bookmark_ms=3_000, max_age_ms=30_000).start()
    crowd = [scripts("crowd", server.port, CLIENTS // PROCESSES, f"p{i}") for i in range(PROCESSES)]
    await wait_until_async(lambda: all(one.records for one in crowd), timeout_s=WAIT_S, what="64 clients connected")
    await asyncio.sleep(scale(4, 60))
    done: Counter[str] = Counter()
    everything = [r for one in await asyncio.gather(*(script.stop() for script in crowd)) for r in one]
    records = [r for r in everything if "done" in r]
    for record in records:
        done.update(record["done"])
    async with homenode.connect(server.url, agent="judge", timeout_ms=30_000) as hn:
        total = sum([int((await hn.read(f"shared{n}", default="0")).text) for n in range(KEYS)])
    report(f"{store}: {dict(done)}")
    assert len(records) == CLIENTS
    assert total == done["edit"]
    why = {record["lost"] for record in everything if "lost" in record}
    assert not [record["name"] for record in records if record["streams"] != 1], f"streams were lost: {why}"
    assert set(done) <= {"read", "edit", "own", "Overloaded", "Contended", "VersionConflict"}
    assert all(sum(record["done"].values()) for record in records), "a client got nothing done"


async def test_a_flood_is_told_to_slow_down(store_server: ServerFactory) -> None:
    """More operations than a stream may have under way: OVERLOADED with a time, and the stream goes on."""
    server = await store_server("sqlite", stream_in_flight=64).start()
    async with raw.stub(server.port) as service:
        stream = StreamClient(service)
        await stream.attach(await raw.open_session(service))
        frames, frame_size = 20, 512
        for frame in range(frames):
            first = 10 + frame * frame_size
            await stream.send(
                *(
                    pb.Operation(session=1, request_id=first + n, read=pb.ReadRequest(key=f"k{n}"))
                    for n in range(frame_size)
                )
            )
        last = 10 + frames * frame_size
        answered = {}
        while len(answered) < frames * frame_size:
            assert await stream.read(), f"the stream ended: {await stream.call.details()}"
            for item in stream.items:
                if item.WhichOneof("what") == "answer" and item.answer.request_id >= 10:
                    answered[item.answer.request_id] = item.answer.error
            stream.items.clear()
        reasons = Counter(error.reason for error in answered.values())
        assert set(reasons) == {t.ERROR_REASON_NOT_FOUND, t.ERROR_REASON_OVERLOADED}, reasons
        assert all(e.retry_after_ms > 0 for e in answered.values() if e.reason == t.ERROR_REASON_OVERLOADED)
        await stream.send(pb.Operation(session=1, request_id=last, stat=pb.StatRequest(key="k")))
        assert (await stream.answer(last)).error.reason == t.ERROR_REASON_NOT_FOUND
    await serves(server)


async def test_a_flood_through_the_sdk_is_answered(store_server: ServerFactory) -> None:
    """The SDK keeps within what the server allows, however much is asked of it at once."""
    server = await store_server("sqlite", stream_in_flight=64).start()
    async with homenode.connect(server.url, agent="flood", timeout_ms=120_000) as hn:
        puts = [hn.put(f"k{n % 100}", f"{n}", base=homenode.ANY) for n in range(1_000)]
        written = await asyncio.gather(*puts)
        assert len({(artifact.key, artifact.version) for artifact in written}) == 1_000
    await serves(server)


async def test_too_many_streams_are_refused_and_come_in_later(store_server: ServerFactory) -> None:
    """A stream too many is refused by name; those that are open stay, and the next ones come in when there is room."""
    server = await store_server("sqlite", streams_max=8).start()
    inside = [await apart.connect(server.port, f"in{n}") for n in range(8)]
    async with raw.stub(server.port) as service:
        call = service.Session()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await asyncio.wait_for(call.read(), WAIT_S)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    waiting = [asyncio.ensure_future(apart.connect(server.port, f"out{n}", timeout_ms=120_000)) for n in range(8)]
    await asyncio.gather(*(hn.put(f"in{n}", "x") for n, (hn, _) in enumerate(inside)))
    assert not any(task.done() for task in waiting)
    assert [transport.streams for _, transport in inside] == [1] * 8
    for hn, _ in inside:
        await hn.close()
    for hn, _ in await asyncio.gather(*waiting):
        await hn.put(f"out/{hn.name}", "x")
        await hn.close()


async def serves(server: ServerProcess) -> None:
    """The server is as well as before."""
    async with homenode.connect(server.url, agent="after", timeout_ms=30_000) as hn:
        assert (await hn.put("after", "x", base=homenode.ANY)).text == "x"


class Deaf:
    """A client that attaches, watches everything, and then reads nothing."""

    def __init__(self, service: Any) -> None:
        self.stream = StreamClient(service)
        self._service = service

    async def start(self, prefix: str) -> None:
        """Begin to watch; the session outlives the test without a sign of life."""
        await self.stream.attach(await raw.open_session(self._service, ttl_ms=300_000))
        await self.stream.send(pb.Operation(session=1, request_id=2, watch=pb.WatchRequest(prefix=prefix)))
        await self.stream.answer(2)

    async def listen(self, last: int) -> Counter[str]:
        """Take all that waits, up to the version `last`; what there was of each kind."""
        kinds: Counter[str] = Counter()
        while True:
            assert await self.stream.read(), "the stream ended"
            items, self.stream.items = self.stream.items, []
            kinds.update(str(item.WhichOneof("what")) for item in items)
            if any(item.change.version.n == last for item in items):
                return kinds


@pytest.mark.parametrize("where", ["same server", pytest.param("other server", marks=pytest.mark.redis)])
async def test_a_client_that_does_not_listen_harms_nobody(
    where: str, store_server: ServerFactory, redis_factory: RedisFactory, scale: Scale, report: Report
) -> None:
    """It gets a RESYNC in place of what it missed; memory stays, the other clients hear everything.

    Whether the commits are made through its own server or through another one, whose log its server reads.
    """
    store = "sqlite" if where == "same server" else redis_factory()
    server = await store_server(store, queue_events=256).start()
    busy = server if where == "same server" else await store_server(store).start()
    commits = int(scale(3_000, 100_000))
    key, writers = "k" * 480, 50
    async with (
        raw.stub(server.port, *raw.NO_READ_AHEAD) as service,
        homenode.connect(busy.url, agent="quick", timeout_ms=60_000) as hn,
    ):
        deaf = Deaf(service)
        await deaf.start("k")
        await hn.put(key, "warm", base=homenode.ANY)
        heard: list[str] = []
        async with hn.watch("k") as events:

            async def listen() -> None:
                async for event in events:
                    heard.append(event.kind)
                    if event.version is not None and event.version.n == commits + 1:
                        return

            listening = asyncio.create_task(listen())
            before = resident_bytes(pid_of(server))
            for _ in range(commits // writers):
                await asyncio.gather(*(hn.put(key, "x", base=homenode.ANY) for _ in range(writers)))
            grown = resident_bytes(pid_of(server)) - before
            await asyncio.wait_for(listening, WAIT_S)
        kinds = await asyncio.wait_for(deaf.listen(commits + 1), WAIT_S)
    report(
        f"{commits} commits at the {where}; the deaf one was sent {dict(kinds)}; its server grew by {grown >> 20} MiB"
    )
    assert kinds["resync"] >= 1
    assert kinds["change"] < commits / 2
    assert heard == ["change"] * commits
    assert grown < 64 << 20


def pid_of(server: ServerProcess) -> int:
    """Of the running process."""
    process = server._process
    assert process is not None
    return process.pid
