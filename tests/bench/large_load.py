"""Uploads of large contents: whole, and of what is left after a cut."""

from __future__ import annotations

import itertools
import random

import homenode
from homenode.chunking import BytesSource, prepare
from homenode_api.chunks import CHUNK_BYTES
from tests.bench.load import Loops

TIMEOUT_S = 60.0


async def upload(address: str, clients: int, chunks: int, kept: int = 0) -> Loops:
    """Uploads of `chunks` chunks of random bytes of which the first `kept` are stored."""
    hn = await homenode.connect(f"homenode://{address}/bench", agent="uploader")
    data, numbers = bytearray(random.Random(kept).randbytes(chunks * CHUNK_BYTES)), itertools.count()
    run = random.getrandbits(64)

    async def one() -> None:
        for start in range(kept * CHUNK_BYTES, len(data), CHUNK_BYTES):
            data[start : start + 16] = (run + next(numbers)).to_bytes(16, "little")
        await hn._core.large.upload(prepare(BytesSource(bytes(data))), TIMEOUT_S)

    return Loops([one])
