"""A process of agents: they read, edit one another's files, wait for leases, conflict and watch, until SIGTERM.

`python -m tests.deploy.dashboards.agents URL work NUMBER`, or `… URL hold KEY`: takes a write lease, prints a line and
keeps it, to be killed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Awaitable, Callable

import homenode
from tests.faults.processes import stop_on_sigterm

FILES = tuple(f"notes/{n}.md" for n in range(8))
PLAN = "plan.md"
LINES_MAX = 200


def add_line(text: str) -> str:
    """One more line, and an old one less where there are many."""
    lines = text.split("\n")[-LINES_MAX:]
    return "\n".join((*lines, f"- step {random.getrandbits(40)}: look at it again, and write down what was found"))


async def reader(hn: homenode.Homenode) -> None:
    """Reads more than anybody writes; looks at what changed now and then."""
    agent = hn.agent("reader")
    for _ in range(20):
        await agent.read(random.choice(FILES), default="")
    plan = await agent.read(PLAN, default="")
    if plan.version is not None:
        await agent.read(PLAN, since=plan.version, default="")
    await asyncio.sleep(0.05)


async def editor(hn: homenode.Homenode) -> None:
    """Read, modify, write, with retry."""
    await hn.agent("editor").edit(random.choice(FILES), add_line, default="# Notes")
    await asyncio.sleep(random.random() * 0.2)


async def planner(hn: homenode.Homenode) -> None:
    """Waits for the write lease of what everybody writes."""
    async with hn.agent("planner").write(PLAN, create=True, wait_ms=5_000) as draft:
        draft.text = add_line(draft.text or "# Plan")
        await asyncio.sleep(random.random() * 0.05)
    await asyncio.sleep(0.05)


async def hasty(hn: homenode.Homenode) -> None:
    """Writes without looking again, and is often refused."""
    agent = hn.agent("hasty")
    seen = await agent.read(FILES[0], default="")
    await asyncio.sleep(random.random() * 0.3)
    await agent.put(FILES[0], add_line(seen.text))


async def watcher(hn: homenode.Homenode) -> None:
    """Follows what happens in a folder."""
    async with hn.watch("notes/") as events:
        async for _ in events:
            pass


async def until(
    stop: asyncio.Event, hn: homenode.Homenode, act: Callable[[homenode.Homenode], Awaitable[None]]
) -> None:
    """Act again and again; refusals and outages belong to it."""
    while not stop.is_set():
        try:
            await act(hn)
        except homenode.HomenodeError:
            await asyncio.sleep(0.05)


async def work(url: str, number: str) -> None:
    """All of them, on one session."""
    stop = stop_on_sigterm()
    async with homenode.connect(url, agent=f"agents-{number}") as hn:
        acts = (reader, editor, planner, hasty, watcher)
        tasks = [asyncio.create_task(until(stop, hn, act)) for act in acts]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hold(url: str, key: str) -> None:
    """Take a lease and stand still with it."""
    async with homenode.connect(url, agent="holder") as hn:
        await hn.put(key, "held", base=homenode.ANY)
        async with hn.lease(key, "write", ttl_ms=1_000):
            print("held", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run({"work": work, "hold": hold}[sys.argv[2]](sys.argv[1], sys.argv[3]))
