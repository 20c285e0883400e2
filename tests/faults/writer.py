"""A client process that increments a counter and appends to a file by every write path, until SIGTERM.

Arguments: RECORDS URL NAME.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable

import homenode
from tests.faults.ledger import ACKED, REFUSED, UNKNOWN
from tests.faults.processes import Recorder, stop_on_sigterm

COUNTER, FILE = "counter", "file"
PUT_ATTEMPTS = 20
TIMEOUT_MS = 30_000

Change = Callable[[bytes], bytes]


def increment(data: bytes) -> bytes:
    """The counter, one more."""
    return str(int(data or b"0") + 1).encode()


def appending(tag: str) -> Change:
    """Appends a line."""
    return lambda data: data + f"{tag}\n".encode()


async def by_put(hn: homenode.Homenode, key: str, change: Change) -> homenode.Artifact:
    """Read from the cache, put on what was read; again when somebody was faster."""
    for attempt in range(PUT_ATTEMPTS):
        old = await hn.read(key, default=b"")
        try:
            return await hn.put(key, change(old.bytes), base=old.version or homenode.ABSENT)
        except (homenode.VersionConflict, homenode.LeaseDenied):
            await asyncio.sleep(random.random() * 0.02 * attempt)
    return await hn.put(key, change(old.bytes), base=old.version or homenode.ABSENT)


async def by_edit(hn: homenode.Homenode, key: str, change: Change) -> homenode.Artifact:
    """Read, modify, write."""
    return await hn.edit(key, change, kind="bytes", default=b"")


async def by_write(hn: homenode.Homenode, key: str, change: Change) -> homenode.Artifact:
    """A draft under the write lease."""
    async with hn.write(key, create=True) as draft:
        draft.bytes = change(draft.bytes)
    assert draft.committed is not None
    return draft.committed


async def by_lease(hn: homenode.Homenode, key: str, change: Change) -> homenode.Artifact:
    """A commit under a write lease that is given back afterwards."""
    async with hn.lease(key, "write", create=True, wait_ms=10_000) as lease:
        assert isinstance(lease, homenode.WriteLease)
        return await lease.commit(change(lease.artifact.bytes if lease.artifact is not None else b""))


PATHS = {"put": by_put, "edit": by_edit, "write": by_write, "lease": by_lease}


async def one(hn: homenode.Homenode, out: Recorder, key: str, path: str, tag: str) -> None:
    """One effect, and what was said of it."""
    change = increment if key == COUNTER else appending(tag)
    told = {"key": key, "path": path, "tag": tag}
    try:
        artifact = await PATHS[path](hn, key, change)
    except homenode.Unknown:
        out.write(end=UNKNOWN, **told)
    except homenode.HomenodeError as failure:
        out.write(end=REFUSED, error=type(failure).__name__, text=str(failure), **told)
    else:
        out.write(end=ACKED, version=artifact.version, hash=artifact.hash.hex(), **told)


async def main(records: str, url: str, name: str) -> None:
    """See the module."""
    out, stop, n = Recorder(records), stop_on_sigterm(), 0
    async with homenode.connect(url, agent=name, timeout_ms=TIMEOUT_MS) as hn:
        out.write(opened=True)
        while not stop.is_set():
            n += 1
            await one(hn, out, random.choice((COUNTER, FILE)), random.choice(list(PATHS)), f"{name}:{n}")
            await asyncio.sleep(random.random() * 0.02)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
