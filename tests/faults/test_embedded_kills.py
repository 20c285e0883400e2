"""kill -9 of a process with the embedded directory, at random moments, many times: nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Report, Scale
from tests.faults.embedded_writer import CHURNED, KEYS
from tests.faults.ledger import ACKED, check_versions
from tests.faults.processes import ROOT, Record, read_records
from tests.support.ports import wait_until

OPEN_S = 60.0


class Zygote:
    """Makes processes of `embedded_writer`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.embedded_writer"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, database: Path, records: Path) -> int:
        """A process at work; its pid."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(database, records, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def kill(self, pid: int) -> None:
        """SIGKILL one, and wait until it is dead."""
        assert self._process.stdout is not None
        os.kill(pid, signal.SIGKILL)
        assert self._process.stdout.readline().split() == ["dead", str(pid)]

    def close(self) -> None:
        """No more of them."""
        self._process.kill()
        self._process.communicate()


def run_and_kill(zygote: Zygote, database: Path, records: Path, rng: random.Random) -> list[Record]:
    """One life: most are killed at work, some while they open the file."""
    pid = zygote.start(database, records)
    if rng.random() < 0.15:
        time.sleep(rng.uniform(0.0, 0.4))
    else:
        wait_until(lambda: any("opened" in record for record in read_records(records)), timeout_s=OPEN_S, what="opened")
        time.sleep(rng.uniform(0.0, 0.5))
    zygote.kill(pid)
    return read_records(records)


class Truth:
    """What the lives so far allow the next one to find."""

    def __init__(self) -> None:
        self.low: Counter[tuple[str, str]] = Counter()
        self.high: Counter[tuple[str, str]] = Counter()
        self.version: dict[str, tuple[int, int]] = {}
        self.acknowledged = 0

    def check_found(self, record: Record) -> None:
        """What a new life found in an artifact."""
        key, found = record["key"], record["found"]
        for agent in {agent for k, agent in self.high if k == key} | set(found):
            low, high, n = self.low[key, agent], self.high[key, agent], found.get(agent, 0)
            assert low <= n <= high, f"{key}: {agent} counted {low} to {high} times, and {n} are there"
            self.low[key, agent] = self.high[key, agent] = n
        self.check_newer(record)

    def check_newer(self, record: Record) -> None:
        """Versions of an artifact do not go back from one life to the next, nor does their counter alone."""
        if record["version"] is None:
            return
        version, before = tuple(record["version"]), self.version.get(record["key"], (0, 0))
        assert version >= before, f"{record['key']} went back from {before} to {version}"
        assert version[1] >= before[1], f"{record['key']}: n went back from {before} to {version}"
        self.version[record["key"]] = version

    def learn(self, records: list[Record]) -> None:
        """A life is over."""
        began: Counter[tuple[str, str]] = Counter()
        for record in records:
            if "found" in record:
                self.check_found(record)
            elif "began" in record:
                began[record["key"], record["began"]] += 1
            elif record.get("end") == ACKED:
                self.acknowledged += 1
                self.low[record["key"], record["agent"]] += 1
                self.check_acknowledged(record)
            elif record.get("end") == "refused":
                began[record["key"], record["agent"]] -= 1
            elif record.get("key") == CHURNED:
                self.check_newer(record)
        for name, count in began.items():
            self.high[name] += count

    def check_acknowledged(self, record: Record) -> None:
        """Acknowledgements of several agents may be recorded out of order; the newest counts for the next life."""
        version = tuple(record["version"])
        self.version[record["key"]] = max(version, self.version.get(record["key"], (0, 0)))


@pytest.mark.slow
def test_what_was_acknowledged_outlives_kill_9(
    short_tmp: Path, scale: Scale, rng: random.Random, report: Report
) -> None:
    kills, zygote, truth = int(scale(15, 200)), Zygote(), Truth()
    database, everything = short_tmp / "embedded.sqlite3", []
    opened = 0
    try:
        for life in range(kills):
            records = run_and_kill(zygote, database, short_tmp / f"life{life}", rng)
            opened += any("opened" in record for record in records)
            truth.learn(records)
            everything += records
        pid = zygote.start(database, short_tmp / "last")
        wait_until(
            lambda: sum(1 for record in read_records(short_tmp / "last") if record.get("end") == ACKED) > len(KEYS),
            timeout_s=OPEN_S,
            what="the last life at work",
        )
        zygote.kill(pid)
    finally:
        zygote.close()
    last = read_records(short_tmp / "last")
    truth.learn(last)
    versions = check_versions(everything + last)
    report(f"{kills} kills, {opened} of processes at work; {truth.acknowledged} acknowledged, {versions} versions")
    assert opened > kills // 2 and truth.acknowledged > kills
