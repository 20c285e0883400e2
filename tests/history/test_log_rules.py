"""Each invariant of the log: a log that keeps it, and what is said of one that does not."""

from __future__ import annotations

from typing import get_args

import pytest

from homenode_directory.audit.items import Gap, Item, Logged, Renewed
from homenode_directory.audit.rules import JUDGES, Auditor
from homenode_directory.audit.words import ENDS, WORDS
from homenode_directory.protocol.effects import Dropped, Ended, Granted, Inv, LogEvent, Published, Refused, Shared
from homenode_directory.protocol.model import Cause, Content, Version
from homenode_directory.store.fields import LogRecord

A, B = "main~a", "main~b"
H = Content("hash", 4)


class Log:
    """Entries of one artifact, one after the other."""

    def __init__(self, *, first: int = 1, incarnation: int = 7) -> None:
        self.sequence = first - 1
        self.incarnation = incarnation
        self.rev = 0
        self.at_ms = 1_000
        self.items: list[Item] = []

    def add(self, *events: LogEvent, key: str = "k", rev: int = 0, later_ms: int = 1) -> Log:
        """One entry."""
        self.sequence += 1
        self.rev += 1
        self.at_ms += later_ms
        record = LogRecord(f"default/main/{key}", rev or self.rev, events, self.at_ms, self.incarnation)
        self.items.append(Logged(0, self.sequence, record, f"#{self.sequence}"))
        return self

    def lost(self, *, incarnation: int, after: int) -> Log:
        """The store has another memory."""
        self.incarnation, self.sequence = incarnation, after
        self.items.append(Renewed(0, incarnation, after, "renewed"))
        return self

    def back(self, incarnation: int) -> Log:
        """Nothing says that the store has another memory."""
        self.incarnation = incarnation
        return self

    def gap(self, entries: int) -> Log:
        """Some entries are missing, knowingly."""
        self.items.append(Gap(0, self.sequence + 1, self.sequence + entries, "trimmed", "gap"))
        self.sequence += entries
        return self


def v(n: int, incarnation: int = 7) -> Version:
    return Version(incarnation, n)


def put(
    n: int, fence: int, session: str = A, lease: str = "", incarnation: int = 7, content: Content | None = H
) -> Inv:
    return Inv(v(n, incarnation), fence, content, session, lease=lease)


def prepare(n: int, fence: int, *waits: tuple[str, int], session: str = A, lease: str = "") -> Inv:
    return Inv(
        v(n), fence, H, session, True, lease, tuple(who for who, _ in waits), max([9_000, *(ms for _, ms in waits)])
    )


def found(log: Log) -> list[tuple[str, str]]:
    """The rules that are broken, and where."""
    auditor = Auditor()
    for item in log.items:
        auditor.see(item)
    return [(violation.rule, violation.where) for violation in auditor.violations]


def test_an_ordinary_life() -> None:
    log = (
        Log()
        .add(Granted(A, "L", 1))
        .add(put(1, 2, lease="L"))
        .add(Shared(B, 1))
        .add(put(2, 3, lease="L"), Ended(A, "L", 4, Cause.RELEASED))
    )
    log.add(Dropped((B,))).add(put(3, 5, B)).add(Granted(A, "L2", 6)).add(
        Ended(A, "L2", 7, Cause.EXPIRED), Granted(B, "M", 8, 5)
    )
    log.add(Refused(A, 9)).add(put(4, 9, B, "M", content=None), Ended(B, "M", 10, Cause.RELEASED)).add(
        put(5, 11, A)
    ).add(put(6, 12, A, content=None))
    log.add(put(40, 41), rev=90)  # the record was dropped in between
    assert found(log) == []


def test_a_strict_commit() -> None:
    log = (
        Log()
        .add(put(1, 1))
        .add(Shared(B, 1))
        .add(prepare(2, 2, (B, 9_000)))
        .add(Dropped((B,)), Published(v(2), H, A, 4))
    )
    log.add(Shared(B, 2)).add(prepare(3, 3, (B, 5_000))).add(Published(v(3), H, A, 5), later_ms=9_000)
    log.add(Granted(A, "L", 4)).add(Shared(B, 3)).add(prepare(4, 5, (B, 90_000), lease="L"))
    log.add(Dropped((B,)), Published(v(4), H, A, 7)).add(put(5, 7, lease="L"), Ended(A, "L", 8, Cause.RELEASED))
    assert found(log) == []


BROKEN = {
    "two writers": (Log().add(Granted(A, "L", 1)).add(Granted(B, "M", 2)), "one writer"),
    "the lease of another ends": (Log().add(Granted(A, "L", 1)).add(Ended(B, "M", 2, Cause.EXPIRED)), "one writer"),
    "a lease that nobody holds ends": (Log().add(put(1, 1)).add(Ended(B, "M", 2, Cause.EXPIRED)), "one writer"),
    "a grant while a version is prepared": (
        Log().add(put(1, 1)).add(Shared(B, 1)).add(prepare(2, 2, (B, 9_000))).add(Granted(B, "M", 3)), "one writer",
    ),
    "a commit past another's lease": (Log().add(Granted(A, "L", 1)).add(put(1, 2, B)), "lease"),
    "a commit by another lease of the same session": (Log().add(Granted(A, "L", 1)).add(put(1, 2, A, "M")), "lease"),
    "a commit under an ended lease": (
        Log().add(Granted(A, "L", 1)).add(Ended(A, "L", 2, Cause.EXPIRED)).add(put(1, 3, A, "L")), "lease",
    ),
    "a version twice": (Log().add(put(1, 1)).add(put(1, 2)), "version"),
    "a version back": (Log().add(put(1, 1)).add(put(2, 2)).add(put(1, 3)), "version"),
    "a version back after a deletion": (Log().add(put(1, 1)).add(put(2, 2, content=None)).add(put(1, 3)), "version"),
    "a version left out": (Log().add(put(1, 1)).add(put(3, 2)), "version"),
    "a version of another incarnation": (Log().add(put(1, 1, incarnation=6)), "version"),
    "a fence twice": (Log().add(put(1, 1)).add(put(2, 1)), "fence"),
    "a fence left out": (Log().add(put(1, 1)).add(put(2, 3)), "fence"),
    "a rev twice": (Log().add(put(1, 1)).add(put(2, 2), rev=1), "rev"),
    "an incarnation back": (Log().add(put(1, 1)).lost(incarnation=6, after=1), "incarnation"),
    "an entry of an older incarnation": (Log().add(put(1, 1)).back(6).add(put(2, 2, B, incarnation=6)), "incarnation"),
    "a version used again after a gap": (Log().add(put(1, 1)).add(put(2, 2)).gap(3).add(put(2, 9)), "version"),
    "a session of an older incarnation": (
        Log().add(put(1, 1)).lost(incarnation=8, after=1).add(put(2, 2, incarnation=8)), "incarnation",
    ),
    "a version used again after a loss": (
        Log().add(put(1, 1)).add(put(2, 2)).lost(incarnation=8, after=1).add(put(2, 3, B)), "version",
    ),
    "published, and nothing was prepared": (Log().add(put(1, 1)).add(Published(v(2), H, A, 1)), "publish"),
    "published otherwise than prepared": (
        Log().add(put(1, 1)).add(Shared(B, 1)).add(prepare(2, 2, (B, 9_000)))
        .add(Dropped((B,)), Published(v(3), H, A, 1)),
        "publish",
    ),
    "published before the acknowledgement": (
        Log().add(put(1, 1)).add(Shared(B, 1)).add(prepare(2, 2, (B, 9_000))).add(Published(v(2), H, A, 1)), "publish",
    ),
    "committed while prepared": (
        Log().add(put(1, 1)).add(Shared(B, 1)).add(prepare(2, 2, (B, 9_000))).add(put(3, 3)), "publish",
    ),
    "prepared until it was over": (
        Log().add(put(1, 1)).add(Shared(B, 1)).add(prepare(2, 2, (B, 0)), later_ms=9_000), "publish",
    ),
    "waits for one without a copy": (Log().add(put(1, 1)).add(prepare(2, 2, (B, 9_000))), "sharers"),
    "a copy of an old version": (Log().add(put(1, 1)).add(put(2, 2)).add(Shared(B, 1)), "sharers"),
    "a copy of nothing": (Log().add(Shared(B, 1)), "sharers"),
    "a copy while prepared": (
        Log().add(put(1, 1)).add(Shared(B, 1)).add(prepare(2, 2, (B, 9_000))).add(Shared("main~c", 1)), "sharers",
    ),
    "dropped without having": (Log().add(put(1, 1)).add(Dropped((B,))), "sharers"),
    "answered twice": (
        Log().add(Granted(A, "L", 1, 5)).add(Ended(A, "L", 2, Cause.RELEASED)).add(Granted(A, "L", 3, 5)), "once",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_must_not_be_is_found_where_it_is(name: str) -> None:
    log, rule = BROKEN[name]
    last = log.items[-1]
    assert found(log) == [(rule, last.where)]


@pytest.mark.parametrize(
    "log",
    [
        Log(first=100).add(put(50, 80, A, "L")).add(Dropped((B,)))
        .add(put(51, 81, A, "L"), Ended(A, "L", 82, Cause.RELEASED)),
        Log(first=100).add(Published(v(9), H, A, 4)).add(put(10, 9)).add(Shared(B, 10)),
        Log(first=100).add(Ended(A, "L", 5, Cause.EXPIRED)).add(Shared(B, 4)),
        Log().add(put(1, 1)).gap(5).add(put(5, 8)).add(Dropped((B,))),
        Log().add(put(1, 1)).add(put(2, 2)).lost(incarnation=8, after=1).add(put(2, 2, B, incarnation=8)),
        Log().add(Granted(A, "L", 1)).add(put(1, 2, A, "L")).lost(incarnation=8, after=0)
        .add(put(1, 1, B, incarnation=8), rev=1),
        Log().add(Granted(A, "L", 1)).lost(incarnation=8, after=1).add(Ended(A, "L", 2, Cause.SESSION_LOST)),
    ],
)  # fmt: skip
def test_what_a_log_does_not_tell_is_not_judged(log: Log) -> None:
    assert found(log) == []


def test_after_a_violation_the_rest_is_judged_still() -> None:
    log = Log().add(put(1, 1)).add(put(1, 2)).add(put(2, 3)).add(Shared(B, 2)).add(put(2, 4))
    assert [rule for rule, _ in found(log)] == ["version", "version"]


def test_every_kind_of_event_is_judged_and_has_words() -> None:
    kinds = set(get_args(LogEvent))
    assert set(JUDGES) == kinds == set(WORDS)
    assert set(ENDS) == set(Cause)
