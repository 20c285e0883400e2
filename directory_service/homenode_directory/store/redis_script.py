"""The arguments and the reply of `commit.lua`.

ARGV: run_id, token, what a hint says before the head, hint channel, how many subscriptions to it are the caller's own,
log length to keep, the commits as MessagePack, and all their log entries in a row. Of each commit: [1-based position of
the commit that it comes after or 0, guards, adds, writes, lengths of its log entries, keys to show]. Guards, adds and
writes are flat lists:

  guards   e KEY n, n fields, n texts     fields equal texts, or are absent where the text is 0 (neighbouring guards on
                                          one record are packed together)
           x KEY 0                        the key exists
           b 0 ms                         now is before
           f KEY field                    now is before the time in the field
           n KEY field                    the field is a number or absent; for an `Add` among the writes
  adds     KEY field amount               an `Add` to a record that no earlier write of the commit has changed
  writes   COMMAND KEY n, n words         HSET, HDEL, HINCRBY, ZADD, ZREM, UNLINK (neighbours are packed)

KEY is an index into KEYS. The reply: now, then per commit its head on success, else [head, failed, found, shown].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from homenode_directory.store.base import (
    Add,
    Before,
    BeforeField,
    Commit,
    Delete,
    Drop,
    Equals,
    Exists,
    Guard,
    Outcome,
    Put,
    Rank,
    StoreError,
    Unrank,
    Write,
)

BODY = (Path(__file__).parent / "commit.lua").read_text("utf-8")
COMMIT = "#!lua\n" + BODY
RELIEF = "#!lua flags=allow-oom\n" + BODY
ADOPT = (Path(__file__).parent / "adopt.lua").read_text("utf-8")
TRIM = (Path(__file__).parent / "trim.lua").read_text("utf-8")

NOT_A_NUMBER = -3
_COMMANDS: dict[type[Write], str] = {
    Put: "HSET", Drop: "HDEL", Add: "HINCRBY", Rank: "ZADD", Unrank: "ZREM", Delete: "UNLINK"
}  # fmt: skip
_ALONE = frozenset({Add, Delete})
_pack = msgspec.msgpack.Encoder().encode
PACK_MAX = 256

Word = str | bytes | int


class Call:
    """Collects the KEYS and ARGV of one call; `prefix` comes before each key."""

    def __init__(self, prefix: str, meta: str, log: str) -> None:
        self.prefix = prefix
        self.names: list[str] = [meta, log]
        self._index: dict[str, int] = {}

    def key(self, name: str) -> int:
        """The key's index in KEYS."""
        index = self._index.get(name)
        if index is None:
            self.names.append(name)
            index = self._index[name] = len(self.names)
        return index

    def keys(self) -> list[str]:
        """KEYS, in order."""
        prefix = self.prefix
        return [*self.names[:2], *(prefix + name for name in self.names[2:])]

    def packed(self, commits: Sequence[Commit]) -> tuple[bytes, bytes]:
        """The commits as the script takes them, and their log entries."""
        rows: list[tuple[int, list[Word], list[Word], list[Word], list[int], list[int]]] = []
        entries: list[bytes] = []
        for commit in commits:
            guards = self._guards(commit.guards)
            adds, writes = self._writes(commit.writes, guards) if commit.writes else ([], [])
            show = [self.key(name) for name in commit.show]
            rows.append((commit.after + 1, guards, adds, writes, [len(entry) for entry in commit.log], show))
            entries += commit.log
        return _pack(rows), b"".join(entries)

    def _guards(self, guards: Sequence[Guard]) -> list[Word]:
        words: list[Word] = []
        i, n = 0, len(guards)
        while i < n:
            guard = guards[i]
            i += 1
            if type(guard) is Equals:
                key = guard.key
                fields: list[Word] = [guard.field]
                texts: list[Word] = [0 if guard.value is None else guard.value]
                while i < n and len(fields) < PACK_MAX:
                    other = guards[i]
                    if type(other) is not Equals or other.key != key:
                        break
                    fields.append(other.field)
                    texts.append(0 if other.value is None else other.value)
                    i += 1
                words += ("e", self.key(key), len(fields))
                words += fields
                words += texts
            elif type(guard) is Exists:
                words += ("x", self.key(guard.key), 0)
            elif type(guard) is Before:
                words += ("b", 0, guard.ms)
            elif type(guard) is BeforeField:
                words += ("f", self.key(guard.key), guard.field)
            else:
                raise TypeError(f"not a guard: {guard!r}")
        return words

    def _writes(self, writes: Sequence[Write], guards: list[Word]) -> tuple[list[Word], list[Word]]:
        adds: list[Word] = []
        words: list[Word] = []
        changed: set[str] = set()
        last: tuple[type[Write] | None, str] = None, ""
        length_at = 0
        for write in writes:
            kind, key = type(write), write.key
            if kind is Add and key not in changed:
                adds += (self.key(key), write.field, write.amount)  # type: ignore[union-attr]
                continue
            changed.add(key)
            if (kind, key) != last or kind in _ALONE or words[length_at] >= PACK_MAX:  # type: ignore[operator]
                words += (_COMMANDS[kind], self.key(key), 0)
                length_at = len(words) - 1
                last = kind, key
            if kind is Put:
                words += (write.field, write.value)  # type: ignore[union-attr]
                words[length_at] += 2  # type: ignore[operator]
            elif kind is Rank:
                words += (write.score, write.member)  # type: ignore[union-attr]
                words[length_at] += 2  # type: ignore[operator]
            elif kind is Add:
                words += (write.field, write.amount)  # type: ignore[union-attr]
                words[length_at] = 2
                guards += ("n", self.key(key), write.field)  # type: ignore[union-attr]
            elif kind is Unrank:
                words.append(write.member)  # type: ignore[union-attr]
                words[length_at] += 1  # type: ignore[operator]
            elif kind is Drop:
                words.append(write.field)  # type: ignore[union-attr]
                words[length_at] += 1  # type: ignore[operator]
        return adds, words

    def outcomes(self, reply: Sequence[Any]) -> list[Outcome]:
        """The reply in the caller's terms."""
        now_ms = int(reply[0])
        outcomes = []
        for item in reply[1:]:
            if type(item) is int:
                outcomes.append(Outcome(-1, item, now_ms))
            else:
                outcomes.append(self._refusal(item, now_ms))
        return outcomes

    def _refusal(self, item: Sequence[Any], now_ms: int) -> Outcome:
        head, failed = item[0], item[1]
        if failed == NOT_A_NUMBER:
            raise StoreError("a commit adds to a field that does not hold an integer")
        if len(item) == 2:
            return Outcome(failed, head, now_ms)
        found = None if item[2] is None else item[2].decode()
        return Outcome(
            failed, head, now_ms, found, {self.names[int(i) - 1]: whole(kind, flat) for i, kind, flat in item[3]}
        )


def whole(shape: bytes, flat: Sequence[bytes]) -> Mapping[str, str | int]:
    """A record or ranked set from alternating names and values."""
    names = [name.decode() for name in flat[::2]]
    if shape == b"zset":
        return dict(zip(names, map(int, flat[1::2]), strict=True))
    return dict(zip(names, (value.decode() for value in flat[1::2]), strict=True))
