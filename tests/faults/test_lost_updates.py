"""No update is lost on any write path while the server is killed and restarted at random moments."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

import homenode
from homenode.cli.exits import Exit
from tests.client.server_process import ServerProcess
from tests.conftest import RedisFactory
from tests.faults.conftest import Report, Scale, ScriptFactory, ServerFactory
from tests.faults.ledger import ACKED, REFUSED, UNKNOWN, Ledger
from tests.faults.processes import ROOT, Record, Script
from tests.faults.writer import COUNTER, FILE
from tests.support.ports import wait_until_async
from tests.support.redis_process import RedisProcess

PROCESSES = 8
PROGRESS_S = 120.0
#: What a writer may be told in such times; the last two are the command line's.
REFUSALS = {
    "VersionConflict", "LeaseDenied", "LeaseLost", "StaleFence", "Unavailable", "Overloaded", "Contended",
    "DeadlineExceeded", f"exit {Exit.CONFLICT.value}", f"exit {Exit.UNAVAILABLE.value}",
}  # fmt: skip


def acknowledged(writers: list[Script]) -> int:
    """How many effects were acknowledged so far."""
    return sum(1 for writer in writers for record in writer.records if record.get("end") == ACKED)


class CommandLine:
    """`homenode edit file --append TAG`, again and again, each a process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.records: list[Record] = []
        self.stop = False

    async def run(self) -> None:
        """Until `stop`."""
        while not self.stop:
            tag = f"cli:{len(self.records)}"
            command = [sys.executable, "-m", "homenode.cli.main", "edit", FILE, "--append", tag, "--create"]
            process = await asyncio.create_subprocess_exec(
                *command, "--url", self._url, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            _, text = await process.communicate()
            ends = {Exit.OK: ACKED, Exit.UNKNOWN: UNKNOWN}
            record: Record = {"key": FILE, "path": "cli", "tag": tag, "end": ends.get(process.returncode, REFUSED)}
            if record["end"] == REFUSED:
                record |= {"error": f"exit {process.returncode}", "text": text.decode()}
                assert b"Traceback" not in text, text.decode()
            self.records.append({**record, "version": None})


Victim = ServerProcess | RedisProcess


async def strike(victim: Victim, n: int, rng: random.Random) -> str:
    """SIGKILL and restart; every fourth time something milder. Returns what it was."""
    if n % 4 != 3:
        victim.kill()
        await (asyncio.to_thread(victim.start) if isinstance(victim, RedisProcess) else victim.start())
        return "kills"
    if isinstance(victim, RedisProcess):
        victim.pause()
        await asyncio.sleep(rng.uniform(0.5, 6.0))
        victim.resume()
        return "pauses"
    assert await victim.stop() == 0
    await victim.start()
    return "orderly restarts"


async def strike_at_random(
    victim: Victim, writers: list[Script], times: int, rng: random.Random
) -> tuple[Counter[str], float]:
    """What was done to the victim, and the longest time from the end of that to the next acknowledgement."""
    done: Counter[str] = Counter()
    longest_s = 0.0
    for n in range(times):
        await asyncio.sleep(rng.uniform(0.05, 1.5))
        seen = acknowledged(writers)
        done[await strike(victim, n, rng)] += 1
        ended = time.monotonic()
        await wait_until_async(
            lambda seen=seen: acknowledged(writers) > seen, timeout_s=PROGRESS_S, what="an acknowledgement"
        )
        longest_s = max(longest_s, time.monotonic() - ended)
    return done, longest_s


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "victim"),
    [
        ("sqlite", "server"),
        pytest.param("redis", "server", marks=pytest.mark.redis),
        pytest.param("redis", "redis", marks=pytest.mark.redis),
    ],
)
async def test_no_update_is_lost_while_something_is_killed(
    store: str,
    victim: str,
    redis_factory: RedisFactory,
    store_server: ServerFactory,
    scripts: ScriptFactory,
    scale: Scale,
    rng: random.Random,
    report: Report,
) -> None:
    redis = redis_factory(settings={"appendfsync": "always"}) if store == "redis" else None
    server = await store_server(redis or "sqlite").start()
    writers = [scripts("writer", server.url, f"w{i}") for i in range(PROCESSES)]
    command_line = CommandLine(server.url)
    typing = asyncio.create_task(command_line.run())
    await wait_until_async(
        lambda: all(writer.records for writer in writers), timeout_s=PROGRESS_S, what="all writers connected"
    )
    target = redis if victim == "redis" and redis is not None else server
    done, longest_s = await strike_at_random(target, writers, int(scale(4, 52)), rng)
    command_line.stop = True
    await typing
    ledger = Ledger(list(command_line.records))
    for records in await asyncio.gather(*(writer.stop() for writer in writers)):
        ledger.add(record for record in records if "end" in record)
    async with homenode.connect(server.url, agent="judge", timeout_ms=30_000) as hn:
        counter, file = await hn.read(COUNTER), await hn.read(FILE)
    report(f"{dict(done)}, back after at most {longest_s:.1f} s; {ledger.by_path()}")
    ledger.check_counter(COUNTER, int(counter.text))
    ledger.check_lines(FILE, file.text.split())
    ledger.check_versions()
    odd = [record for record in ledger.records if record["end"] == REFUSED and record["error"] not in REFUSALS]
    assert not odd, f"refused for a reason that is none: {odd}"
    assert ledger.count(ACKED) > PROCESSES
