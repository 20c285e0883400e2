"""Strict artifacts between real processes: who is cut off, asleep or late never reads what others have left behind."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable

import pytest

import homenode
from homenode.leases import deadline_ns
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from tests.faults import apart
from tests.faults.conftest import Report, Scale, ScriptFactory, ServerFactory
from tests.faults.processes import Record
from tests.faults.proxy import Proxy
from tests.faults.test_stale_reads import TROUBLES, Committer, ages, trouble
from tests.support.ports import wait_until_async

KEY = "watched"
TERM_MS = 2_000
BOOKMARK_MS = 100
WAIT_S = 60.0
LARGE = random.Random(3).randbytes(200_000)

STORES = pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])


async def start(store_server: ServerFactory, store: str = "sqlite", bookmark_ms: int = BOOKMARK_MS) -> int:
    """A server with short leases; its port."""
    server = await store_server(store, term_ms=TERM_MS, bookmark_ms=bookmark_ms).start()
    return server.port


async def found(hn: homenode.Homenode, content: str | bytes = "one") -> homenode.Version:
    """A strict artifact; its version."""
    await hn.put(KEY, content)
    await hn.set_policy(KEY, consistency="strict")
    version = (await hn.read(KEY)).version
    assert version is not None
    return version


async def cached(hn: homenode.Homenode) -> homenode.Artifact:
    """A copy that is served from here."""

    async def served() -> homenode.Artifact | None:
        await hn.read(KEY)
        return hn.read_cached(KEY)

    await wait_until_async(served, timeout_s=WAIT_S, what="a copy with a lease")
    copy = hn.read_cached(KEY)
    assert copy is not None and copy.level == "strict"
    return copy


async def connected(far: homenode.Homenode, near: homenode.Homenode, contents: Proxy) -> int:
    """Let `far` have its connection for contents; how many bytes it has sent on it."""
    await near.put("another", LARGE[::-1])
    await far.read("another")
    return contents.up.passed


async def asked_for(contents: Proxy, already: int) -> None:
    """Wait until a content was asked for: what acknowledges another one is shorter than that."""
    await wait_until_async(lambda: contents.up.passed > already + 80, timeout_s=WAIT_S, what="the content is asked for")


async def load(transport: apart.PartedTransport, session: str) -> pb.ReadResponse:
    """A read by a unary call, which asks the directory and needs no stream."""
    request = pb.ReadRequest(session_id=session, key=KEY, consistency=t.CONSISTENCY_STRICT)
    response: pb.ReadResponse = await transport.call("Read", request, 10.0)
    return response


# --- cut off from the stream ------------------------------------------------------------------------------------------


def deaf(proxy: Proxy) -> None:
    """Its signs of life arrive, and no answer comes back."""
    proxy.down.open.clear()


def cut_off(proxy: Proxy) -> None:
    proxy.up.open.clear()
    proxy.down.open.clear()


@STORES
@pytest.mark.parametrize("how", [deaf, cut_off])
async def test_who_is_cut_off_from_its_stream_reads_nothing_old_once_another_has_read_new(
    store: str, how: Callable[[Proxy], None], store_server: ServerFactory
) -> None:
    """B is cut off from its stream, A commits, C reads new: B never reads old, from its cache or by a call."""
    port = await start(store_server, store)
    async with Proxy(port) as proxy:
        b, b_calls = await apart.connect_parted(port, "b", stream=proxy.port)
        a, _ = await apart.connect(port, "a")
        c, _ = await apart.connect(port, "c")
        async with a, c, b:
            old = await found(a)
            await cached(c)
            copy = await cached(b)
            assert copy.version == old
            how(proxy)
            putting = asyncio.create_task(a.put(KEY, "two"))
            new: homenode.Version | None = None
            served = loaded = 0
            while new is None or b.connected:
                for version in (version_of(b.read_cached(KEY)), loaded_version(await load(b_calls, b.session_id))):
                    assert version is None or new is None or version >= new, "old, after another had read new"
                served += b.read_cached(KEY) is copy
                loaded += 1
                if new is None and (newest := (await c.read(KEY)).version) != old:
                    new = newest
                    assert putting.done() or not b.read_cached(KEY)
                await asyncio.sleep(0.005)
            written = await putting
            assert (written.version, written.level) == (new, "strict")
            assert served, "while it waited to be published, the old version was still served"
            proxy.heal()
            assert (await b.read(KEY)).text == "two"


def version_of(artifact: homenode.Artifact | None) -> homenode.Version | None:
    return artifact.version if artifact is not None else None


def loaded_version(response: pb.ReadResponse) -> homenode.Version:
    return homenode.Version(response.version.incarnation, response.version.n)


async def test_a_commit_waits_for_nobody_who_has_dropped_its_copy(store_server: ServerFactory) -> None:
    """Acks come by the stream: with everybody on it, a strict commit needs no lease to run out."""
    port = await start(store_server)
    async with apart.sessions(port, 4) as sessions:
        await found(sessions[0])
        for n in range(20):
            for hn in sessions:
                await cached(hn)
            copies = [hn.read_cached(KEY) for hn in sessions]
            writer = sessions[n % 4]
            written = await writer.put(KEY, f"{n}", base=homenode.ANY)
            for hn, copy in zip(sessions, copies, strict=True):
                assert copy is not None
                if hn is not writer:
                    assert copy.window.until_ns < 0, "its copy went before the commit was answered"
                assert (await hn.read(KEY)).version == written.version


# --- late replies -----------------------------------------------------------------------------------------------------


async def test_an_answer_held_for_most_of_a_term_gives_no_more_than_the_rest(store_server: ServerFactory) -> None:
    """Leases count from when they were asked for, those on copies and those to write."""
    port = await start(store_server, bookmark_ms=1_000)  # silence is put up with for longer than the term
    async with Proxy(port) as proxy:
        far, _ = await apart.connect(proxy.port, "far")
        near, _ = await apart.connect(port, "near")
        async with near, far:
            await found(near)
            await near.put("other", "held by nobody")
            await cached(far)
            window = far._core.cache.freshness.strict
            proxy.down.open.clear()
            before_ns, asked_ns = window.until_ns, far.clock()
            far._core.session.ping()
            acquiring = asyncio.ensure_future(far.lease("other", "write", ttl_ms=TERM_MS)._take())

            async def granted() -> str:
                return (await near.stat("other")).holder

            await wait_until_async(granted, timeout_s=WAIT_S, what="the lease at the directory")
            await asyncio.sleep(0.3)  # the bookmark has left too
            proxy.up.open.clear()  # from here on nothing is asked for
            latest_ns = deadline_ns(far.clock(), TERM_MS)
            await asyncio.sleep(max(0.0, 0.9 * TERM_MS / 1_000 - (far.clock() - asked_ns) / 1e9))
            proxy.down.open.set()
            seen = extended = 0
            while not acquiring.done():
                extended += window.until_ns > before_ns
                assert window.until_ns <= latest_ns
                assert far.clock() < latest_ns or far.read_cached(KEY) is None
                for lease in far._core.session.leases.values():
                    assert lease.deadline_ns <= latest_ns
                    seen += 1
                await asyncio.sleep(0.005)
            with pytest.raises(homenode.LeaseLost):
                await acquiring  # it could be renewed no more
            assert seen and extended, "answer and bookmark were lost, not late"
            async with near.write("other", wait_ms=30_000) as draft:
                draft.text = "free"
            proxy.heal()
            assert (await far.read("other")).text == "free"


async def test_a_content_that_comes_after_another_commit_is_not_kept(store_server: ServerFactory) -> None:
    port = await start(store_server)
    async with Proxy(port) as contents:
        far, _ = await apart.connect_parted(port, "far", contents=contents.port)
        near, _ = await apart.connect(port, "near")
        async with near, far:
            old = await found(near, LARGE)
            already = await connected(far, near, contents)
            contents.down.open.clear()
            reading = asyncio.create_task(far.read(KEY))
            await asked_for(contents, already)
            written = await near.put(KEY, "small")
            contents.heal()
            late = await reading
            assert late.version in (old, written.version)
            served = far.read_cached(KEY)
            assert served is None or served.version == written.version
            assert (await far.read(KEY)).text == "small"


async def test_a_content_that_comes_after_an_own_commit_is_neither_kept_nor_shown(store_server: ServerFactory) -> None:
    port = await start(store_server)
    async with Proxy(port) as contents:
        far, _ = await apart.connect_parted(port, "far", contents=contents.port)
        near, _ = await apart.connect(port, "near")
        async with near, far:
            await found(near, LARGE)
            already = await connected(far, near, contents)
            contents.down.open.clear()
            reading = asyncio.create_task(far.agent("other").read(KEY))
            await asked_for(contents, already)
            written = await far.put(KEY, "small", base=homenode.ANY)
            contents.heal()
            assert (await reading).version == written.version
            served = far.read_cached(KEY)
            assert served is None or served.version == written.version


# --- asleep, and in any trouble ---------------------------------------------------------------------------------------


def check_strict(records: list[Record], acknowledged: dict[int, float], report: Report) -> None:
    """No read began after a newer version was acknowledged and gave an older one; copies were served all the same."""
    for record in records:
        assert not record.get("went_back"), record["went_back"]
    hits = sum(record.get("count_hits", 0) for record in records)
    for kind in ("hits", "reads"):
        stale = ages(records, kind, acknowledged)
        assert not stale, f"{len(stale)} stale {kind}, the oldest by {max(stale):.3f} s"
    assert hits, "nothing was ever served from a cache"
    report(f"{len(acknowledged)} versions, {hits} hits, none stale")


async def test_a_reader_that_slept_serves_nothing_old_when_it_wakes(
    store_server: ServerFactory, scripts: ScriptFactory, scale: Scale, report: Report
) -> None:
    port = await start(store_server)
    async with homenode.connect(f"homenode://127.0.0.1:{port}/main", agent="near", timeout_ms=60_000) as hn:
        await found(hn)
        committer = Committer(hn)
        await committer.one()
        reader = scripts("reader", port, 2, KEY)
        await wait_until_async(lambda: reader.records, timeout_s=WAIT_S, what="the reader's first reads")
        for _ in range(int(scale(2, 10))):
            await asyncio.sleep(0.5)
            reader.signal(signal.SIGSTOP)
            await committer.one()  # waits until the sleeper's lease is over
            reader.signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
        records = await reader.stop()
    check_strict(records, committer.acknowledged, report)


@pytest.mark.slow
async def test_no_strict_read_is_stale_in_stream_trouble(
    store_server: ServerFactory, scripts: ScriptFactory, scale: Scale, rng: random.Random, report: Report
) -> None:
    port = await start(store_server)
    url = f"homenode://127.0.0.1:{port}/main"
    async with Proxy(port) as proxy, homenode.connect(url, agent="near", timeout_ms=60_000) as hn:
        await found(hn)
        committer = Committer(hn)
        await committer.one()
        reader = scripts("reader", proxy.port, 3, KEY)
        await wait_until_async(lambda: reader.records, timeout_s=WAIT_S, what="the readers' first reads")
        committing = asyncio.create_task(committer.run(rng))
        happened = await trouble(proxy, int(scale(len(TROUBLES), 30 * len(TROUBLES))), rng)
        committer.stop = True
        await committing
        records = await reader.stop()
    report(f"{dict(happened)}, {proxy.connections} connections, {proxy.cuts} cut")
    check_strict(records, committer.acknowledged, report)
