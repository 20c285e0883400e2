"""The SDK over a server that is killed, paused and started again, and over processes that die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap

import pytest

import homenode
from tests.client.conftest import ServerFactory
from tests.client.scripted import until
from tests.conftest import RedisFactory
from tests.faults.proxy import Proxy

WRITERS = 8
RESTARTS = 4


class Tally:
    """What was acknowledged, and what nobody knows of."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.unknown: list[str] = []
        self.stop = False


async def append_lines(url: str, name: str, tally: Tally) -> None:
    """Append to a file and count, as often as it goes, until told to stop."""
    async with homenode.connect(url, agent=name, timeout_ms=20_000) as hn:
        n = 0
        while not tally.stop:
            n += 1
            line = f"{name}:{n}"
            try:
                await hn.edit("file", lambda text, line=line: f"{text}{line}\n", default="")
                tally.acknowledged.append(line)
            except homenode.Unknown:
                tally.unknown.append(line)
            except homenode.VersionConflict:
                pass  # out of tries: not done


async def restart_often(server: object, tally: Tally) -> None:
    """SIGKILL and start again, while writers write."""
    for round_ in range(RESTARTS):
        seen = len(tally.acknowledged)
        await until(lambda seen=seen: len(tally.acknowledged) >= seen + 10, f"progress in round {round_}")
        server.kill()  # type: ignore[attr-defined]
        await server.start()  # type: ignore[attr-defined]
    seen = len(tally.acknowledged)
    await until(lambda: len(tally.acknowledged) >= seen + 10, "progress after the last restart")
    tally.stop = True


@pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
async def test_nothing_is_lost_or_done_twice_while_the_server_is_killed(
    store: str, server_factory: ServerFactory, request: pytest.FixtureRequest
) -> None:
    server = await server_factory(request.getfixturevalue("redis_url") if store == "redis" else "").start()
    tally = Tally()
    writers = [asyncio.create_task(append_lines(server.url, f"w{i}", tally)) for i in range(WRITERS)]
    await restart_often(server, tally)
    await asyncio.gather(*writers)
    async with homenode.connect(server.url, agent="end") as hn:
        lines = (await hn.read("file")).text.split()
    assert len(lines) == len(set(lines)), "a line was written twice"
    assert set(tally.acknowledged) <= set(lines), "an acknowledged line is missing"
    assert set(lines) <= set(tally.acknowledged) | set(tally.unknown)
    assert len(tally.unknown) <= RESTARTS, "a restart over a durable store should leave little unknown"


COUNTER = """
    import asyncio, sys, homenode
    async def main():
        unknown = 0
        async with homenode.connect(sys.argv[1], agent=sys.argv[2], timeout_ms=60_000) as hn:
            for i in range(20):
                line = f"{sys.argv[2]}:{i}"
                for call in (
                    hn.edit("count", lambda n: n + 1, kind="json", default=0),
                    hn.edit("lines", lambda text: f"{text}{line}\\n", default=""),
                ):
                    try:
                        await call
                    except homenode.Unknown:
                        unknown += 1
        print("unknown", unknown, flush=True)
    asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
async def test_eight_processes_count_together_while_the_server_is_killed(
    store: str, server_factory: ServerFactory, request: pytest.FixtureRequest
) -> None:
    server = await server_factory(request.getfixturevalue("redis_url") if store == "redis" else "").start()
    script = textwrap.dedent(COUNTER)
    counters = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, server.url, f"p{i}", stdout=asyncio.subprocess.PIPE
        )
        for i in range(WRITERS)
    ]
    ends = asyncio.gather(*(asyncio.wait_for(process.communicate(), 180) for process in counters))
    async with homenode.connect(server.url, agent="end", timeout_ms=60_000) as hn:
        for goal in (20, 60, 100):

            async def counted(goal: int = goal) -> bool:
                return bool((await hn.read("count", default=0, max_age_ms=0)).json >= goal)

            while not ends.done() and not await counted():
                await asyncio.sleep(0.02)
            server.kill()
            await server.start()
        told = [out.decode().split() for out, _ in await ends]
        assert [words[0] for words in told] == ["unknown"] * WRITERS
        unknown = sum(int(words[1]) for words in told)
        count = (await hn.read("count", max_age_ms=0)).json
        lines = (await hn.read("lines", max_age_ms=0)).text.split()
    assert len(lines) == len(set(lines))
    assert 2 * 20 * WRITERS - unknown <= count + len(lines) <= 2 * 20 * WRITERS
    assert unknown <= 3 * RESTARTS


async def test_copies_and_watches_outlive_a_restart(server_factory: ServerFactory) -> None:
    server = await server_factory().start()
    async with homenode.connect(server.url, agent="a") as a:
        first = await a.put("k", "one")
        async with a.watch() as events:
            server.kill()
            await until(lambda: not a.connected)
            assert a.read_cached("k") is None
            await server.start()
            await until(lambda: a.connected)
            assert (await a.read("k")).version == first.version
            assert a.read_cached("k") is not None
            assert (await anext(events)).kind == "resync"
            second = await a.put("k", "two")
            assert second.version is not None
            assert first.version is not None
            assert second.version > first.version
            assert (await anext(events)).version == second.version


@pytest.mark.redis
async def test_eight_sessions_notice_that_the_store_was_emptied(
    server_factory: ServerFactory, redis_factory: RedisFactory
) -> None:
    redis = redis_factory()
    server = await server_factory(redis.url).start()
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(homenode.connect(server.url, agent=f"s{i}")) for i in range(8)]
        before = await sessions[0].put("k", "one")
        for hn in sessions:
            await hn.read("k")
        ids = [hn.session_id for hn in sessions]
        redis.flushall()
        for hn, id_ in zip(sessions, ids, strict=True):
            await until(lambda hn=hn, id_=id_: hn.session_id != id_ and hn.connected, "another session")
            assert hn.read_cached("k") is None
            with pytest.raises(homenode.NotFound):
                await hn.read("k")
        again = await sessions[1].put("k", "two")
        assert again.version is not None
        assert before.version is not None
        assert again.version > before.version
        with pytest.raises(homenode.VersionConflict):
            await sessions[2].put("k", "x", base=before.version)


async def test_a_lease_does_not_outlive_the_servers_memory(server_factory: ServerFactory) -> None:
    server = await server_factory().start()
    async with homenode.connect(server.url, agent="a") as a:
        await a.put("k", "one")
        lease = await a.lease("k")
        assert isinstance(lease, homenode.WriteLease)
        server.kill()
        await server.start()
        await until(lambda: lease.cause is not None)
        with pytest.raises(homenode.LeaseLost) as lost:
            await lease.commit("two")
        assert lost.value.cause == "session_lost"
        assert (await a.read("k", max_age_ms=0)).text == "one"


async def test_a_paused_server_lets_reads_fail_closed_and_writes_wait(server_factory: ServerFactory) -> None:
    server = await server_factory(max_age_ms=500, bookmark_ms=100).start()
    async with homenode.connect(server.url, agent="a", timeout_ms=1_500) as a:
        await a.put("k", "one")
        await a.read("k")
        server.pause()
        await until(lambda: a.read_cached("k") is None, "the copy's end")
        with pytest.raises(homenode.Stale):
            await a.read("k")
        putting = asyncio.create_task(a.put("k", "two", timeout_ms=20_000))
        await asyncio.sleep(0.2)
        assert not putting.done()
        server.go_on()
        assert (await putting).text == "two"
        await until(lambda: a.connected)
        assert (await a.read("k", timeout_ms=20_000)).text == "two"


async def test_a_connection_needs_a_server(server_factory: ServerFactory) -> None:
    server = server_factory()
    with pytest.raises(homenode.Unavailable):
        await homenode.connect(server.url, agent="a", timeout_ms=500)
    waiting = asyncio.create_task(homenode.connect(server.url, agent="a", timeout_ms=30_000)._open())
    await server.start()
    await (await waiting).close()


async def test_a_far_server_is_given_the_time_to_answer(server_factory: ServerFactory) -> None:
    """An attempt to connect is not given up, and begun anew, while its answer is on its way."""
    server = await server_factory().start()
    async with Proxy(server.port) as proxy:
        proxy.up.delay_s = proxy.down.delay_s = 0.2
        async with homenode.connect(f"homenode://127.0.0.1:{proxy.port}/main", agent="far", timeout_ms=60_000) as hn:
            assert (await hn.put("k", "x")).text == "x"
        assert proxy.connections <= 2  # of the session, and of calls


async def test_another_host_takes_over(server_factory: ServerFactory) -> None:
    first, second = server_factory(), await server_factory().start()
    url = f"homenode://127.0.0.1:{first.port},127.0.0.1:{second.port}/main"
    async with homenode.connect(url, agent="a", timeout_ms=30_000) as a:
        await a.put("k", "one")


HOLDER = """
    import asyncio, sys, homenode
    async def main():
        async with homenode.connect(sys.argv[1], agent="holder") as hn:
            lease = await hn.lease("k", "write", ttl_ms=1_000)
            print("held", lease.fence, flush=True)
            await asyncio.sleep(600)
    asyncio.run(main())
"""

ZOMBIE = """
    import asyncio, sys, homenode
    async def main():
        async with homenode.connect(sys.argv[1], agent="zombie") as hn:
            lease = await hn.lease("k", "write", ttl_ms=1_000)
            print("held", lease.fence, flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            try:
                await lease.commit("late")
                print("committed", flush=True)
            except homenode.LeaseLost as lost:
                print("lost", lost.cause, flush=True)
    asyncio.run(main())
"""


async def start(script: str, url: str) -> asyncio.subprocess.Process:
    """Run a script that holds the write lease of `k`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(script),
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), 30)).startswith(b"held")
    return process


async def test_a_killed_writer_frees_the_artifact(server_factory: ServerFactory) -> None:
    server = await server_factory().start()
    async with homenode.connect(server.url, agent="a") as a:
        await a.put("k", "one")
        holder = await start(HOLDER, server.url)
        with pytest.raises(homenode.LeaseDenied):
            await a.lease("k")
        holder.kill()
        await holder.wait()
        async with a.write("k", wait_ms=20_000) as draft:
            draft.text += " and on"
        assert (await a.read("k", max_age_ms=0)).text == "one and on"


async def test_a_writer_that_slept_past_its_lease_is_fenced_and_told_why(server_factory: ServerFactory) -> None:
    server = await server_factory().start()
    async with homenode.connect(server.url, agent="a") as a:
        await a.put("k", "one")
        zombie = await start(ZOMBIE, server.url)
        os.kill(zombie.pid, signal.SIGSTOP)
        async with a.write("k", wait_ms=20_000) as draft:
            draft.text += " and on"
        os.kill(zombie.pid, signal.SIGCONT)
        out, _ = await asyncio.wait_for(zombie.communicate(b"\n"), 30)
        assert out.decode().split() == ["lost", "expired"]
        assert (await a.read("k", max_age_ms=0)).text == "one and on"


async def test_a_forked_child_serves_nothing_and_says_so(server_factory: ServerFactory) -> None:
    server = await server_factory().start()
    script = """
        import asyncio, os, sys, homenode
        async def main():
            async with homenode.connect(sys.argv[1], agent="parent") as hn:
                await hn.put("k", "one")
                await hn.read("k")
                assert hn.read_cached("k") is not None
                child = os.fork()
                if child == 0:
                    os._exit(0 if hn.read_cached("k") is None else 1)
                status = os.waitpid(child, 0)[1]
                assert status == 0, f"the child ended with {status}"
                assert hn.read_cached("k") is not None
                print("fine")
        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), server.url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out == b"fine\n"


async def test_a_forked_child_is_refused_its_parents_blocking_connection(server_factory: ServerFactory) -> None:
    server = await server_factory().start()
    script = """
        import os, signal, sys, homenode
        with homenode.connect_sync(sys.argv[1], agent="parent") as hn:
            hn.put("k", "one")
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                try:
                    hn.read("k", max_age_ms=0)
                except homenode.Unavailable:
                    with homenode.connect_sync(sys.argv[1], agent="child") as own:
                        os._exit(0 if own.read("k").text == "one" else 1)
                os._exit(2)
            status = os.waitpid(child, 0)[1]
            assert status == 0, f"the child ended with {status}"
            assert hn.read("k", max_age_ms=0).text == "one"
            print("fine")
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), server.url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out == b"fine\n"
