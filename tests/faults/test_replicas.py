"""Two servers over one Redis, killed, stopped, restarted and cut off: one effect a request, nobody left behind."""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

import homenode
from homenode.grpc_transport import GrpcTransport
from homenode_api.v1 import directory_pb2 as pb
from tests.api.client import content
from tests.client.server_process import ServerProcess
from tests.conftest import RedisFactory
from tests.faults import raw
from tests.faults.conftest import Report, Scale, ServerFactory
from tests.faults.fleet import Fleet, check, url
from tests.faults.ledger import REFUSED, UNKNOWN, Ledger
from tests.faults.proxy import Proxy
from tests.faults.test_lost_updates import REFUSALS
from tests.support.ports import HOST, wait_until_async
from tests.support.redis_process import RedisProcess

pytestmark = pytest.mark.redis

TERM_MS = 1_000
WAIT_S = 60.0
#: What contention may end in; nothing else may where servers only come and go in order.
CONTENTION = {"VersionConflict", "LeaseDenied"}

Flags = dict[str, int]
FLAGS: Flags = {"term_ms": TERM_MS, "session_ttl_ms": 15_000, "bookmark_ms": 200, "max_age_ms": 1_000}
#: Where nothing dies and so no write lease may end early: a term that a busy machine does not eat up.
LASTING: Flags = {**FLAGS, "term_ms": 5_000}


@pytest.fixture
def redis(redis_factory: RedisFactory) -> RedisProcess:
    """A Redis that keeps what it acknowledges."""
    return redis_factory(settings={"appendfsync": "always"})


@pytest.fixture
async def pair(redis: RedisProcess, store_server: ServerFactory) -> list[ServerProcess]:
    """Two servers at work."""
    return [await store_server(redis, **FLAGS).start() for _ in range(2)]


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """Eight clients, not started."""
    some = Fleet()
    yield some
    await some.close()


def figures(times: list[float]) -> str:
    """Resume times for people."""
    if not times:
        return "none"
    return f"median {statistics.median(times):.2f} s, longest {max(times):.2f} s of {len(times)}"


def summary(fleet: Fleet, ledger: Ledger) -> str:
    """What was done, and how long it was interrupted."""
    return (
        f"streams confirmed again after {figures(fleet.outages_s)}; {ledger.by_path()}; "
        f"{fleet.check_strict()} strict reads, none old"
    )


def check_refusals(ledger: Ledger, allowed: set[str]) -> None:
    """Nobody was refused for a reason that is none."""
    odd = [record for record in ledger.records if record.get("end") == REFUSED and record["error"] not in allowed]
    assert not odd, odd


# --- one effect a request ---------------------------------------------------------------------------------------------


async def test_a_retry_through_the_other_server_finds_the_first_one(pair: list[ServerProcess]) -> None:
    """The reply is lost after the commit has run; the SDK asks the other server under the same id."""
    async with Proxy(pair[0].port) as proxy, Proxy(pair[1].port) as other:
        transport = GrpcTransport([f"{HOST}:{proxy.port}", f"{HOST}:{other.port}"])
        near = proxy if str(proxy.port) in transport.servers.current else other
        async with (
            homenode.connect(url([1]), agent="a", transport=transport, timeout_ms=60_000) as a,
            homenode.connect(pair[1].url, agent="b") as b,
        ):
            session = a.session_id
            first = await a.put("k", "one")
            near.down.open.clear()  # what the server answers does not arrive
            putting = asyncio.create_task(a.put("k", "two"))

            async def committed() -> bool:
                return (await b.read("k", max_age_ms=0)).text == "two"

            await wait_until_async(committed, timeout_s=WAIT_S)
            assert not putting.done()
            near.refusing = True
            near.cut()
            second = await putting
            assert first.version is not None and second.version is not None
            assert second.version.n == first.version.n + 1
            assert (await b.read("k", max_age_ms=0)).version == second.version
            assert [info.version for info in await b.history("k")] == [second.version, first.version]
            assert a.session_id == session, "the session was lost"


async def test_the_same_request_sent_to_both_servers_has_one_effect_and_one_answer(pair: list[ServerProcess]) -> None:
    async with raw.stub(pair[0].port) as one, raw.stub(pair[1].port) as two:
        session = await raw.open_session(one)
        commit = pb.CommitRequest(session_id=session, request_id=7, key="k", any=True, content=content(b"x"))
        answers = await asyncio.gather(*(stub.Commit(commit) for stub in (one, two) * 10))
        assert {(a.version.incarnation, a.version.n) for a in answers} == {(answers[0].version.incarnation, 1)}
        stat = await two.Stat(pb.StatRequest(session_id=session, key="k"))
        assert stat.version.n == 1


async def test_a_unary_wait_is_answered_by_what_another_server_commits(pair: list[ServerProcess]) -> None:
    """Nobody of the workspace has a stream at the server where the request waits."""
    async with raw.stub(pair[0].port) as one, raw.stub(pair[1].port) as two:
        holder, waiter = await raw.open_session(one), await raw.open_session(two)
        await one.Commit(pb.CommitRequest(session_id=holder, request_id=9, key="k", any=True, content=content(b"x")))
        await one.Acquire(pb.AcquireRequest(session_id=holder, request_id=1, key="k", lease_id="L", ttl_ms=60_000))
        wait = pb.AcquireRequest(session_id=waiter, request_id=1, key="k", lease_id="M", wait_ms=60_000, ttl_ms=60_000)
        waiting = asyncio.ensure_future(two.Acquire(wait, timeout=WAIT_S))

        async def queued() -> bool:
            return (await one.Stat(pb.StatRequest(session_id=holder, key="k"))).waiters == 1

        await wait_until_async(queued, timeout_s=WAIT_S)
        await one.Release(pb.ReleaseRequest(session_id=holder, request_id=2, key="k", lease_id="L"))
        assert (await waiting).token.lease_id == "M"


Hold = Callable[[Proxy], None]
STORE_CALLS: dict[str, Hold] = {
    "before the store has it": lambda proxy: proxy.up.open.clear(),
    "after the store has done it": lambda proxy: proxy.down.open.clear(),
}


@pytest.mark.slow
async def test_servers_killed_around_store_calls(
    redis: RedisProcess,
    store_server: ServerFactory,
    fleet: Fleet,
    scale: Scale,
    rng: random.Random,
    report: Report,
) -> None:
    """SIGKILL with requests on their way to the store, and with replies on their way back."""
    async with Proxy(redis.port) as first, Proxy(redis.port) as second:
        proxies = [first, second]
        servers = [store_server(_through(proxy), **FLAGS) for proxy in proxies]
        for server in servers:
            await server.start()
        await fleet.start([server.port for server in servers])
        await fleet.progress(0.0)
        times, kills = [], int(scale(4, 40))
        for n in range(kills):
            await asyncio.sleep(rng.uniform(0.05, 0.7))
            proxy, server = proxies[n % 2], servers[n % 2]
            list(STORE_CALLS.values())[n // 2 % 2](proxy)
            await asyncio.sleep(0.05)  # until something is held
            server.kill()
            moment = time.monotonic()
            proxy.cut()
            proxy.heal()
            times.append(await fleet.progress(moment))
            await server.start()
        ledger = await fleet.finish()
        await check(ledger, servers[0].port)
    report(f"{kills} kills; an acknowledgement for each client after {figures(times)}; {summary(fleet, ledger)}")
    check_refusals(ledger, REFUSALS)
    assert fleet.sessions == len(fleet.clients), "a session was lost"
    assert not ledger.count(UNKNOWN), "with another server there, the outcome can be asked for"


class _Through(RedisProcess):
    """A Redis behind a proxy: only its address is used."""

    def __init__(self, port: int) -> None:
        self.port = port


def _through(proxy: Proxy) -> RedisProcess:
    return _Through(proxy.port)


# --- comings and goings -----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_rolling_restarts_fail_nothing(
    redis: RedisProcess,
    store_server: ServerFactory,
    fleet: Fleet,
    scale: Scale,
    rng: random.Random,
    report: Report,
) -> None:
    """Every client leaves in time, and no operation fails."""
    pair = [await store_server(redis, **LASTING).start() for _ in range(2)]
    await fleet.start([server.port for server in pair])
    await fleet.progress(0.0)
    restarts, times = int(scale(4, 24)), []
    for n in range(restarts):
        moment = time.monotonic()
        assert await pair[n % 2].stop() == 0
        times.append(await fleet.progress(moment))
        await pair[n % 2].start()
        await asyncio.sleep(rng.uniform(0.1, 1.0))
    ledger = await fleet.finish()
    await check(ledger, pair[0].port)
    report(f"{restarts} restarts; an acknowledgement for each client after {figures(times)}; {summary(fleet, ledger)}")
    check_refusals(ledger, CONTENTION)
    assert not ledger.count(UNKNOWN)
    assert fleet.sessions == len(fleet.clients), "a session was lost"


async def test_clients_leave_a_server_that_drains(
    redis: RedisProcess, store_server: ServerFactory, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """They go when they are asked to, and are not cut off at the end."""
    servers = [await store_server(redis, **{**LASTING, "drain_ms": 4_000}).start() for _ in range(2)]
    await fleet.start([server.port for server in servers])
    await fleet.progress(0.0)
    here = f"{HOST}:{servers[0].port}"
    leaving = sum(client.transport.servers.current == here for client in fleet.clients)
    with caplog.at_level(logging.DEBUG, "homenode"):
        assert await servers[0].stop() == 0
        await fleet.progress(time.monotonic())
    said = [record.getMessage() for record in caplog.records]
    assert sum("about to stop; going" in message for message in said) == leaving
    assert sum("stream ended" in message for message in said) == leaving, "somebody was cut off"
    check_refusals(await fleet.finish(), CONTENTION)
    assert fleet.sessions == len(fleet.clients)


@pytest.mark.slow
async def test_a_server_that_stands_still_for_three_terms(
    pair: list[ServerProcess], fleet: Fleet, scale: Scale, report: Report
) -> None:
    """Its clients notice the silence and go on elsewhere; what it says when it wakes up changes nothing."""
    await fleet.start([server.port for server in pair])
    await fleet.progress(0.0)
    times, stops = [], int(scale(2, 12))
    for n in range(stops):
        moment = time.monotonic()
        pair[n % 2].pause()
        times.append(await fleet.progress(moment))
        await asyncio.sleep(max(0.0, moment + 3 * TERM_MS / 1_000 - time.monotonic()))
        pair[n % 2].go_on()
        await fleet.progress(time.monotonic())
    ledger = await fleet.finish()
    for server in pair:
        await check(ledger, server.port)
    report(f"{stops} stops; an acknowledgement for each client after {figures(times)}; {summary(fleet, ledger)}")
    check_refusals(ledger, REFUSALS)
    assert not ledger.count(UNKNOWN)


async def test_a_server_that_wakes_up_has_no_say_over_what_went_on_without_it(pair: list[ServerProcess]) -> None:
    """Its entries, its clock and the queues in it are from before; every commit compares them."""
    asleep, awake = pair
    async with raw.stub(asleep.port) as one, raw.stub(awake.port) as two:
        holder, other = await raw.open_session(one, 60_000), await raw.open_session(two, 60_000)
        await two.Commit(pb.CommitRequest(session_id=other, request_id=1, key="k", any=True, content=content(b"one")))
        held = await one.Acquire(
            pb.AcquireRequest(session_id=holder, request_id=1, key="k", lease_id="L", ttl_ms=TERM_MS)
        )
        asleep.pause()
        late = pb.CommitRequest(session_id=holder, request_id=2, key="k", content=content(b"late"), token=held.token)
        late.version.CopyFrom(held.version)
        committing = asyncio.ensure_future(one.Commit(late, timeout=WAIT_S))
        based = pb.CommitRequest(session_id=other, request_id=9, key="k", content=content(b"stale base"))
        based.version.CopyFrom(held.version)
        basing = asyncio.ensure_future(one.Commit(based, timeout=WAIT_S))
        taken = await two.Acquire(
            pb.AcquireRequest(session_id=other, request_id=2, key="k", lease_id="M", wait_ms=60_000, ttl_ms=60_000)
        )
        two_ = pb.CommitRequest(session_id=other, request_id=3, key="k", content=content(b"two"), token=taken.token)
        two_.version.CopyFrom(taken.version)
        done = await two.Commit(two_)
        await asyncio.sleep(3 * TERM_MS / 1_000)
        asleep.go_on()
        failures = await asyncio.gather(committing, basing, return_exceptions=True)
        assert all(isinstance(failure, Exception) for failure in failures), failures
        for stub in (one, two):
            assert (await stub.Stat(pb.StatRequest(session_id=other, key="k"))).version == done.version


# --- the network ------------------------------------------------------------------------------------------------------


def black_hole(proxy: Proxy) -> None:
    proxy.up.open.clear()
    proxy.down.open.clear()


def deaf(proxy: Proxy) -> None:
    proxy.down.open.clear()


def dumb(proxy: Proxy) -> None:
    proxy.up.open.clear()


def reset(proxy: Proxy) -> None:
    proxy.cut()


def refused(proxy: Proxy) -> None:
    proxy.refusing = True
    proxy.cut()


TROUBLES = (black_hole, deaf, dumb, reset, refused)


@pytest.mark.slow
async def test_streams_that_break_move_to_the_other_server(
    pair: list[ServerProcess], fleet: Fleet, scale: Scale, rng: random.Random, report: Report
) -> None:
    """Black-holed, one-way, reset, refused: the way to one server, then to the other."""
    async with Proxy(pair[0].port) as first, Proxy(pair[1].port) as second:
        proxies = [first, second]
        await fleet.start([proxy.port for proxy in proxies])
        await fleet.progress(0.0)
        times: dict[str, list[float]] = {}
        for n in range(int(scale(5, 40))):
            trouble, proxy = TROUBLES[n % len(TROUBLES)], proxies[rng.randrange(2)]
            moment = time.monotonic()
            trouble(proxy)
            times.setdefault(trouble.__name__, []).append(await fleet.progress(moment))
            proxy.heal()
            await asyncio.sleep(rng.uniform(0.1, 1.0))
        ledger = await fleet.finish()
        await check(ledger, pair[0].port)
    for name, found in times.items():
        report(f"{name}: an acknowledgement for each client after {figures(found)}")
    report(summary(fleet, ledger))
    check_refusals(ledger, REFUSALS)
    assert not ledger.count(UNKNOWN)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_content_that_is_cut_off_on_its_way_goes_through_the_other_server(
    pair: list[ServerProcess], way: str
) -> None:
    """Larger than what travels on the session stream, which stays where it is."""
    data = random.Random(5).randbytes(1 << 20)
    async with Proxy(pair[0].port) as first, Proxy(pair[1].port) as second:
        transport = GrpcTransport([f"{HOST}:{first.port}", f"{HOST}:{second.port}"])
        near = first if str(first.port) in transport.servers.current else second
        async with homenode.connect(url([1]), agent="a", transport=transport, timeout_ms=60_000) as hn:
            if way == "up":
                near.up.connection_max = 300_000
                await hn.put("k", data)
            else:
                async with homenode.connect(pair[0].url, agent="b", timeout_ms=60_000) as other:
                    await other.put("k", data)
                near.down.connection_max = 300_000
            assert (await hn.read("k")).bytes == data
            assert near.cuts and str(near.port) in transport.servers.current


@pytest.mark.parametrize("cut", [black_hole, refused])
async def test_clients_leave_a_server_that_cannot_reach_the_store(
    cut: Callable[[Proxy], None], redis: RedisProcess, store_server: ServerFactory, fleet: Fleet, report: Report
) -> None:
    """It lives and answers, and nothing that it answers is of use; newcomers find the other one too."""
    async with Proxy(redis.port) as proxy:
        cut_off = await store_server(_through(proxy), **FLAGS).start()
        well = await store_server(redis, **FLAGS).start()
        ports = [cut_off.port, well.port]
        await fleet.start(ports)
        await fleet.progress(0.0)
        moment = time.monotonic()
        cut(proxy)
        took_s = await fleet.progress(moment)
        for n in range(4):
            async with homenode.connect(url(ports), agent=f"late{n}", timeout_ms=60_000) as hn:
                await hn.put(f"late{n}", "x")
        proxy.heal()
        ledger = await fleet.finish()
        await check(ledger, well.port)
    report(f"{cut.__name__}: an acknowledgement for each client after {took_s:.2f} s; {summary(fleet, ledger)}")
    check_refusals(ledger, REFUSALS)
    assert not ledger.count(UNKNOWN)


async def test_clients_of_a_dead_server_do_not_hammer_it(pair: list[ServerProcess]) -> None:
    """They go on at the other one, and try the dead one ever more rarely."""
    dead, alive = pair
    async with Proxy(dead.port) as proxy:
        transports = [GrpcTransport([f"{HOST}:{proxy.port}", f"{HOST}:{alive.port}"]) for _ in range(4)]
        clients = [
            await homenode.connect(url([1]), agent=f"c{n}", transport=transport, timeout_ms=60_000)
            for n, transport in enumerate(transports)
        ]
        dead.kill()
        proxy.refusing = True
        proxy.cut()
        tried = Counter({"before": proxy.connections})
        for round_ in range(20):
            for hn in clients:
                await hn.put(f"k{hn.name}", f"{round_}", base=homenode.ANY)
            await asyncio.sleep(0.1)
        assert {transport.servers.current for transport in transports} == {f"{HOST}:{alive.port}"}
        assert proxy.connections - tried["before"] <= 2 * len(clients)
        for hn in clients:
            await hn.close()
