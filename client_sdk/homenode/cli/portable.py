"""The file that `homenode export` writes and `homenode import` reads: artifacts as lines of JSON and bytes.

One zstd frame (with its checksum), so `zstd -dc FILE` shows what is in it:

  {"homenode_export": 1, "workspace": …, "prefix": …, "cut": "snapshot" | "listing" | "each", "taken_at_ms": …,
   "policies": {PREFIX: {…}, …}}
  {"key": …, "size": …, "sha256": …, "version": …, "current": true, "committed_at_ms": …,
   "metadata": {…}, "tags": […], "media_type": …, "policy": {…}}
  SIZE bytes of content, and a line feed
  … and so on, each artifact's versions together, the current one last, artifacts by name …
  {"end": true, "artifacts": …, "versions": …, "bytes": …}

`policies` are those of prefixes, and under "" the workspace's; files of earlier releases have none. An artifact's line
has its own policy.

Whoever reads it believes nothing: lines have a bound, sizes too, contents are compared with their hash, names follow
the directory's rules and rise, and the end must say what came. Memory stays at a window of 8 MiB and a piece.
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import zstandard

FORMAT = 1
LEVEL = 6
PIECE_BYTES = 1 << 20
LINE_BYTES_MAX = 256 << 10
WINDOW_BYTES_MAX = 8 << 20
SIZE_MAX = 256 << 20
KEY_BYTES_MAX = 512
POLICY = ("consistency", "push", "max_age_ms", "max_reads", "max_steps")

Piece = Callable[[bytes], object]
PolicyParts = dict[str, str | int]


class BadFile(Exception):
    """The file is no export, or a damaged one; the text says where it stops making sense."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of an artifact, without its content. `policy` has what is not default."""

    key: str
    size: int
    sha256: str
    version: str
    current: bool = True
    committed_at_ms: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    media_type: str = ""
    policy: PolicyParts = field(default_factory=dict)


@dataclass(slots=True)
class Totals:
    """How much is in a file."""

    artifacts: int = 0
    versions: int = 0
    bytes: int = 0

    def count(self, entry: Entry) -> None:
        """One more."""
        self.artifacts += entry.current
        self.versions += 1
        self.bytes += entry.size


class Writer:
    """Writes a file front to back."""

    def __init__(self, file: BinaryIO, head: dict[str, Any]) -> None:
        made = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self._out = made.stream_writer(file, closefd=False)
        self.totals = Totals()
        self.policies = len(head.get("policies", {}))
        self._line({"homenode_export": FORMAT, **head})

    def begin(self, entry: Entry) -> None:
        """A version; its content comes next, in `piece` by `piece`, and then `end`."""
        self._line({name: getattr(entry, name) for name in Entry.__slots__})
        self.totals.count(entry)

    def piece(self, data: bytes) -> None:
        """Part of a content."""
        self._out.write(data)

    def end(self) -> None:
        """The content is whole."""
        self._out.write(b"\n")

    def close(self) -> None:
        """Nothing more comes."""
        totals = self.totals
        self._line({"end": True, "artifacts": totals.artifacts, "versions": totals.versions, "bytes": totals.bytes})
        self._out.close()

    def _line(self, value: dict[str, Any]) -> None:
        self._out.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


class Reader:
    """Reads a file front to back: for each of `entries`, `content` must be called before the next one is asked for.

    Attributes:
        head: the first line.
        policies: those of prefixes, by prefix.
        totals: what has been read so far.

    Every method raises BadFile.
    """

    def __init__(self, file: BinaryIO) -> None:
        made = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        self._in = io.BufferedReader(made.stream_reader(file, read_across_frames=True, closefd=False), PIECE_BYTES)
        self.totals = Totals()
        self.head = self._line("the first line")
        if "homenode_export" not in self.head:
            raise BadFile("this is no file of `homenode export`")
        if self.head["homenode_export"] != FORMAT:
            raise BadFile(f"its format is {self.head['homenode_export']!r}, and this program knows {FORMAT}")
        self.policies: dict[str, PolicyParts] = _policies(self.head.get("policies", {}))

    def entries(self) -> Iterator[Entry]:
        """Every version, to the end of the file."""
        before: Entry | None = None
        while True:
            where = f"after {before.key!r}" if before else "after the first line"
            line = self._line(where)
            if "end" in line:
                break
            entry = _entry(line, where)
            if before is not None and not ((entry.key == before.key and not before.current) or entry.key > before.key):
                raise BadFile(f"{where}: {entry.key!r} is out of order")
            if before is not None and entry.key != before.key and not before.current:
                raise BadFile(f"{where}: its current version is missing")
            self.totals.count(entry)
            yield entry
            before = entry
        if before is not None and not before.current:
            raise BadFile(f"{before.key!r}: its current version is missing")
        said = tuple(line.get(name) for name in ("artifacts", "versions", "bytes"))
        if said != (self.totals.artifacts, self.totals.versions, self.totals.bytes):
            raise BadFile("the last line does not say what is in the file")
        if self._read(1):
            raise BadFile("something follows the end")

    def content(self, entry: Entry, piece: Piece = lambda data: None) -> None:
        """The content, in pieces; the last one has been given when it turns out that the hash is wrong."""
        digest, left = hashlib.sha256(), entry.size
        while left:
            data = self._read(min(left, PIECE_BYTES))
            if not data:
                raise BadFile(f"{entry.key!r}: the file ends within its content")
            digest.update(data)
            piece(data)
            left -= len(data)
        if self._read(1) != b"\n":
            raise BadFile(f"{entry.key!r}: its content is not as long as it says")
        if digest.hexdigest() != entry.sha256:
            raise BadFile(f"{entry.key!r}: its content is not the one that its hash names")

    def _read(self, size: int) -> bytes:
        try:
            return self._in.read(size)
        except zstandard.ZstdError as error:
            raise BadFile(f"the file is damaged ({error})") from None

    def _line(self, where: str) -> dict[str, Any]:
        try:
            line = self._in.readline(LINE_BYTES_MAX)
        except zstandard.ZstdError as error:
            raise BadFile(f"{where}: the file is damaged or no export ({error})") from None
        if not line.endswith(b"\n"):
            raise BadFile(f"{where}: " + ("a line without an end" if line else "the file ends too early"))
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise BadFile(f"{where}: there should be a line of JSON") from None
        if not isinstance(found, dict):
            raise BadFile(f"{where}: there should be a JSON object")
        return found


def _entry(line: dict[str, Any], where: str) -> Entry:
    if set(line) != set(Entry.__slots__):
        raise BadFile(f"{where}: there should be a version of an artifact")
    try:
        entry = Entry(**{**line, "tags": tuple(line["tags"])})
    except TypeError:
        raise BadFile(f"{where}: the tags are no list") from None
    wrong = _wrong(entry)
    if wrong:
        raise BadFile(f"{where}: {wrong}")
    return entry


def _wrong(entry: Entry) -> str:
    """What is wrong with a line, or nothing. The directory judges the rest."""
    if not isinstance(entry.key, str) or not _is_key(entry.key):
        return f"{str(entry.key)[:64]!r} is no name of an artifact"
    if type(entry.size) is not int or not 0 <= entry.size <= SIZE_MAX:
        return f"{entry.key!r} has a size of {str(entry.size)[:32]}"
    if not isinstance(entry.sha256, str) or len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef"):
        return f"{entry.key!r} has no SHA-256"
    if not isinstance(entry.current, bool) or type(entry.committed_at_ms) is not int:
        return f"{entry.key!r}: current or committed_at_ms makes no sense"
    texts = [*entry.tags, entry.media_type, entry.version]
    if isinstance(entry.metadata, dict):
        texts += [*entry.metadata, *entry.metadata.values()]
    if not isinstance(entry.metadata, dict) or not all(isinstance(text, str) for text in texts):
        return f"{entry.key!r}: its metadata makes no sense"
    if not _is_policy(entry.policy):
        return f"{entry.key!r}: its policy makes no sense"
    return ""


def _policies(found: Any) -> dict[str, PolicyParts]:
    """Those of prefixes, as the first line has them. Raises BadFile."""
    if not isinstance(found, dict):
        raise BadFile("the first line: its policies make no sense")
    for prefix, policy in found.items():
        if prefix and not _is_key(prefix):
            raise BadFile(f"the first line: {prefix[:64]!r} is no prefix of names")
        if not policy or not _is_policy(policy):
            raise BadFile(f"the first line: the policy of {prefix!r} makes no sense")
    return found


def _is_policy(policy: Any) -> bool:
    return isinstance(policy, dict) and not set(policy) - set(POLICY) and all(map(_is_part, policy.items()))


def _is_part(part: tuple[str, Any]) -> bool:
    name, value = part
    if name in ("consistency", "push"):
        return value in (("lazy", "strict") if name == "consistency" else ("none", "sharers", "all"))
    return type(value) is int and 0 <= value < 2**32


def policy_parts(policy: Any) -> PolicyParts:
    """What a policy says, without what it leaves to its defaults."""
    return {name: value for name in POLICY if (value := getattr(policy, name)) is not None}


def _is_key(key: str) -> bool:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return False
    control = any(unicodedata.category(c) == "Cc" for c in key)
    return 1 <= size <= KEY_BYTES_MAX and not control and unicodedata.is_normalized("NFC", key)
