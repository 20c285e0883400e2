"""Times of operations in bounded memory: counts in classes 1 % apart, so that processes can add theirs up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

_STEP = math.log(1.01)
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Latencies:
    """What one kind of operation took, and what became of those that failed.

    Attributes:
        errors: how many failed, by the name of the error; no times are kept of them.
        in_time: how many succeeded before the time that is measured was over.
        longest_s: exact.
    """

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.in_time = 0
        self.longest_s = 0.0

    def note(self, seconds: float, *, in_time: bool = True) -> None:
        """One that succeeded."""
        self._classes[int(math.log(max(seconds * 1e6, 1.0)) / _STEP)] += 1
        self.in_time += in_time
        if seconds > self.longest_s:
            self.longest_s = seconds

    @property
    def count(self) -> int:
        """How many succeeded."""
        return self._classes.total()

    def percentile_s(self, percent: float) -> float:
        """The time that `percent` of them did not exceed; 0 where there are none."""
        wanted, passed = math.ceil(self.count * percent / 100), 0
        for class_ in sorted(self._classes):
            passed += self._classes[class_]
            if passed >= wanted:
                return min(self.longest_s, math.exp((class_ + 0.5) * _STEP) / 1e6)
        return 0.0

    def dump(self) -> dict[str, Any]:
        """As JSON, for another process."""
        return {
            "classes": sorted(self._classes.items()),
            "errors": self.errors,
            "in_time": self.in_time,
            "longest_s": self.longest_s,
        }

    def add(self, dumped: dict[str, Any]) -> None:
        """Add what another process has dumped."""
        self._classes.update(dict(dumped["classes"]))
        self.errors.update(dumped["errors"])
        self.in_time += int(dumped["in_time"])
        self.longest_s = max(self.longest_s, float(dumped["longest_s"]))


def total(all_: Iterable[Latencies]) -> Latencies:
    """All operations as one."""
    sum_ = Latencies()
    for one in all_:
        sum_.add(one.dump())
    return sum_
