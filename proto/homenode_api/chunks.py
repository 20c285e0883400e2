"""Large contents as lists of chunks. Part of the wire contract.

A content above `PIECE_MAX_BYTES` is a list of chunks, each named by the SHA-256 of its bytes. Chunks have
`CHUNK_BYTES`; shorter ones are allowed anywhere, so that a writer whose text grew or shrank in one place can cut
around it and leave every other chunk of the earlier version as it was. Their number is bounded (`chunks_max`).

The list proves nothing: whoever puts chunks together still compares the whole with the content's hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from homenode_api.patch import PatchError, compress, decompress

#: Largest content that is stored and sent in one piece.
PIECE_MAX_BYTES = 4 << 20
#: Largest content.
CONTENT_MAX_BYTES = 256 << 20
#: Largest chunk, and what a chunk usually has.
CHUNK_BYTES = 1 << 20
HASH_BYTES = 32

_EXTRA_CHUNKS = 16
_PROBE_BYTES = 16 << 10


class ChunkError(ValueError):
    """A list of chunks, or a chunk, is not what it must be. Carries no content."""


class Chunk(NamedTuple):
    """A piece of a large content: SHA-256 of its bytes, and how many there are."""

    hash: bytes
    size: int


def chunks_max(size: int) -> int:
    """How many chunks a content of `size` bytes may have."""
    return 2 * -(-size // CHUNK_BYTES) + _EXTRA_CHUNKS


def checked_chunks(size: int, chunks: Iterable[tuple[bytes, int]]) -> tuple[Chunk, ...]:
    """The list of a content of `size` bytes, as a stranger gave it. Raises ChunkError."""
    if size <= PIECE_MAX_BYTES:
        raise ChunkError(f"a content of up to {PIECE_MAX_BYTES} bytes is not sent as a list of chunks")
    limit, total = chunks_max(size), 0
    checked: list[Chunk] = []
    for hash_, chunk_size in chunks:
        if len(hash_) != HASH_BYTES:
            raise ChunkError("a chunk's hash is a SHA-256")
        if not 0 < chunk_size <= CHUNK_BYTES:
            raise ChunkError(f"a chunk has 1 to {CHUNK_BYTES} bytes, not {chunk_size}")
        total += chunk_size
        if total > size or len(checked) >= limit:
            raise ChunkError("the list has more bytes than the content, or too many chunks")
        checked.append(Chunk(hash_, chunk_size))
    if total != size:
        raise ChunkError("the chunks have fewer bytes than the content")
    sizes: dict[bytes, int] = {}
    if any(sizes.setdefault(chunk.hash, chunk.size) != chunk.size for chunk in checked):
        raise ChunkError("one hash stands for chunks of different sizes")
    return tuple(checked)


def pack_chunk(data: bytes) -> tuple[bytes, bool]:
    """How a chunk travels: (bytes, whether they are compressed). What does not shrink by a tenth is left as it is."""
    probe = data[:_PROBE_BYTES]
    if 10 * len(compress(probe)) > 9 * len(probe):
        return data, False
    frame = compress(data)
    return (frame, True) if 10 * len(frame) <= 9 * len(data) else (data, False)


def unpack_chunk(chunk: Chunk, body: bytes, compressed: bool, *, verify: bool = True) -> bytes:
    """The bytes of `chunk`. Raises ChunkError where they have another size or, with `verify`, another hash."""
    try:
        data = decompress(body, size=chunk.size, max_size=CHUNK_BYTES) if compressed else body
    except PatchError as failure:
        raise ChunkError(f"a chunk is malformed: {failure}") from None
    if len(data) != chunk.size or (verify and hashlib.sha256(data).digest() != chunk.hash):
        raise ChunkError("a chunk does not match its hash and size")
    return data
