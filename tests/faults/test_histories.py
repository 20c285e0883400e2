"""Agents on two servers over one Redis, with everything going wrong, record what they do; then the judges speak.

Servers are killed, stopped and restarted, streams cut, delayed and held, agents killed and stopped. The histories go
through the judges of linearizability and of what lazy promises, the log through the auditor. `--campaign` makes it
100,000 operations.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import homenode
from homenode.history.operations import Kind, Operation, read_history
from homenode.history.report import Verdict, judge
from homenode_directory.audit.archive import read_archive
from homenode_directory.audit.replay import Replay
from tests.client.server_process import ServerProcess
from tests.conftest import RedisFactory
from tests.faults.conftest import Report, Scale, ScriptFactory, ServerFactory
from tests.faults.processes import Script
from tests.faults.proxy import Proxy
from tests.support.ports import wait_until_async
from tests.support.redis_process import RedisProcess

pytestmark = [pytest.mark.redis, pytest.mark.slow]

MAX_AGE_MS = 1_000
FLAGS = {"term_ms": 1_000, "session_ttl_ms": 15_000, "bookmark_ms": 200, "max_age_ms": MAX_AGE_MS}
LAZY = [f"lazy/{n}" for n in range(4)]
STRICT = [f"strict/{n}" for n in range(4)]
WORKERS = 4
SESSIONS = 2


class Site:
    """Two servers, two proxies before each, and agents."""

    def __init__(
        self,
        redis: RedisProcess,
        servers: list[ServerProcess],
        scripts: ScriptFactory,
        folder: Path,
        rng: random.Random,
    ) -> None:
        self.redis = redis
        self.servers = servers
        self.rng = rng
        self.history = folder / "history"
        self.proxies: list[Proxy] = []
        self.workers: list[Script] = []
        self.done: Counter[str] = Counter()
        self._scripts = scripts
        self._sizes: dict[Path, tuple[int, int]] = {}
        self._started = 0

    def worker(self, role: str = "worker") -> Script:
        """Another process of agents: half of them prefer one server, half the other."""
        self._started += 1
        name, half = f"{role}{self._started}", self._started % 2
        ports = [proxy.port for proxy in self.proxies[2 * half :] + self.proxies[: 2 * half]]
        keys = ",".join(LAZY + STRICT)
        sessions = SESSIONS if role == "worker" else 3
        return self._scripts("worker", name, role, ",".join(map(str, ports)), sessions, keys, history=self.history)

    def operations(self) -> int:
        """How many lines the histories have, roughly the operations."""
        for path in self.history.glob("*.jsonl"):
            size, lines = self._sizes.get(path, (0, 0))
            with path.open("rb") as file:
                file.seek(size)
                data = file.read()
            self._sizes[path] = (size + len(data), lines + data.count(b"\n"))
        return sum(lines for _, lines in self._sizes.values())


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def kill_server(site: Site) -> None:
    server = site.rng.choice(site.servers)
    server.kill()
    await asyncio.sleep(site.rng.uniform(0.0, 0.5))
    await server.start()


async def restart_server(site: Site) -> None:
    server = site.rng.choice(site.servers)
    assert await server.stop() == 0
    await server.start()


async def stop_server(site: Site) -> None:
    """For up to three terms; what it then sends is late."""
    server = site.rng.choice(site.servers)
    server.pause()
    await asyncio.sleep(site.rng.uniform(0.3, 3.0))
    server.go_on()


async def kill_redis(site: Site) -> None:
    """It keeps what it acknowledged; the directory's memory is another incarnation afterwards."""
    site.redis.kill()
    await asyncio.to_thread(site.redis.start)


async def stop_redis(site: Site) -> None:
    site.redis.pause()
    await asyncio.sleep(site.rng.uniform(0.3, 2.0))
    site.redis.resume()


async def stop_worker(site: Site) -> None:
    worker = site.rng.choice(site.workers)
    worker.signal(signal.SIGSTOP)
    await asyncio.sleep(site.rng.uniform(0.3, 2.5))
    worker.signal(signal.SIGCONT)


async def kill_worker(site: Site) -> None:
    """With whatever it holds; another takes its place."""
    worker = site.workers.pop(site.rng.randrange(WORKERS))
    worker.kill()
    site.workers.insert(0, site.worker())


async def cut(site: Site) -> None:
    site.rng.choice(site.proxies).cut()


async def cut_in_a_frame(site: Site) -> None:
    proxy = site.rng.choice(site.proxies)
    site.rng.choice((proxy.up, proxy.down)).cut_after = site.rng.randrange(1, 2_000)
    await asyncio.sleep(0.3)
    proxy.heal()


async def delay(site: Site) -> None:
    proxy = site.rng.choice(site.proxies)
    proxy.up.delay_s, proxy.down.delay_s = site.rng.choice(((0.3, 0.0), (0.0, 0.3), (0.1, 0.5)))
    await asyncio.sleep(site.rng.uniform(0.5, 2.0))
    proxy.heal()


async def hold(site: Site) -> None:
    """A black hole, one way or both, for longer than a copy may live; then the bytes come, or are lost."""
    proxy = site.rng.choice(site.proxies)
    for way in site.rng.choice(((proxy.up,), (proxy.down,), (proxy.up, proxy.down))):
        way.open.clear()
    await asyncio.sleep(site.rng.uniform(0.5, 3.0))
    if site.rng.random() < 0.5:
        proxy.cut()
    proxy.heal()


Fault = Callable[[Site], Awaitable[None]]
FAULTS: list[Fault] = [
    kill_server, restart_server, stop_server, stop_worker, kill_worker, cut, cut_in_a_frame, delay, hold, hold, delay,
    kill_redis, stop_redis,
]  # fmt: skip


async def trouble(site: Site, until: int) -> None:
    """One fault after the other, each kind before any comes again, until so many operations are done."""
    order: list[Fault] = []
    while site.operations() < until:
        order = order or site.rng.sample(FAULTS, len(FAULTS))
        fault = order.pop()
        await fault(site)
        site.done[fault.__name__] += 1
        await asyncio.sleep(site.rng.uniform(0.1, 0.8))


# --- the campaign -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def site(
    redis_factory: RedisFactory,
    store_server: ServerFactory,
    scripts: ScriptFactory,
    short_tmp: Path,
    rng: random.Random,
) -> AsyncIterator[Site]:
    """Everything in place; nothing has gone wrong yet."""
    redis = redis_factory(settings={"appendfsync": "always"})
    flags = {**FLAGS, "log_archive": short_tmp / "archive"}
    servers = [await store_server(redis, **flags).start() for _ in range(2)]
    site = Site(redis, servers, scripts, short_tmp, rng)
    site.history.mkdir()
    site.proxies = [await Proxy(server.port).__aenter__() for server in servers for _ in range(2)]
    async with homenode.connect(servers[0].url, agent="first", record=str(site.history)) as hn:
        for key in LAZY + STRICT:
            await hn.put(key, f"first {key}")
        for key in STRICT:
            await hn.set_policy(key, consistency="strict")
    yield site
    for proxy in site.proxies:
        await proxy.__aexit__()


def say(report: Report, site: Site, verdict: Verdict, operations: list[Operation]) -> None:
    """The figures."""
    strict = sum(one.level == "strict" for one in operations)
    observed = [one for one in operations if one.agent.startswith("observer")]
    seen = judge(observed, all_writers=False)
    by = {kind.value: verdict.operations[kind.value] for kind in Kind}
    report(f"{len(operations)} operations ({by}, {strict} of them strict), {verdict.operations['unknown']} unknown")
    report(
        f"refused {dict(verdict.refused)}; {verdict.availability:.2%} answered, longest {verdict.longest_gap_ms:.0f} ms"
    )
    report(
        f"observer: {len(observed)} reads; all: {verdict.stale.total()} stale, oldest {verdict.oldest_ms:.0f} ms of "
        f"{MAX_AGE_MS} ({seen.operations['hit']} hits)"
    )
    report(f"faults {dict(site.done)}; {sum(p.connections for p in site.proxies)} connections")


async def test_histories_under_faults_keep_every_promise(
    site: Site, scale: Scale, report: Report, short_tmp: Path
) -> None:
    site.workers = [site.worker() for _ in range(WORKERS)]
    observer = site.worker("observer")
    await wait_until_async(lambda: site.operations() > 200, timeout_s=120, what="the agents at work")
    await trouble(site, int(scale(6_000, 130_000)))
    await asyncio.sleep(1.0)
    for script in (*site.workers, observer):
        await script.stop()
    operations = await asyncio.to_thread(read_history, [site.history])
    verdict = judge(operations, max_age_ms=MAX_AGE_MS)
    verdict.longest_gap_ms = judge([one for one in operations if one.agent != "first"]).longest_gap_ms
    say(report, site, verdict, operations)
    assert not verdict.findings, "\n".join(f"{f.rule}: {f.key}: {f.text}" for f in verdict.findings[:20])
    assert len(operations) >= scale(4_000, 100_000)
    for server in site.servers:
        assert await server.stop() == 0
    replay = Replay()
    for item in read_archive(short_tmp / "archive"):
        replay.see(item)
    report(replay.summary.text())
    assert not replay.violations
    assert not replay.summary.missing
