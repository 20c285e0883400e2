"""Redis forgets: all at once, at its restart, or a part of it. Everybody notices, and nothing is done twice."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import homenode
from tests.conftest import RedisFactory
from tests.faults import apart
from tests.faults.conftest import Report, ServerFactory
from tests.faults.ledger import ACKED, REFUSED, UNKNOWN, check_versions
from tests.faults.processes import Record
from tests.faults.proxy import Proxy
from tests.support.ports import wait_until_async
from tests.support.redis_process import RedisProcess

pytestmark = pytest.mark.redis

SESSIONS = 8
KEY, FILE = "doc", "file"
NOTICE_S = 60.0
OLD, NEW = "old", "new"


def seen(key: str, artifact: homenode.Artifact) -> Record:
    """A version that somebody was shown."""
    return {"key": key, "version": artifact.version, "hash": hashlib.sha256(artifact.bytes).hexdigest()}


@dataclass
class Appender:
    """Appends lines until stopped, through the loss."""

    hn: homenode.Homenode
    records: list[Record] = field(default_factory=list)
    stop: bool = False

    async def run(self) -> None:
        """One line after the other."""
        while not self.stop:
            tag = f"{self.hn.name}:{len(self.records)}"
            record: Record = {"key": FILE, "tag": tag, "end": ACKED}
            try:
                written = await self.hn.edit(FILE, lambda text, tag=tag: f"{text}{tag}\n", default="")
                record |= seen(FILE, written)
            except homenode.Unknown:
                record["end"] = UNKNOWN
            except homenode.HomenodeError as failure:
                record |= {"end": REFUSED, "error": type(failure).__name__}
            self.records.append(record)
            await asyncio.sleep(0.01)


@dataclass
class Holder:
    """Serves its copy from the cache, as often as it may, and notes when it served what."""

    hn: homenode.Homenode
    id_before: str = ""
    served: list[tuple[float, homenode.Artifact, str]] = field(default_factory=list)
    noticed_s: float = 0.0
    stop: bool = False

    async def run(self) -> None:
        """Ask the cache; when it has nothing, the directory."""
        self.id_before = self.hn.session_id
        while not self.stop:
            if not self.noticed_s and self.hn.session_id != self.id_before:
                self.noticed_s = time.monotonic()
            moment = time.monotonic()
            copy = self.hn.read_cached(KEY)
            if copy is not None:
                self.served.append((moment, copy, self.hn.session_id))
            else:
                try:
                    await self.hn.read(KEY, timeout_ms=2_000)
                except homenode.HomenodeError:
                    pass
            await asyncio.sleep(0.01)


async def flushed(redis: RedisProcess, older: Path) -> None:
    redis.flushall()


async def restarted_with_its_file(redis: RedisProcess, older: Path) -> None:
    await asyncio.to_thread(redis.restart)


async def restarted_empty(redis: RedisProcess, older: Path) -> None:
    await asyncio.to_thread(redis.restart, wipe=True)


async def restarted_with_an_older_file(redis: RedisProcess, older: Path) -> None:
    redis.kill()
    redis.load_data(older)
    await asyncio.to_thread(redis.start)


Loss = Callable[[RedisProcess, Path], object]
#: What happens, and whether what was acknowledged is still there.
LOSSES = [
    (flushed, False),
    (restarted_with_its_file, True),
    (restarted_empty, False),
    (restarted_with_an_older_file, False),
]


async def settle(holders: list[Holder], tasks: list[asyncio.Task[None]]) -> None:
    """Stop everything and let it end."""
    for holder in holders:
        holder.stop = True
    await asyncio.gather(*tasks)


@pytest.mark.slow
@pytest.mark.parametrize(("lose", "durable"), LOSSES, ids=lambda v: getattr(v, "__name__", ""))
async def test_all_sessions_notice_a_lost_memory(
    lose: Loss, durable: bool, redis_factory: RedisFactory, store_server: ServerFactory, tmp_path: Path, report: Report
) -> None:
    redis = redis_factory(settings={"appendfsync": "always"})
    server = await store_server(redis).start()
    async with apart.sessions(server.port, SESSIONS + 2) as all_sessions:
        writer, *readers = all_sessions[2:]
        appenders = [Appender(hn) for hn in all_sessions[:2]]
        records = [seen(KEY, await writer.put(KEY, "first"))]
        if lose is restarted_with_an_older_file:
            await asyncio.to_thread(redis.kill)
            redis.save_data(tmp_path / "older")
            await asyncio.to_thread(redis.start)
        for n in range(3):
            records.append(seen(KEY, await writer.edit(KEY, lambda _, n=n: f"{n}")))
        old = await writer.edit(KEY, lambda _: OLD)
        records.append(seen(KEY, old))
        holders = [Holder(hn) for hn in readers + [writer]]
        tasks = [asyncio.create_task(one.run()) for one in [*holders, *appenders]]
        await wait_until_async(
            lambda: all(any(copy.text == OLD for _, copy, _ in one.served) for one in holders),
            timeout_s=NOTICE_S,
            what="all hold a copy",
        )
        lost_s = time.monotonic()
        await lose(redis, tmp_path / "older")  # type: ignore[misc]
        await wait_until_async(lambda: all(one.noticed_s for one in holders), timeout_s=NOTICE_S, what="all notice")
        there = await writer.read(KEY, default="nothing", max_age_ms=0, timeout_ms=60_000)
        new = await writer.put(KEY, NEW, base=there.version or homenode.ABSENT, timeout_ms=60_000)
        records.append(seen(KEY, new))
        new_s = time.monotonic()
        await wait_until_async(
            lambda: all(one.served and one.served[-1][1].text == NEW for one in holders),
            timeout_s=NOTICE_S,
            what="all serve the new one",
        )
        since = [len(one.records) for one in appenders]
        await wait_until_async(
            lambda: all(
                any(r["end"] == ACKED for r in one.records[n:]) for one, n in zip(appenders, since, strict=True)
            ),
            timeout_s=NOTICE_S,
            what="appending goes on",
        )
        for one in appenders:
            one.stop = True
        await settle(holders, tasks)
        lines = (await writer.read(FILE, max_age_ms=0)).text.split()

    assert there.text == (OLD if durable else "first" if lose is restarted_with_an_older_file else "nothing")
    assert old.version is not None and new.version is not None
    assert new.version > old.version and new.version.incarnation > old.version.incarnation
    check_old_copies(holders, old.version, new_s, durable=durable)
    check_lines([r for one in appenders for r in one.records], lines, new.version.incarnation, durable=durable)
    everything = [*records, *(r for one in appenders for r in one.records)]
    everything += [seen(KEY, copy) for one in holders for _, copy, _ in one.served[::20]]
    check_versions(everything)
    slowest = max(one.noticed_s for one in holders) - lost_s
    ends = [r["end"] for one in appenders for r in one.records]
    report(
        f"noticed by all after {slowest:.2f} s, {ends.count(ACKED)} acknowledged, {ends.count(UNKNOWN)} unknown, "
        f"{ends.count(REFUSED)} refused"
    )


def check_old_copies(holders: list[Holder], old: homenode.Version, new_s: float, *, durable: bool) -> None:
    """No later session serves a copy that was lost, and none the old one, when a newer was acknowledged Δ ago."""
    max_age_s = 3.0
    for one in holders:
        for moment, copy, session_id in one.served:
            if copy.version == old:
                assert durable or session_id == one.id_before, "a lost copy was served by the next session"
                assert moment < new_s + max_age_s, "a copy was served that was older than allowed"


def check_lines(records: list[Record], lines: list[str], incarnation: int, *, durable: bool) -> None:
    """No line twice; what the new memory acknowledged is there, and what the old one did too, if it was durable."""
    assert len(lines) == len(set(lines)), "a line was written twice"
    must = {r["tag"] for r in records if r["end"] == ACKED and (durable or r["version"].incarnation == incarnation)}
    assert must <= set(lines), f"acknowledged, and not there: {sorted(must - set(lines))}"
    refused = {r["tag"] for r in records if r["end"] == REFUSED}
    assert not refused & set(lines), f"refused, and there: {sorted(refused & set(lines))}"


@pytest.mark.parametrize("base", [homenode.ANY, homenode.ABSENT], ids=["any", "absent"])
async def test_an_effect_whose_trace_is_lost_is_unknown_and_not_repeated(
    base: homenode.versions.Base, redis_factory: RedisFactory, store_server: ServerFactory
) -> None:
    """Executed, its answer cut off, then the memory wiped: sent again it would be done in both memories."""
    redis = redis_factory()
    server = await store_server(redis).start()
    async with Proxy(server.port) as proxy:
        far, _ = await apart.connect(proxy.port, "far")
        near, _ = await apart.connect(server.port, "near")
        async with far, near:
            proxy.down.open.clear()
            putting = asyncio.create_task(far.put(KEY, "once", base=base, timeout_ms=60_000))

            async def executed() -> bool:
                return (await near.read(KEY, default="", max_age_ms=0)).text == "once"

            await wait_until_async(executed, what="the effect")
            redis.flushall()
            await wait_until_async(lambda: near.connected, what="the server's next memory")
            proxy.cut()
            proxy.heal()
            with pytest.raises(homenode.Unknown):
                await putting
            assert (await near.read(KEY, default="gone", max_age_ms=0, timeout_ms=60_000)).text == "gone"
            assert (await far.put(KEY, "again", base=homenode.ABSENT, timeout_ms=60_000)).text == "again"
