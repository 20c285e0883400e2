"""Lists of chunks as strangers give them, and the messages that carry chunks."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homenode_api.chunks import (
    CHUNK_BYTES,
    CONTENT_MAX_BYTES,
    PIECE_MAX_BYTES,
    Chunk,
    ChunkError,
    ChunkMessage,
    checked_chunks,
    chunk_in,
    chunk_message,
    chunks_max,
    pack_chunk,
    patched_chunk,
    replaced,
    unpack_chunk,
)
from homenode_api.patch import compress, make_patch
from homenode_api.v1 import directory_pb2 as pb


def name(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def cut(size: int, at: int = CHUNK_BYTES) -> list[tuple[bytes, int]]:
    """A list as a writer makes it."""
    return [(name(n), min(at, size - start)) for n, start in enumerate(range(0, size, at))]


@given(st.integers(PIECE_MAX_BYTES + 1, CONTENT_MAX_BYTES), st.integers(CHUNK_BYTES // 2, CHUNK_BYTES))
def test_what_a_writer_cuts_is_accepted(size: int, at: int) -> None:
    chunks = checked_chunks(size, cut(size, at))
    assert sum(chunk.size for chunk in chunks) == size
    assert chunks == tuple(Chunk(*chunk) for chunk in cut(size, at))


SIZE = 5 * CHUNK_BYTES + 7
GOOD = cut(SIZE)


@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        (SIZE, []),
        (SIZE, GOOD[:-1]),
        (SIZE, [*GOOD, (name(9), 1)]),
        (SIZE + 1, GOOD),
        (SIZE - 1, GOOD),
        (SIZE, [(name(0)[:31], CHUNK_BYTES), *GOOD[1:]]),
        (SIZE, [(b"", CHUNK_BYTES), *GOOD[1:]]),
        (SIZE, [(name(0), CHUNK_BYTES + 1), *GOOD[1:-1], (name(9), 6)]),
        (SIZE, [(name(7), 0), *GOOD]),
        (SIZE, [(name(0), 2**32 - 1)]),
        (SIZE, [(name(5), CHUNK_BYTES), *GOOD[1:]]),
        (SIZE, cut(SIZE, 1000)),
        (0, []),
        (PIECE_MAX_BYTES, cut(PIECE_MAX_BYTES)),
    ],
    ids=[
        "empty", "too few", "too many", "short", "long", "half a hash", "no hash", "large chunk", "empty chunk",
        "huge chunk", "one hash, two sizes", "crumbs", "nothing", "fits one piece",
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_is_refused(size: int, chunks: list[tuple[bytes, int]]) -> None:
    with pytest.raises(ChunkError):
        checked_chunks(size, chunks)


def test_a_list_is_refused_before_it_is_gathered() -> None:
    def endless() -> object:
        while True:
            yield name(1), 1

    with pytest.raises(ChunkError):
        checked_chunks(CONTENT_MAX_BYTES, endless())  # type: ignore[arg-type]
    assert chunks_max(CONTENT_MAX_BYTES) <= 1_024, "so many hashes can be asked for at once"


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 2**32)), max_size=20), st.integers(0, 2**40))
def test_whatever_comes_it_is_accepted_whole_or_refused(chunks: list[tuple[bytes, int]], size: int) -> None:
    try:
        checked = checked_chunks(size, chunks)
    except ChunkError:
        return
    assert sum(chunk.size for chunk in checked) == size > PIECE_MAX_BYTES


@pytest.mark.parametrize("data", [b"x", b"text " * 90_000, random.Random(3).randbytes(100_000)], ids=len)
def test_a_chunk_comes_back(data: bytes) -> None:
    chunk = Chunk(hashlib.sha256(data).digest(), len(data))
    body, compressed = pack_chunk(data)
    assert compressed == (len(body) < len(data)) and len(body) <= len(data)
    assert unpack_chunk(chunk, body, compressed) == data
    assert unpack_chunk(chunk, memoryview(body), compressed) == data
    for wrong in (Chunk(name(0), len(data)), Chunk(chunk.hash, len(data) + 1)):
        with pytest.raises(ChunkError):
            unpack_chunk(wrong, body, compressed)
    with pytest.raises(ChunkError):
        unpack_chunk(chunk, body + b"x", compressed)


def test_a_chunk_that_expands_is_refused_before_it_is_decoded() -> None:
    bomb = compress(bytes(64 << 20))
    for size in (100, CHUNK_BYTES, 64 << 20):
        with pytest.raises(ChunkError):
            unpack_chunk(Chunk(name(0), size), bomb, True)


MESSAGES = (pb.ReadContentResponse, pb.WriteContentRequest)


@pytest.mark.parametrize("kind", MESSAGES)
@given(st.integers(0, 2**32 - 1), st.binary(max_size=300), st.booleans())
def test_messages_are_those_of_protobuf(kind: type, place: int, data: bytes, compressed: bool) -> None:
    form = {"zstd": data} if compressed else {"raw": data}
    encoded = ChunkMessage(place, data, compressed).encode()
    assert kind.FromString(encoded) == kind(chunk=pb.ChunkBody(index=place, **form))
    for message in (encoded, kind(chunk=pb.ChunkBody(index=place, **form)).SerializeToString()):
        assert chunk_message(message) == ChunkMessage(place, data, compressed)


@pytest.mark.parametrize("kind", MESSAGES)
@given(st.integers(0, 2**32 - 1), st.binary(max_size=300), st.binary(min_size=1, max_size=40))
def test_messages_with_patches_are_too(kind: type, place: int, data: bytes, base: bytes) -> None:
    message = ChunkMessage(place, data, False, base)
    parsed = kind.FromString(message.encode())
    assert parsed == kind(chunk=pb.ChunkBody(index=place, patch=data, base=base))
    assert chunk_message(message.encode()) == chunk_message(parsed.SerializeToString()) == message
    assert chunk_in(parsed.chunk) == message
    for odd in (pb.ChunkBody(index=place, patch=data), pb.ChunkBody(index=place, raw=data, base=base)):
        assert chunk_message(kind(chunk=odd).SerializeToString()) is None and chunk_in(odd) is None


def test_a_chunk_comes_back_from_its_patch() -> None:
    old = random.Random(4).randbytes(CHUNK_BYTES)
    new = old[:1000] + b"!" + old[1001:]
    chunk = Chunk(hashlib.sha256(new).digest(), len(new))
    patch = make_patch(old, new)
    assert len(patch) < 20 and patched_chunk(chunk, memoryview(patch), memoryview(old)) == new
    for wrong, body, base in (
        (chunk, patch, old[::-1]), (chunk, patch[:-1], old), (chunk, b"", old), (chunk, patch, b""),
        (Chunk(name(0), len(new)), patch, old), (Chunk(chunk.hash, len(new) - 1), patch, old),
        (Chunk(name(0), 64 << 20), make_patch(old, bytes(64 << 20)), old),
    ):  # fmt: skip
        with pytest.raises(ChunkError):
            patched_chunk(wrong, body, base)


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 9), max_size=12))
def test_a_chunk_is_compared_with_the_one_that_it_replaces(old: list[int], new: list[int]) -> None:
    before, after = ([Chunk(name(n), 1) for n in numbers] for numbers in (old, new))
    found = replaced(before, after)
    assert all(before[there].hash != after[here].hash for here, there in found.items())
    changed = [*range(8)]
    changed[3] = 9
    assert replaced([Chunk(name(n), 1) for n in range(8)], [Chunk(name(n), 1) for n in changed]) == {3: 3}


@given(st.binary(max_size=60))
def test_other_bytes_are_left_to_protobuf(data: bytes) -> None:
    found = chunk_message(b"\x1a" + data)
    if found is not None:
        parsed = pb.ReadContentResponse.FromString(b"\x1a" + data).chunk
        assert (parsed.index, getattr(parsed, parsed.WhichOneof("form"))) == (found.place & (2**32 - 1), found.data)
    assert chunk_message(b"\x0a" + data) is None
    assert chunk_message(b"") is None
