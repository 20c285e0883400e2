"""Cutting large contents: everything is covered, and what a version shares with the one before stays as it was."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode import chunking
from homenode.chunking import BytesSource, FileSource, LargeBody, chunks_in, prepare
from homenode.errors import InvalidArgument
from homenode_api.chunks import checked_chunks

SMALL = 64


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 bytes, so that many fit a test."""
    _small(monkeypatch)


def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "CHUNK_BYTES", SMALL)
    monkeypatch.setattr(chunking, "chunks_max", lambda size: 2 * -(-size // SMALL) + 16)


def body(data: bytes, base: LargeBody | None = None) -> LargeBody:
    made = prepare(BytesSource(data), base.chunks if base is not None else ())
    assert made.hash == hashlib.sha256(data).digest()
    assert b"".join(made.read(index) for index in range(len(made.chunks))) == data
    assert all(hashlib.sha256(made.read(i)).digest() == chunk.hash for i, chunk in enumerate(made.chunks))
    assert all(0 < chunk.size <= SMALL for chunk in made.chunks)
    assert len(made.chunks) <= 2 * -(-len(data) // SMALL) + 16
    return made


def new_bytes(made: LargeBody, old: LargeBody) -> int:
    known = {chunk.hash for chunk in old.chunks}
    return sum(chunk.size for chunk in made.chunks if chunk.hash not in known)


@settings(max_examples=60)
@given(
    st.binary(min_size=1, max_size=2_000),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 300), st.binary(max_size=200)), max_size=6),
)
def test_whatever_is_changed_all_of_it_is_covered(data: bytes, edits: list[tuple[float, int, bytes]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        _small(monkeypatch)
        made = body(data)
        for where, gone, new in edits:
            at = int(where * len(data))
            data = data[:at] + new + data[at + gone :] or b"x"
            made = body(data, made)


@pytest.mark.parametrize("seed", range(5))
def test_one_edit_costs_what_it_touches(seed: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(40 * SMALL + 11)
    made = body(data)
    for _ in range(30):
        at, gone, new = rng.randrange(len(data)), rng.choice((0, 1, 200)), rng.randbytes(rng.choice((0, 1, 200)))
        data = data[:at] + new + data[at + gone :]
        old, made = made, body(data, made)
        assert new_bytes(made, old) <= len(new) + 2 * SMALL


def test_many_small_edits_do_not_crumble_it() -> None:
    rng = random.Random(1)
    data = rng.randbytes(20 * SMALL)
    made = body(data)
    for _ in range(400):
        at = rng.randrange(len(data))
        data = data[:at] + b"+" + data[at:]
        made = body(data, made)  # which looks at the number of chunks


def test_a_file_has_what_an_edit_left(tmp_path: Path) -> None:
    rng = random.Random(2)
    old = rng.randbytes(20 * SMALL)
    (tmp_path / "old").write_bytes(old)
    new = old[: 5 * SMALL + 3] + b"put in" + old[5 * SMALL + 3 :]
    made = body(new, body(old))
    with (tmp_path / "old").open("rb") as file:
        found = chunks_in(FileSource(file.fileno()), made.chunks, len(new))
    kept = {chunk.hash for chunk in body(old).chunks} & {chunk.hash for chunk in made.chunks}
    assert kept <= set(found) and len(kept) == 19
    for chunk in made.chunks:
        if chunk.hash in found:
            assert hashlib.sha256(old[found[chunk.hash] :][: chunk.size]).digest() == chunk.hash


def test_a_file_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10 * SMALL))
    with path.open("rb") as file:
        source = FileSource(file.fileno())
        made = prepare(source)
        os.truncate(path, 3 * SMALL)
        with pytest.raises(InvalidArgument):
            made.read(5)
        with pytest.raises(InvalidArgument):
            prepare(source)


def test_sizes_are_those_that_the_contract_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    data = random.Random(3).randbytes(5 * (1 << 20) + 1)
    made = prepare(BytesSource(data))
    longer = prepare(BytesSource(b"at the start" + data), made.chunks)
    for one in (made, longer):
        assert checked_chunks(one.size, one.chunks) == one.chunks
    assert longer.chunks[1:] == made.chunks
