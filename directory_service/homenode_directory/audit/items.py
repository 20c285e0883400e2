"""What a log is made of, wherever it is read from: an archive (`archive`) or a store (`live`)."""

from __future__ import annotations

from dataclasses import dataclass

from homenode_directory.store.fields import LogRecord


@dataclass(frozen=True, slots=True)
class Logged:
    """One log entry. `where` names its place for people: file and line, or slice and sequence."""

    slice: int
    sequence: int
    record: LogRecord
    where: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries `first` to `last` of a slice are not there, and the archive says so."""

    slice: int
    first: int
    last: int
    why: str
    where: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """From here on the slice's memory is incarnation `number`, whose first entry follows `after`.

    An `after` below what was read before means that the store has lost those entries, and what they did.
    """

    slice: int
    number: int
    after: int
    where: str


Item = Logged | Gap | Renewed


class Corrupt(Exception):
    """The log cannot be what was written. `where` names the first place that is wrong."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where
        self.why = why
