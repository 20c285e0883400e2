"""Large contents as lists of chunks. Part of the wire contract.

A content above `PIECE_MAX_BYTES` is a list of chunks, each named by the SHA-256 of its bytes. Chunks have
`CHUNK_BYTES`; shorter ones are allowed anywhere, so that a writer whose text grew or shrank in one place can cut
around it and leave every other chunk of the earlier version as it was. Their number is bounded (`chunks_max`).

A chunk also travels as a patch, from a chunk that the receiver is known to have: the one that it replaces (`replaced`).

The list proves nothing: whoever puts chunks together still compares the whole with the content's hash.

Messages with a chunk are written and read here and not by protobuf, which copies their bytes three times on each side.
They are the same on the wire.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from homenode_api.patch import PatchError, apply_patch, compress, decompress
from homenode_api.varints import varint, varint_at

#: Largest content that is stored and sent in one piece.
PIECE_MAX_BYTES = 4 << 20
#: Largest content.
CONTENT_MAX_BYTES = 256 << 20
#: Largest chunk, and what a chunk usually has.
CHUNK_BYTES = 1 << 20
HASH_BYTES = 32

_EXTRA_CHUNKS = 16
_CHUNK = b"\x1a"  # tags: field number and kind of value
_INDEX, _RAW, _ZSTD, _PATCH, _BASE = 0x08, 0x12, 0x1A, 0x22, 0x2A
_PROBE_BYTES = 16 << 10


class ChunkError(ValueError):
    """A list of chunks, or a chunk, is not what it must be. Carries no content."""


class Chunk(NamedTuple):
    """A piece of a large content: SHA-256 of its bytes, and how many there are."""

    hash: bytes
    size: int


class ChunkMessage(NamedTuple):
    """A `ReadContentResponse` or `WriteContentRequest` that has a chunk: its place in the list and its bytes.

    With `base`, the SHA-256 of another chunk, `data` is a patch from that.
    """

    place: int
    data: bytes | memoryview
    compressed: bool
    base: bytes = b""

    def encode(self) -> bytes:
        """The message on the wire."""
        form = _PATCH if self.base else _ZSTD if self.compressed else _RAW
        base = b"%c%s%s" % (_BASE, varint(len(self.base)), self.base) if self.base else b""
        head = b"%c%s%s%c%s" % (_INDEX, varint(self.place), base, form, varint(len(self.data)))
        return b"".join((_CHUNK, varint(len(head) + len(self.data)), head, self.data))


def chunk_message(message: bytes) -> ChunkMessage | None:
    """The chunk in a message, without copying its bytes; None for any other message, malformed ones included."""
    if message[:1] != _CHUNK:
        return None
    size, at = varint_at(message, 1)
    if at + size != len(message):
        return None
    place, data, form, base = 0, None, _RAW, b""
    while at < len(message):
        tag, at = message[at], at + 1
        value, at = varint_at(message, at)
        if tag == _INDEX:
            place = value
        elif tag in (_RAW, _ZSTD, _PATCH):
            data, form, at = memoryview(message)[at : at + value], tag, at + value
        elif tag == _BASE:
            base, at = message[at : at + value], at + value
        else:
            return None
    if data is None or at != len(message) or (form == _PATCH) != bool(base):
        return None
    return ChunkMessage(place, data, form == _ZSTD, base)


def chunk_in(body: Any) -> ChunkMessage | None:
    """The same from a `ChunkBody` that protobuf has read."""
    form = body.WhichOneof("form")
    if form is None or (form == "patch") != bool(body.base):
        return None
    return ChunkMessage(body.index, getattr(body, form), form == "zstd", body.base)


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


def unpack_chunk(
    chunk: Chunk, body: bytes | memoryview, compressed: bool, *, verify: bool = True
) -> bytes | memoryview:
    """The bytes of `chunk`. Raises ChunkError where they have another size or, with `verify`, another hash."""
    try:
        data = decompress(bytes(body), size=chunk.size, max_size=CHUNK_BYTES) if compressed else body
    except PatchError as failure:
        raise ChunkError(f"a chunk is malformed: {failure}") from None
    if len(data) != chunk.size or (verify and hashlib.sha256(data).digest() != chunk.hash):
        raise ChunkError("a chunk does not match its hash and size")
    return data


def patched_chunk(chunk: Chunk, patch: bytes | memoryview, base: bytes | memoryview) -> bytes:
    """The bytes of `chunk`, which came as a patch. Raises ChunkError where it does not lead there."""
    try:
        data = apply_patch(bytes(base), bytes(patch), size=chunk.size, max_size=CHUNK_BYTES)
    except PatchError as failure:
        raise ChunkError(f"the patch of a chunk is malformed: {failure}") from None
    if hashlib.sha256(data).digest() != chunk.hash:
        raise ChunkError("the patch of a chunk does not lead to its hash")
    return data


def replaced(old: Sequence[Chunk], new: Sequence[Chunk]) -> dict[int, int]:
    """Which chunk of an earlier list one of `new` is likely to be like: place -> place in `old`.

    Those between what both lists have in common at their start and at their end, in order.
    """
    least = min(len(old), len(new))
    front = next((at for at in range(least) if old[at].hash != new[at].hash), least)
    rest = least - front
    back = next((at for at in range(rest) if old[-1 - at].hash != new[-1 - at].hash), rest)
    return {place: place for place in range(front, least - back) if old[place].hash != new[place].hash}
