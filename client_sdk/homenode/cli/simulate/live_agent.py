"""One agent of a live run: `python -m homenode.cli.simulate.live_agent`, started and told what to do by `live`.

A JSON object a line each way, in turn. It is told `begin` (the run: it connects), `step` (whether the news are lost),
`act` (a key or null, and `writes`) and `end`; it says `deeds`, and at the end `signals` and `bytes`, or `failed`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from argparse import Namespace
from dataclasses import asdict
from typing import Any

import homenode
from homenode.cli.session import TLS_OPTIONS, credentials
from homenode.cli.simulate.agents import Agent, Deed
from homenode.cli.simulate.run import texts_of, wire_bytes
from homenode.cli.simulate.wire import SteppedTransport
from homenode.cli.simulate.workload import Workload
from homenode.clock import NS_PER_US, boot_clock
from homenode.errors import HomenodeError
from homenode.grpc_transport import GrpcTransport
from homenode.transport import parse

CATCH_UP_S = 10.0
_ASK_AGAIN_S = 0.25
_LOOK_S = 0.002


class LiveAgent:
    """An agent with a connection of its own."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said
        self._keys: list[str] = said["keys"]
        clock, rng = boot_clock(), random.Random()
        tls = credentials(Namespace(**dict(zip(TLS_OPTIONS, said["tls"], strict=True))))
        self._transport = SteppedTransport(
            GrpcTransport(parse(said["url"]).hosts, credentials=tls, clock=clock, rng=rng)
        )

    async def begin(self) -> None:
        """Connect. Raises HomenodeError."""
        said, name = self._said, f"agent-{self._said['agent']}"
        hn = await homenode.connect(
            said["url"], agent=name, transport=self._transport, timeout_ms=int(said["timeout_s"] * 1_000)
        )
        self._agent = Agent(hn, Workload(**said["workload"]), texts_of(said["seed"], said["agent"]))
        self._transport.session_id = hn.session_id
        self._transport.holding, self._transport.signals = True, 0

    async def step(self, *, lost: bool) -> list[Deed]:
        """Have all that was told of what is committed, and take it in, or lose it. Raises TimeoutError."""
        await self._catch_up()
        self._transport.deliver(lost=lost)
        await asyncio.sleep(_LOOK_S)
        return list(self._agent.take_pushed(self._keys))

    async def act(self, key: str | None, *, writes: bool) -> list[Deed]:
        """The agent's step. Raises HomenodeError."""
        deed = await self._agent.act(key, writes=writes)
        return [deed] if deed is not None else []

    async def end(self) -> dict[str, int]:
        """Disconnect; the totals."""
        totals = {"signals": self._transport.signals, "bytes": wire_bytes(self._agent.hn)}
        await self._agent.hn.close()
        return totals

    async def _catch_up(self) -> None:
        """A bookmark comes behind everything that was committed before it was asked for."""
        hn = self._agent.hn
        asked_us = hn.clock() // NS_PER_US
        async with asyncio.timeout(CATCH_UP_S):
            while self._transport.echo_us < asked_us:
                hn._core.session.ping()
                for _ in range(int(_ASK_AGAIN_S / _LOOK_S)):
                    await asyncio.sleep(_LOOK_S)
                    if self._transport.echo_us >= asked_us:
                        return


async def serve() -> None:
    """Do what the lines say until there are no more."""
    loop, agent = asyncio.get_running_loop(), None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        told = json.loads(line)
        try:
            if "begin" in told:
                agent = LiveAgent(told["begin"])
                await agent.begin()
                said: dict[str, Any] = {"deeds": []}
            elif agent is None:
                raise ValueError("nothing has begun")
            elif "step" in told:
                said = {"deeds": [asdict(deed) for deed in await agent.step(lost=told["step"])]}
            elif "act" in told:
                said = {"deeds": [asdict(deed) for deed in await agent.act(told["act"], writes=told["writes"])]}
            else:
                said = await agent.end()
        except (HomenodeError, TimeoutError, OSError) as failure:
            said = {"failed": {"kind": type(failure).__name__, "message": str(failure) or "the directory is silent"}}
        try:
            os.write(sys.stdout.fileno(), json.dumps(said).encode() + b"\n")
        except BrokenPipeError:  # nobody listens any more
            return


if __name__ == "__main__":
    asyncio.run(serve())
