"""The generic commit, for stores that evaluate it in Python.

`apply` checks a commit's guards against a `View` of one slice and then changes the view. Nothing of a commit is
applied unless all of it can be, so a view needs no rollback between the commits of a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from homenode_directory.store.base import (
    PREDECESSOR,
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
)


class View(Protocol):
    """One slice as a commit sees it."""

    head: int

    def field(self, key: str, name: str) -> str | None:
        """A record's field."""

    def exists(self, key: str) -> bool:
        """Whether the key exists, in whatever shape."""

    def show(self, key: str) -> Mapping[str, str | int] | None:
        """A copy of a record or ranked set; None when neither exists."""

    def put(self, key: str, name: str, value: str) -> None:
        """Set a field."""

    def drop(self, key: str, name: str) -> None:
        """Remove a field."""

    def rank(self, key: str, member: str, score: int) -> None:
        """Set a member's score."""

    def unrank(self, key: str, member: str) -> None:
        """Remove a member."""

    def delete(self, key: str) -> None:
        """Remove a key of any shape."""

    def append(self, data: bytes) -> None:
        """Append to the log and raise `head` by one."""


def apply(view: View, commits: Sequence[Commit], now_ms: int) -> Iterator[Outcome]:
    """Apply commits in order; yields each one's outcome."""
    succeeded: list[bool] = []
    for commit in commits:
        if commit.after >= 0 and not succeeded[commit.after]:
            succeeded.append(False)
            yield Outcome(PREDECESSOR, view.head, now_ms)
            continue
        failed = next((i for i, guard in enumerate(commit.guards) if not holds(view, guard, now_ms)), -1)
        succeeded.append(failed == -1)
        if failed >= 0:
            yield _refusal(view, commit, failed, now_ms)
            continue
        _write(view, commit)
        for data in commit.log:
            view.append(data)
        yield Outcome(-1, view.head, now_ms)


def holds(view: View, guard: Guard, now_ms: int) -> bool:
    """Whether one guard is true of the view."""
    if type(guard) is Equals:
        return view.field(guard.key, guard.field) == guard.value
    if type(guard) is Exists:
        return view.exists(guard.key)
    if type(guard) is Before:
        return now_ms < guard.ms
    if type(guard) is BeforeField:
        limit = view.field(guard.key, guard.field)
        return limit is not None and now_ms < int(limit)
    raise TypeError(f"not a guard: {guard!r}")


def _refusal(view: View, commit: Commit, failed: int, now_ms: int) -> Outcome:
    guard = commit.guards[failed]
    found = view.field(guard.key, guard.field) if type(guard) is Equals else None
    shown = {key: whole for key in commit.show if (whole := view.show(key)) is not None}
    return Outcome(failed, view.head, now_ms, found, shown)


def _write(view: View, commit: Commit) -> None:
    for write in commit.writes:  # before the first write, everything that could fail
        if type(write) is Add:
            _integer(view.field(write.key, write.field), write)
    for write in commit.writes:
        if type(write) is Put:
            view.put(write.key, write.field, write.value)
        elif type(write) is Rank:
            view.rank(write.key, write.member, write.score)
        elif type(write) is Unrank:
            view.unrank(write.key, write.member)
        elif type(write) is Add:
            total = _integer(view.field(write.key, write.field), write) + write.amount
            view.put(write.key, write.field, str(total))
        elif type(write) is Drop:
            view.drop(write.key, write.field)
        elif type(write) is Delete:
            view.delete(write.key)
        else:
            raise TypeError(f"not a write: {write!r}")


def _integer(text: str | None, write: Add) -> int:
    try:
        return int(text or "0")
    except ValueError:
        raise StoreError(f"{write.key} {write.field} does not hold an integer") from None
