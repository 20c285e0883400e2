"""A load over many artifacts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import homenode
from tests.bench.homenode_load import body, sessions
from tests.bench.load import Loops, Operation

SMALL_BYTES = 128


def _key(number: int) -> str:
    return f"many/{number}"


class Many:
    """Commits, then reads that ask the directory, each of an artifact by chance."""

    def __init__(self, found: Sequence[homenode.Homenode], artifacts: int) -> None:
        self._artifacts = artifacts
        rngs = [random.Random(n) for n in range(len(found))]
        self._commits = Loops([self._commit(hn, rng) for hn, rng in zip(found, rngs, strict=True)])
        self._reads = Loops([self._read(hn, rng) for hn, rng in zip(found, rngs, strict=True)])

    def _commit(self, hn: homenode.Homenode, rng: random.Random) -> Operation:
        text = body(0, SMALL_BYTES)

        async def put() -> None:
            number = rng.randrange(self._artifacts)
            await hn.put(_key(number), f"{text}{rng.random()}", base=homenode.ANY)

        return put

    def _read(self, hn: homenode.Homenode, rng: random.Random) -> Operation:
        async def read() -> None:
            await hn.read(_key(rng.randrange(self._artifacts)), max_age_ms=0)

        return read

    async def measure(self, seconds: float) -> dict[str, float]:
        """See `load.Measurable`."""
        commits = await self._commits.measure(seconds / 2)
        reads = await self._reads.measure(seconds / 2)
        return {
            "n": commits["n"] + reads["n"],
            "commits_per_s": commits["per_s"],
            "reads_per_s": reads["per_s"],
            "artifacts": self._artifacts,
        }


async def many(address: str, clients: int, artifacts: int) -> Many:
    """Over artifacts that are there already; see `filling`."""
    return Many(await sessions(address, clients), artifacts)
