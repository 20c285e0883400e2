"""What differs between two lists of lines, or of other pieces of a text, with bounded work.

Lists are split at lines that occur exactly once on both sides (as in "patience" diff), and `difflib` sees only what
lies between, as long as a budget of comparisons lasts; what is left after that counts as one replaced block.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher

#: Old and new lines together that are compared line by line.
LINES_MAX = 20_000
#: Upper estimate of difflib's inner steps for one description, about 50 ms.
COMPARE_BUDGET = 500_000
_DEPTH_MAX = 8
_LONG_BLOCK = 1_024  # characters
_MARKS = (*range(1, 17), 20, 24)  # characters
_SAMPLE = 1 << 16

#: Two half-open ranges that correspond: old[a:b] became new[c:d]. In lines or in characters.
Block = tuple[int, int, int, int]


def lines_of(text: str) -> list[str]:
    """The lines with their "\\n"; the last may lack it. No other character ends a line."""
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def starts_of(lines: list[str], at: int) -> list[int]:
    """The position of each line, and of the end, where the first is at `at`."""
    starts = [at]
    for line in lines:
        at += len(line)
        starts.append(at)
    return starts


@dataclass(slots=True)
class Budget:
    """What difflib may still do for one description."""

    left: int


class LineMatcher:
    """Finds the changed blocks between two lists of lines, with bounded work."""

    def __init__(self, a: list[str], b: list[str], budget: Budget) -> None:
        self._a, self._b = a, b
        self._budget = budget
        self._blocks: list[Block] = []

    def changed(self) -> list[Block]:
        """The blocks, in order, in line numbers from 0."""
        self._compare(0, len(self._a), 0, len(self._b), _DEPTH_MAX)
        return self._blocks

    def _compare(self, i: int, j: int, k: int, m: int, depth: int) -> None:
        a, b = self._a, self._b
        while i < j and k < m and a[i] == b[k]:
            i, k = i + 1, k + 1
        while i < j and k < m and a[j - 1] == b[m - 1]:
            j, m = j - 1, m - 1
        if i == j or k == m:
            if i < j or k < m:
                self._blocks.append((i, j, k, m))
            return
        anchors = self._anchors(i, j, k, m) if depth else []
        if not anchors:
            self._compare_closely(i, j, k, m)
            return
        for x, y in [*anchors, (j, m)]:
            self._compare(i, x, k, y, depth - 1)
            i, k = min(x + 1, j), min(y + 1, m)

    def _anchors(self, i: int, j: int, k: int, m: int) -> list[tuple[int, int]]:
        """Lines that occur once on both sides, as an increasing sequence of pairs of greatest length."""
        count_a, count_b = Counter(self._a[i:j]), Counter(self._b[k:m])
        place = {line: y for y, line in enumerate(self._b[k:m], k) if count_b[line] == 1 and count_a.get(line) == 1}
        pairs = [(x, place[line]) for x, line in enumerate(self._a[i:j], i) if line in place]
        ends: list[int] = []  # the smallest last y of an increasing sequence of each length
        chain: list[int] = []  # the index in `pairs` of that last pair
        before: list[int] = []
        for index, (_, y) in enumerate(pairs):
            length = bisect_left(ends, y)
            before.append(chain[length - 1] if length else -1)
            ends[length : length + 1] = [y]
            chain[length : length + 1] = [index]
        found: list[tuple[int, int]] = []
        index = chain[-1] if chain else -1
        while index >= 0:
            found.append(pairs[index])
            index = before[index]
        return found[::-1]

    def _compare_closely(self, i: int, j: int, k: int, m: int) -> None:
        a, b = self._a[i:j], self._b[k:m]
        count_b = Counter(b)
        # difflib looks at every pair of equal lines once per matching block that it finds, at worst.
        pairs = sum(count_b[line] for line in a)
        cost = (pairs + len(a) + len(b)) * (min(len(a), len(b)) + 1) if pairs else 0
        if not pairs or cost > self._budget.left:
            self._blocks.append((i, j, k, m))
            return
        self._budget.left -= cost
        for tag, a1, a2, b1, b2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if tag != "equal":
                self._blocks.append((i + a1, i + a2, k + b1, k + b2))


def parts_of(old: str, new: str, block: Block, budget: Budget) -> list[Block]:
    """What differs within a long block."""
    i, j, k, m = block
    if min(j - i, m - k) < _LONG_BLOCK:
        return [block]
    a, b = _pieces(old[i:j], new[k:m])
    starts_a, starts_b = starts_of(a, i), starts_of(b, k)
    found = LineMatcher(a, b, budget).changed()
    return [(starts_a[p], starts_a[q], starts_b[r], starts_b[s]) for p, q, r, s in found]


def _pieces(a: str, b: str) -> tuple[list[str], list[str]]:
    """Both cut after each occurrence of a string that occurs in them often, but not too often. It is a usual separator,
    or stands in the middle of `a`: so it is found in a text of any kind."""
    middle = len(a) // 2
    sample = a[max(0, middle - _SAMPLE // 2) : middle + _SAMPLE // 2]
    most = 2 * LINES_MAX * len(sample) // len(a)  # in the sample, of what may be rare enough in all of it
    for mark in (",", " ", *(a[middle : middle + size] for size in _MARKS)):
        if sample.count(mark) <= most and (count := a.count(mark)) > 1 and count + b.count(mark) <= LINES_MAX:
            return _cut(a, mark), _cut(b, mark)
    return [a], [b]


def _cut(text: str, mark: str) -> list[str]:
    *pieces, last = text.split(mark)
    return [*(piece + mark for piece in pieces), last] if last else [piece + mark for piece in pieces]
