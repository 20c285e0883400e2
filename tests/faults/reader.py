"""An observer: several sessions in one process that read one artifact all the time, until SIGTERM.

Arguments: RECORDS PORT SESSIONS KEY. Times are of the machine's monotonic clock, taken *before* each read: a read that
gave version n at time t was stale by t − (when n + 1 was acknowledged), if that is positive.
"""

from __future__ import annotations

import asyncio
import sys
import time

import homenode
from tests.faults import apart
from tests.faults.processes import Recorder, stop_on_sigterm

PAUSE_S = 0.004
READ_TIMEOUT_MS = 1_500


class Reader:
    """One session. Of each version it keeps when it was served last, from the cache and by the directory."""

    def __init__(self, hn: homenode.Homenode, key: str) -> None:
        self._hn = hn
        self._key = key
        self.hits: dict[int, float] = {}
        self.reads: dict[int, float] = {}
        self.counts = {"hits": 0, "reads": 0, "failures": 0}
        self.newest = homenode.Version(0, 0)
        self.went_back: list[str] = []

    def _saw(self, artifact: homenode.Artifact) -> int:
        version = artifact.version
        assert version is not None
        if version < self.newest:
            self.went_back.append(f"{version} after {self.newest}")
        self.newest = max(self.newest, version)
        return version.n

    def hit(self) -> None:
        """From the cache, if it may."""
        moment = time.monotonic()
        artifact = self._hn.read_cached(self._key)
        if artifact is not None:
            self.counts["hits"] += 1
            self.hits[self._saw(artifact)] = moment

    async def read(self) -> None:
        """From wherever the SDK takes it."""
        moment = time.monotonic()
        try:
            artifact = await self._hn.read(self._key, timeout_ms=READ_TIMEOUT_MS)
        except homenode.HomenodeError:
            self.counts["failures"] += 1
        else:
            self.counts["reads"] += 1
            n = self._saw(artifact)
            self.reads[n] = max(moment, self.reads.get(n, 0.0))

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; the cache is asked also while the directory is waited for."""
        reading: asyncio.Task[None] | None = None
        while not stop.is_set():
            self.hit()
            if reading is None or reading.done():
                reading = asyncio.create_task(self.read())
            await asyncio.sleep(PAUSE_S)
        if reading is not None:
            await reading


async def main(records: str, port: str, sessions: str, key: str) -> None:
    """See the module."""
    out, stop = Recorder(records), stop_on_sigterm()
    async with apart.sessions(int(port), int(sessions)) as opened:
        readers = [Reader(hn, key) for hn in opened]
        for reader in readers:
            await reader.read()
        out.write(opened=True)
        await asyncio.gather(*(reader.run(stop) for reader in readers))
        for reader in readers:
            out.write(
                hits=list(reader.hits.items()), reads=list(reader.reads.items()), went_back=reader.went_back,
                **{f"count_{name}": count for name, count in reader.counts.items()},
            )  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
