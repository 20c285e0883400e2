"""The demo's observer: a process that only reads, as often as it can, and says what it was given and when.

It judges nothing. The verdict compares its reads with the times of the commits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import homenode
from homenode.cli.demo import script
from homenode.cli.demo.records import DONE, READ, await_go, clock_ns, emit
from homenode.cli.session import credentials

POLL_S = 0.004


async def main(spec: dict[str, Any]) -> None:
    """Read every page about 200 times a second until the stage closes standard input."""
    tls = credentials(argparse.Namespace(**spec["tls"]))
    async with homenode.connect(spec["url"], agent="observer", credentials=tls) as hn:
        await asyncio.to_thread(await_go)
        end = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        while not end.done():
            for page in script.PAGES:
                began = clock_ns()
                artifact = hn.read_cached(page)
                hit = artifact is not None
                if artifact is None:
                    artifact = await hn.read(page)
                emit(READ, page=page, version=artifact.version, began=began, seen=clock_ns(), hit=hit)
            await asyncio.sleep(POLL_S)
    emit(DONE)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
