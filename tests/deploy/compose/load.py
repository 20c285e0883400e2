"""Agents that count: each adds one to a shared artifact, again and again, and says how every attempt ended.

`python -m tests.deploy.compose.load URL AGENTS` writes a line of JSON for each operation until standard input ends:
when it began and ended (seconds of the machine's monotonic clock), and the error or null. The SDK's own retries are all
there are.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import homenode

COUNTERS = 8
PAUSE_S = 0.02
DRAIN_S = 30.0


def counter(number: int) -> str:
    """A counter's key."""
    return f"count/{number}"


async def agent(url: str, number: int, end: asyncio.Event) -> None:
    """Adds one to one counter after the other; reads what the others wrote in between."""
    async with homenode.connect(url, agent=f"counter-{number}") as hn:
        turn = number
        while not end.is_set():
            turn += 1
            key = counter(turn % COUNTERS)
            began, error = time.monotonic(), None
            try:
                await hn.edit(key, lambda text: str(int(text) + 1), default="0")
            except homenode.HomenodeError as failure:
                error = f"{type(failure).__name__}: {failure.message}"
            print(json.dumps({"began": began, "ended": time.monotonic(), "error": error}), flush=True)
            await asyncio.sleep(PAUSE_S)


async def main(url: str, agents: int) -> None:
    """All agents of this process, until standard input ends."""
    end = asyncio.Event()
    playing = asyncio.gather(*(agent(url, number, end) for number in range(agents)))
    await asyncio.to_thread(sys.stdin.read)
    end.set()
    await asyncio.wait_for(playing, DRAIN_S)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
