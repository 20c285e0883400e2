"""Log archives: their format, and how they are read.

An archive is a file of JSON lines, or a folder of such files (`log-000001.jsonl`, …), in the order of their names.
Every line is an object, and its last member vouches for it and for all lines before it in the file:

  {"archive":1,"slices":16,"heads":[[3,1763780000000,9],…],"crc":"…"}       begins each file: format, slices, and
                                                                            up to where earlier files go
  {"slice":3,"sequence":17,"entry":[…],"crc":"…"}                           a log entry, as the store keeps it
  {"slice":3,"incarnation":1763780000000,"after":17,"crc":"…"}              entries that follow are of this incarnation
  {"slice":3,"gap":[18,40],"why":"trimmed before they were read","crc":"…"} these entries are missing, knowingly

`crc` is the CRC-32 of the line up to the comma before it, continued from the previous line's (0 before the first).
So a flipped bit, a missing line and lines in another order all show, at the line where the file stops being what was
written. Per slice, sequences are dense but for what gaps say; an incarnation may set them back.

An entry is `[artifact, rev, [[event, field, …], …], time in ms, incarnation]`; `protocol/effects.py` names the events
and the order of their fields. It has names, versions, hashes and sizes, never content.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homenode_directory.audit.items import Corrupt, Gap, Item, Logged, Renewed
from homenode_directory.store.fields import decode_log

FORMAT = 1
_ENTRY = b'"entry":'  # the last member but the checksum
SUFFIX = ".jsonl"
LINE_BYTES_MAX = 16 << 20
_SEAL_BYTES = len(b',"crc":"00000000"}')


def seal(body: bytes, crc: int) -> tuple[bytes, int]:
    """An object's text as a line that follows one with checksum `crc`; the line and its own checksum."""
    crc = zlib.crc32(body[:-1], crc)
    return b"%s%s\n" % (body[:-1], _seal(crc)), crc


def unseal(line: bytes, crc: int) -> int:
    """The checksum of a line (without its newline) that follows one with `crc`. Raises ValueError."""
    crc = zlib.crc32(line[:-_SEAL_BYTES], crc)
    if line[-_SEAL_BYTES:] != _seal(crc):
        raise ValueError("its checksum does not fit: it was changed, or a line before it is missing or misplaced")
    return crc


def _seal(crc: int) -> bytes:
    return b',"crc":"%08x"}' % crc


def files_of(path: Path) -> list[Path]:
    """The archive's files in order. Raises OSError where there are none."""
    if not path.is_dir():
        path.stat()
        return [path]
    found = sorted(path.glob("*" + SUFFIX))
    if not found:
        raise FileNotFoundError(2, "there is no archive in this folder", str(path))
    return found


@dataclass(slots=True)
class Heads:
    """The end of one file of an archive.

    `began` and `reached` map slices to (incarnation, sequence) before its first and after its last line; `crc` and
    `size` are those of its whole lines. `damage`: where and why it is not what was written; None: it is.
    """

    began: dict[int, tuple[int, int]] = field(default_factory=dict)
    reached: dict[int, tuple[int, int]] = field(default_factory=dict)
    crc: int = 0
    size: int = 0
    damage: str | None = None


def read_heads(path: Path) -> Heads:
    """How a file of an archive begins and ends. Raises OSError."""
    heads, known = Heads(), dict[int, int]()
    try:
        for line, said, where in _lines(path, []):
            heads.size += len(line)
            heads.crc = int(said["crc"], 16)
            item = _item(line, said, where, known)
            if item is None:
                heads.began = {slice_: (number, sequence) for slice_, number, sequence in said["heads"]}
                heads.reached = dict(heads.began)
                continue
            _follow(item, known)
            number = heads.reached.get(item.slice, (0, 0))[0]
            if isinstance(item, Logged):
                number = item.record.incarnation
            elif isinstance(item, Renewed):
                number = item.number
            heads.reached[item.slice] = (number, known[item.slice])
    except Corrupt as corrupt:
        heads.damage = str(corrupt)
    return heads


def read_archive(path: Path, torn: list[str] | None = None) -> Iterator[Item]:
    """The items of an archive, in order.

    A last line without its end was being written when its process died: it is left out, and named in `torn`.

    Raises:
        Corrupt: at the first line that is not what was written, or that its slice's sequences say is missing.
        OSError: it cannot be read.
    """
    heads: dict[int, int] = {}
    for file in files_of(path):
        for line, said, where in _lines(file, torn if torn is not None else []):
            item = _item(line, said, where, heads)
            if item is not None:
                _follow(item, heads)
                yield item


def _lines(path: Path, torn: list[str]) -> Iterator[tuple[bytes, dict[str, Any], str]]:
    """The lines of a file whose checksums fit, parsed, with where they are."""
    crc = 0
    with path.open("rb") as lines:
        for number in range(1, 1 << 62):
            where = f"{path.name}:{number}"
            line = lines.readline(LINE_BYTES_MAX)
            if not line:
                return
            if not line.endswith(b"\n"):
                if len(line) == LINE_BYTES_MAX or lines.read(1):
                    raise Corrupt(where, "the line does not end")
                torn.append(where)
                return
            try:
                crc = unseal(line[:-1], crc)
                said = json.loads(line)
                if ("archive" in said) != (number == 1):
                    raise ValueError("an archive's first line, and only that, says its format")
            except (ValueError, TypeError) as error:
                raise Corrupt(where, str(error)) from None
            yield line, said, where


def _item(line: bytes, said: dict[str, Any], where: str, heads: dict[int, int]) -> Item | None:
    try:
        if "archive" in said:
            _first(said, where, heads)
            return None
        slice_ = int(said["slice"])
        if "entry" in said:
            start = line.index(_ENTRY) + len(_ENTRY)  # as the store had it
            return Logged(slice_, int(said["sequence"]), decode_log(line[start : -_SEAL_BYTES - 1]), where)
        if "gap" in said:
            return Gap(slice_, int(said["gap"][0]), int(said["gap"][1]), str(said["why"]), where)
        return Renewed(slice_, int(said["incarnation"]), int(said["after"]), where)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Corrupt(where, f"not a line of an archive ({type(error).__name__})") from None


def _first(said: dict[str, Any], where: str, heads: dict[int, int]) -> None:
    """A file's first line; it goes on where the file before it ended."""
    if said["archive"] != FORMAT:
        raise Corrupt(where, f"format {said['archive']}; this version reads format {FORMAT}")
    for slice_, _, sequence in said["heads"]:
        if heads.setdefault(slice_, sequence) != sequence:
            raise Corrupt(where, f"slice {slice_} goes on after {sequence}, the file before ended at {heads[slice_]}")


def _follow(item: Item, heads: dict[int, int]) -> None:
    """Sequences of a slice follow each other; `heads` has the last of each that was seen."""
    head = heads.get(item.slice)
    if isinstance(item, Renewed):
        if head is not None and item.after > head:
            raise Corrupt(item.where, f"incarnation {item.number} follows {item.after}, the last entry was {head}")
        heads[item.slice] = item.after
        return
    first, last = (item.first, item.last) if isinstance(item, Gap) else (item.sequence, item.sequence)
    if last < first:
        raise Corrupt(item.where, f"a gap from {first} to {last}")
    if head is not None and first != head + 1:
        raise Corrupt(item.where, f"slice {item.slice} goes on with {first} after {head}: entries are missing")
    heads[item.slice] = last
