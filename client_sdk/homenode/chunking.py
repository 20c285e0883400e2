"""Large contents as this process has them: bytes in memory or a file, and the chunks that they are cut into.

A new version is cut so that it shares chunks with the one that it replaces: as long as chunks of the old list match
from the front they are taken over with their sizes, and so from the back; what lies between is cut every 1 MiB. So a
change costs the chunks that it touches, and text that was put in or taken out anywhere, at the start too, costs about
as much as it is long. Where the bytes of the earlier version are at hand, a chunk that changed is sent as a patch from
the one in its place (`patched_from`). What moved in several places between the first change and the last is sent again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from homenode.errors import InvalidArgument
from homenode_api.chunks import CHUNK_BYTES, Chunk, chunks_max, replaced


class Source(Protocol):
    """Bytes that can be read again. Methods may block."""

    size: int

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start`; fewer only at the end. Raises OSError."""


class BytesSource:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, start: int, size: int) -> bytes:
        """See `Source`."""
        return self.data[start : start + size]


class FileSource:
    """A file that the caller keeps open, from byte `begin` on. It must not change meanwhile."""

    def __init__(self, file: int, begin: int = 0) -> None:
        self._file = file
        self._begin = begin
        self.size = max(0, os.fstat(file).st_size - begin)

    def read(self, start: int, size: int) -> bytes:
        """See `Source`."""
        parts: list[bytes] = []
        start += self._begin
        while size > 0 and (part := os.pread(self._file, size, start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class LargeBody:
    """A large content ready to be sent: where its bytes are, their SHA-256, and its chunks with where they begin.

    `bases` are chunks of an earlier content that the directory has, by places of those here which may be like them:
    hash and bytes.
    """

    source: Source
    hash: bytes
    chunks: tuple[Chunk, ...]
    starts: tuple[int, ...] = field(repr=False)
    bases: Mapping[int, tuple[bytes, memoryview]] = field(repr=False, default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.source.size

    def patched_from(self, chunks: Sequence[Chunk], data: bytes) -> LargeBody:
        """The same, with the content `data`, cut into `chunks`, as the base of what changed."""
        if sum(chunk.size for chunk in chunks) != len(data):
            return self
        starts, view = starts_of(chunks), memoryview(data)
        places = replaced(chunks, self.chunks)
        bases = {
            place: (chunks[at].hash, view[starts[at] : starts[at] + chunks[at].size]) for place, at in places.items()
        }
        return replace(self, bases=bases)

    @property
    def data(self) -> bytes | None:
        """The bytes, where they are in memory."""
        return self.source.data if isinstance(self.source, BytesSource) else None

    def read(self, index: int) -> bytes:
        """The bytes of a chunk. Raises InvalidArgument for a file that became shorter, OSError."""
        data = self.source.read(self.starts[index], self.chunks[index].size)
        if len(data) != self.chunks[index].size:
            raise InvalidArgument("the file changed while it was read")
        return data


def starts_of(chunks: Sequence[Chunk]) -> tuple[int, ...]:
    """Where each chunk of a list begins."""
    starts, at = [], 0
    for chunk in chunks:
        starts.append(at)
        at += chunk.size
    return tuple(starts)


def prepare(source: Source, base: Sequence[Chunk] = ()) -> LargeBody:
    """Cut and hash a large content that replaces one with the chunks `base`. Reads all of it; raises OSError."""
    chunks = tuple(_cut(source, base))
    return LargeBody(source, hash_of(source), chunks, starts_of(chunks))


def hash_of(source: Source) -> bytes:
    """The SHA-256 of all of it. Raises InvalidArgument for a file that became shorter, OSError."""
    whole, at = hashlib.sha256(), 0
    for start in range(0, source.size, CHUNK_BYTES):
        piece = source.read(start, CHUNK_BYTES)
        whole.update(piece)
        at += len(piece)
    if at != source.size:
        raise InvalidArgument("the file changed while it was read")
    return whole.digest()


def _cut(source: Source, base: Sequence[Chunk]) -> list[Chunk]:
    front, start = _matching(source, base, 0)
    rest = base[len(front) :]
    back, end = _matching(source, rest, start, from_end=True)
    # A chunk that is cut off short stays so; with many of them it is time to cut anew.
    chunks = [*front, *_fresh(source, start, end), *reversed(back)]
    return chunks if len(chunks) <= chunks_max(source.size) else list(_fresh(source, 0, source.size))


def _matching(
    source: Source, chunks: Sequence[Chunk], start: int, *, from_end: bool = False
) -> tuple[list[Chunk], int]:
    """Chunks that the source has too, from `start` on or from its end back to `start`, and where they stop."""
    found: list[Chunk] = []
    at = source.size if from_end else start
    for chunk in reversed(chunks) if from_end else chunks:
        begin = at - chunk.size if from_end else at
        if begin < start or begin + chunk.size > source.size:
            break
        if hashlib.sha256(source.read(begin, chunk.size)).digest() != chunk.hash:
            break
        found.append(chunk)
        at = begin if from_end else begin + chunk.size
    return found, at


def _fresh(source: Source, start: int, end: int) -> Iterator[Chunk]:
    for at in range(start, end, CHUNK_BYTES):
        piece = source.read(at, min(CHUNK_BYTES, end - at))
        yield Chunk(hashlib.sha256(piece).digest(), len(piece))


def chunks_in(source: Source, chunks: Sequence[Chunk], size: int) -> dict[bytes, int]:
    """Where a source has chunks of a content of `size` bytes: hash -> start in the source.

    It is looked where the chunk would be if only something before it, or only something after it, had changed.
    """
    found: dict[bytes, int] = {}
    shift = source.size - size
    for chunk, start in zip(chunks, starts_of(chunks), strict=True):
        if chunk.hash not in found:
            found |= _found_at(source, chunk, dict.fromkeys((start, start + shift)))
    return found


def _found_at(source: Source, chunk: Chunk, starts: Iterable[int]) -> dict[bytes, int]:
    for start in starts:
        if start >= 0 and start + chunk.size <= source.size:
            if hashlib.sha256(source.read(start, chunk.size)).digest() == chunk.hash:
                return {chunk.hash: start}
    return {}
