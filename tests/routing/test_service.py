"""KvRoutingService over real gRPC: what workers tell, and what the directory answers, also beside a commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

import homenode
from homenode.versions import Version
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import kv_tier_pb2 as kv
from homenode_api.v1 import kv_tier_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t
from homenode_directory.place import session_place
from tests.api.client import error_of
from tests.api.conftest import Served, serve
from tests.client.scripted import until
from tests.client.server_process import ServerProcess
from tests.routing.stream import Worker, part, stored


def wire(version: Version | None) -> t.Version:
    assert version is not None
    return t.Version(incarnation=version.incarnation, n=version.n)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as one:
        yield one


@pytest.fixture
def stub(served: Served) -> rpc.KvRoutingServiceStub:
    return rpc.KvRoutingServiceStub(served.channel)


async def refused_route(stub: rpc.KvRoutingServiceStub, request: kv.RouteRequest) -> t.Error:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Route(request, timeout=20)
    return error_of(failure.value)


async def test_a_prompt_goes_to_the_holder_and_never_to_one_of_a_superseded_version(
    served: Served, stub: rpc.KvRoutingServiceStub
) -> None:
    session = await served.open()
    url = f"homenode://127.0.0.1:{served.api.port}/main"
    async with homenode.connect(url) as hn:
        version = wire((await hn.put("plan.md", "0", base=homenode.ABSENT)).version)
        holder = await Worker(stub, session, "holder").start(stored("plan.md", version))
        other = await Worker(stub, session, "other").start()
        for n in range(8):  # more in a moment would be a crowd, of which the holder takes its part alone
            answer = await stub.Route(kv.RouteRequest(session_id=session, parts=[part("plan.md", version)]))
            assert answer.choice.worker == kv.KvWorkerId(worker="holder", epoch=1)
            assert (answer.choice.address, answer.choice.exact_tokens) == ("holder:1", 100)
            assert [one.worker.worker for one in answer.alternatives] == ["other"]
            assert not answer.dead_parts
            old, version = version, wire((await hn.put("plan.md", str(n + 1))).version)
            # Nothing was waited for: the commit's answer is here, so the old version has left routing.
            answer = await stub.Route(kv.RouteRequest(session_id=session, parts=[part("plan.md", old)]))
            assert answer.dead_parts == [0] and not answer.choice.exact_tokens
            await holder.tell(stored=stored("plan.md", old))  # it was computed while the commit came
            await holder.tell(stored=stored("plan.md", version))
            await holder.applied()
            answer = await stub.Route(kv.RouteRequest(session_id=session, parts=[part("plan.md", old)]))
            assert not answer.choice.exact_tokens
            for worker in (holder, other):  # as workers do, lest they count as silent on a slow machine
                await worker.tell(load=kv.WorkerLoad(prefill_tokens_per_s=1_000))
                await worker.applied()


async def test_a_gap_wants_a_snapshot(served: Served, stub: rpc.KvRoutingServiceStub) -> None:
    session = await served.open()
    worker = await Worker(stub, session).start()
    worker.sequence += 1
    await worker.tell(stored=stored("a", t.Version(incarnation=1, n=1)))
    answer = await worker.next()
    assert answer is not None and answer.snapshot_wanted
    snapshot = kv.PlacementSnapshot(stored=[stored("a", t.Version(incarnation=1, n=1))], first=True, last=True)
    await worker.tell(snapshot=snapshot)
    await worker.applied()
    routed = await stub.Route(
        kv.RouteRequest(session_id=session, parts=[part("a", t.Version(incarnation=1, n=1))], model="f")
    )
    assert routed.choice.exact_tokens == 100


async def test_an_earlier_process_is_refused_and_a_later_one_replaces(
    served: Served, stub: rpc.KvRoutingServiceStub
) -> None:
    session = await served.open()
    first = await Worker(stub, session, epoch=5).start()
    await Worker(stub, session, epoch=6).start()
    assert (await first.refused()).reason == t.ERROR_REASON_STALE_FENCE
    late = Worker(stub, session, epoch=5)
    await late.hello()  # grpc-python fails a call that writes while it is refused
    assert (await late.refused()).reason == t.ERROR_REASON_STALE_FENCE
    answer = await stub.Route(kv.RouteRequest(session_id=session))
    assert answer.choice.worker.epoch == 6


async def test_a_worker_is_gone_with_its_stream(served: Served, stub: rpc.KvRoutingServiceStub) -> None:
    session = await served.open()
    worker = await Worker(stub, session).start()
    worker.call.cancel()
    await until(lambda: not served.server.endpoint.kv.routing.placements.everyone())
    error = await refused_route(stub, kv.RouteRequest(session_id=session))
    assert error.reason == t.ERROR_REASON_NO_WORKER and "kv serve" in error.message
    slice_ = served.server.directory.slice_of(session_place("default", session)).number
    assert not served.server.endpoint.kv.routing.follows(slice_), "nobody wants its log any more"


async def test_a_workspace_sees_no_other_ones_workers(served: Served, stub: rpc.KvRoutingServiceStub) -> None:
    await Worker(stub, await served.open("theirs")).start(stored("a", t.Version(incarnation=1, n=1)))
    session = await served.open("ours")
    error = await refused_route(stub, kv.RouteRequest(session_id=session))
    assert error.reason == t.ERROR_REASON_NO_WORKER


async def test_a_session_that_is_over_is_told_nothing(served: Served, stub: rpc.KvRoutingServiceStub) -> None:
    await Worker(stub, await served.open()).start()
    over = await served.open()
    await served.stub.CloseSession(pb.CloseSessionRequest(session_id=over))
    for session in (over, "main~never_was"):
        error = await refused_route(stub, kv.RouteRequest(session_id=session))
        assert error.reason == t.ERROR_REASON_SESSION_LOST


async def test_a_worker_learns_who_may_call_it(served: Served, stub: rpc.KvRoutingServiceStub) -> None:
    mine, agent, theirs, over = [await served.open(place) for place in ("main", "main", "theirs", "main")]
    await served.stub.CloseSession(pb.CloseSessionRequest(session_id=over))
    expected = {
        agent: kv.ADMISSION_GRANTED,
        mine: kv.ADMISSION_GRANTED,
        theirs: kv.ADMISSION_OTHER_WORKSPACE,
        "theirs~never_was": kv.ADMISSION_OTHER_WORKSPACE,
        over: kv.ADMISSION_SESSION_OVER,
        "main~never_was": kv.ADMISSION_SESSION_OVER,
    }
    for caller, admission in expected.items():
        answer = await stub.Admit(kv.AdmitRequest(session_id=mine, caller=caller), timeout=20)
        assert answer.admission == admission, caller
    for session, caller, reason in [
        (over, agent, t.ERROR_REASON_SESSION_LOST),
        (mine, "", t.ERROR_REASON_INVALID_ARGUMENT),
        ("", agent, t.ERROR_REASON_INVALID_ARGUMENT),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.Admit(kv.AdmitRequest(session_id=session, caller=caller), timeout=20)
        assert error_of(failure.value).reason == reason


async def test_a_session_that_is_over_tells_nothing(served: Served, stub: rpc.KvRoutingServiceStub) -> None:
    session = await served.open()
    await served.stub.CloseSession(pb.CloseSessionRequest(session_id=session))
    worker = Worker(stub, session)
    await worker.hello()  # grpc-python fails a call that writes while it is refused
    assert (await worker.refused()).reason == t.ERROR_REASON_SESSION_LOST


@pytest.mark.parametrize(
    "event",
    [
        kv.PlacementEvent(worker="w", epoch=1, sequence=1, load=kv.WorkerLoad()),
        kv.PlacementEvent(worker="w", epoch=1, sequence=1, hello=kv.WorkerHello(session_id="?", address="a:1")),
        kv.PlacementEvent(worker="", epoch=1, sequence=1, hello=kv.WorkerHello(session_id="main~x", address="a:1")),
        kv.PlacementEvent(worker="w", epoch=2**60, sequence=1, hello=kv.WorkerHello(session_id="main~x", address="a")),
        kv.PlacementEvent(),
    ],
)
async def test_what_makes_no_sense_is_refused(
    served: Served, stub: rpc.KvRoutingServiceStub, event: kv.PlacementEvent
) -> None:
    if event.hello.session_id.startswith("main~"):
        event.hello.session_id = await served.open()
    call = stub.Placement()
    await call.write(kv.PlacementRequest(events=[event]))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert error_of(failure.value).reason == t.ERROR_REASON_INVALID_ARGUMENT


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -float("inf")])
async def test_a_load_of_no_numbers_ends_its_workers_stream_alone(
    served: Served, stub: rpc.KvRoutingServiceStub, rate: float
) -> None:
    session = await served.open()
    worker = await Worker(stub, session, "odd").start()
    await Worker(stub, session, "even").start()
    await worker.tell(load=kv.WorkerLoad(decode_tokens_per_s=rate))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await worker.applied()
    assert error_of(failure.value).reason == t.ERROR_REASON_INVALID_ARGUMENT
    answer = await stub.Route(kv.RouteRequest(session_id=session))
    assert answer.choice.worker.worker == "even"


async def test_a_rate_of_next_to_nothing_breaks_no_route(served: Served, stub: rpc.KvRoutingServiceStub) -> None:
    session = await served.open()
    worker = await Worker(stub, session).start()
    nothing = 5e-324
    await worker.tell(
        load=kv.WorkerLoad(
            running=0, prefill_tokens_per_s=nothing, decode_tokens_per_s=nothing, disk_bytes_per_s=nothing
        )
    )
    await worker.applied()
    answer = await stub.Route(kv.RouteRequest(session_id=session, parts=[kv.RoutePart(tokens=10)]))
    assert 0 <= answer.choice.predicted_ms < 1e9


@pytest.mark.parametrize(
    "request_",
    [
        kv.RouteRequest(),
        kv.RouteRequest(session_id="main~x", exclude=["w"] * 65),
        kv.RouteRequest(session_id="main~x", parts=[kv.RoutePart(key="\x00")]),
        kv.RouteRequest(session_id="main~x", parts=[kv.RoutePart(key="a", version=t.Version(n=2**60))]),
    ],
)
async def test_a_route_that_makes_no_sense_is_refused(
    stub: rpc.KvRoutingServiceStub, request_: kv.RouteRequest
) -> None:
    assert (await refused_route(stub, request_)).reason == t.ERROR_REASON_INVALID_ARGUMENT


async def test_a_drain_tells_workers_to_go(served: Served, stub: rpc.KvRoutingServiceStub) -> None:
    worker = await Worker(stub, await served.open()).start()
    served.server.endpoint.parts.hub.draining = True
    for owner in list(served.server.endpoint.parts.hub._open):
        owner.drain(1_000)
    assert (await worker.refused()).reason == t.ERROR_REASON_UNAVAILABLE


@pytest.mark.redis
async def test_another_server_names_no_dead_version_to_who_reads_first(redis_url: str, short_tmp: Path) -> None:
    """A caller reads coherently, then asks whichever server; each has an index of its own, and reads the log."""
    servers = [ServerProcess(redis_url, short_tmp, term_ms=1_000) for _ in range(2)]
    try:
        for server in servers:
            await server.start()
        async with homenode.connect(servers[0].url) as writer, homenode.connect(servers[1].url) as reader:
            await writer.put("plan.md", "0", base=homenode.ABSENT)
            await writer.set_policy("plan.md", consistency="strict")
            session = reader.session_id
            channels = [grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") for server in servers]
            stubs = [rpc.KvRoutingServiceStub(channel) for channel in channels]
            version = wire((await reader.read("plan.md")).version)
            workers = [await Worker(stub, session).start(stored("plan.md", version)) for stub in stubs]
            for n in range(8):
                old, version = version, wire((await writer.put("plan.md", str(n + 1), base=homenode.ANY)).version)
                found = wire((await reader.read("plan.md")).version)
                assert found == version, "a strict read after the commit was acknowledged"
                for stub in stubs:
                    answer = await stub.Route(kv.RouteRequest(session_id=session, parts=[part("plan.md", found)]))
                    assert not answer.choice.exact_tokens and not answer.dead_parts
                asked = kv.RouteRequest(session_id=session, parts=[part("plan.md", old)])
                while not (await stubs[1].Route(asked)).dead_parts:
                    pass
                for worker in workers:
                    await worker.tell(stored=stored("plan.md", version))
                    await worker.applied()
            for channel in channels:
                await channel.close()
    finally:
        for server in servers:
            server.kill()
