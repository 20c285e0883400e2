"""What two versions of a text have in common."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from homenode_kv.edits import COMPARED_MAX, Span, common, unchanged


def test_spans_of_an_edit_at_the_start_in_the_middle_and_at_the_end() -> None:
    old = list(range(100))
    assert unchanged(old, [*range(200, 210), *old[4:]], 8) == (Span(4, 10, 96),)
    assert unchanged(old, [*old[:50], 200, *old[60:]], 8) == (Span(0, 0, 50), Span(60, 51, 40))
    assert unchanged(old, old[:90], 8) == (Span(0, 0, 90),)
    assert unchanged(old, old, 8) == (Span(0, 0, 100),)
    assert unchanged(old, [*old[:30], 200, *old[31:60], 201, 202, *old[60:]], 8) == (
        Span(0, 0, 30),
        Span(31, 31, 29),
        Span(60, 62, 40),
    )
    assert unchanged(old, [*old[:30], 200, *old[33:36], 201, *old[40:]], 8) == (Span(0, 0, 30), Span(40, 35, 60))


def test_two_edits_far_apart_leave_what_is_between_to_be_computed() -> None:
    old = list(range(COMPARED_MAX + 300))
    new = [-1, *old[:-1], -2]
    assert unchanged(old, new, 8) == ()
    assert unchanged(old, [*old[:100], -1, *old[101:-100], -2, *old[-99:]], 8) == (
        Span(0, 0, 100),
        Span(len(old) - 99, len(old) - 99, 99),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=60), st.integers(1, 9))
def test_spans_are_alike_in_order_and_apart(old: list[int], new: list[int], shortest: int) -> None:
    source = target = 0
    for span in unchanged(array("q", old), new, shortest):
        assert span.source >= source and span.target >= target and span.count >= shortest
        assert old[span.source : span.source + span.count] == new[span.target : span.target + span.count]
        source, target = span.source + span.count, span.target + span.count
    assert source <= len(old) and target <= len(new)
    alike = common(old, new)
    assert (old[:alike] == new[:alike] and old[alike : alike + 1] != new[alike : alike + 1]) or old == new


def test_the_part_of_a_span_after_what_is_done() -> None:
    span = Span(40, 10, 20)
    assert [span.after(done) for done in (0, 10, 15, 30)] == [span, span, Span(45, 15, 15), None]
