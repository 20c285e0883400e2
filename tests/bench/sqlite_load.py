"""Bare SQLite as a peer."""

from __future__ import annotations

import sqlite3

from tests.bench.homenode_load import body
from tests.bench.load import Loops


async def swap(address: str, clients: int, path: str) -> Loops:
    """Compare-and-set of 1 KiB, one durable transaction each, one after another."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE artifact (key TEXT PRIMARY KEY, version INTEGER, body BLOB)")
    connection.executemany("INSERT INTO artifact VALUES (?, 0, ?)", [(f"{n}", body(n).encode()) for n in range(64)])
    text = body(0).encode()
    count = 0

    async def one() -> None:
        nonlocal count
        version, number = divmod(count, 64)
        count += 1
        done = connection.execute(
            "UPDATE artifact SET version = ?, body = ? WHERE key = ? AND version = ?",
            (version + 1, text[:500] + b"%08d" % count + text[508:], f"{number}", version),
        )
        assert done.rowcount == 1

    return Loops([one])
