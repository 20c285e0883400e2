"""No update is lost on any write path while the server is killed and restarted at random moments."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time

import pytest

import homenode
from homenode.cli.exits import Exit
from tests.client.server_process import ServerProcess
from tests.faults.conftest import Report, Scale, ScriptFactory, ServerFactory
from tests.faults.ledger import ACKED, REFUSED, UNKNOWN, Ledger
from tests.faults.processes import ROOT, Record, Script
from tests.faults.writer import COUNTER, FILE
from tests.support.ports import wait_until_async

PROCESSES = 8
PROGRESS_S = 120.0


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
                record["error"] = f"exit {process.returncode}"
                assert b"Traceback" not in text, text.decode()
            self.records.append({**record, "version": None})


async def kill_at_random(server: ServerProcess, writers: list[Script], kills: int, rng: random.Random) -> list[float]:
    """SIGKILL and restart; returns how long it was from each restart to the next acknowledgement."""
    waits = []
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.05, 1.5))
        server.kill()
        seen = acknowledged(writers)
        await server.start()
        started = time.monotonic()
        await wait_until_async(
            lambda seen=seen: acknowledged(writers) > seen, timeout_s=PROGRESS_S, what="an acknowledgement"
        )
        waits.append(time.monotonic() - started)
    return waits


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
async def test_no_update_is_lost_while_the_server_is_killed(
    store: str,
    store_server: ServerFactory,
    scripts: ScriptFactory,
    scale: Scale,
    rng: random.Random,
    report: Report,
) -> None:
    server = await store_server(store).start()
    writers = [scripts("writer", server.url, f"w{i}") for i in range(PROCESSES)]
    command_line = CommandLine(server.url)
    typing = asyncio.create_task(command_line.run())
    await wait_until_async(
        lambda: all(writer.records for writer in writers), timeout_s=PROGRESS_S, what="all writers connected"
    )
    waits = await kill_at_random(server, writers, int(scale(3, 40)), rng)
    command_line.stop = True
    await typing
    ledger = Ledger(list(command_line.records))
    for records in await asyncio.gather(*(writer.stop() for writer in writers)):
        ledger.add(record for record in records if "end" in record)
    async with homenode.connect(server.url, agent="judge", timeout_ms=30_000) as hn:
        counter, file = await hn.read(COUNTER), await hn.read(FILE)
    report(f"{len(waits)} kills, back after at most {max(waits):.1f} s; {ledger.by_path()}")
    ledger.check_counter(COUNTER, int(counter.text))
    ledger.check_lines(FILE, file.text.split())
    ledger.check_versions()
    assert ledger.count(ACKED) > PROCESSES
