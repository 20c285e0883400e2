"""The patch codec: exact round trips, small patches, and no way for a stranger's bytes to do harm."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode_api import patch as codec
from homenode_api.patch import PatchError, apply_patch, apply_patches, compress, decompress, make_patch
from homenode_api.varints import varint

MAX_SIZE = 4 << 20
LIMIT = 1 << 16  # the size limit in tests of corrupted input


def text_bytes(size: int, seed: int = 7) -> bytes:
    """Prose-like text of `size` bytes, the same for the same seed."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(4000)]
    lines: list[str] = []
    total = 0
    while total < size:
        lines.append(" ".join(rng.choices(words, k=10)))
        total += len(lines[-1]) + 1
    return "\n".join(lines).encode()[:size]


def restored(base: bytes, new: bytes) -> bytes:
    return apply_patch(base, make_patch(base, new), size=len(new), max_size=MAX_SIZE)


@st.composite
def edited(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A base and what some edits made of it: at the start, in the middle, at the end, moved, cut, or all new."""
    unit = draw(st.sampled_from([b"", b"a", b"line of text\n", b"\x00\xff", bytes(range(256))]))
    base = unit * draw(st.integers(0, 60)) + draw(st.binary(max_size=600))
    new = base
    for _ in range(draw(st.integers(0, 4))):
        at, to = sorted((draw(st.integers(0, len(new))), draw(st.integers(0, len(new)))))
        kind = draw(st.sampled_from(["insert", "delete", "replace", "move", "double", "rewrite"]))
        piece = draw(st.binary(max_size=300))
        new = {
            "insert": new[:at] + piece + new[at:],
            "delete": new[:at] + new[to:],
            "replace": new[:at] + piece + new[to:],
            "move": new[to:] + new[at:to] + new[:at],
            "double": new[:to] + new[at:to] + new[to:],
            "rewrite": piece,
        }[kind]
    return base, new


@given(edited())
@settings(max_examples=300, deadline=None)
def test_a_patch_restores_the_new_version(pair: tuple[bytes, bytes]) -> None:
    base, new = pair
    patch = make_patch(base, new)
    assert apply_patch(base, patch, size=len(new), max_size=MAX_SIZE) == new
    assert codec.patch_size(patch) == len(new)
    assert make_patch(base, new) == patch


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)), st.data())
@settings(deadline=None)
def test_prefix_and_suffix_agree_with_the_plain_definition(a: bytes | str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(a)))
    b = a[:cut] + (b"x" if isinstance(a, bytes) else "x") + a[cut:]  # type: ignore[operator]
    prefix = next((i for i in range(len(a)) if a[i] != b[i]), len(a))
    assert codec.common_prefix(a, b) == prefix  # type: ignore[type-var]
    limit = len(a) - prefix
    suffix = next((i for i in range(limit) if a[-1 - i] != b[-1 - i]), limit)
    assert codec.common_suffix(a, b, limit) == suffix  # type: ignore[type-var]


@pytest.mark.parametrize("at", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, (1 << 17), (1 << 17) + 4])
def test_prefix_and_suffix_at_chunk_borders(at: int) -> None:
    a = b"a" * ((1 << 17) + 5)
    b = a[:at] + b"b" + a[at + 1 :]
    assert codec.common_prefix(a, b) == at
    assert codec.common_suffix(a, b, len(a)) == len(a) - at - 1
    assert codec.common_prefix(a, a[:at]) == at
    assert codec.common_suffix(a, a[:at], at) == at


def test_one_line_edit_of_1_mib_travels_in_1_kib() -> None:
    base = text_bytes(1 << 20)
    lines = base.split(b"\n")
    lines[len(lines) // 2] = b"a line that somebody wrote anew, with 60 or 70 characters of text"
    new = b"\n".join(lines)
    patch = make_patch(base, new)
    assert len(patch) <= 1024
    assert apply_patch(base, patch, size=len(new), max_size=MAX_SIZE) == new


@pytest.mark.parametrize("size", [1 << 16, 1 << 20, 4 << 20])
def test_edits_far_apart_and_moves_stay_small(size: int) -> None:
    base = text_bytes(size)
    edits = b"HEAD " + base[5 : size // 2] + b"MIDDLE" + base[size // 2 : -9] + b"TAIL"
    moved = base[size // 2 :] + base[: size // 2]
    for new in (edits[:MAX_SIZE], moved):
        assert len(make_patch(base, new)) <= 1024
        assert restored(base, new) == new


class Counting:
    """A compressor that notes how much of a large middle it is given."""

    given = 0

    def __init__(self, *args: Any, make: Any = zstandard.ZstdCompressor, **options: Any) -> None:
        self._compressor = make(*args, **options)

    def compressobj(self, size: int) -> Counting:
        self._stream = self._compressor.compressobj(size=size)
        return self

    def compress(self, data: bytes) -> bytes:
        Counting.given += len(data)
        return bytes(self._stream.compress(data))

    def flush(self) -> bytes:
        return bytes(self._stream.flush())


def shuffled(text: bytes, separator: bytes = b"\n") -> bytes:
    lines = text.split(separator)
    random.Random(3).shuffle(lines)
    return separator.join(lines)


MIB4 = 4 << 20


@pytest.mark.parametrize(
    ("base", "new"),
    [
        (text_bytes(MIB4), text_bytes(MIB4, seed=8)),
        (text_bytes(MIB4), shuffled(text_bytes(MIB4))),
        (text_bytes(MIB4), shuffled(text_bytes(MIB4), b" ")),
        (text_bytes(MIB4)[::-1], text_bytes(MIB4)),
        (random.Random(1).randbytes(MIB4), random.Random(2).randbytes(MIB4)),
        (bytes(random.Random(1).choices(b"ab", k=MIB4)), bytes(random.Random(2).choices(b"ab", k=MIB4))),
        (b"", text_bytes(1 << 20)),
    ],
    ids=["rewrite", "lines shuffled", "words shuffled", "backwards", "noise", "two letters", "from nothing"],
)
def test_a_search_is_given_up_when_it_has_written_enough(
    monkeypatch: pytest.MonkeyPatch, base: bytes, new: bytes
) -> None:
    monkeypatch.setattr(codec.zstandard, "ZstdCompressor", Counting)
    monkeypatch.setattr(Counting, "given", 0)
    patch = make_patch(base, new)
    assert Counting.given <= 3 * len(new) // 4 and patch[0] == codec.FORMAT_RAW
    assert apply_patch(base, patch, size=len(new), max_size=MAX_SIZE) == new


def test_much_new_text_between_what_stays_is_compressed() -> None:
    base, put_in = text_bytes(2 << 20), text_bytes(1 << 20, seed=8)
    new = base[: 1 << 20] + put_in + base[1 << 20 :]
    assert codec.FRAME_MAX_BYTES < len(make_patch(base, new)) <= len(compress(put_in)) + 100
    assert restored(base, new) == new


@pytest.mark.parametrize("base", [b"", b"\x37\xa4\x30\xec" + b"looks like a zstd dictionary " * 30, b"short"])
def test_a_base_of_any_shape_is_a_raw_dictionary(base: bytes) -> None:
    new = b"something else altogether, " * 40
    assert restored(base, new) == new


@given(st.binary(max_size=5000))
@settings(deadline=None)
def test_a_snapshot_round_trips(data: bytes) -> None:
    assert decompress(compress(data), size=len(data), max_size=len(data)) == data


def test_patches_apply_in_order() -> None:
    versions = [text_bytes(5000) + str(i).encode() * i for i in range(5)]
    patches = [make_patch(a, b) for a, b in zip(versions, versions[1:], strict=False)]
    assert apply_patches(versions[0], patches, size=len(versions[-1]), max_size=MAX_SIZE) == versions[-1]
    assert apply_patches(versions[0], [], size=5000, max_size=MAX_SIZE) == versions[0]
    with pytest.raises(PatchError):
        apply_patches(versions[0], patches, size=len(versions[-1]) + 1, max_size=MAX_SIZE)
    with pytest.raises(PatchError):  # an intermediate version breaks the limit
        apply_patches(versions[0], patches[:1], size=len(versions[1]), max_size=4999)


# ---------------------------------------------------------------------------------------------------- hostile input


@given(edited(), st.data())
@settings(max_examples=400, deadline=None)
def test_a_corrupted_patch_is_refused_or_gives_the_declared_size(
    pair: tuple[bytes, bytes], data: st.DataObject
) -> None:
    base, new = pair
    patch = bytearray(make_patch(base, new))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(patch) - 1))
        action = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if action == "flip":
            patch[at] ^= data.draw(st.integers(1, 255))
        elif action == "cut" and at:
            del patch[at:]
        else:
            patch[at:at] = data.draw(st.binary(max_size=8))
    try:
        result = apply_patch(base, bytes(patch), size=len(new), max_size=LIMIT)
    except PatchError:
        return
    assert len(result) == len(new)


@given(st.binary(max_size=200), st.integers(-1, LIMIT), st.binary(max_size=100))
@settings(max_examples=400, deadline=None)
def test_random_bytes_raise_nothing_but_patch_errors(junk: bytes, size: int, base: bytes) -> None:
    calls = (
        lambda: apply_patch(base, junk, size=size, max_size=LIMIT),
        lambda: apply_patch(
            base, bytes((codec.FORMAT_ZSTD, 0, 0, size & 0x7F)) + junk, size=size & 0x7F, max_size=LIMIT
        ),
        lambda: decompress(junk, size=size, max_size=LIMIT),
        lambda: decompress(b"\x28\xb5\x2f\xfd" + junk, size=size, max_size=LIMIT),
    )
    for call in calls:
        try:
            call()
        except PatchError:
            pass


def bomb(declared: int, blocks: int, *, window: bool = False) -> bytes:
    """A frame of `blocks` blocks that each repeat one byte 128 Ki times, and the content size it declares."""
    header = b"\xc0" if window else b"\xe0"
    frame = b"\x28\xb5\x2f\xfd" + header + (b"\x98" if window else b"") + declared.to_bytes(8, "little")
    for index in range(blocks):
        block = (index == blocks - 1) | 1 << 1 | (128 << 10) << 3
        frame += block.to_bytes(3, "little") + b"A"
    return frame


def patch_around(frame: bytes, size: int) -> bytes:
    return bytes((codec.FORMAT_ZSTD, 0, 0)) + varint(size) + frame


def peak_bytes_of_refusal(patch: bytes, size: int) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(PatchError):
            apply_patch(b"base", patch, size=size, max_size=MAX_SIZE)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_bomb_of_these_tests_is_real() -> None:
    frame = bomb(1 << 20, 8)
    assert zstandard.ZstdDecompressor().decompress(frame) == b"A" * (1 << 20)
    assert decompress(frame, size=1 << 20, max_size=MAX_SIZE) == b"A" * (1 << 20)


@pytest.mark.parametrize("claimed", [512 << 20, 4 << 20, 1000])
def test_a_16_kb_frame_that_expands_to_512_mib_is_refused_before_decoding(claimed: int) -> None:
    honest = bomb(512 << 20, 4096)
    assert len(honest) < 17_000
    assert peak_bytes_of_refusal(patch_around(honest, claimed), claimed) < 1 << 20


def test_a_bomb_that_declares_a_small_size_never_exceeds_it() -> None:
    lying = bomb(4 << 20, 4096)
    assert peak_bytes_of_refusal(patch_around(lying, 4 << 20), 4 << 20) < 9 << 20


def test_a_frame_of_empty_blocks_is_refused() -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + (1000).to_bytes(8, "little") + b"\x00\x00\x00" * 100_000
    with pytest.raises(PatchError, match="too many blocks"):
        decompress(frame, size=1000, max_size=MAX_SIZE)


NEW = b"the new version " * 40


def hostile_frames() -> dict[str, bytes]:
    good = compress(NEW)
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(NEW)
    return {
        "empty": b"",
        "magic only": good[:4],
        "trailing byte": good + b"\0",
        "two frames": good + good,
        "second frame is empty": good + compress(b""),
        "skippable before": skippable + good,
        "skippable after": good + skippable,
        "skippable only": skippable,
        "skippable of the declared size": b"\x50\x2a\x4d\x18" + len(NEW).to_bytes(4, "little") + NEW,
        "cut": good[:-1],
        "size not declared": unsized,
        "other size declared": compress(NEW + b"x"),
        "dictionary id": b"\x28\xb5\x2f\xfd\x61" + b"\x07" + good[5:],
        "reserved bit": good[:4] + bytes((good[4] | 8,)) + good[5:],
        "window of 1 GiB": b"\x28\xb5\x2f\xfd\x40\xa0" + good[5:],
        "reserved block": good[:7] + b"\x07\0\0",
    }


def test_the_frame_header_of_these_tests_is_as_they_assume() -> None:
    assert compress(NEW)[4:7] == b"\x60" + (len(NEW) - 256).to_bytes(2, "little")


@pytest.mark.parametrize("name", hostile_frames())
def test_a_hostile_frame_is_refused_before_the_decoder_sees_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoder(**_: object) -> None:
        raise AssertionError("the decoder was called")

    frame = hostile_frames()[name]
    monkeypatch.setattr(codec.zstandard, "ZstdDecompressor", decoder)
    with pytest.raises(PatchError):
        decompress(frame, size=len(NEW), max_size=MAX_SIZE)
    with pytest.raises(PatchError):
        apply_patch(b"", patch_around(frame, len(NEW)), size=len(NEW), max_size=MAX_SIZE)


@pytest.mark.parametrize(
    "patch",
    [
        b"",
        b"\x00\x00\x00\x00",
        b"\x03\x00\x00\x04abcd",
        b"\x01\x05\x00\x04",  # prefix longer than the base
        b"\x01\x03\x03\x04",  # prefix and suffix overlap in the base
        b"\x01\x00\x00\x04abc",
        b"\x01\x00\x00\x04abcde",
        b"\x01\x80\x00\x00\x04abcd",  # a number that is not in its shortest form
        b"\x01\xff\xff\xff\xff\xff\x01\x00\x04",
        b"\x01\x00\x00\x05abcde",  # another size than the commit's
        b"\x01\x00",
    ],
)
def test_a_malformed_header_is_refused(patch: bytes) -> None:
    with pytest.raises(PatchError):
        apply_patch(b"base", patch, size=4, max_size=MAX_SIZE)


def test_prefix_and_suffix_may_not_overlap_in_the_base() -> None:
    with pytest.raises(PatchError, match="do not fit"):
        apply_patch(b"base", b"\x01\x03\x03\x06", size=6, max_size=MAX_SIZE)
    with pytest.raises(PatchError, match="do not fit"):
        apply_patch(b"base", b"\x01\x05\x00\x06a", size=6, max_size=MAX_SIZE)


def test_a_version_above_the_limit_is_refused() -> None:
    base = b"x" * 100
    with pytest.raises(PatchError, match="larger"):
        apply_patch(base, make_patch(base, base + b"y"), size=101, max_size=100)
    with pytest.raises(PatchError, match="larger"):
        decompress(compress(base), size=100, max_size=99)


def test_a_patch_on_another_base_is_seen_by_the_hash() -> None:
    base, other, new = text_bytes(3000, 1), text_bytes(3000, 2), text_bytes(3000, 1) + text_bytes(500, 3)
    wrong = apply_patch(other, make_patch(base, new), size=len(new), max_size=MAX_SIZE)
    assert codec.content_hash(wrong) != codec.content_hash(new)
