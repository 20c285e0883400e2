"""The demo's figures and verdict are computed: records that show a broken promise break the verdict."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from homenode.cli.demo import script
from homenode.cli.demo.figures import OBSERVER, Figures, Tally, percentile
from homenode.cli.demo.script import CAST, PAGES, PLAN, Edit, Fate, Kind
from homenode.cli.demo.verdict import Verdict, judge

MS = 1_000_000
DELTA_MS = 3_000
GUIDE = script.GUIDE

TEXTS = {
    PLAN: "# Plan\n\nEdits: 1\n\n## Tasks\n\n- [x] a [planner-1]\n",
    GUIDE: "# Guide\n\nEdits: 2\n\n## A\n\n- b [writer-a-1]\n- c [writer-b-1]\n",
}


def edit(agent: str, page: str, n: int, sent_ms: int, acked_ms: int, id: str = "", tries: int = 1) -> tuple[str, Any]:
    record = {"kind": "edit", "page": page, "id": id or f"{agent}-1", "version": [7, n], "tries": tries}
    return agent, {**record, "sent": sent_ms * MS, "acked": acked_ms * MS}


def read(agent: str, page: str, n: int, began_ms: int, seen_ms: int = 0, hit: bool = False) -> tuple[str, Any]:
    record = {"kind": "read", "page": page, "version": [7, n], "began": began_ms * MS, "hit": hit}
    return agent, {**record, "seen": (seen_ms or began_ms) * MS}


def cost(agent: str, tokens: int) -> tuple[str, Any]:
    return agent, {"kind": "cost", "hits": 1, "misses": 1, "bytes": 100, "tokens": tokens}


#: A short run in which all went well.
GOOD = [
    read("writer-a", GUIDE, 1, 5),
    edit("planner", PLAN, 2, 10, 12),
    read(OBSERVER, PLAN, 2, 14, 15),
    ("writer-c", {"kind": "holding", "page": GUIDE, "id": "writer-c-5", "fate": "killed", "at": 20 * MS}),
    ("writer-d", {"kind": "holding", "page": GUIDE, "id": "writer-d-9", "fate": "frozen", "at": 20 * MS}),
    edit("writer-a", GUIDE, 2, 100, 110),
    read(OBSERVER, GUIDE, 2, 111, 112),
    edit("writer-b", GUIDE, 3, 120, 130, tries=3),
    read(OBSERVER, GUIDE, 3, 140, 141),
    ("writer-d", {"kind": "refused", "page": GUIDE, "id": "writer-d-9", "error": "StaleFence", "cause": "expired"}),
    read("writer-b", GUIDE, 3, 200, hit=True),
    cost("writer-a", 10),
    cost("writer-a", 40),
    cost("writer-b", 60),
]


def tallied(records: list[tuple[str, Any]], texts: dict[str, str] | None = None) -> Figures:
    tally = Tally(DELTA_MS)
    for agent, record in records:
        tally.take(agent, record)
    return tally.figures(TEXTS if texts is None else texts)


def verdict(figures: Figures, **changed: Any) -> Verdict:
    given: dict[str, Any] = {"max_age_ms": DELTA_MS, "holders": {}, "unfinished": [], **changed}
    return judge(figures, **given)


def broken(judged: Verdict) -> list[str]:
    return [check.promise.split()[0] for check in judged.checks if not check.kept]


def test_figures_of_a_good_run() -> None:
    figures = tallied(GOOD)
    assert (figures.reads, figures.hits, figures.conflicts) == (2, 1, 2)
    assert (figures.acknowledged, figures.present, figures.lost, figures.counted) == (3, 3, (), 3)
    assert (figures.tokens, figures.bytes) == (100, 200)
    assert (figures.latency_p50_ms, figures.latency_p99_ms) == (12.0, 21.0)
    assert (figures.observed, figures.stale, figures.stale_beyond) == (5, 0, 0)
    assert figures.freed_ms == 90.0
    assert verdict(figures).holds


def test_a_lost_edit_breaks_the_verdict() -> None:
    texts = {**TEXTS, GUIDE: TEXTS[GUIDE].replace("- c [writer-b-1]\n", "")}
    judged = verdict(tallied(GOOD, texts))
    assert not judged.holds
    assert broken(judged) == ["no"]
    assert "1 lost (writer-b-1)" in judged.checks[0].figures


def test_a_counter_that_went_back_breaks_the_verdict() -> None:
    texts = {**TEXTS, GUIDE: TEXTS[GUIDE].replace("Edits: 2", "Edits: 1")}
    assert broken(verdict(tallied(GOOD, texts))) == ["the"]


def test_an_edit_that_nobody_acknowledged_breaks_the_verdict() -> None:
    texts = {**TEXTS, GUIDE: TEXTS[GUIDE] + "- late [writer-d-9]\n"}
    judged = verdict(tallied(GOOD, texts))
    assert broken(judged) == ["the"]
    assert "writer-d-9" in judged.checks[1].figures


def test_a_read_is_stale_by_the_age_of_what_it_missed() -> None:
    # Version 2 was acknowledged at 110 ms, version 3 at 130 ms.
    figures = tallied([*GOOD, read(OBSERVER, GUIDE, 1, 150), read("writer-a", GUIDE, 2, 150)])
    assert (figures.stale, figures.stale_beyond, figures.stale_max_ms) == (2, 0, 40.0)
    assert verdict(figures).holds
    beyond = tallied([*GOOD, read(OBSERVER, GUIDE, 1, 110 + DELTA_MS + 1)])
    assert (beyond.stale_beyond, beyond.stale_max_ms) == (1, DELTA_MS + 1)
    assert broken(verdict(beyond)) == ["no"]


def test_a_read_under_way_while_a_commit_is_acknowledged_is_not_stale() -> None:
    assert tallied([*GOOD, read(OBSERVER, GUIDE, 1, 110)]).stale == 0


def test_an_older_commit_acknowledged_later_does_not_hide_staleness() -> None:
    records = [
        *GOOD,
        edit("writer-a", GUIDE, 5, 300, 310, "writer-a-2"),
        edit("writer-b", GUIDE, 4, 290, 900, "writer-b-2"),
    ]
    assert tallied([*records, read(OBSERVER, GUIDE, 3, 400)]).stale_max_ms == 90.0


def test_a_commit_that_the_observer_skipped_counts_from_the_next_version() -> None:
    records = [
        edit("writer-a", GUIDE, 2, 100, 110),
        edit("writer-b", GUIDE, 3, 120, 130),
        read(OBSERVER, GUIDE, 3, 140, 150),
    ]
    figures = tallied(records)
    assert (figures.latency_p50_ms, figures.latency_p99_ms) == (30.0, 50.0)


def test_a_page_that_stays_locked_breaks_the_verdict() -> None:
    assert broken(verdict(tallied(GOOD), holders={GUIDE: "main~x"})) == ["a"]
    alone = [record for record in GOOD if record[1]["kind"] != "edit" or record[1]["page"] != GUIDE]
    texts = {**TEXTS, GUIDE: "Edits: 0\n"}
    assert broken(verdict(tallied(alone, texts))) == ["a"]


@pytest.mark.parametrize("cause", ["", None])
def test_a_late_writer_must_be_refused_and_told_why(cause: str | None) -> None:
    records = [record for record in GOOD if record[1]["kind"] != "refused"]
    if cause is not None:
        refused = {"kind": "refused", "page": GUIDE, "id": "writer-d-9", "error": "StaleFence", "cause": cause}
        records.append(("writer-d", refused))
    assert broken(verdict(tallied(records))) == ["a"]


def test_an_agent_that_failed_breaks_the_verdict() -> None:
    judged = verdict(tallied(GOOD), unfinished=["writer-a ended with 1: boom"])
    assert broken(judged) == ["every"]
    assert "boom" in judged.checks[-1].figures


def test_a_run_in_which_nothing_happened_proves_nothing() -> None:
    judged = verdict(Figures())
    assert {"no", "a"} <= set(broken(judged))
    assert not verdict(dataclasses.replace(tallied(GOOD), observed=0)).holds


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (50.0, 99.0)
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([], 0.5) is None


# --- the script ------------------------------------------------------------------------------------------------------


def turns_of(name: str, seed: int = 7) -> list[script.Turn]:
    role = next(role for role in CAST if role.name == name)
    return script.turns(role, seed=seed, count=30)


def test_the_same_seed_gives_both_arms_the_same_turns() -> None:
    for role in CAST:
        assert turns_of(role.name) == turns_of(role.name)
        assert turns_of(role.name) != turns_of(role.name, seed=8)


def test_fate_comes_once_to_one_writer_each() -> None:
    fates = {role.name: [t.edit.fate for t in turns_of(role.name) if t.edit and t.edit.fate] for role in CAST}
    assert sorted(fate for found in fates.values() for fate in found) == [Fate.FROZEN, Fate.KILLED]


def pages() -> dict[str, str]:
    from importlib import resources

    folder = resources.files("homenode.cli.demo") / "files"
    return {page: folder.joinpath(*page.split("/")).read_text() for page in PAGES}


def test_no_edit_removes_another_one() -> None:
    texts = pages()
    assert all(script.counter(text) == 0 and not script.ids_in(text) for text in texts.values())
    made: set[str] = set()
    for turn in [turn for role in CAST for turn in turns_of(role.name)]:
        if turn.edit is not None:
            made.add(turn.edit.id)
            texts[turn.edit.page] = script.apply(texts[turn.edit.page], turn.edit)
    assert {id for text in texts.values() for id in script.ids_in(text)} == made
    assert sum(script.counter(text) for text in texts.values()) == len(made)


@pytest.mark.parametrize("kind", list(Kind))
def test_edits_of_text_without_sections(kind: Kind) -> None:
    text = script.apply("Edits: 4\n", Edit("writer-a-1", PLAN, kind, 3, "Words.", 1))
    assert script.counter(text) == 5
    assert script.ids_in(text) == {"writer-a-1"}
    assert script.counter("nothing") == -1
