"""Commits to a SQLite store as fast as it can and prints each acknowledgement: `python … FILE`. Made to be killed.

Each line is `task n sequence`: task's n-th commit has that log sequence. Commit n of a task puts n into its record,
after comparing it with n - 1, and appends `task n` to the log.
"""

from __future__ import annotations

import asyncio
import sys

from homenode_directory.store.base import Commit, Equals, Put
from homenode_directory.store.sqlite_store import SqliteStore

TASKS = 16
SLICES = 4


async def work(store: SqliteStore, task: int) -> None:
    """Commit for ever."""
    slice_, key = task % SLICES, f"task/{task}"
    token = (await store.adopt(slice_, 0)).token
    (record,) = await store.load(slice_, [key])
    n = int(record.get("n", "0"))
    print(f"start {task} {n}", flush=True)
    while True:
        commit = Commit(
            (Equals(key, "n", str(n) if n else None),),
            (Put(key, "n", str(n + 1)), Put(key, "filler", "x" * (n % 3_000))),
            (f"{task} {n + 1}".encode(),),
        )
        (outcome,) = await store.commit(slice_, token, [commit])
        assert outcome.ok, outcome
        n += 1
        print(f"{task} {n} {outcome.head}", flush=True)


async def main() -> None:
    """Run all tasks until something ends the process."""
    store = SqliteStore(sys.argv[1], slices=SLICES)
    await store.open()
    await asyncio.gather(*(work(store, task) for task in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main())
