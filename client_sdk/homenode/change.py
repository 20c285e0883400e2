"""The textual change shown to an agent that has seen an earlier version of an artifact.

Theory of operation
-------------------
An agent whose context still holds version 3 needs what changed, not the document. `describe` tries two forms and
keeps the one with fewer tokens, or the full text when neither is smaller:

- a **unified diff** with three lines of context; `\\ No newline at end of file` as usual. Only "\\n" ends a line, so
  "\\r" and other separators are ordinary characters;
- **passages**: each changed place of the new text with its surroundings, without what was removed. A header says what
  it replaces, in characters of the old text (counted from 0, end excluded), and how many characters follow::

      @@ line 12, characters 340-420 are now 95 @@

  This form also serves text whose lines are very long, such as JSON on one line.

Either text is enough to rebuild the new version from the old one, byte for byte (`apply_change`).

Time is bounded for any input. What is common at both ends is found by comparing blocks of memory. The rest is split at
lines that occur exactly once on both sides (as in "patience" diff), and `difflib` sees only what lies between, as long
as a budget of comparisons lasts; what is left after that counts as one replaced block, and so does a rest of too many
lines.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from homenode_api.patch import common_prefix, common_suffix

CONTEXT_LINES = 3
#: Characters shown on either side of a passage, at most; less where the line ends.
SURROUNDINGS = 60

#: What a reference is counted as: so many tokens it has in published simulations.
POINTER_TOKENS = 8

_LINES_MAX = 20_000  # old and new lines together that are compared line by line
_COMPARE_BUDGET = 500_000  # upper estimate of difflib's inner steps for one description, about 50 ms
_DEPTH_MAX = 8
_NO_NEWLINE = "\\ No newline at end of file\n"
_NUMBER = r"(\d{1,15})"
_HUNK = re.compile(rf"@@ -{_NUMBER},{_NUMBER} \+{_NUMBER},{_NUMBER} @@\n")
_PASSAGE = re.compile(rf"@@ line {_NUMBER}, characters {_NUMBER}-{_NUMBER} are now {_NUMBER} @@\n")

TokenCounter = Callable[[str], int]
#: Two half-open ranges that correspond: old[a:b] became new[c:d]. In lines or in characters.
Block = tuple[int, int, int, int]


def whole(count_tokens: TokenCounter) -> TokenCounter:
    """The same counter in whole tokens: many a user's own divides a length, and what it says goes to the directory."""
    return estimate_tokens if count_tokens is estimate_tokens else lambda text: max(0, int(count_tokens(text)))


class ChangeKind(StrEnum):
    """What the text of a Change is: nothing, a change against the earlier version, the full new text, or a reference to
    what the reader has."""

    UNCHANGED = "unchanged"
    CHANGE = "change"
    FULL = "full"
    POINTER = "pointer"


class Access(StrEnum):
    """What an access shows to an agent whose context holds an artifact in the version that is current: nothing, a
    reference to it, or all of it again. Of another version it is shown the change, or where that is not shorter, and
    in any case with `always_read`, the full text."""

    CONDITIONAL = "conditional"
    POINTER = "pointer"
    ALWAYS_READ = "always_read"


class ChangeMismatch(ValueError):
    """A change was applied to a text that it was not made for, or its text is not a change."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an agent is shown: `text` of `tokens` tokens; the full new text has `full_tokens`.

    `text` is empty when unchanged, a unified diff or passages for kind `change`, the new text for kind `full`, and for
    kind `pointer` a name for what was shown before.
    """

    kind: ChangeKind
    text: str
    tokens: int
    full_tokens: int


def estimate_tokens(text: str) -> int:
    """A stated estimate: one token per 4 bytes of UTF-8, rounded up. Pass a real encoder where one is at hand."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


def pointer(name: str, full_tokens: int, count_tokens: TokenCounter = estimate_tokens) -> Change:
    """A reference to what the reader has under this name: POINTER_TOKENS tokens, or more where the name has more."""
    return Change(ChangeKind.POINTER, name, max(POINTER_TOKENS, count_tokens(name)), full_tokens)


def describe(old: str, new: str, count_tokens: TokenCounter = estimate_tokens) -> Change:
    """The shortest description of `new`, by `count_tokens`, for a reader who has `old`."""
    full_tokens = count_tokens(new)
    if old == new:
        return Change(ChangeKind.UNCHANGED, "", 0, full_tokens)
    best = Change(ChangeKind.FULL, new, full_tokens, full_tokens)
    for text in _candidates(old, new):
        # Counting may be slow; a text of twice the characters does not have fewer tokens.
        if len(text) > 2 * len(new):
            continue
        tokens = count_tokens(text)
        if tokens < best.tokens:
            best = Change(ChangeKind.CHANGE, text, tokens, full_tokens)
    return best


def apply_change(old: str, change: Change) -> str:
    """The new text that `change` describes for a reader of `old`.

    Raises ChangeMismatch where the change visibly belongs to another text: removed and context lines of a diff must be
    there, passages must lie inside. (Who needs certainty compares the content hash.)
    """
    if change.kind in (ChangeKind.UNCHANGED, ChangeKind.POINTER):
        return old
    if change.kind is ChangeKind.FULL:
        return change.text
    if _PASSAGE.match(change.text):
        return _apply_passages(old, change.text)
    return _apply_diff(old, change.text)


def _candidates(old: str, new: str) -> Iterator[str]:
    """The change as a unified diff and as passages."""
    head, tail = _common_lines(old, new)
    first_line = old.count("\n", 0, head)
    old_rest, new_rest = old[head : len(old) - tail], new[head : len(new) - tail]
    if old_rest.count("\n") + new_rest.count("\n") > _LINES_MAX:
        # One block of that many lines: nothing but passages can be shorter than the full text.
        yield _passages(old, new, [(head, len(old) - tail, head, len(new) - tail)])
        return
    a, b = lines_of(old_rest), lines_of(new_rest)
    blocks = _LineMatcher(a, b).changed()
    yield _unified(a, b, blocks, first_line)
    starts_a, starts_b = _starts(a, head), _starts(b, head)
    yield _passages(old, new, [(starts_a[i], starts_a[j], starts_b[k], starts_b[m]) for i, j, k, m in blocks])


def _common_lines(old: str, new: str) -> tuple[int, int]:
    """Characters at the start and at the end that are common whole lines, less CONTEXT_LINES that are kept for show."""
    head = common_prefix(old, new)
    tail = common_suffix(old, new, min(len(old), len(new)) - head)
    head = old.rfind("\n", 0, head) + 1
    start = old.find("\n", len(old) - tail)
    tail = 0 if start < 0 else len(old) - start - 1
    for _ in range(CONTEXT_LINES):
        head = old.rfind("\n", 0, max(head - 1, 0)) + 1
        start = old.find("\n", len(old) - tail) if tail else -1
        tail = 0 if start < 0 else len(old) - start - 1
    return head, tail


def lines_of(text: str) -> list[str]:
    """The lines with their "\\n"; the last may lack it. No other character ends a line."""
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _starts(lines: list[str], at: int) -> list[int]:
    """The position of each line, and of the end, where the first is at `at`."""
    starts = [at]
    for line in lines:
        at += len(line)
        starts.append(at)
    return starts


class _LineMatcher:
    """Finds the changed blocks between two lists of lines, with bounded work."""

    def __init__(self, a: list[str], b: list[str]) -> None:
        self._a, self._b = a, b
        self._budget = _COMPARE_BUDGET
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
        if not pairs or cost > self._budget:
            self._blocks.append((i, j, k, m))
            return
        self._budget -= cost
        for tag, a1, a2, b1, b2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if tag != "equal":
                self._blocks.append((i + a1, i + a2, k + b1, k + b2))


def _unified(a: list[str], b: list[str], blocks: list[Block], first_line: int) -> str:
    """A unified diff of the lines `a` and `b`, which follow `first_line` common lines."""
    out: list[str] = []
    for hunk in _close_groups(blocks, 2 * CONTEXT_LINES):
        start = max(hunk[0][0] - CONTEXT_LINES, 0)
        end = min(hunk[-1][1] + CONTEXT_LINES, len(a))
        start_b = hunk[0][2] - (hunk[0][0] - start)
        end_b = hunk[-1][3] + (end - hunk[-1][1])
        out.append(
            f"@@ -{_range(first_line + start, end - start)} +{_range(first_line + start_b, end_b - start_b)} @@\n"
        )
        at = start
        for i, j, k, m in hunk:
            out.extend(_marked(" ", a[at:i]) + _marked("-", a[i:j]) + _marked("+", b[k:m]))
            at = j
        out.extend(_marked(" ", a[at:end]))
    return "".join(out)


def _range(start: int, count: int) -> str:
    """A range of a hunk header: the first line counted from 1, or for an empty range the line before it."""
    return f"{start + 1 if count else start},{count}"


def _marked(mark: str, lines: list[str]) -> list[str]:
    return [mark + line if line.endswith("\n") else f"{mark}{line}\n{_NO_NEWLINE}" for line in lines]


def _close_groups(blocks: list[Block], gap: int) -> Iterator[list[Block]]:
    """Neighbouring blocks in groups: at most `gap` unchanged elements lie between two of one group."""
    group: list[Block] = []
    for block in blocks:
        if group and block[0] - group[-1][1] > gap:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _passages(old: str, new: str, blocks: list[Block]) -> str:
    """The changed places of `new` with their surroundings; `blocks` are in characters."""
    trimmed = [_trim(old, new, block) for block in blocks]
    out: list[str] = []
    line, counted = 1, 0
    for group in _close_groups(trimmed, 2 * SURROUNDINGS):
        start, end = group[0][0], group[-1][1]
        edge = max(start - SURROUNDINGS, 0)
        left = start - max(old.rfind("\n", edge, max(start - 1, edge)) + 1, edge)
        stop = old.find("\n", end, end + SURROUNDINGS)
        right = (stop + 1 if stop >= 0 else min(end + SURROUNDINGS, len(old))) - end
        body = new[group[0][2] - left : group[-1][3] + right]
        line, counted = line + old.count("\n", counted, start - left), start - left
        out.append(f"@@ line {line}, characters {start - left}-{end + right} are now {len(body)} @@\n{body}\n")
    return "".join(out)


def _trim(old: str, new: str, block: Block) -> Block:
    """The block without the characters that both sides share at its ends."""
    i, j, k, m = block
    a, b = old[i:j], new[k:m]
    head = common_prefix(a, b)
    tail = common_suffix(a, b, min(len(a), len(b)) - head)
    return i + head, j - tail, k + head, m - tail


def _apply_passages(old: str, text: str) -> str:
    out: list[str] = []
    at = position = 0
    while position < len(text):
        header = _PASSAGE.match(text, position)
        if header is None:
            raise ChangeMismatch("not a passage")
        _, start, end, size = map(int, header.groups())
        body = text[header.end() : header.end() + size]
        position = header.end() + size + 1
        if not at <= start <= end <= len(old) or position > len(text):
            raise ChangeMismatch("a passage lies outside the text")
        out += (old[at:start], body)
        at = end
    return "".join([*out, old[at:]])


def _apply_diff(old: str, text: str) -> str:
    out: list[str] = []
    at = position = line = 0  # `line` lines of the old text end at character `at`
    while position < len(text):
        header = _HUNK.match(text, position)
        if header is None:
            raise ChangeMismatch("not a hunk")
        first, count, _, count_new = map(int, header.groups())
        start = at
        for _ in range((first - 1 if count else first) - line):
            start = old.find("\n", start) + 1
            if not start:
                raise ChangeMismatch("a hunk lies outside the text")
        out.append(old[at:start])
        line, at, position = (first - 1 if count else first) + count, start, header.end()
        while count or count_new:
            mark, content, position = _diff_line(text, position)
            if mark != "+":
                if not old.startswith(content, at):
                    raise ChangeMismatch("the text has another line there")
                at, count = at + len(content), count - 1
            if mark != "-":
                out.append(content)
                count_new -= 1
    return "".join([*out, old[at:]])


def _diff_line(text: str, position: int) -> tuple[str, str, int]:
    """(mark, the line with its newline if it has one, position after it)."""
    mark = text[position : position + 1]
    end = text.find("\n", position) + 1
    if mark not in ("+", "-", " ") or not end:
        raise ChangeMismatch("not a line of a diff")
    content = text[position + 1 : end]
    if text.startswith(_NO_NEWLINE, end):
        return mark, content[:-1], end + len(_NO_NEWLINE)
    return mark, content, end
