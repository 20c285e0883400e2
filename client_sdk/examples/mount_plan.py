"""Files: agents that know files only add to one plan. First in a folder that they share, then each in its own mount.

    python mount_plan.py [ADDRESS]

The model is scripted (team.py). An agent reads the file, thinks, and writes all of it back. The mount is brought to
agree before the one and after the other (`Mount.sync`, or `homenode mount --once`), so no file changes under the
agent's hands: what others wrote meanwhile is found by the directory, and the agent's own is kept beside it as a
conflict copy. Without an address a directory is started for the example.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

from team import KEY, PLAN, ROUNDS, THINK_S, Planner, play

import homenode
from homenode.mount import Mount, Report

PREFIX, FILE = f"{PurePosixPath(KEY).parent}/", PurePosixPath(KEY).name
Tool = Callable[..., Awaitable[str]]


async def work(planner: Planner, **tools: Tool) -> None:
    """An agent adds an item in each of its runs."""
    for _ in range(ROUNDS):
        heard = ""
        while (call := planner.turn(heard)) is not None:
            await asyncio.sleep(THINK_S)
            heard = await tools[call[0]](**call[1])


def replace(file: Path, text: str) -> None:
    """As editors do."""
    new = file.with_name(f".{file.name}.swp")
    new.write_text(text)
    os.replace(new, file)


def without() -> str:
    """Two agents in one folder."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, FILE)
        file.write_text(PLAN)

        async def read_plan() -> str:
            return file.read_text()

        async def write_plan(text: str) -> str:
            replace(file, text)
            return "written"

        async def both() -> None:
            await asyncio.gather(
                *(work(Planner(who), read_plan=read_plan, write_plan=write_plan) for who in ("one", "two"))
            )

        asyncio.run(both())
        return file.read_text()


async def mounted(url: str, who: str, folder: Path) -> int:
    """One agent, in a process and a folder of its own; the tokens of looks for which nothing was fetched."""
    reports: list[Report] = []
    looks = 0
    async with homenode.connect(url, agent=who) as hn:
        mount = Mount(hn, folder, PREFIX, tell=reports.append, every_s=0.02)

        async def read_plan() -> str:
            nonlocal looks
            looks += 1
            await mount.sync()
            return (folder / FILE).read_text()

        async def write_plan(text: str) -> str:
            replace(folder / FILE, text)
            await mount.sync()
            copies = list(folder.glob("plan.conflict-*"))
            for copy in copies:  # this agent knows what it wanted to add; others would read the copy first
                copy.unlink()
            return f"conflict: others changed {FILE}" if copies else "written"

        await work(Planner(who), read_plan=read_plan, write_plan=write_plan)
    fetched = sum(1 for one in reports if one.action == "pull")
    return max(0, looks - fetched) * homenode.estimate_tokens(PLAN)


def agent(url: str, who: str) -> int:
    """See `mounted`."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(mounted(url, who, Path(folder)))


if __name__ == "__main__":
    play("one plain folder", without, agent)
