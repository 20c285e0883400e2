"""A server of two is stopped under load: its clients leave one after the other, and nothing fails or is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

import homenode
from homenode.grpc_transport import GrpcStream, GrpcTransport
from tests.conftest import RedisFactory
from tests.faults.conftest import Report, Scale, ServerFactory
from tests.faults.fleet import url
from tests.support.ports import HOST, wait_until_async

pytestmark = [pytest.mark.redis, pytest.mark.slow]

DRAIN_MS = 8_000
WAIT_S = 120.0


class Moving(GrpcTransport):
    """Notes when it opened which stream."""

    def __init__(self, hosts: list[str]) -> None:
        super().__init__(hosts)
        self.opened: list[tuple[float, str]] = []

    def session(self) -> GrpcStream:
        """See `homenode.transport.Transport`."""
        self.opened.append((time.monotonic(), self.servers.current))
        return super().session()


async def test_clients_leave_spread_over_the_time_that_a_draining_server_gives(
    redis_factory: RedisFactory, store_server: ServerFactory, scale: Scale, report: Report
) -> None:
    redis = redis_factory()
    pair = [await store_server(redis, drain_ms=DRAIN_MS).start() for _ in range(2)]
    ports = [server.port for server in pair]
    hosts = [f"{HOST}:{port}" for port in ports]
    stop, done, failed = asyncio.Event(), Counter[str](), Counter[str]()
    transports = [Moving(hosts) for _ in range(int(scale(200, 600)))]

    async def work(transport: Moving, name: str) -> None:
        options = {"transport": transport, "timeout_ms": int(WAIT_S * 1000)}
        async with homenode.connect(url(ports), agent=name, **options) as hn:
            session = hn.session_id
            while not stop.is_set() or not done[name]:
                try:
                    await hn.edit(f"own/{name}", lambda text: str(int(text) + 1), default="0")
                    done[name] += 1
                except homenode.HomenodeError as failure:
                    failed[type(failure).__name__] += 1
                await asyncio.sleep(0.5)
            assert hn.session_id == session, "the session was lost"

    async with asyncio.TaskGroup() as tasks:
        for number, transport in enumerate(transports):
            tasks.create_task(work(transport, f"a{number}"))
        await wait_until_async(lambda: len(done) == len(transports), timeout_s=WAIT_S, what="everybody at work")
        leaving = [transport for transport in transports if transport.opened[-1][1] == hosts[0]]
        before = {id(transport): len(transport.opened) for transport in leaving}
        told = time.monotonic()
        assert await pair[0].stop() == 0
        gone = [{host for _, host in transport.opened[before[id(transport)] :]} for transport in leaving]
        assert all(hosts[1] in there for there in gone), "somebody was left behind"
        stop.set()

    moves = sorted(transport.opened[before[id(transport)]][0] - told for transport in leaving)
    tenths = Counter(int(10 * (moment - moves[0]) / (DRAIN_MS / 1000)) for moment in moves)
    report(f"{len(leaving)} of {len(transports)} clients moved, {dict(sorted(tenths.items()))} by tenths of the time")
    assert not failed
    assert len(leaving) > len(transports) / 4
    assert max(tenths.values()) < len(leaving) / 2, "they left together"
    async with homenode.connect(url(ports[1:]), agent="judge") as hn:
        counts = {stat.key: int((await hn.read(stat.key)).text) for stat in await hn.list("own/")}
    assert counts == {f"own/{name}": number for name, number in done.items()}, "an operation was lost or done twice"
