"""What one transaction of the embedded store reads and changes, gathered so that few statements do it.

Statements are dear from Python: each gives up the interpreter lock and waits to get it back. So what the guards need,
over all slices, is read in one statement, the commits run against dictionaries, and what has changed in the end is
written in a few statements of many rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TypeVar

from homenode_directory.store.base import META, OFFSET, Add, BeforeField, Commit, Equals, Exists

T = TypeVar("T")

ROW_STEPS = (256, 128, 64, 32, 16, 8, 4, 2, 1)


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
        self.read: dict[tuple[str, str], str | None] = {}
        self.alive: dict[str, bool] = {}
        self.fields: dict[str, dict[str, str | None]] = {}
        self.ranks: dict[str, dict[str, int | None]] = {}
        self.blobs: dict[str, bytes] = {}
        self.deleted: set[str] = set()
        self.log: list[bytes] = []

    def field(self, key: str, name: str) -> str | None:
        changed = self.fields.get(key)
        if changed is not None and name in changed:
            return changed[name]
        if key in self.deleted:
            return None
        if (key, name) not in self.read:
            _read_fields(self._connection, {self.slice: self}, [(self.slice, key, name)])
        return self.read[key, name]

    def exists(self, key: str) -> bool:
        fields, ranks = self.fields.get(key, {}), self.ranks.get(key, {})
        if key in self.blobs or any(v is not None for v in (*fields.values(), *ranks.values())):
            return True
        if key in self.deleted:
            return False
        if not fields and not ranks:
            if key not in self.alive:
                _read_keys(self._connection, {self.slice: self}, [(self.slice, key)])
            return self.alive[key]
        return self.show(key) is not None or self._has_blob(key)

    def show(self, key: str) -> Mapping[str, str | int] | None:
        whole: dict[str, str | int] = {}
        if key not in self.deleted:
            for column, table in (("field, value", "records"), ("member, score", "ranks")):
                query = f"SELECT {column} FROM {table} WHERE slice = ? AND key = ?"
                whole.update(self._connection.execute(query, (self.slice, key)).fetchall())
        changes: Iterable[tuple[str, str | int | None]] = (
            *self.fields.get(key, {}).items(),
            *self.ranks.get(key, {}).items(),
        )
        for name, value in changes:
            if value is None:
                whole.pop(name, None)
            else:
                whole[name] = value
        return whole or None

    def put(self, key: str, name: str, value: str) -> None:
        self.fields.setdefault(key, {})[name] = value

    def drop(self, key: str, name: str) -> None:
        self.fields.setdefault(key, {})[name] = None

    def rank(self, key: str, member: str, score: int) -> None:
        self.ranks.setdefault(key, {})[member] = score

    def unrank(self, key: str, member: str) -> None:
        self.ranks.setdefault(key, {})[member] = None

    def delete(self, key: str) -> None:
        self.fields.pop(key, None)
        self.ranks.pop(key, None)
        self.blobs.pop(key, None)
        self.deleted.add(key)

    def append(self, data: bytes) -> None:
        self.log.append(data)
        self.head += 1

    def put_blob(self, key: str, data: bytes) -> None:
        """Keep bytes unless the key has some: `flush` writes none over others."""
        self.blobs.setdefault(key, data)

    def _has_blob(self, key: str) -> bool:
        query = "SELECT 1 FROM blobs WHERE slice = ? AND key = ?"
        return self._connection.execute(query, (self.slice, key)).fetchone() is not None

    def flush_meta(self) -> None:
        """Write a new incarnation."""
        meta = self.meta
        row = (self.slice, meta.number, meta.token, meta.identity, meta.head)
        self._connection.execute("INSERT OR REPLACE INTO slices VALUES (?,?,?,?,?)", row)

    def trim(self, keep_from: int) -> None:
        """Forget log entries below a sequence."""
        self._connection.execute("DELETE FROM log WHERE slice = ? AND sequence < ?", (self.slice, keep_from))


Row = tuple[int | str | bytes | None, ...]


def prefetch(
    connection: sqlite3.Connection, overlays: Mapping[int, Overlay], commits: Iterable[tuple[int, Commit]]
) -> None:
    """Read what the guards and adds of commits, each with its slice, need."""
    fields: dict[tuple[int, str, str], None] = {}
    keys: dict[tuple[int, str], None] = {}
    for slice_, commit in commits:
        for guard in commit.guards:
            kind = type(guard)
            if kind is Equals or kind is BeforeField:
                fields[slice_, guard.key, guard.field] = None  # type: ignore[union-attr]
            elif kind is Exists:
                keys[slice_, guard.key] = None  # type: ignore[union-attr]
        for write in commit.writes:
            if type(write) is Add:
                fields[slice_, write.key, write.field] = None
        fields[slice_, META, OFFSET] = None
    _read_fields(connection, overlays, list(fields))
    _read_keys(connection, overlays, list(keys))


def _read_fields(
    connection: sqlite3.Connection, overlays: Mapping[int, Overlay], names: Sequence[tuple[int, str, str]]
) -> None:
    for slice_, key, name in names:
        overlays[slice_].read[key, name] = None
    for chunk, count in _chunks(names):
        for slice_, key, name, value in connection.execute(_fields_query(count), _flat(chunk)).fetchall():
            overlays[slice_].read[key, name] = value


def _read_keys(
    connection: sqlite3.Connection, overlays: Mapping[int, Overlay], keys: Sequence[tuple[int, str]]
) -> None:
    for slice_, key in keys:
        overlays[slice_].alive[key] = False
    for chunk, count in _chunks(keys):
        for slice_, key in connection.execute(_keys_query(count), _flat(chunk)).fetchall():
            overlays[slice_].alive[key] = True


def flush(connection: sqlite3.Connection, overlays: Iterable[Overlay]) -> None:
    """Write what has changed."""
    execute = connection.execute
    fields: list[Row] = []
    ranks: list[Row] = []
    log: list[Row] = []
    blobs: list[Row] = []
    for overlay in overlays:
        s = overlay.slice
        for key in overlay.deleted:
            for table in ("records", "ranks", "blobs"):
                execute(f"DELETE FROM {table} WHERE slice = ? AND key = ?", (s, key))
        changes: tuple[tuple[str, str, Mapping[str, Mapping[str, str | int | None]], list[Row]], ...] = (
            ("records", "field", overlay.fields, fields),
            ("ranks", "member", overlay.ranks, ranks),
        )
        for table, column, changed, rows in changes:
            for key, whole in changed.items():
                rows += [(s, key, name, value) for name, value in whole.items() if value is not None]
                if key not in overlay.deleted:
                    for names, count in _chunks([name for name, value in whole.items() if value is None]):
                        execute(_deletion(table, column, count), (s, key, *names))
        blobs += [(s, key, data) for key, data in overlay.blobs.items()]
        log += [(s, n, data) for n, data in enumerate(overlay.log, overlay.head - len(overlay.log) + 1)]
        if overlay.log:
            overlay.meta.head = overlay.head
            execute("UPDATE slices SET head = ? WHERE slice = ?", (overlay.head, s))
    for table, upsert, rows in (
        ("records", "ON CONFLICT DO UPDATE SET value = excluded.value", fields),
        ("ranks", "ON CONFLICT DO UPDATE SET score = excluded.score", ranks),
        ("log", "", log),
        ("blobs", "ON CONFLICT DO NOTHING", blobs),
    ):
        for chunk, count in _chunks(rows):
            execute(_insertion(table, upsert, len(chunk[0]), count), _flat(chunk))


@cache
def _fields_query(count: int) -> str:
    return (
        f"WITH w(s, k, f) AS (VALUES {_rows(3, count)}) SELECT r.slice, r.key, r.field, r.value"
        " FROM w CROSS JOIN records r WHERE r.slice = w.s AND r.key = w.k AND r.field = w.f"
    )


@cache
def _keys_query(count: int) -> str:
    alive = " OR ".join(
        f"EXISTS (SELECT 1 FROM {table} t WHERE t.slice = w.s AND t.key = w.k)"
        for table in ("records", "ranks", "blobs")
    )
    return f"WITH w(s, k) AS (VALUES {_rows(2, count)}) SELECT s, k FROM w WHERE {alive}"


@cache
def _insertion(table: str, clause: str, columns: int, count: int) -> str:
    return f"INSERT INTO {table} VALUES {_rows(columns, count)} {clause}"


@cache
def _deletion(table: str, column: str, count: int) -> str:
    return f"DELETE FROM {table} WHERE slice = ? AND key = ? AND {column} IN ({','.join('?' * count)})"


def _rows(columns: int, count: int) -> str:
    row = ",".join("?" * columns)
    return ",".join([f"({row})"] * count)


def _flat(rows: Iterable[Row]) -> list[int | str | bytes | None]:
    return list(chain.from_iterable(rows))


def _chunks(rows: Sequence[T]) -> Iterator[tuple[Sequence[T], int]]:
    """Split into few sizes, so that few statements are prepared."""
    at = 0
    for step in ROW_STEPS:
        while len(rows) - at >= step:
            yield rows[at : at + step], step
            at += step
