"""What one transaction of the embedded store reads and changes, gathered so that few statements do it.

Statements are dear from Python: each gives up the interpreter lock and waits to get it back. So the fields that the
guards of a group need are read in one statement, the commits run against dictionaries, and what has changed in the
end is written in a few statements of many rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from homenode_directory.store.base import Add, BeforeField, Commit, Equals, Exists

T = TypeVar("T")

ROW_STEPS = (64, 16, 4, 1)

ALIVE = (
    "EXISTS (SELECT 1 FROM records r WHERE r.slice = {0} AND r.key = {1})"
    " OR EXISTS (SELECT 1 FROM ranks r WHERE r.slice = {0} AND r.key = {1})"
    " OR EXISTS (SELECT 1 FROM blobs b WHERE b.slice = {0} AND b.key = {1})"
)


@dataclass(slots=True)
class Meta:
    """The store's own record of a slice."""

    number: int = 0
    token: str = ""
    identity: str = ""
    head: int = 0


class Overlay:
    """One slice during one transaction: a `View` for `apply`."""

    def __init__(self, connection: sqlite3.Connection, slice_: int, meta: Meta) -> None:
        self._connection = connection
        self.slice = slice_
        self.meta = Meta(meta.number, meta.token, meta.identity, meta.head)
        self.head = meta.head
        self._read: dict[tuple[str, str], str | None] = {}
        self._alive: dict[str, bool] = {}
        self._fields: dict[str, dict[str, str | None]] = {}
        self._ranks: dict[str, dict[str, int | None]] = {}
        self._blobs: dict[str, bytes] = {}
        self._deleted: set[str] = set()
        self._log: list[bytes] = []

    def prefetch(self, commits: Sequence[Commit]) -> None:
        """Read what the commits' guards and adds need."""
        fields: dict[tuple[str, str], None] = {}
        keys: dict[str, None] = {}
        for commit in commits:
            for guard in commit.guards:
                if type(guard) is Equals or type(guard) is BeforeField:
                    fields[guard.key, guard.field] = None
                elif type(guard) is Exists:
                    keys[guard.key] = None
            for write in commit.writes:
                if type(write) is Add:
                    fields[write.key, write.field] = None
        self._prefetch_fields([name for name in fields if name not in self._read])
        self._prefetch_keys([key for key in keys if key not in self._alive])

    def _prefetch_fields(self, names: Sequence[tuple[str, str]]) -> None:
        self._read.update(dict.fromkeys(names))
        for rows, count in _chunks(names):
            wanted = ",".join(["(?,?)"] * count)
            found = self._connection.execute(
                f"WITH w(k, f) AS (VALUES {wanted}) SELECT r.key, r.field, r.value FROM w CROSS JOIN records r"
                f" WHERE r.slice = {self.slice} AND r.key = w.k AND r.field = w.f",
                [text for name in rows for text in name],
            )
            self._read.update({(key, field): value for key, field, value in found.fetchall()})

    def _prefetch_keys(self, keys: Sequence[str]) -> None:
        self._alive.update(dict.fromkeys(keys, False))
        for rows, count in _chunks(keys):
            found = self._connection.execute(
                f"WITH w(k) AS (VALUES {','.join(['(?)'] * count)})"
                f" SELECT k FROM w WHERE {ALIVE.format(self.slice, 'w.k')}",
                rows,
            )
            self._alive.update(dict.fromkeys((key for (key,) in found.fetchall()), True))

    def field(self, key: str, name: str) -> str | None:
        changed = self._fields.get(key)
        if changed is not None and name in changed:
            return changed[name]
        if key in self._deleted:
            return None
        if (key, name) not in self._read:
            self._prefetch_fields([(key, name)])
        return self._read[key, name]

    def exists(self, key: str) -> bool:
        fields, ranks = self._fields.get(key, {}), self._ranks.get(key, {})
        if key in self._blobs or any(v is not None for v in (*fields.values(), *ranks.values())):
            return True
        if key in self._deleted:
            return False
        if not fields and not ranks:
            if key not in self._alive:
                self._prefetch_keys([key])
            return self._alive[key]
        return self.show(key) is not None or self._has_blob(key)

    def show(self, key: str) -> Mapping[str, str | int] | None:
        whole: dict[str, str | int] = {}
        if key not in self._deleted:
            for column, table in (("field, value", "records"), ("member, score", "ranks")):
                query = f"SELECT {column} FROM {table} WHERE slice = ? AND key = ?"
                whole.update(self._connection.execute(query, (self.slice, key)).fetchall())
        changes: Iterable[tuple[str, str | int | None]] = (
            *self._fields.get(key, {}).items(),
            *self._ranks.get(key, {}).items(),
        )
        for name, value in changes:
            if value is None:
                whole.pop(name, None)
            else:
                whole[name] = value
        return whole or None

    def put(self, key: str, name: str, value: str) -> None:
        self._fields.setdefault(key, {})[name] = value

    def drop(self, key: str, name: str) -> None:
        self._fields.setdefault(key, {})[name] = None

    def rank(self, key: str, member: str, score: int) -> None:
        self._ranks.setdefault(key, {})[member] = score

    def unrank(self, key: str, member: str) -> None:
        self._ranks.setdefault(key, {})[member] = None

    def delete(self, key: str) -> None:
        self._fields.pop(key, None)
        self._ranks.pop(key, None)
        self._blobs.pop(key, None)
        self._deleted.add(key)

    def append(self, data: bytes) -> None:
        self._log.append(data)
        self.head += 1

    def put_blob(self, key: str, data: bytes) -> None:
        """Keep bytes unless the key has some."""
        if key in self._blobs or (key not in self._deleted and self._has_blob(key)):
            return
        self._blobs[key] = data

    def _has_blob(self, key: str) -> bool:
        query = "SELECT 1 FROM blobs WHERE slice = ? AND key = ?"
        return self._connection.execute(query, (self.slice, key)).fetchone() is not None

    def flush(self) -> None:
        """Write what has changed."""
        s, execute = self.slice, self._connection.execute
        for key in self._deleted:
            for table in ("records", "ranks", "blobs"):
                execute(f"DELETE FROM {table} WHERE slice = ? AND key = ?", (s, key))
        fields = [(key, name, value) for key, record in self._fields.items() for name, value in record.items()]
        ranks = [(key, name, score) for key, ranked in self._ranks.items() for name, score in ranked.items()]
        for table, column, rows in (("records", "field", fields), ("ranks", "member", ranks)):
            for key, name, value in rows:
                if value is None and key not in self._deleted:
                    execute(f"DELETE FROM {table} WHERE slice = ? AND key = ? AND {column} = ?", (s, key, name))
        upsert = "ON CONFLICT DO UPDATE SET"
        _insert(
            execute, "records", f"{upsert} value = excluded.value", [(s, *row) for row in fields if row[2] is not None]
        )
        _insert(
            execute, "ranks", f"{upsert} score = excluded.score", [(s, *row) for row in ranks if row[2] is not None]
        )
        first = self.head - len(self._log) + 1
        _insert(execute, "log", "", [(s, sequence, data) for sequence, data in enumerate(self._log, first)])
        for key, data in self._blobs.items():
            execute("INSERT INTO blobs VALUES (?,?,?)", (s, key, data))
        meta = self.meta
        if meta.head != self.head:
            meta.head = self.head
            execute("UPDATE slices SET head = ? WHERE slice = ?", (self.head, s))

    def flush_meta(self) -> None:
        """Write a new incarnation."""
        meta = self.meta
        row = (self.slice, meta.number, meta.token, meta.identity, meta.head)
        self._connection.execute("INSERT OR REPLACE INTO slices VALUES (?,?,?,?,?)", row)

    def trim(self, keep_from: int) -> None:
        """Forget log entries below a sequence."""
        self._connection.execute("DELETE FROM log WHERE slice = ? AND sequence < ?", (self.slice, keep_from))


Row = tuple[int | str | bytes | None, ...]


def _insert(execute: Callable[..., object], table: str, clause: str, rows: Sequence[Row]) -> None:
    for chunk, count in _chunks(rows):
        values = ",".join(["(" + ",".join("?" * len(chunk[0])) + ")"] * count)
        execute(f"INSERT INTO {table} VALUES {values} {clause}", [value for row in chunk for value in row])


def _chunks(rows: Sequence[T]) -> Iterator[tuple[Sequence[T], int]]:
    """Split into few sizes, so that few statements are prepared."""
    at = 0
    for step in ROW_STEPS:
        while len(rows) - at >= step:
            yield rows[at : at + step], step
            at += step
