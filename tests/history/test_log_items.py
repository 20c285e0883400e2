"""The log as it is read afterwards, from a store and from an archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from homenode_directory.audit.archive import read_archive, seal
from homenode_directory.audit.items import Corrupt, Gap, Logged, Renewed
from homenode_directory.audit.live import read_store
from homenode_directory.store.fields import encode_log
from tests.directory.world import PLACE, World


async def worked() -> tuple[World, list[Logged]]:
    """A directory that has done a little of everything, and its log."""
    world = World()
    process = await world.process()
    a, b = await process.session("a"), await process.session("b")
    await process.lease(a)
    await process.release(a)
    version = await process.commit(a, "h1")
    await process.read(b, "k")
    await process.commit(b, "h2", version)
    await process.commit(a, None)
    await process.directory.end_session(PLACE, b)
    items = [item async for item in read_store(process.store)]
    await process.close()
    return world, [item for item in items if isinstance(item, Logged)]


def archive(path: Path, items: list[Logged]) -> Path:
    """An archive with these entries."""
    bodies: list[object] = [HEADER]
    for item in items:
        entry = json.loads(encode_log(item.record))
        bodies.append({"slice": item.slice, "sequence": item.sequence, "entry": entry})
    return write(path, bodies)


def write(path: Path, bodies: list[object]) -> Path:
    """Lines that vouch for each other."""
    crc, lines = 0, []
    for body in bodies:
        line, crc = seal(json.dumps(body, separators=(",", ":")).encode(), crc)
        lines.append(line)
    path.write_bytes(b"".join(lines))
    return path


async def test_a_store_and_an_archive_tell_the_same(tmp_path: Path) -> None:
    _, items = await worked()
    assert [item.sequence for item in items] == list(range(1, len(items) + 1))
    assert {item.record.incarnation for item in items} == {items[0].record.incarnation}
    assert all(item.record.at_ms > 0 for item in items)
    read = list(read_archive(archive(tmp_path / "log.jsonl", items)))
    assert [(item.slice, item.sequence, item.record) for item in read if isinstance(item, Logged)] == [
        (item.slice, item.sequence, item.record) for item in items
    ]


async def test_every_flipped_bit_is_found_in_its_line(tmp_path: Path) -> None:
    _, items = await worked()
    path = archive(tmp_path / "log.jsonl", items[:3])
    whole = path.read_bytes()
    for at in range(len(whole) - 1):  # without the last newline, it is a line that was not finished
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(Corrupt) as found:
                list(read_archive(path))
            line = whole.count(b"\n", 0, at) + 1
            assert found.value.where == f"log.jsonl:{line}", (at, bit)


async def test_missing_and_misplaced_lines_are_found(tmp_path: Path) -> None:
    _, items = await worked()
    path = archive(tmp_path / "log.jsonl", items)
    lines = path.read_bytes().splitlines(keepends=True)
    for n in range(1, len(lines) - 1):
        for wrong in (
            lines[:n] + lines[n + 1 :],
            lines[:n] + [lines[n + 1], lines[n]] + lines[n + 2 :],
            [*lines[: n + 1], lines[n], *lines[n + 1 :]],
        ):
            path.write_bytes(b"".join(wrong))
            with pytest.raises(Corrupt):
                list(read_archive(path))


async def test_an_unfinished_last_line_is_named_and_left_out(tmp_path: Path) -> None:
    _, items = await worked()
    path = archive(tmp_path / "log.jsonl", items)
    path.write_bytes(path.read_bytes()[:-20])
    torn: list[str] = []
    assert len(list(read_archive(path, torn))) == len(items) - 1
    assert torn == [f"log.jsonl:{len(items) + 1}"]


HEADER = {"archive": 1, "slices": 2, "heads": []}
ENTRY = ["default/main/k", 1, [["Shared", "s", 1]], 5, 7]


@pytest.mark.parametrize(
    ("bodies", "line"),
    [
        ([{"archive": 2, "heads": []}], 1),
        ([{"slice": 0, "sequence": 1, "entry": ENTRY}], 1),
        ([HEADER, {"slice": 0, "sequence": 1, "entry": ENTRY}, {"slice": 0, "sequence": 3, "entry": ENTRY}], 3),
        ([HEADER, {"slice": 0, "gap": [5, 3], "why": "?"}], 2),
        ([HEADER, {"slice": 0, "sequence": 1, "entry": ["k", 1, [["Nonsense"]]]}], 2),
        ([HEADER, {"slice": 0, "sequence": 1, "entry": 7}], 2),
        ([HEADER, {"sequence": 1}], 2),
        ([HEADER, [1]], 2),
        ([HEADER, {"slice": 0, "sequence": 1, "entry": ENTRY}, {"slice": 0, "incarnation": 8, "after": 9}], 3),
    ],
)
def test_lines_that_vouch_for_each_other_and_still_make_no_sense(
    tmp_path: Path, bodies: list[object], line: int
) -> None:
    with pytest.raises(Corrupt) as found:
        list(read_archive(write(tmp_path / "log.jsonl", bodies)))
    assert found.value.where == f"log.jsonl:{line}"


def test_gaps_and_other_incarnations_are_told(tmp_path: Path) -> None:
    bodies = [
        HEADER,
        {"slice": 0, "sequence": 4, "entry": ENTRY},
        {"slice": 0, "gap": [5, 9], "why": "trimmed"},
        {"slice": 0, "sequence": 10, "entry": ENTRY},
        {"slice": 0, "incarnation": 8, "after": 2},
        {"slice": 0, "sequence": 3, "entry": ENTRY},
    ]
    items = list(read_archive(write(tmp_path / "log.jsonl", bodies)))
    assert [type(item) for item in items] == [Logged, Gap, Logged, Renewed, Logged]
