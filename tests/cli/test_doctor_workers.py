"""The doctor's look at KV workers: real directories and streams; what answers for a worker is a script, or nothing."""

from __future__ import annotations

import argparse
from dataclasses import replace

from homenode.cli import doctor_workers
from homenode.cli.findings import Finding
from homenode_api.v1 import kv_tier_pb2_grpc as rpc
from tests.api.conftest import Served, serve
from tests.cli.conftest import Cli
from tests.routing.scripted import Script, scripted
from tests.routing.stream import Worker

ARGS = argparse.Namespace(tls_ca=None, tls_cert=None, tls_key=None, timeout=10.0)


async def looked(*servers: Served) -> list[Finding]:
    hosts = [f"127.0.0.1:{one.api.port}" for one in servers]
    return [finding async for finding in doctor_workers.examine(ARGS, hosts, "main")]


async def test_workers_are_told_and_one_that_is_not_there_is_flagged() -> None:
    async with serve() as served:
        (none,) = await looked(served)
        assert (none.level, "no KV worker serves this workspace" in none.found) == ("note", True)
        stub, session = rpc.KvRoutingServiceStub(served.channel), await served.open()
        away = Worker(stub, session, "away")
        away.address = "127.0.0.1:9"
        await away.start()
        (alone,) = await looked(served)
        assert alone.level == "FAULT" and "away at 127.0.0.1:9 cannot be reached: Unavailable" in alone.found
        assert "--advertise" in alone.advice
        async with scripted(stub, session, Script("there")):
            found = {one.found.split()[0]: one for one in await looked(served)}
            assert (found["there"].level, found["away"].level) == ("ok", "warn")
            assert found["there"].found.endswith("m on cpu, 3 entries of KV, 1 calls under way, 2 waiting")
            # two names and one process behind them
            other = Worker(stub, session, "other")
            other.address = found["there"].host
            await other.start()
            (other_one,) = [one for one in await looked(served) if one.found.startswith("other")]
            assert other_one.level == "warn" and "there is there" in other_one.found


async def test_more_workers_than_an_answer_names() -> None:
    async with serve() as served:
        stub, session = rpc.KvRoutingServiceStub(served.channel), await served.open()
        for number in range(11):
            await Worker(stub, session, f"w{number}").start()
        host = f"127.0.0.1:{served.api.port}"
        assert sorted(await doctor_workers.known(ARGS, host, "main")) == sorted(f"w{number}" for number in range(11))


async def test_silent_workers_and_those_that_a_server_does_not_know() -> None:
    async with serve() as served, serve() as another:
        stub, session = rpc.KvRoutingServiceStub(served.channel), await served.open()
        async with scripted(stub, session, Script("w")):
            known, missing = await looked(served, another)
            assert known.level == "ok"
            assert (missing.level, missing.found.startswith("w is known to 1 of 2 servers")) == ("warn", True)
            (worker,) = served.server.endpoint.kv.routing.placements.everyone()
            worker.heard_ms -= 60_000
            (silent,) = await looked(served)
            assert (silent.level, "1 silent" in silent.found) == ("warn", True)
            assert silent.advice
            worker.load = replace(worker.load, draining=True)
            (leaving,) = await looked(served)
            assert (leaving.level, "1 draining" in leaving.found, leaving.advice) == ("note", True, "")


def test_the_command_says_that_there_is_none(cli: Cli) -> None:
    found = {one["check"]: one for one in cli("--json", "doctor", "--metrics", "off").json["findings"]}
    assert (found["kv worker"]["level"], "kv serve" in found["kv worker"]["found"]) == ("note", True)
