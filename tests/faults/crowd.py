"""Many clients in one process, each over a connection of its own, until SIGTERM.

Arguments: RECORDS PORT CLIENTS NAME.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter

import homenode
from tests.faults import apart
from tests.faults.processes import Recorder, stop_on_sigterm

KEYS = 8
TIMEOUT_MS = 60_000


async def client(port: int, name: str, stop: asyncio.Event, opened: asyncio.Barrier, out: Recorder) -> None:
    """Reads, edits and puts until told to stop; what it counted is recorded."""
    hn, transport = await apart.connect(port, name, timeout_ms=TIMEOUT_MS)
    done: Counter[str] = Counter()
    async with hn:
        await opened.wait()
        while not stop.is_set():
            try:
                what = random.choice(("read", "edit", "own"))
                if what == "read":
                    await hn.read(f"shared{random.randrange(KEYS)}", default="", max_age_ms=0)
                elif what == "edit":
                    key = f"shared{random.randrange(KEYS)}"
                    await hn.edit(key, lambda text: str(int(text or "0") + 1), default="")
                else:
                    await hn.put(f"own/{name}", "x" * random.randrange(1_000))
                done[what] += 1
            except homenode.HomenodeError as failure:
                done[type(failure).__name__] += 1
            await asyncio.sleep(random.random() * 0.2)
        out.write(name=name, done=dict(done), streams=transport.streams)


class Losses(logging.Handler):
    """Records why streams were lost."""

    def __init__(self, out: Recorder) -> None:
        super().__init__(logging.DEBUG)
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        """One line of the SDK's log."""
        self._out.write(lost=record.getMessage())


async def main(records: str, port: str, clients: str, name: str) -> None:
    """See the module."""
    logger = logging.getLogger("homenode")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Losses(Recorder(records)))
    out, stop, opened = Recorder(records), stop_on_sigterm(), asyncio.Barrier(int(clients) + 1)
    tasks = [asyncio.create_task(client(int(port), f"{name}.{i}", stop, opened, out)) for i in range(int(clients))]
    await opened.wait()
    out.write(opened=True)
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
