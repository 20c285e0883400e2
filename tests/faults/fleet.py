"""Clients of several servers in one process, each over a connection of its own, and what became of what they did."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import random
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import homenode
from homenode.grpc_transport import GrpcTransport
from tests.faults.ledger import ACKED, Ledger
from tests.faults.processes import Record
from tests.faults.writer import COUNTER, FILE, PATHS, one
from tests.support.ports import HOST, wait_until_async

STRICT = "strict"  # an artifact of that level
TIMEOUT_MS = 60_000
PROGRESS_S = 120.0


def url(ports: Sequence[int]) -> str:
    """The address of servers that share a store."""
    return f"homenode://{','.join(f'{HOST}:{port}' for port in ports)}/main"


class Client:
    """Counts and appends by every write path until told to stop; `records` says how each effect ended, and when."""

    def __init__(self, hn: homenode.Homenode, transport: GrpcTransport) -> None:
        self.hn = hn
        self.transport = transport
        self.records: list[Record] = []
        self.sessions = {hn.session_id}
        self.strict_reads: list[tuple[float, homenode.Version]] = []
        self.outages: list[tuple[float, float | None]] = []

    def write(self, **record: Any) -> None:
        """See `processes.Recorder`."""
        self.records.append({**record, "at": time.monotonic()})

    async def run(self, name: str, stop: asyncio.Event) -> None:
        """Until told to stop."""
        n = 0
        while not stop.is_set():
            n += 1
            key, path = random.choice((COUNTER, FILE, STRICT)), random.choice(list(PATHS))
            await one(self.hn, self, key, path, f"{name}:{n}")  # type: ignore[arg-type]
            await self.read_strict()
            self.sessions.add(self.hn.session_id)
            await asyncio.sleep(random.random() * 0.02)

    async def read_strict(self) -> None:
        """Read what nobody may see old, from the cache or not; note when the read began."""
        moment = time.monotonic()
        with contextlib.suppress(homenode.HomenodeError):
            version = (await self.hn.read(STRICT)).version
            assert version is not None
            self.strict_reads.append((moment, version))

    async def watch_connection(self) -> None:
        """Note when the connection was lost and when it was back."""
        while True:
            if self.hn.connected == bool(self.outages and self.outages[-1][1] is None):
                if self.hn.connected:
                    self.outages[-1] = (self.outages[-1][0], time.monotonic())
                else:
                    self.outages.append((time.monotonic(), None))
            await asyncio.sleep(0.005)

    def back_after(self, moment: float) -> float | None:
        """How long after a moment its first acknowledgement came."""
        return next((r["at"] - moment for r in self.records if r["end"] == ACKED and r["at"] > moment), None)


class Fleet:
    """Eight of them."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []

    async def start(self, ports: Sequence[int], count: int = 8, **settings: Any) -> Fleet:
        """Connect them, and let them begin."""
        for number in range(count):
            transport = GrpcTransport([f"{HOST}:{port}" for port in ports])
            options = {"timeout_ms": TIMEOUT_MS, **settings}
            hn = await homenode.connect(url(ports), agent=f"c{number}", transport=transport, **options)
            self.clients.append(Client(hn, transport))
        first = self.clients[0].hn
        await first.put(STRICT, b"")
        await first.set_policy(STRICT, consistency="strict")
        self._tasks = [asyncio.create_task(c.run(f"c{n}", self._stop)) for n, c in enumerate(self.clients)]
        self._watching = [asyncio.create_task(client.watch_connection()) for client in self.clients]
        return self

    async def progress(self, moment: float) -> float:
        """Wait until everybody has got something acknowledged since; the longest time that took."""
        await wait_until_async(
            lambda: all(client.back_after(moment) is not None for client in self.clients),
            timeout_s=PROGRESS_S,
            what="an acknowledgement for every client",
        )
        return max(client.back_after(moment) or 0.0 for client in self.clients)

    async def finish(self) -> Ledger:
        """Let them end what is under way. Raises what went wrong in one of them."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        self.check_strict()
        ledger = Ledger()
        for client in self.clients:
            ledger.add(client.records)
        return ledger

    @property
    def outages_s(self) -> list[float]:
        """How long connections were lost: from the end of what was heard on one stream to a bookmark on the next."""
        return [back - lost for client in self.clients for lost, back in client.outages if back is not None]

    def check_strict(self) -> int:
        """No read that began after an acknowledgement gave an older version; how many reads there were."""
        acked = sorted(
            (record["at"], tuple(record["version"]))
            for client in self.clients
            for record in client.records
            if record["end"] == ACKED and record["key"] == STRICT
        )
        newest = list(accumulate((version for _, version in acked), max))
        reads = [read for client in self.clients for read in client.strict_reads]
        for moment, version in reads:
            before = bisect.bisect_right(acked, (moment, ())) - 1
            assert before < 0 or version >= newest[before], f"{version} read after {newest[before]} was acknowledged"
        return len(reads)

    @property
    def sessions(self) -> int:
        """How many sessions they had in all: one each, where none was lost."""
        return sum(len(client.sessions) for client in self.clients)

    async def close(self) -> None:
        """End every connection."""
        self._stop.set()
        for task in (*self._tasks, *self._watching):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._watching, return_exceptions=True)
        await asyncio.gather(*(client.hn.close() for client in self.clients), return_exceptions=True)


async def check(ledger: Ledger, port: int) -> None:
    """What was acknowledged is there, once; nothing else is."""
    async with homenode.connect(url([port]), agent="judge", timeout_ms=TIMEOUT_MS) as hn:
        counter, file = await hn.read(COUNTER, default="0"), await hn.read(FILE, default="")
        strict = await hn.read(STRICT)
    ledger.check_counter(COUNTER, int(counter.text))
    ledger.check_lines(FILE, file.text.split())
    ledger.check_lines(STRICT, strict.text.split())
    ledger.check_versions()
