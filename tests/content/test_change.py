"""The textual change: exact to apply, never longer than the full text, bounded work for any input."""

from __future__ import annotations

import json
import random
from difflib import SequenceMatcher

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from homenode import lines as module
from homenode.change import (
    Change,
    ChangeKind,
    ChangeMismatch,
    TokenCounter,
    _candidates,
    apply_change,
    changed_text,
    describe,
    estimate_tokens,
)

LINE = st.sampled_from(
    [
        "",
        "a",
        "b",
        "}",
        "x\r",
        "long line " * 20,
        "é",
        "\u2028",
        "\ud800",
        "@@ -1,1 +1,1 @@",
        "\\ No newline at end of file",
    ]
    + ["@@ line 1, 0-1 now 1 @@", "-", "+", " "]
)
TEXT = st.builds(
    lambda lines, end: "\n".join(lines) + end, st.lists(LINE, max_size=40), st.sampled_from(["", "\n", "\r\n"])
)


def numbered(count: int) -> list[str]:
    return [f"line {i} of a text that has some words in each line" for i in range(count)]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """Two unrelated texts, or one and what a few edits made of it."""
    old = draw(st.one_of(TEXT, st.integers(0, 120).map(lambda n: "\n".join(numbered(n)))))
    if draw(st.booleans()):
        return old, draw(TEXT)
    new = old
    for _ in range(draw(st.integers(0, 4))):
        at, to = sorted((draw(st.integers(0, len(new))), draw(st.integers(0, len(new)))))
        piece = draw(st.one_of(st.text(max_size=20), TEXT))
        to = draw(st.sampled_from([at, min(to, at + 30), to]))
        new = new[:at] + piece + new[to:]
    return old, new


def as_change(text: str) -> Change:
    return Change(ChangeKind.CHANGE, text, 0, 0)


@given(pairs())
@settings(max_examples=500, deadline=None)
@example(("", "a"))
@example(("a", ""))
@example(("a\n", "a"))
@example(("a", "a\n"))
@example(("a\r\nb\r\n", "a\nb\r\n"))
@example(("\n", "\n\n"))
def test_every_form_restores_the_new_text(pair: tuple[str, str]) -> None:
    old, new = pair
    change = describe(old, new)
    assert apply_change(old, change) == new
    assert (change.kind is ChangeKind.UNCHANGED) == (old == new)
    if old != new:
        forms = list(_candidates(old, new))
        assert [apply_change(old, as_change(form)) for form in forms] == [new] * len(forms)


@given(pairs(), st.sampled_from([estimate_tokens, len, lambda text: len(text.split())]))
@settings(deadline=None)
def test_a_change_is_shown_only_when_it_has_fewer_tokens(pair: tuple[str, str], count: TokenCounter) -> None:
    old, new = pair
    change = describe(old, new, count)
    assert change.full_tokens == count(new)
    if change.kind is ChangeKind.CHANGE:
        assert change.tokens == count(change.text) < change.full_tokens
    elif change.kind is ChangeKind.FULL:
        assert (change.text, change.tokens) == (new, change.full_tokens)
    else:
        assert (change.text, change.tokens) == ("", 0)


def test_passages_show_the_new_text_with_its_surroundings() -> None:
    old = "\n".join(numbered(200)) + "\n"
    new = old.replace("line 77 of a text", "line 77 of another text")
    assert describe(old, new).text == (
        "@@ line 78, 3917-3968 now 57 @@\nline 77 of another text that has some words in each line\n"
    )


def test_the_changed_places_alone_are_the_new_text_without_what_stays() -> None:
    lines = [f"{number:x}".rjust(40, "-") for number in range(100)]
    new = list(lines)
    new[3], new[50:52], new[90] = "+" * 30, ["*" * 30], "#" * 30
    old_text = "\n".join(lines)
    assert changed_text(old_text, "\n".join(new)) == "+" * 30 + "*" * 30 + "#" * 30
    assert changed_text(old_text, old_text) == "" and changed_text("", "all new") == "all new"


def test_a_diff_is_taken_where_it_has_fewer_tokens() -> None:
    old_lines = [f"{i}" for i in range(100)]
    new_lines = [*old_lines[:40], "new", *old_lines[41:60], *old_lines[61:]]
    old, new = "\n".join(old_lines) + "\n", "\n".join(new_lines)

    def count(text: str) -> int:  # a counter to whom a passage's header is dear
        return len(text) + 500 * text.count("@@ line")

    assert describe(old, new, count).text == (
        "@@ -38,7 +38,7 @@\n 37\n 38\n 39\n-40\n+new\n 41\n 42\n 43\n"
        "@@ -58,7 +58,6 @@\n 57\n 58\n 59\n-60\n 61\n 62\n 63\n"
        "@@ -97,4 +96,4 @@\n 96\n 97\n 98\n-99\n+99\n\\ No newline at end of file\n"
    )


def test_an_edit_inside_one_very_long_line_is_a_short_change() -> None:
    old = "x" * 10_000_000
    new = old[:5_000_000] + "y" + old[5_000_001:]
    change = describe(old, new)
    assert change.kind is ChangeKind.CHANGE and change.tokens < 60
    assert apply_change(old, change) == new


def test_edits_far_from_each_other_are_short_changes_where_lines_say_nothing() -> None:
    """On one line, as JSON often is; among more lines than are compared; in a text without any separator."""
    rng = random.Random(2)
    record = {f"field {i}": {"n": i, "text": rng.randbytes(20).hex()} for i in range(2_000)}
    before = json.dumps(record)
    record["field 3"]["n"], record["field 1990"]["text"] = -1, "changed"
    line = rng.randbytes(500_000).hex()
    lines = [f"{rng.random()} {i}" for i in range(11_000)]
    for old, new, most in (
        (before, json.dumps(record), 120),
        ("\n".join(lines), "\n".join(["changed", *lines[1:9_000], "put in", *lines[9_000:-1], "end"]), 120),
        (line, "put in" + line[:-1] + "!", 80),
        (line, line[:1_000] + line[1_010:700_000] + "!" * 90 + line[700_000:], 120),
    ):
        change = describe(old, new)
        assert change.kind is ChangeKind.CHANGE and change.tokens < most, change.tokens
        assert apply_change(old, change) == new


def test_unchanged_and_rewritten_texts() -> None:
    assert describe("same", "same") == Change(ChangeKind.UNCHANGED, "", 0, 1)
    assert describe("abc\n" * 50, "xyz" * 50).kind is ChangeKind.FULL
    assert describe("a\n" * 99 + "b", "a\n" * 99, lambda text: 7).kind is ChangeKind.FULL
    assert describe("something", "") == Change(ChangeKind.FULL, "", 0, 0)


@pytest.mark.parametrize("text, tokens", [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("éé", 1), ("é\ud800", 2)])
def test_the_estimate_is_a_quarter_of_the_bytes_rounded_up(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_scattered_edits_are_found_among_repeated_lines() -> None:
    lines = [line for i in range(300) for line in ("{", f'  "id": {i},', '  "name": "n"', "},")]
    edited = [line.replace('"n"', '"m"') if i % 100 == 2 else line for i, line in enumerate(lines)]
    change = describe("\n".join(lines), "\n".join(edited))
    assert change.text.count("@@ line") == 12


# Work is counted, not timed: what difflib is given, and how often the lines are walked through.


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The upper estimate of each use of difflib, in inner steps."""
    seen: list[int] = []

    def spy(junk: None, a: list[str], b: list[str], autojunk: bool) -> SequenceMatcher[str]:
        pairs = sum(b.count(line) for line in a)
        seen.append((pairs + len(a) + len(b)) * (min(len(a), len(b)) + 1))
        return SequenceMatcher(junk, a, b, autojunk)

    monkeypatch.setattr(module, "SequenceMatcher", spy)
    return seen


def pathological() -> dict[str, tuple[str, str]]:
    rng = random.Random(5)

    def few(n: int) -> str:
        return "".join(rng.choice("abc") + "\n" for _ in range(n))

    def anchored(n: int) -> str:
        return "".join(f"{i}\n" if i % 10 == 0 else rng.choice("abc") + "\n" for i in range(n))

    mixed = [f"{i}\n" for i in range(5000)]
    return {
        "one repeated line": ("a\n" * 9000, "b\n" + "a\n" * 4000 + "c\n"),
        "periods": ("a\nb\n" * 3000, "b\nc\na\n" * 2000),
        "three lines at random, short": (few(90), few(90)),
        "three lines at random, long": (few(9000), few(9000)),
        "anchors with noise between": (anchored(9000), anchored(9000)),
        "shuffled": ("".join(mixed), "".join(rng.sample(mixed, 5000))),
        "reversed": ("".join(mixed), "".join(mixed[::-1])),
        "millions of empty lines": ("\n" * 3_000_000, "x\n" * 1_500_000),
        "many long lines": tuple("\n".join(",".join(rng.choices("abcdefgh", k=600)) for _ in range(200)) for _ in "ab"),
    }


@pytest.mark.parametrize("name", pathological())
def test_pathological_texts_stay_within_the_budget(name: str, work: list[int]) -> None:
    old, new = pathological()[name]
    change = describe(old, new)
    assert apply_change(old, change) == new
    assert sum(work) <= module.COMPARE_BUDGET


def test_the_budget_of_these_tests_is_used(work: list[int]) -> None:
    describe(*pathological()["anchors with noise between"])
    assert sum(work) > module.COMPARE_BUDGET // 2


def test_too_many_lines_are_one_passage() -> None:
    old = "start\n" + "a\nb\n" * 20_000 + "tail\n" * 20_000
    new = "start\n" + "c\nd\n" * 20_000 + "tail\n" * 20_000
    change = describe(old, new)
    assert change.text.count("@@ line") == 1
    assert apply_change(old, change) == new


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "@@ -1,1 +1,1 @@\n",
        "@@ -1,1 +1,1 @@\n-other\n+new\n",
        "@@ -9,1 +9,1 @@\n-a\n+b\n",
        "@@ -1,1 +1,1 @@\n?a\n",
        "@@ line 1, 0-99 now 1 @@\nx\n",
        "@@ line 1, 2-1 now 1 @@\nx\n",
        "@@ line 1, 0-1 now 9 @@\nx\n",
        "@@ line 1, 0-1 now 1 @@\nx\nrest",
        f"@@ line 1, 0-1 now {'9' * 5000} @@\nx\n",
    ],
)
def test_a_change_of_another_text_is_refused(text: str) -> None:
    with pytest.raises(ChangeMismatch):
        apply_change("a\nb\n", as_change(text))


def test_lines_from_0_to_the_first_hunk_are_kept() -> None:
    assert apply_change("a\n", as_change("@@ -0,0 +1,1 @@\n+b\n")) == "b\na\n"
