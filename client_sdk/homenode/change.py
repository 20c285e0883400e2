"""The textual change shown to an agent that has seen an earlier version of an artifact.

Theory of operation
-------------------
An agent whose context still holds version 3 needs what changed, not the document. `describe` tries two forms and
keeps the one with fewer tokens, or the full text when neither is smaller:

- a **unified diff** with three lines of context; `\\ No newline at end of file` as usual. Only "\\n" ends a line, so
  "\\r" and other separators are ordinary characters;
- **passages**: each changed place of the new text with its surroundings, without what was removed. A header says what
  it replaces, in characters of the old text (counted from 0, end excluded), and how many characters follow::

      @@ line 12, 340-420 now 95 @@

  For one changed line that header is a good part of what an agent pays, so it has no word that is not needed.

  This form also serves text whose lines are very long, such as JSON on one line: a long block is compared once more,
  cut after a short string that occurs often in it.

Either text is enough to rebuild the new version from the old one, byte for byte (`apply_change`).

Time is bounded for any input. What is common at both ends is found by comparing blocks of memory. The rest is split at
lines that occur exactly once on both sides (as in "patience" diff), and `difflib` sees only what lies between, as long
as a budget of comparisons lasts; what is left after that counts as one replaced block, and so does a rest of too many
lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from homenode.lines import COMPARE_BUDGET, LINES_MAX, Block, Budget, LineMatcher, lines_of, parts_of, starts_of
from homenode_api.patch import common_prefix, common_suffix

CONTEXT_LINES = 3
#: Characters shown on either side of a passage, at most; less where the line ends.
SURROUNDINGS = 60

#: What a reference is counted as: so many tokens it has in published simulations.
POINTER_TOKENS = 8

_NO_NEWLINE = "\\ No newline at end of file\n"
_NUMBER = r"(\d{1,15})"
_HUNK = re.compile(rf"@@ -{_NUMBER},{_NUMBER} \+{_NUMBER},{_NUMBER} @@\n")
_PASSAGE = re.compile(rf"@@ line {_NUMBER}, {_NUMBER}-{_NUMBER} now {_NUMBER} @@\n")

TokenCounter = Callable[[str], int]


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


def changed_text(old: str, new: str) -> str:
    """The changed places of `new` alone. A measure: nobody could tell from it where they belong."""
    blocks = [(0, len(old), 0, len(new))]
    head, tail = _common_lines(old, new)
    a, b = lines_of(old[head : len(old) - tail]), lines_of(new[head : len(new) - tail])
    if len(a) + len(b) <= LINES_MAX:
        starts_a, starts_b = starts_of(a, head), starts_of(b, head)
        found = LineMatcher(a, b, Budget(COMPARE_BUDGET)).changed()
        blocks = [(starts_a[i], starts_a[j], starts_b[k], starts_b[m]) for i, j, k, m in found]
    return "".join(new[k:m] for _, _, k, m in (_trim(old, new, block) for block in blocks))


def _candidates(old: str, new: str) -> Iterator[str]:
    """The change as a unified diff and as passages."""
    head, tail = _common_lines(old, new)
    first_line = old.count("\n", 0, head)
    budget = Budget(COMPARE_BUDGET)
    old_rest, new_rest = old[head : len(old) - tail], new[head : len(new) - tail]
    if old_rest.count("\n") + new_rest.count("\n") > LINES_MAX:
        # One block of that many lines: nothing but passages can be shorter than the full text.
        yield from _in_passages(old, new, [(head, len(old) - tail, head, len(new) - tail)], budget)
        return
    a, b = lines_of(old_rest), lines_of(new_rest)
    blocks = LineMatcher(a, b, budget).changed()
    yield _unified(a, b, blocks, first_line)
    starts_a, starts_b = starts_of(a, head), starts_of(b, head)
    found = [(starts_a[i], starts_a[j], starts_b[k], starts_b[m]) for i, j, k, m in blocks]
    yield from _in_passages(old, new, found, budget)


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


def _in_passages(old: str, new: str, blocks: list[Block], budget: Budget) -> Iterator[str]:
    """The change as passages; `blocks` are in characters. Where there are long ones, also with parts of these."""
    trimmed = [_trim(old, new, block) for block in blocks]
    yield _passages(old, new, trimmed)
    parts = [part for block in trimmed for part in parts_of(old, new, block, budget)]
    if len(parts) > len(trimmed):
        yield _passages(old, new, [_trim(old, new, part) for part in parts])


def _passages(old: str, new: str, trimmed: list[Block]) -> str:
    """The changed places of `new` with their surroundings."""
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
        out.append(f"@@ line {line}, {start - left}-{end + right} now {len(body)} @@\n{body}{_gap(body)}")
    return "".join(out)


def _gap(body: str) -> str:
    """What ends a passage whose text does not end with a line."""
    return "" if body.endswith("\n") else "\n"


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
        position = header.end() + size + len(_gap(body))
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
