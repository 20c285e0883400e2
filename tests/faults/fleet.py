"""Clients of several servers in one process, each over a connection of its own, and what became of what they did."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import homenode
from homenode.grpc_transport import GrpcTransport
from tests.faults.ledger import ACKED, Ledger
from tests.faults.processes import Record
from tests.faults.writer import COUNTER, FILE, PATHS, one
from tests.support.ports import HOST, wait_until_async

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

    def write(self, **record: Any) -> None:
        """See `processes.Recorder`."""
        self.records.append({**record, "at": time.monotonic()})

    async def run(self, name: str, stop: asyncio.Event) -> None:
        """Until told to stop."""
        n = 0
        while not stop.is_set():
            n += 1
            path = random.choice(list(PATHS))
            await one(self.hn, self, random.choice((COUNTER, FILE)), path, f"{name}:{n}")  # type: ignore[arg-type]
            self.sessions.add(self.hn.session_id)
            await asyncio.sleep(random.random() * 0.02)

    def back_after(self, moment: float) -> float | None:
        """How long after a moment its first acknowledgement came."""
        return next((r["at"] - moment for r in self.records if r["end"] == ACKED and r["at"] > moment), None)


class Fleet:
    """Eight of them."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, ports: Sequence[int], count: int = 8, **settings: Any) -> Fleet:
        """Connect them, and let them begin."""
        for number in range(count):
            transport = GrpcTransport([f"{HOST}:{port}" for port in ports])
            options = {"timeout_ms": TIMEOUT_MS, **settings}
            hn = await homenode.connect(url(ports), agent=f"c{number}", transport=transport, **options)
            self.clients.append(Client(hn, transport))
        self._tasks = [asyncio.create_task(c.run(f"c{n}", self._stop)) for n, c in enumerate(self.clients)]
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
        ledger = Ledger()
        for client in self.clients:
            ledger.add(client.records)
        return ledger

    @property
    def sessions(self) -> int:
        """How many sessions they had in all: one each, where none was lost."""
        return sum(len(client.sessions) for client in self.clients)

    async def close(self) -> None:
        """End every connection."""
        self._stop.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.hn.close() for client in self.clients), return_exceptions=True)


async def check(ledger: Ledger, port: int) -> None:
    """What was acknowledged is there, once; nothing else is."""
    async with homenode.connect(url([port]), agent="judge", timeout_ms=TIMEOUT_MS) as hn:
        counter, file = await hn.read(COUNTER, default="0"), await hn.read(FILE, default="")
    ledger.check_counter(COUNTER, int(counter.text))
    ledger.check_lines(FILE, file.text.split())
    ledger.check_versions()
