"""The patch codec: how one version of an artifact travels as a step from another. Part of the wire contract.

Theory of operation
-------------------
Most edits touch one place, so the common prefix and suffix of base and new are found first, by comparing bytes, and
only lengths travel for them. What is left, the *middle*, is compressed by zstd with the whole base as its dictionary
(raw content, no id), so that text that moved inside the artifact costs a reference. A one-line edit of 1 MiB of text
becomes about 100 bytes. A rewrite, and a text of which many small parts moved, are given up as soon as
`FRAME_MAX_BYTES` were written: what a search costs is how many parts it finds and how many it does not, and each takes
bytes. A snapshot is about as good there.

A patch is::

    format   1 byte    1: the middle as it is; 2: the middle as one zstd frame with the base as dictionary
    prefix   varint    bytes taken from the start of the base
    suffix   varint    bytes taken from the end of the base
    size     varint    bytes of the new version; the middle has size - prefix - suffix
    middle   the rest

Varints are unsigned LEB128 in their shortest form, at most 5 bytes. Prefix and suffix do not overlap in the base.

Patches come from strangers. A frame of 16 KB was seen to expand to 512 MiB although an output limit was passed: the
decoder believes the content size in the frame's header and allocates it first. So nothing is decoded before the frame
was walked from its magic number to its last block: one frame, no bytes after it, no skippable frame, no dictionary id,
a bounded window, and a declared content size equal to what the patch header and the commit both say, within the
caller's limit. Whoever applies a patch must still compare the result with the content hash; a patch proves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import AnyStr

import zstandard

from homenode_api.varints import varint

FORMAT_RAW = 1
FORMAT_ZSTD = 2

#: Largest zstd window that a frame may ask for, in bytes, unless its content is larger (a single-segment frame).
WINDOW_MAX_BYTES = 8 << 20

#: Largest frame that is made of a middle; beyond it nothing is saved that is worth the time.
FRAME_MAX_BYTES = 256 << 10

_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 16
_RAW_MIDDLE_MAX_BYTES = 128  # below this, indexing the base costs more time than compression saves bytes
_LARGE_TABLES_BYTES = 6 << 20
_VARINT_MAX_BYTES = 5
_BLOCK_MAX_BYTES = 128 << 10
# Real encoders write blocks of 8 KiB and more; a frame of thousands of empty blocks is an attack on the walk below.
_BLOCK_MIN_AVERAGE_BYTES = 256
_BLOCK_SLACK = 64
_SNAPSHOT_LEVEL = 3


class PatchError(ValueError):
    """A patch or a compressed snapshot is malformed, does not fit its base, or breaks a limit. Carries no content."""


def content_hash(data: bytes) -> str:
    """The name of a content: SHA-256 in lower-case hex, 64 characters."""
    return hashlib.sha256(data).hexdigest()


def common_prefix(a: AnyStr, b: AnyStr) -> int:
    """The number of leading elements (bytes or characters) that `a` and `b` share."""
    limit = min(len(a), len(b))
    low = 0
    step = min(_CHUNK, 1 << limit.bit_length() >> 1)
    while step:
        high = low + step
        if high <= limit and a[low:high] == b[low:high]:
            low = high
            if step == _CHUNK:
                continue
        step >>= 1
    return low


def common_suffix(a: AnyStr, b: AnyStr, limit: int) -> int:
    """The number of trailing elements that `a` and `b` share, at most `limit` (at most the shorter length)."""
    end_a, end_b = len(a), len(b)
    low = 0
    step = min(_CHUNK, 1 << limit.bit_length() >> 1)
    while step:
        high = low + step
        if high <= limit and a[end_a - high : end_a - low] == b[end_b - high : end_b - low]:
            low = high
            if step == _CHUNK:
                continue
        step >>= 1
    return low


def make_patch(base: bytes, new: bytes) -> bytes:
    """The patch that leads from `base` to `new`; the same inputs give the same bytes."""
    prefix = common_prefix(base, new)
    suffix = common_suffix(base, new, min(len(base), len(new)) - prefix)
    middle = new[prefix : len(new) - suffix]
    form, body = FORMAT_RAW, middle
    if len(middle) > _RAW_MIDDLE_MAX_BYTES:
        frame = _compress_middle(base, middle)
        if frame is None and 2 * len(middle) <= len(new):
            frame = compress(middle)  # new text between what stays; refers to nothing in the base
        if frame is not None and len(frame) < len(middle):
            form, body = FORMAT_ZSTD, frame
    return b"".join((bytes((form,)), varint(prefix), varint(suffix), varint(len(new)), body))


def patch_size(patch: bytes) -> int:
    """The size in bytes of the version that `patch` says it leads to. Raises PatchError for a malformed header."""
    return _read_header(patch)[3]


def apply_patch(base: bytes, patch: bytes, *, size: int, max_size: int) -> bytes:
    """The new version: `patch` applied to `base`.

    `size` is the size in bytes that the commit declared, `max_size` the most that is accepted. Raises PatchError, and
    only that, for any bytes given as a patch; allocates at most about twice `size`, and nothing before all checks
    passed. The result is not verified against a hash here.
    """
    form, prefix, suffix, new_size, start = _read_header(patch)
    if new_size != size:
        raise PatchError("the patch leads to another size than declared")
    if size > max_size:
        raise PatchError("the new version is larger than allowed")
    if prefix + suffix > min(len(base), size):
        raise PatchError("prefix and suffix do not fit the base")
    middle_size = size - prefix - suffix
    if form == FORMAT_RAW:
        if len(patch) - start != middle_size:
            raise PatchError("the middle has another size than the header implies")
        middle = patch[start:]
    else:
        middle = _decode(patch[start:], middle_size, base)
    kept = memoryview(base)  # slices of which copy nothing
    return b"".join((kept[:prefix], middle, kept[len(base) - suffix :]))


def apply_patches(base: bytes, patches: Iterable[bytes], *, size: int, max_size: int) -> bytes:
    """`patches` applied in order, the first to `base`; the last leads to `size` bytes. Raises PatchError."""
    data = base
    for patch in patches:
        data = apply_patch(data, patch, size=patch_size(patch), max_size=max_size)
    if len(data) != size:
        raise PatchError("the patches lead to another size than declared")
    return data


def compress(data: bytes) -> bytes:
    """A snapshot as one zstd frame that declares its content size."""
    return zstandard.ZstdCompressor(level=_SNAPSHOT_LEVEL, write_checksum=False).compress(data)


def decompress(data: bytes, *, size: int, max_size: int) -> bytes:
    """The snapshot in the frame `data`, which must hold exactly `size` bytes, at most `max_size`. Raises PatchError."""
    if not 0 <= size <= max_size:
        raise PatchError("the snapshot is larger than allowed")
    return _decode(data, size, None)


def _compress_middle(base: bytes, middle: bytes) -> bytes | None:
    """The frame; None where it would be larger than FRAME_MAX_BYTES."""
    # The presets look back 2 MiB at most and index with tables far too small for a dictionary of megabytes: a move
    # inside 4 MiB then costs 1.2 MB instead of 0.4 KB. Tables grow with the input here, up to 2 x 4 MiB; beyond 6 MiB
    # half of that: 4 MiB of lines in another order then take two thirds of the time, and a quarter more bytes.
    total = len(base) + len(middle)
    table_log = min(max(total.bit_length() - 2, 12), 20 if total <= _LARGE_TABLES_BYTES else 19)
    parameters = zstandard.ZstdCompressionParameters(
        window_log=23,
        hash_log=table_log,
        chain_log=table_log,
        search_log=3,
        min_match=7,
        target_length=0,
        strategy=zstandard.STRATEGY_DFAST,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=_dictionary(base))
    if len(middle) <= FRAME_MAX_BYTES:
        return compressor.compress(middle)
    stream, out, written = compressor.compressobj(size=len(middle)), [], 0
    for at in range(0, len(middle), _BLOCK_MAX_BYTES):
        out.append(stream.compress(middle[at : at + _BLOCK_MAX_BYTES]))
        written += len(out[-1])
        if written > FRAME_MAX_BYTES:
            return None
    return b"".join((*out, stream.flush()))


def _dictionary(base: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _decode(frame: bytes, size: int, base: bytes | None) -> bytes:
    window_max = max(WINDOW_MAX_BYTES, size)
    _check_frame(frame, size, window_max)
    dictionary = None if base is None else _dictionary(base)
    try:
        decoder = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=window_max)
        data = decoder.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError:
        raise PatchError("the zstd frame is corrupt") from None
    if len(data) != size:
        raise PatchError("the zstd frame holds another size than declared")
    return data


def _check_frame(frame: bytes, size: int, window_max: int) -> None:
    """Require that `frame` is exactly one zstd frame of declared content size `size`, without decoding anything."""
    if frame[:4] != _MAGIC:
        raise PatchError("not a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(frame)
        position = zstandard.frame_header_size(frame)
    except zstandard.ZstdError:
        raise PatchError("the zstd frame header is malformed") from None
    if parameters.content_size != size:  # an undeclared size reads as 2**64 - 1
        raise PatchError("the zstd frame declares another size")
    if parameters.dict_id != 0:
        raise PatchError("the zstd frame names a dictionary")
    if parameters.window_size > window_max:
        raise PatchError("the zstd frame asks for too large a window")
    position = _walk_blocks(frame, position, size // _BLOCK_MIN_AVERAGE_BYTES + _BLOCK_SLACK)
    if position + (4 if parameters.has_checksum else 0) != len(frame):
        raise PatchError("bytes missing or left over after the zstd frame")


def _walk_blocks(frame: bytes, position: int, blocks_max: int) -> int:
    """The position after the last block of a frame (RFC 8878, 3.1.1.2). Raises PatchError."""
    for _ in range(blocks_max):
        header = int.from_bytes(frame[position : position + 3], "little")
        if position + 3 > len(frame):
            break
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3 or size > _BLOCK_MAX_BYTES:
            raise PatchError("the zstd frame has a reserved or oversize block")
        position += 3 + (1 if kind == 1 else size)  # kind 1 repeats one byte
        if last:
            return position
    raise PatchError("the zstd frame is cut short or has too many blocks")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_MAX_BYTES):
        if position >= len(data):
            raise PatchError("the patch header is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise PatchError("a number in the patch header is not in its shortest form")
            return value, position
    raise PatchError("a number in the patch header is too long")


def _read_header(patch: bytes) -> tuple[int, int, int, int, int]:
    """(format, prefix, suffix, size of the new version, position of the middle). Raises PatchError."""
    if not patch or patch[0] not in (FORMAT_RAW, FORMAT_ZSTD):
        raise PatchError("unknown patch format")
    prefix, position = _read_varint(patch, 1)
    suffix, position = _read_varint(patch, position)
    size, position = _read_varint(patch, position)
    return patch[0], prefix, suffix, size, position
