"""How a stored content's bytes look: one byte that says what follows: a snapshot as it is or as a zstd frame, a patch,
or the list of a large content's chunks."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from homenode_api.chunks import Chunk
from homenode_api.patch import apply_patch, compress, content_hash, decompress
from homenode_directory.content.chains import Link, plan_store


class Kind(IntEnum):
    """The first byte of a blob."""

    RAW = 1
    ZSTD = 2
    PATCH = 3
    LIST = 4


_ENTRY = struct.Struct(">32sI")  # of a list: a chunk's hash and size


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored content: encoded bytes (`data`), and its place in the chain (see `chains.Link`)."""

    data: bytes
    size: int
    base: str = ""
    links: int = 0
    chain_bytes: int = 0

    @property
    def kind(self) -> int:
        """What `data` holds, a `Kind`, unless the blob is not `sound`."""
        return self.data[0] if self.data else 0

    @property
    def sound(self) -> bool:
        """Whether the kind is known and goes with the presence of a base."""
        if self.kind == Kind.LIST:
            return not self.base and len(self.data) % _ENTRY.size == 1
        return self.kind == Kind.PATCH if self.base else self.kind in (Kind.RAW, Kind.ZSTD)

    @property
    def body(self) -> bytes:
        """The snapshot, frame or patch itself."""
        return self.data[1:]

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The list that `data` holds; empty where it holds something else."""
        if self.kind != Kind.LIST or not self.sound:
            return ()
        return tuple(Chunk(*entry) for entry in _ENTRY.iter_unpack(self.body))

    @property
    def needs(self) -> tuple[str, ...]:
        """Hashes of the contents without which this one cannot be read: the base of a patch, the chunks of a list."""
        return (self.base,) if self.base else tuple(dict.fromkeys(chunk.hash.hex() for chunk in self.chunks))

    def link(self, hash_: str) -> Link:
        """What planning needs to know."""
        return Link(hash_, self.size, len(self.data) - 1, self.base, self.links, self.chain_bytes)


@dataclass(frozen=True, slots=True)
class Verified:
    """A content that matches its hash, and the blob that it becomes."""

    raw: bytes
    blob: Blob


class Mismatch(ValueError):
    """The bytes are not those that the hash names."""


def snapshot_blob(raw: bytes, frame: bytes | None = None) -> Blob:
    """`raw` as a snapshot; `frame` is its zstd frame where there is one already."""
    frame = compress(raw) if frame is None else frame
    if len(frame) < len(raw):
        return Blob(bytes((Kind.ZSTD,)) + frame, len(raw))
    return Blob(bytes((Kind.RAW,)) + raw, len(raw))


def list_blob(size: int, chunks: Iterable[Chunk]) -> Blob:
    """A large content of `size` bytes as the list of its chunks."""
    return Blob(bytes((Kind.LIST,)) + b"".join(_ENTRY.pack(*chunk) for chunk in chunks), size)


def chunk_blob(body: bytes | memoryview, compressed: bool, size: int) -> Blob:
    """A chunk of `size` bytes, as it came."""
    return Blob(b"".join((bytes((Kind.ZSTD if compressed else Kind.RAW,)), body)), size)


def verify_raw(hash_: str, raw: bytes) -> Verified:
    """Check a content given as it is. Raises Mismatch."""
    _check(hash_, raw)
    return Verified(raw, snapshot_blob(raw))


def verify_frame(hash_: str, frame: bytes, size: int, max_bytes: int) -> Verified:
    """Check a content given as a zstd frame. Raises Mismatch, PatchError."""
    raw = decompress(frame, size=size, max_size=max_bytes)
    _check(hash_, raw)
    return Verified(raw, snapshot_blob(raw, frame))


def patched(hash_: str, patch: bytes, size: int, max_bytes: int, base_raw: bytes) -> bytes:
    """Check a content given as a patch of `base_raw`. Raises Mismatch, PatchError."""
    raw = apply_patch(base_raw, patch, size=size, max_size=max_bytes)
    _check(hash_, raw)
    return raw


def verify_patch(hash_: str, patch: bytes, size: int, max_bytes: int, base: Link, base_raw: bytes) -> Verified:
    """Check a content given as a patch, and decide how it is stored. Raises Mismatch, PatchError."""
    raw = patched(hash_, patch, size, max_bytes, base_raw)
    plan = plan_store(size, len(patch), base, max_bytes=max_bytes)
    if not plan.base:
        return Verified(raw, snapshot_blob(raw))
    return Verified(raw, Blob(bytes((Kind.PATCH,)) + patch, size, plan.base, plan.links, plan.chain_bytes))


def decode(start: bytes | Blob, patches: list[Blob], hash_: str, max_bytes: int) -> bytes:
    """The content `hash_`: `patches` in order on `start`, raw bytes or a snapshot. Raises PatchError, Mismatch."""
    if isinstance(start, bytes):
        raw = start
    elif start.kind == Kind.RAW:
        raw = start.body
    else:
        raw = decompress(start.body, size=start.size, max_size=max_bytes)
    for blob in patches:
        raw = apply_patch(raw, blob.body, size=blob.size, max_size=max_bytes)
    _check(hash_, raw)
    return raw


def _check(hash_: str, raw: bytes) -> None:
    if content_hash(raw) != hash_:
        raise Mismatch("the content does not match its hash")
