"""The SDK of one simulated process: its own clock, transport and randomness."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import homenode
from tests.sim.faults import Faults
from tests.sim.net import SimTransport
from tests.sim.recording import Recording

DRIFT = 0.01
URL = "homenode://simulated/main"


@dataclass(slots=True)
class DriftingClock:
    """A process's boot-time clock: up to 1 % fast or slow, and it goes on while the process sleeps."""

    loop: asyncio.AbstractEventLoop
    rate: float
    jump_s: float = 0.0

    def __call__(self) -> int:
        return int((self.loop.time() * self.rate + self.jump_s + 1_000.0) * 1e9)


@dataclass(slots=True)
class SimClient:
    """One process with the SDK."""

    hn: homenode.Homenode
    transport: SimTransport
    clock: DriftingClock


async def connect(
    transport: SimTransport, faults: Faults, rng: random.Random, name: str, recording: Recording
) -> SimClient:
    """Connect, however often the server dies meanwhile."""
    clock = DriftingClock(asyncio.get_running_loop(), 1 + rng.uniform(-DRIFT, DRIFT))
    faults.note("clock_drift")
    while True:
        try:
            hn = await homenode.connect(
                URL, agent=name, transport=transport, clock=clock, seed=rng.getrandbits(32), session_ttl_ms=10_000
            )
            return SimClient(recording.of(hn), transport, clock)
        except homenode.HomenodeError:
            await asyncio.sleep(0.5)
