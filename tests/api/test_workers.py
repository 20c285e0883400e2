"""Several server processes on one port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest

import homenode
from homenode_api.v1 import kv_tier_pb2 as kv
from homenode_api.v1 import types_pb2 as t
from homenode_api.v1.kv_tier_pb2_grpc import KvRoutingServiceStub
from tests.api.client import error_of
from tests.faults import apart
from tests.routing.stream import Worker, part, stored
from tests.support.ports import HOST, wait_until_async

WAIT_S = 60.0


class Workers:
    """`python -m homenode_directory --workers 2`."""

    def __init__(self, store: str, *flags: str) -> None:
        command = [sys.executable, "-m", "homenode_directory", "--store", store, "--listen", f"{HOST}:0"]
        self.process = subprocess.Popen(
            [*command, "--workers", "2", "--metrics", f"{HOST}:0", "--drain-ms", "500", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        words = dict(word.split("=") for word in self.process.stdout.readline().split()[1:])
        self.port = int(words["port"])
        self.metrics = [int(port) for port in words["metrics_port"].split(",")]

    @property
    def pids(self) -> list[int]:
        """The worker processes."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def requests(self, port: int) -> float:
        """How many operations the worker with this metrics port has answered."""
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=WAIT_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("homenode_requests_total"))


@contextmanager
def running(store: str, *flags: str) -> Iterator[Workers]:
    """Workers that are killed with their parent at the end."""
    workers = Workers(store, *flags)
    try:
        yield workers
    finally:
        if workers.process.poll() is None:
            workers.process.kill()
        workers.process.communicate()


@pytest.mark.redis
async def test_clients_spread_over_workers_that_share_the_port(redis_url: str) -> None:
    with running(redis_url) as workers:
        assert len(workers.pids) == len(set(workers.metrics)) == 2
        async with apart.sessions(workers.port, 16) as sessions:
            await sessions[0].put("k", "one")
            for hn in sessions:
                assert (await hn.read("k")).text == "one"
            await sessions[0].put("k", "two")
            for hn in sessions:
                assert (await hn.read("k", max_age_ms=0)).text == "two"
        for port in workers.metrics:
            assert await asyncio.to_thread(workers.requests, port) > 0


@pytest.mark.redis
async def test_a_worker_that_dies_is_replaced_and_its_clients_go_on(redis_url: str) -> None:
    with running(redis_url) as workers:
        before = workers.pids
        async with apart.sessions(workers.port, 8) as sessions:
            for hn in sessions:
                await hn.edit("n", lambda text: str(int(text or "0") + 1), default="")
            os.kill(before[0], signal.SIGKILL)
            for hn in sessions:
                await hn.edit("n", lambda text: str(int(text or "0") + 1), default="")
            assert (await sessions[0].read("n", max_age_ms=0)).text == "16"
        await wait_until_async(lambda: len(workers.pids) == 2 and before[0] not in workers.pids, timeout_s=WAIT_S)

        async def answers() -> bool:
            try:
                return all([await asyncio.to_thread(workers.requests, port) >= 0 for port in workers.metrics])
            except OSError:
                return False

        await wait_until_async(answers, timeout_s=WAIT_S)  # the new one has the metrics port of the old one
        workers.process.terminate()
        _, log = await asyncio.to_thread(workers.process.communicate)
        assert workers.process.returncode == 0
        lines = [json.loads(line) for line in log.splitlines()]
        assert {line["worker"] for line in lines} == {0, 1}
        ended = [line for line in lines if line["message"].startswith("a worker ended")]
        assert [line["status"] for line in ended] == [-signal.SIGKILL]


@asynccontextmanager
async def routing(port: int) -> AsyncIterator[KvRoutingServiceStub]:
    """Over a connection of its own, which any of the workers may get."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"{HOST}:{port}", options=options) as channel:
        yield KvRoutingServiceStub(channel)


@pytest.mark.redis
async def test_each_worker_sends_prompts_to_every_kv_worker(redis_url: str) -> None:
    """Streams of KV workers and questions reach any process; a commit reaches the index whichever one makes it."""
    url = "homenode://{}:{}/main"
    with running(redis_url, "--workers", "3") as workers:
        async with homenode.connect(url.format(HOST, workers.port)) as hn, AsyncExitStack() as stack:
            made = await hn.put("plan.md", "0", base=homenode.ABSENT)
            assert made.version is not None
            version = t.Version(incarnation=made.version.incarnation, n=made.version.n)

            async def worker(name: str) -> Worker:
                stub = await stack.enter_async_context(routing(workers.port))
                return await Worker(stub, hn.session_id, name).start(stored("plan.md", version))

            async def choice(name: str) -> kv.RouteResponse:
                """Asked over a new connection, for the worker of that name."""
                others = [f"kv{number}" for number in range(6) if f"kv{number}" != name]
                asked = kv.RouteRequest(session_id=hn.session_id, parts=[part("plan.md", version)], exclude=others)
                async with routing(workers.port) as stub:
                    return await stub.Route(asked, timeout=WAIT_S)  # type: ignore[no-any-return]

            streams = [await worker(f"kv{number}") for number in range(6)]
            for number in range(6):
                answer = await choice(f"kv{number}")
                assert (answer.choice.worker.worker, answer.choice.exact_tokens) == (f"kv{number}", 100)
            await streams[0].call.write(kv.PlacementRequest(events=[kv.PlacementEvent(sequence=1)]))
            with pytest.raises(grpc.aio.AioRpcError) as refused:  # as if it had come to the one that keeps the index
                while await streams[0].next() is not None:
                    pass
            assert error_of(refused.value).reason == t.ERROR_REASON_INVALID_ARGUMENT
            await hn.put("plan.md", "1")

            async def dead() -> bool:
                return bool((await choice("kv1")).dead_parts)

            await wait_until_async(dead, timeout_s=WAIT_S)
            os.kill(workers.pids[0], signal.SIGKILL)  # the one that keeps the index
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await streams[1].next() is not None:
                    pass

            async def known_again() -> bool:
                try:
                    await worker("kv1")
                    return (await choice("kv1")).choice.worker.worker == "kv1"
                except (grpc.aio.AioRpcError, AssertionError):
                    return False

            await wait_until_async(known_again, timeout_s=WAIT_S)


@pytest.mark.redis
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_every_worker(redis_url: str, number: signal.Signals) -> None:
    with running(redis_url) as workers:
        pids = workers.pids
        async with homenode.connect(f"homenode://{HOST}:{workers.port}/main", agent="a") as hn:
            await hn.put("k", "one")
        workers.process.send_signal(number)
        assert await asyncio.to_thread(workers.process.wait, WAIT_S) == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.redis
async def test_workers_end_with_their_parent(redis_url: str) -> None:
    with running(redis_url) as workers:
        pids = workers.pids
        workers.process.kill()
        await wait_until_async(lambda: not any(_alive(pid) for pid in pids), timeout_s=WAIT_S)


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def refusal(*flags: str) -> tuple[int, str]:
    """Exit status and message of a server that does not start."""
    command = [sys.executable, "-m", "homenode_directory", "--workers", "2", "--metrics", "off", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("store", ["sqlite:///x.sqlite3", "memory://"])
def test_a_store_of_one_process_is_refused(store: str) -> None:
    status, said = refusal("--store", store)
    assert status == 2
    reason = f"the workers share the store, which must be Redis for that, not {store.partition(':')[0]}"
    assert said == f"homenode: --workers 2: {reason}\n"


def test_a_taken_port_is_refused() -> None:
    with socket.create_server((HOST, 0)) as taken:
        status, said = refusal("--store", "redis://127.0.0.1:9/0", "--listen", f"{HOST}:{taken.getsockname()[1]}")
    assert (status, "cannot listen" in said) == (2, True)


def test_what_keeps_a_worker_from_starting_is_told_once() -> None:
    status, said = refusal("--store", "redis://127.0.0.1:9/0", "--listen", f"{HOST}:0")
    assert status == 1
    assert said.count("not reachable") == 1 and "Traceback" not in said
