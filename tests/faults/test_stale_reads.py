"""Whatever happens to a stream, a cached read is at most Δ old; what was done is done once."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

import homenode
from tests.faults import apart
from tests.faults.conftest import Report, Scale, ScriptFactory, ServerFactory
from tests.faults.processes import Record
from tests.faults.proxy import Proxy
from tests.support.ports import wait_until_async

KEY = "watched"
MAX_AGE_MS = 1_000
BOOKMARK_MS = 200
SESSIONS = 5
WAIT_S = 60.0


class Committer:
    """Commits new versions, near the server, and notes when each was acknowledged."""

    def __init__(self, hn: homenode.Homenode) -> None:
        self._hn = hn
        self.acknowledged: dict[int, float] = {}
        self.stop = False

    async def one(self) -> int:
        """One more version; its number."""
        artifact = await self._hn.put(KEY, f"{len(self.acknowledged)}", base=homenode.ANY)
        assert artifact.version is not None
        self.acknowledged[artifact.version.n] = time.monotonic()
        return artifact.version.n

    async def run(self, rng: random.Random) -> None:
        """Until stopped; in bursts and with pauses, so that copies live long enough to become stale."""
        while not self.stop:
            await self.one()
            await asyncio.sleep(rng.choice((0.01, 0.05, 0.3)))


def ages(records: list[Record], kind: str, acknowledged: dict[int, float]) -> list[float]:
    """By how much each version was stale when it was served last, in seconds; of those that were."""
    found = []
    for record in records:
        for n, moment in record.get(kind, ()):
            if n + 1 in acknowledged and moment > acknowledged[n + 1]:
                found.append(moment - acknowledged[n + 1])
    return found


def check_ages(records: list[Record], acknowledged: dict[int, float], report: Report) -> None:
    """No read, from the cache or not, was older than Δ, and no session saw versions go back."""
    total: Counter[str] = Counter()
    for record in records:
        assert not record.get("went_back"), record["went_back"]
        total.update({name: value for name, value in record.items() if name.startswith("count_")})
    stale = {kind: ages(records, kind, acknowledged) for kind in ("hits", "reads")}
    oldest = {kind: max(found, default=0.0) for kind, found in stale.items()}
    counts = {name.removeprefix("count_"): n for name, n in total.items()}
    report(
        f"{len(acknowledged)} versions, {counts}; stale versions served { ({k: len(v) for k, v in stale.items()}) }, "
        f"oldest { ({k: round(v, 3) for k, v in oldest.items()}) } s of {MAX_AGE_MS / 1000:g}"
    )
    for kind, found in stale.items():
        late = [age for age in found if age > MAX_AGE_MS / 1000]
        assert not late, f"{kind}: {len(late)} older than allowed, the oldest by {max(late):.3f} s"
    assert counts["hits"], "nothing was ever served from a cache"


# --- what happens to the stream ---------------------------------------------------------------------------------------


def delayed(proxy: Proxy, rng: random.Random) -> None:
    for way in (proxy.up, proxy.down):
        way.delay_s = rng.choice((0.0, 0.05, 0.5))


def held_up(proxy: Proxy, rng: random.Random) -> None:
    proxy.up.open.clear()


def held_down(proxy: Proxy, rng: random.Random) -> None:
    proxy.down.open.clear()


def held_both(proxy: Proxy, rng: random.Random) -> None:
    held_up(proxy, rng)
    held_down(proxy, rng)


def reset(proxy: Proxy, rng: random.Random) -> None:
    proxy.cut()


def refused(proxy: Proxy, rng: random.Random) -> None:
    proxy.refusing = True
    proxy.cut()


def cut_in_a_frame(proxy: Proxy, rng: random.Random) -> None:
    rng.choice((proxy.up, proxy.down)).cut_after = rng.randrange(1, 400)


Trouble = Callable[[Proxy, random.Random], None]
TROUBLES: list[Trouble] = [delayed, held_up, held_down, held_both, reset, refused, cut_in_a_frame]


async def trouble(proxy: Proxy, times: int, rng: random.Random) -> Counter[str]:
    """Each kind of trouble in turn, in random order, for random times shorter and longer than Δ."""
    happened: Counter[str] = Counter()
    order: list[Trouble] = []
    for _ in range(times):
        order = order or rng.sample(TROUBLES, len(TROUBLES))
        one = order.pop()
        happened[one.__name__] += 1
        one(proxy, rng)
        await asyncio.sleep(rng.choice((0.2, 0.7, 1.6)))
        if rng.random() < 0.3:
            proxy.cut()  # what was held is lost
        proxy.heal()
        await asyncio.sleep(rng.uniform(0.2, 0.8))
    return happened


@pytest.mark.slow
async def test_no_read_is_older_than_allowed_in_stream_trouble(
    store_server: ServerFactory, scripts: ScriptFactory, scale: Scale, rng: random.Random, report: Report
) -> None:
    server = await store_server("sqlite", max_age_ms=MAX_AGE_MS, bookmark_ms=BOOKMARK_MS).start()
    async with Proxy(server.port) as proxy, homenode.connect(server.url, agent="near", timeout_ms=30_000) as hn:
        committer = Committer(hn)
        await committer.one()
        reader = scripts("reader", proxy.port, SESSIONS, KEY)
        await wait_until_async(lambda: reader.records, timeout_s=WAIT_S, what="the readers' first reads")
        committing = asyncio.create_task(committer.run(rng))
        happened = await trouble(proxy, int(scale(len(TROUBLES), 30 * len(TROUBLES))), rng)
        committer.stop = True
        await committing
        records = await reader.stop()
    report(f"{dict(happened)}, {proxy.connections} connections, {proxy.cuts} cut")
    check_ages(records, committer.acknowledged, report)


async def test_a_reader_that_slept_serves_nothing_stale_when_it_wakes(
    store_server: ServerFactory, scripts: ScriptFactory, scale: Scale, report: Report
) -> None:
    server = await store_server("sqlite", max_age_ms=MAX_AGE_MS, bookmark_ms=BOOKMARK_MS).start()
    async with homenode.connect(server.url, agent="near", timeout_ms=30_000) as hn:
        committer = Committer(hn)
        await committer.one()
        reader = scripts("reader", server.port, 2, KEY)
        await wait_until_async(lambda: reader.records, timeout_s=WAIT_S, what="the reader's first reads")
        for _ in range(int(scale(1, 10))):
            await asyncio.sleep(0.5)
            reader.signal(signal.SIGSTOP)
            await committer.one()
            await asyncio.sleep(scale(2.5, 5.0))
            await committer.one()
            reader.signal(signal.SIGCONT)
            await asyncio.sleep(1.0)
        records = await reader.stop()
    check_ages(records, committer.acknowledged, report)
    (newest,) = {max(n for n, _ in record["hits"]) for record in records if "hits" in record}
    assert newest == max(committer.acknowledged), "the reader did not come back"


# --- answers that are lost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cut", "held"])
async def test_an_answer_cut_off_after_execution_comes_again(store_server: ServerFactory, end: str) -> None:
    """One effect, the same answer: for a put, a lease and a commit under it, and 40 puts at once on one artifact."""
    server = await store_server("sqlite").start()
    async with Proxy(server.port) as proxy:
        far, transport = await apart.connect(proxy.port, "far", timeout_ms=120_000)
        near, _ = await apart.connect(server.port, "near")
        async with far, near:

            async def over_the_gap(started: list[asyncio.Task[object]], versions: int) -> list[object]:
                """Wait until all has taken effect, then let the answers be lost, or late."""
                try:
                    await wait_until_async(executed(near, versions), timeout_s=WAIT_S, what="the effects")
                    if end == "cut":
                        proxy.cut()
                finally:
                    proxy.heal()
                return await asyncio.gather(*started)

            proxy.down.open.clear()
            (one,) = await over_the_gap([asyncio.create_task(far.put(KEY, "one", base=homenode.ABSENT))], 1)
            assert isinstance(one, homenode.Artifact)
            assert one.version == (await near.read(KEY)).version

            proxy.down.open.clear()
            puts = [asyncio.create_task(far.put(KEY, f"put {n}", base=homenode.ANY)) for n in range(40)]
            written = await over_the_gap(puts, 41)  # type: ignore[arg-type]
            versions = {artifact.version for artifact in written if isinstance(artifact, homenode.Artifact)}
            assert len(versions) == 40
            assert (await near.stat(KEY)).version == max(versions)

            lease = await far.lease(KEY, "write", ttl_ms=60_000)
            assert isinstance(lease, homenode.WriteLease)
            proxy.down.open.clear()
            (last,) = await over_the_gap([asyncio.create_task(lease.commit("under the lease"))], 42)
            assert isinstance(last, homenode.Artifact) and last.version is not None
            assert last.version.n == 42
            assert (await lease.commit("and again")).version == (await near.stat(KEY)).version
            assert (await near.stat(KEY)).version.n == 43
        if end == "cut":
            assert transport.streams == 4


def executed(near: homenode.Homenode, versions: int) -> Callable[[], object]:
    """Whether the artifact has reached that version."""

    async def ask() -> bool:
        try:
            return (await near.stat(KEY)).version.n >= versions
        except homenode.NotFound:
            return False

    return ask
