"""The disk tier: a file per entry, written atomically, verified when read. What is broken is a miss, never an error.

A file is 8 bytes that name the format, 32 bytes of BLAKE2b-256 over the rest, then a safetensors file with one tensor
`kv` and its metadata. Its name is the entry's content key, which keys the checksum too: a file under another name is
broken. Only its owner may read it. At a start the headers are read; contents are verified on use. Nothing is synced:
what a power cut breaks is a miss too. A file that cannot be removed stays, and is what it was when it is found again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from homenode_kv.errors import WrongShape
from homenode_kv.layout import Geometry

MAGIC = b"HNKV\x00\x00\x00\x02"
CHECK_BYTES = 32
HEADER_MAX = 1 << 20
SUFFIX = ".kv"
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry on disk.

    Attributes:
        key: its content key.
        tokens: T.
        size_bytes: of the whole file.
        meta: as it was written.
    """

    key: str
    tokens: int
    size_bytes: int
    meta: Mapping[str, str]


class DiskTier:
    """Entries of one model in one folder; one process at a time."""

    def __init__(self, folder: Path, geometry: Geometry) -> None:
        self._folder = folder
        self._geometry = geometry
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob("*.part"):  # of a process that died while it wrote
            _remove(left)

    def scan(self) -> Iterator[Stored]:
        """All entries whose header can be read; files of ours that cannot are removed."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if _KEY.fullmatch(path.stem):
                if stored := self._header(path):
                    yield stored
                else:
                    _remove(path)

    def write(self, key: str, kv: Tensor, meta: Mapping[str, str]) -> int:
        """Writes an entry; its size in bytes. Raises OSError where the disk does, and nothing is left then."""
        path = self._path(key)
        content = safetensors.torch.save({"kv": kv.detach().cpu().contiguous()}, metadata=dict(meta))
        part = path.with_suffix(".part")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(MAGIC)
                file.write(_checksum(key, content))
                file.write(content)
            part.replace(path)
        except OSError:
            _remove(part)
            raise
        return len(MAGIC) + CHECK_BYTES + len(content)

    def read(self, key: str) -> Tensor | None:
        """The KV of an entry on the CPU; None where there is none, or it is broken (it is removed then)."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                magic, checksum, content = file.read(len(MAGIC)), file.read(CHECK_BYTES), file.read()
            if magic != MAGIC or _checksum(key, content) != checksum:
                raise ValueError("broken")
            kv = safetensors.torch.load(content)["kv"]
            self._geometry.check(kv)
        except (OSError, ValueError, KeyError, SafetensorError, WrongShape):
            _remove(path)
            return None
        return kv

    def remove(self, key: str) -> None:
        """Forgets an entry, if it is there."""
        _remove(self._path(key))

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError("a key is 64 hexadecimal digits")
        return self._folder / f"{key}{SUFFIX}"

    def _header(self, path: Path) -> Stored | None:
        """The metadata of a safetensors file: eight bytes of length, then JSON (the format's documentation)."""
        try:
            with path.open("rb") as file:
                magic, _, (length,) = file.read(len(MAGIC)), file.read(CHECK_BYTES), struct.unpack("<Q", file.read(8))
                if magic != MAGIC or length > HEADER_MAX:
                    return None
                header = json.loads(file.read(length))
            shape = header["kv"]["shape"]
            size = path.stat().st_size
            whole = len(MAGIC) + CHECK_BYTES + 8 + length + shape[2] * self._geometry.token_bytes
            if tuple(shape) != self._geometry.shape(shape[2]) or size != whole:
                return None
            return Stored(path.stem, int(shape[2]), size, dict(header.get("__metadata__", {})))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
            return None


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=CHECK_BYTES, key=bytes.fromhex(key)).digest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
