"""Recorded agents: several sessions in one process that read and write shared artifacts at random, until SIGTERM.

Arguments: HISTORY NAME ROLE PORTS SESSIONS KEYS. ROLE is worker or observer (who only reads, all the time); PORTS and
KEYS are lists with commas. Each session has a connection of its own. What they do is in the history.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable

import homenode
from homenode.grpc_transport import GrpcTransport
from tests.faults.processes import stop_on_sigterm
from tests.support.ports import HOST

TIMEOUT_MS = 8_000
PAUSE_S = {"worker": 0.03, "observer": 0.01}


class Agent:
    """One session at work."""

    def __init__(self, hn: homenode.Homenode, name: str, keys: list[str]) -> None:
        self.hn = hn
        self.name = name
        self.keys = keys
        self.count = 0

    def text(self) -> str:
        """A content that nobody else ever writes."""
        self.count += 1
        return f"{self.name}:{self.count}:" + "x" * random.choice((0, 10, 500))

    async def hit(self, key: str) -> None:
        self.hn.read_cached(key)

    async def read(self, key: str) -> None:
        await self.hn.read(key)

    async def fresh(self, key: str) -> None:
        await self.hn.read(key, max_age_ms=0)

    async def strict(self, key: str) -> None:
        await self.hn.read(key, consistency="strict")

    async def put(self, key: str) -> None:
        await self.hn.put(key, self.text())

    async def overwrite(self, key: str) -> None:
        await self.hn.put(key, self.text(), base=homenode.ANY)

    async def edit(self, key: str) -> None:
        await self.hn.edit(key, lambda old: self.text(), default="", attempts=6)

    async def write(self, key: str) -> None:
        async with self.hn.write(key, create=True, wait_ms=1_000) as draft:
            draft.text = f"{draft.text[:20]} {self.text()}"

    async def lease(self, key: str) -> None:
        async with self.hn.lease(key, "write", create=True, wait_ms=500) as lease:
            assert isinstance(lease, homenode.WriteLease)
            await lease.commit(self.text())
            await asyncio.sleep(random.random() * 0.1)
            await lease.commit(self.text())

    async def several(self, key: str) -> None:
        """Two at once; strict ones are refused that."""
        other = random.choice(self.keys)
        await self.hn.commit_many({key: self.text(), other: self.text()}, base=homenode.ANY)

    async def delete(self, key: str) -> None:
        await self.hn.delete(key, base=homenode.ANY)


Work = Callable[[Agent, str], Awaitable[None]]
WEIGHTS: dict[str, dict[Work, int]] = {
    "worker": {
        Agent.hit: 30, Agent.read: 24, Agent.fresh: 8, Agent.strict: 4, Agent.put: 14, Agent.overwrite: 3,
        Agent.edit: 7, Agent.write: 5, Agent.lease: 2, Agent.several: 3, Agent.delete: 1,
    },
    "observer": {Agent.hit: 30, Agent.read: 4},
}  # fmt: skip


async def work(agent: Agent, role: str, stop: asyncio.Event) -> None:
    """One thing after the other; refusals and failures are in the history."""
    kinds, weights = list(WEIGHTS[role]), list(WEIGHTS[role].values())
    while not stop.is_set():
        (what,) = random.choices(kinds, weights)
        try:
            await what(agent, random.choice(agent.keys))
        except homenode.HomenodeError:
            pass
        await asyncio.sleep(random.random() * PAUSE_S[role])


async def main(history: str, name: str, role: str, ports: str, sessions: str, keys: str) -> None:
    """See the module."""
    stop = stop_on_sigterm()
    servers = [f"{HOST}:{port}" for port in ports.split(",")]
    agents: list[Agent] = []
    for n in range(int(sessions)):
        options = {"transport": GrpcTransport(servers), "timeout_ms": TIMEOUT_MS, "record": history}
        while not stop.is_set():
            try:
                hn = await homenode.connect(f"homenode://{servers[0]}/main", agent=f"{name}.{n}", **options)
            except homenode.HomenodeError:
                options["transport"] = GrpcTransport(servers)
                continue
            agents.append(Agent(hn, f"{name}.{n}", keys.split(",")))
            break
    await asyncio.gather(*(work(agent, role, stop) for agent in agents))
    await asyncio.gather(*(agent.hn.close() for agent in agents))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
