"""The arguments and the reply of `commit.lua`.

ARGV is flat. The call: run_id, token, slice, hint channel, log length to keep, number of commits. Each commit: the
1-based position of the commit that it comes after or 0; the ends of its four parts, counted in words from the first
word of the first part; the parts: guards, writes, log entries, keys to show.

  guards   e KEY n, n fields, n texts     fields equal texts (neighbouring guards on one record are packed together)
           a KEY - field                  the field is absent
           x KEY -                        the key exists
           b 0 ms                         now is before
           f KEY - field                  now is before the time in the field
           n KEY - field                  the field is a number or absent; added for each `Add`, after all others
  writes   OP KEY n, n words              s HSET, d HDEL, i HINCRBY, z ZADD, y ZREM, k UNLINK (neighbours are packed)

KEY is an index into KEYS. The reply: now, then per commit its head on success, else [head, failed, found, shown].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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

NOT_A_NUMBER = -3
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

    def words(self, commits: Sequence[Commit]) -> list[Word]:
        """The commits' part of ARGV."""
        words: list[Word] = []
        for commit in commits:
            guards = self._guards(commit.guards)
            writes = self._writes(commit.writes, guards)
            end_guards = len(guards)
            end_writes = end_guards + len(writes)
            end_log = end_writes + len(commit.log)
            words += (commit.after + 1, end_guards, end_writes, end_log, end_log + len(commit.show))
            words += guards
            words += writes
            words += commit.log
            words += [self.key(name) for name in commit.show]
        return words

    def _guards(self, guards: Sequence[Guard]) -> list[Word]:
        words: list[Word] = []
        i, n = 0, len(guards)
        while i < n:
            guard = guards[i]
            i += 1
            if type(guard) is Equals:
                key, value = guard.key, guard.value
                if value is None:
                    words += ("a", self.key(key), 0, guard.field)
                    continue
                fields, texts = [guard.field], [value]
                while i < n and len(fields) < PACK_MAX:
                    other = guards[i]
                    if type(other) is not Equals or other.key != key or other.value is None:
                        break
                    fields.append(other.field)
                    texts.append(other.value)
                    i += 1
                words += ("e", self.key(key), len(fields), *fields, *texts)
            elif type(guard) is Exists:
                words += ("x", self.key(guard.key), 0)
            elif type(guard) is Before:
                words += ("b", 0, guard.ms)
            elif type(guard) is BeforeField:
                words += ("f", self.key(guard.key), 0, guard.field)
            else:
                raise TypeError(f"not a guard: {guard!r}")
        return words

    def _writes(self, writes: Sequence[Write], guards: list[Word]) -> list[Word]:
        words: list[Word] = []
        last_op, last_key, length_at = "", "", 0
        for write in writes:
            op, args = self._write(write)
            key = write.key
            if op == last_op and key == last_key and op not in "ik" and int(words[length_at]) < PACK_MAX:
                words[length_at] += len(args)  # type: ignore[operator]
            else:
                words += (op, self.key(key), len(args))
                length_at = len(words) - 1
                last_op, last_key = op, key
            words += args
            if type(write) is Add:
                guards += ("n", self.key(key), 0, write.field)
        return words

    @staticmethod
    def _write(write: Write) -> tuple[str, tuple[Word, ...]]:
        if type(write) is Put:
            return "s", (write.field, write.value)
        if type(write) is Rank:
            return "z", (write.score, write.member)
        if type(write) is Unrank:
            return "y", (write.member,)
        if type(write) is Add:
            return "i", (write.field, write.amount)
        if type(write) is Drop:
            return "d", (write.field,)
        if type(write) is Delete:
            return "k", ()
        raise TypeError(f"not a write: {write!r}")

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
