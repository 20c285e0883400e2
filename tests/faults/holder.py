"""A client process that holds a write lease, and commits late when told to.

Arguments: RECORDS URL KEY TERM_MS SESSION_TTL_MS. On SIGTERM it tries to commit, and records what came of it.
"""

from __future__ import annotations

import asyncio
import sys

import homenode
from tests.faults.processes import Recorder, stop_on_sigterm


async def main(records: str, url: str, key: str, term_ms: str, session_ttl_ms: str) -> None:
    """See the module."""
    out, stop = Recorder(records), stop_on_sigterm()
    async with homenode.connect(url, agent="holder", session_ttl_ms=int(session_ttl_ms)) as hn:
        lease = await hn.lease(key, "write", ttl_ms=int(term_ms))
        assert isinstance(lease, homenode.WriteLease)
        out.write(held=True, token=lease.token, version=lease.version)
        await stop.wait()
        try:
            late = await lease.commit("late")
        except homenode.LeaseLost as lost:
            out.write(refused=type(lost).__name__, cause=lost.cause)
        else:
            out.write(committed=late.version)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
