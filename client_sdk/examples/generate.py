"""Agents ask a model about a plan; what it computed over the plan is computed once, and follows the plan's versions.

    python generate.py [ADDRESS]

Without an address a directory and a KV worker with the bundled model run for the time of the example.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

from directory_process import directory

import homenode
from homenode import Key

PLAN = "The plan: " + "every step has an owner and a date. " * 8


@contextlib.contextmanager
def worker(url: str) -> Iterator[str]:
    """A KV worker for the time of the example; its model's name."""
    command = [sys.executable, "-m", "homenode.cli.main", "kv", "serve", "--model", "demo", "--threads", "1", "--json"]
    process = subprocess.Popen(
        [*command, "--directory", url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["model"]
    finally:
        process.terminate()
        process.wait()


async def ask(hn: homenode.Homenode, question: str) -> None:
    """One question about the plan, and what the answer rested on."""
    answer = await hn.generate("", [Key("plan.md"), question], max_tokens=8)
    async for _ in answer:  # pieces of text as they are written
        pass
    report = answer.report
    assert report is not None
    print(f"{hn.name}: {report.prompt.tokens} tokens, {report.prompt.reused} of them computed before")


async def main(url: str) -> None:
    """Ask, change the plan, ask again, and keep an answer."""
    async with homenode.connect(url, agent="planner", timeout_ms=60_000) as planner:
        critic = planner.agent("critic")
        await planner.put("plan.md", PLAN, base=homenode.ANY)
        await ask(planner, " What is first?")
        await ask(critic, " What is missing?")
        await planner.put("plan.md", PLAN + "The last step is a party. ")
        await ask(critic, " And now?")
        kept = await planner.generate("", [Key("plan.md"), " Sum it up."], commit_to="summary.md", max_tokens=8)
        await kept.done()
        assert kept.artifact is not None
        print(f"summary.md is at version {kept.artifact.version.n if kept.artifact.version else 0}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        with directory() as address, worker(address):
            asyncio.run(main(address))
