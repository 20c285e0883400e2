"""The campaign's judges see what they are there to see."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.embedded_writer import CHURNED, KEYS
from tests.faults.ledger import ACKED, REFUSED, UNKNOWN, Ledger
from tests.faults.test_embedded_kills import Truth


def effect(tag: str, end: str, n: int | None = None, hash: str = "") -> dict[str, Any]:
    """One line of a file."""
    version = [1, n] if n is not None else None
    return {"key": "file", "path": "put", "tag": tag, "end": end, "version": version, "hash": hash or tag}


RECORDS = [effect("a", ACKED, 1), effect("b", ACKED, 2), effect("c", UNKNOWN), effect("d", REFUSED)]


@pytest.mark.parametrize("lines", [["a", "b"], ["a", "c", "b"], ["a", "b", "c"]])
def test_right_ends(lines: list[str]) -> None:
    ledger = Ledger(RECORDS)
    ledger.check_lines("file", lines)
    ledger.check_counter("file", len(lines))
    ledger.check_versions()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["b"], "not there"),
        (["a", "b", "a"], "written twice"),
        (["a", "b", "d"], "refused, and there"),
        (["a", "b", "x"], "refused, and there"),
        (["b", "a"], "order of versions"),
    ],
)
def test_wrong_ends(lines: list[str], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        Ledger(RECORDS).check_lines("file", lines)


@pytest.mark.parametrize("final", [1, 4])
def test_wrong_counts(final: int) -> None:
    with pytest.raises(AssertionError, match="acknowledged 2, unknown 1"):
        Ledger(RECORDS).check_counter("file", final)


def test_versions_that_came_twice() -> None:
    with pytest.raises(AssertionError, match="two contents"):
        Ledger([*RECORDS, effect("e", ACKED, 2)]).check_versions()
    with pytest.raises(AssertionError, match="two writers"):
        Ledger([*RECORDS, effect("e", ACKED, 2, hash="b")]).check_versions()


LIFE: list[dict[str, Any]] = [
    {"found": {}, "key": KEYS[0], "version": None},
    {"began": "a", "key": KEYS[0]},
    {"end": ACKED, "agent": "a", "key": KEYS[0], "version": [1, 5]},
    {"key": CHURNED, "version": [1, 7], "hash": "x"},
    {"began": "a", "key": KEYS[0]},
]


@pytest.mark.parametrize("count", [1, 2])
def test_lives_that_follow(count: int) -> None:
    truth = Truth()
    truth.learn(LIFE)
    truth.learn([{"found": {"a": count}, "key": KEYS[0], "version": [2, 6]}])


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"found": {}, "key": KEYS[0], "version": [2, 6]}, "1 to 2 times, and 0"),
        ({"found": {"a": 3}, "key": KEYS[0], "version": [2, 6]}, "1 to 2 times, and 3"),
        ({"found": {"a": 1}, "key": KEYS[0], "version": [1, 4]}, "went back"),
        ({"found": {"a": 1}, "key": KEYS[0], "version": [2, 4]}, "n went back"),
        ({"key": CHURNED, "version": [2, 6]}, "n went back"),
    ],
)
def test_lives_that_do_not_follow(record: dict[str, Any], why: str) -> None:
    truth = Truth()
    truth.learn(LIFE)
    with pytest.raises(AssertionError, match=why):
        truth.learn([record])
