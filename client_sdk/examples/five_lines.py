"""The five lines of the README: read a plan, extend it under a write lease, read it again.

    python five_lines.py [ADDRESS]

Without an address the directory runs in this process, in memory.
"""

from __future__ import annotations

import asyncio
import sys

import homenode


async def main(url: str) -> None:
    """Run twice in a row, it adds a line each time."""
    async with homenode.connect(url, agent="planner") as hn:
        plan = await hn.read("plan.md", default="# Plan\n")
        async with hn.write("plan.md", create=True) as draft:
            draft.text = (draft.text or plan.text) + "- ship it\n"
        print((await hn.read("plan.md")).text, end="")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
