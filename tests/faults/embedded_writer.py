"""Processes with the embedded directory, made to be killed: agents count in shared artifacts and report what was said.

Arguments: nothing. Each line on stdin, "DATABASE RECORDS", forks a process that opens `embedded://DATABASE` and works
until it is killed; its pid, and later "dead PID", come out on stdout. Forking one that has all imported already costs a
tenth of a new interpreter.
"""

from __future__ import annotations

import asyncio
import os
import sys

import homenode
import homenode.embedded
import homenode_directory.api.local
import homenode_directory.server  # noqa: F401  what `embedded://` loads lazily
from tests.faults.ledger import ACKED, REFUSED, UNKNOWN
from tests.faults.processes import Recorder

AGENTS = ("a", "b", "c")
KEYS = ("one", "two")
CHURNED = "churned"
TIMEOUT_MS = 30_000


def counted(counts: dict[str, int] | None, agent: str) -> dict[str, int]:
    """One more for the agent."""
    counts = counts or {}
    return {**counts, agent: counts.get(agent, 0) + 1}


async def count(hn: homenode.Homenode, out: Recorder, agent: str) -> None:
    """Count, artifact by artifact. Under way is what began and did not end."""
    n = 0
    while True:
        key, n = KEYS[n % len(KEYS)], n + 1
        out.write(began=agent, key=key)
        try:
            artifact = await hn.edit(key, lambda counts: counted(counts, agent), kind="json", default={})
        except homenode.Unknown:
            out.write(end=UNKNOWN, agent=agent, key=key)
        except homenode.HomenodeError as failure:
            out.write(end=REFUSED, agent=agent, key=key, error=type(failure).__name__)
        else:
            out.write(end=ACKED, agent=agent, key=key, version=artifact.version, hash=artifact.hash.hex())


async def churn(hn: homenode.Homenode, out: Recorder) -> None:
    """Create and delete one artifact again and again: its versions must not come back either."""
    n = 0
    while True:
        n += 1
        artifact = await hn.put(CHURNED, f"{os.getpid()}.{n}", base=homenode.ANY)
        out.write(key=CHURNED, version=artifact.version, hash=artifact.hash.hex())
        gone = await hn.delete(CHURNED, base=artifact.version)
        out.write(key=CHURNED, version=gone, hash="deleted")


async def work(database: str, records: str) -> None:
    """Say what is there, then work until killed."""
    out = Recorder(records)
    async with homenode.connect(f"embedded://{database}", agent="first", timeout_ms=TIMEOUT_MS) as hn:
        for key in KEYS:
            artifact = await hn.read(key, default={}, max_age_ms=0)
            out.write(found=artifact.json, key=key, version=artifact.version, hash=artifact.hash.hex())
        out.write(opened=True)
        agents = [count(hn.agent(name), out, name) for name in AGENTS]
        await asyncio.gather(churn(hn.agent("churn"), out), *agents)


def reap(pid: int) -> None:
    """Wait for a process, and say that it is dead: only then its file lock is gone."""
    os.waitpid(pid, 0)
    print("dead", pid, flush=True)


def main() -> None:
    """See the module."""
    for line in sys.stdin:
        database, records = line.split()
        pid = os.fork()
        if pid == 0:
            asyncio.run(work(database, records))
            os._exit(1)
        print(pid, flush=True)
        reap(pid)


if __name__ == "__main__":
    main()
