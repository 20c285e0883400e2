"""How a stored content's bytes look: one byte that says what follows, then a raw snapshot, a zstd frame or a patch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from homenode_api.patch import apply_patch, compress, content_hash, decompress
from homenode_directory.content.chains import Link, plan_store


class Kind(IntEnum):
    """The first byte of a blob."""

    RAW = 1
    ZSTD = 2
    PATCH = 3


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
        return self.kind == Kind.PATCH if self.base else self.kind in (Kind.RAW, Kind.ZSTD)

    @property
    def body(self) -> bytes:
        """The snapshot, frame or patch itself."""
        return self.data[1:]

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
