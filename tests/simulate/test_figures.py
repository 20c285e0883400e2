"""Sums over runs, the gate, the floors, and the command."""

from __future__ import annotations

import importlib.util
import json

import pytest

from homenode.cli.main import main
from homenode.cli.simulate.figures import Verdict, agreement, published, sum_up, verdict
from homenode.cli.simulate.paper import SCENARIOS, fetches_max, proved_floor, published_floor
from homenode.cli.simulate.plot import draw, workloads
from homenode.cli.simulate.pool import run_all
from homenode.cli.simulate.run import Outcome
from homenode.cli.simulate.workload import Workload

ROW = (
    "scenario", "volatility", "strategy", "edit_model", "lost_rate", "seeds", "tokens_mean", "tokens_sd",
    "broadcast_mean", "saving_mean", "saving_sd", "saving_vs_pull", "fetches_mean", "fetch_bound", "hit_rate",
    "stale_reads", "max_age_steps",
)  # fmt: skip


def outcome(tokens: int, *, fetches: tuple[int, ...] = (4, 6), stale: int = 0) -> Outcome:
    """A run of two artifacts."""
    return Outcome(
        tokens=tokens, broadcast=1_000, prefix=500.0, pull=400, fetches=fetches, bounds=(5, 7), shown=tokens,
        shown_max=tokens, first=tokens, changed=0, accesses=20, hits=10, reads=10, stale=stale, oldest_steps=stale,
        conflicts=0, signals=0, wire_bytes=80,
    )  # fmt: skip


def test_the_floors_are_those_of_the_published_scenarios() -> None:
    writes = [40 * scenario.volatility for scenario in SCENARIOS]
    assert [round(published_floor(4, 40, count), 6) for count in writes] == [0.85, 0.8, 0.65, 0.4, 0.0]
    assert [round(proved_floor(4, 40, count), 6) for count in writes] == [0.9375, 0.9, 0.7875, 0.6, 0.3]
    loads = [Workload(scenario.name, scenario.volatility, scenario.base_seed) for scenario in SCENARIOS]
    assert [load.writes_expected for load in loads] == pytest.approx(writes)


def test_the_bound_counts_accesses_first_reads_and_refetches() -> None:
    assert fetches_max(4, 100, 0) == 4 and fetches_max(4, 100, 2) == 10 and fetches_max(4, 3, 2) == 3


def test_a_row_sums_up_its_runs() -> None:
    load = Workload("A", 0.05, 20260305)
    result = sum_up(load, [1, 2], [outcome(100), outcome(200, stale=3, fetches=(6, 6))])
    row = result.row
    assert (row.tokens_mean, row.broadcast_mean, row.fetches_mean, row.fetch_bound) == (150, 1_000, 5.5, 6)
    assert row.saving_mean == pytest.approx(0.85) and row.saving_sd == pytest.approx(0.0707, abs=1e-4)
    assert row.saving_vs_pull == pytest.approx(1 - 300 / 800) and result.saving_vs_prefix == pytest.approx(0.7)
    assert (row.stale_reads, row.max_age_steps, row.hit_rate, result.stale_part) == (3, 3, 0.5, 0.15)
    assert result.violations == (2,)


def test_live_runs_agree_within_two_standard_errors() -> None:
    load = Workload("A", 0.05, 20260305)
    simulated, near, far = (sum_up(load, [1, 2], [outcome(100 + more), outcome(200 + more)]) for more in (0, 50, 250))
    assert agreement(simulated, near).agree and not agreement(simulated, far).agree
    assert agreement(simulated, near).allowed == pytest.approx(2 * simulated.row.saving_sd)
    assert "they agree" in agreement(simulated, simulated).text()
    other = sum_up(Workload("A", 0.05, 0, strategy="eager", edit="append", lost=0.1), [1], [outcome(100)])
    assert agreement(other, other).scenario == "A eager append lost=0.1"


def test_the_gate_is_two_standard_errors() -> None:
    planning = SCENARIOS[0]
    assert planning.gate(0.013, 10) == pytest.approx(2 * (2 * 0.013**2 / 10) ** 0.5)
    assert SCENARIOS[-1].gate(0.5, 10) == 0.015
    assert Verdict("A", 0.95, 0.941, 0.01).inside and not Verdict("A", 0.95, 0.939, 0.01).inside


def test_only_the_published_rules_are_judged() -> None:
    load = Workload("A", 0.05, 20260305)
    assert published(load) is SCENARIOS[0]
    assert published(Workload("A", 0.05, 20260305, strategy="eager")) is None
    found = verdict(sum_up(load, [1], [outcome(50)]))
    assert found is not None and found.inside
    assert verdict(sum_up(Workload("A", 0.05, 20260305, lost=0.1), [1], [outcome(50)])) is None


def test_rows_for_programs_have_the_agreed_fields(capsys) -> None:
    code = main(["simulate", "--scenario", "A,D", "--seeds", "2", "--tokens", "64,4096", "--steps", "10", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and [tuple(row) for row in told["rows"]] == [ROW] * 4
    assert [row["scenario"] for row in told["rows"]] == ["A S=10 d=64", "A S=10", "D S=10 d=64", "D S=10"]
    assert told["violations"] == {} and told["gate"] == []


def test_the_table_shows_savings_beside_staleness_and_the_bound(capsys) -> None:
    assert main(["simulate", "--scenario", "D", "--seeds", "1", "--lost", "0,0.3"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("SAVED", "FLOOR", "STALE", "OLDEST", "BOUND", "VS PULL", "VS PREFIX"))
    assert "published 84.2 %" in told


@pytest.mark.parametrize(
    "words", [["--seeds", "0"], ["--seeds", "5..5"], ["--seeds=-3"], ["--seeds", "0..1e3"], ["--seeds", "9" * 30],
              ["--seeds", "0.." + "9" * 30], ["--lost", "1"], ["--strategy", "hope"], ["--agents", "1"],
              ["--scenario", "Z"], ["--scenario", "A", "--volatility", "0.1"], ["--volatility", "1.1"],
              ["--volatility", "nan"], ["--block-lines", "0"], ["--changes", "--show", "change"],
              ["--changes", "--live", "homenode://127.0.0.1:1/main"], ["--edits", "/nowhere"],
              ["--plot", "/nowhere/x.png"], ["--plot", "x"], ["--plot", "x.nope"], ["--plot", "/"]],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_runs(
    words: list[str], capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homenode.cli.simulate.command.run_all", None)
    assert main(["simulate", *words]) == 2
    said = capsys.readouterr().err
    assert said and "Traceback" not in said


def test_changes_are_compared_with_documents_and_with_what_they_cost_at_least(capsys) -> None:
    words = ["simulate", "--changes", "--seeds", "2", "--steps", "10,20", "--tokens", "1024", "--block-lines", "1,4"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["changes"]
    assert [(row["block_lines"], row["steps"]) for row in told] == [(1, 10), (1, 20), (4, 10), (4, 20)]
    for row in told:
        least = row["first_looks"] + row["changed_text"]
        assert 0 < row["first_looks"] <= 4 * 3 * 1024 and row["changed_text"] > 0
        assert least + row["signals"] < row["changes"] < row["documents"]
        assert 1 < row["times_fewer"] < row["at_most"] == pytest.approx(row["documents"] / least)
    assert told[1]["times_fewer"] > told[3]["times_fewer"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("TIMES FEWER", "AT MOST", "FIRST LOOKS", "STALE", "OLDEST"))


def test_processes_come_to_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homenode.cli.simulate.pool.FEW", 1)
    jobs = [(Workload("A", 0.05, 0, steps=4, tokens=64, lost=part), range(9)) for part in (0.0, 0.5)]
    told: list[tuple[int, int]] = []
    together = run_all(jobs, 2, lambda done, total: told.append((done, total)))
    assert together == run_all(jobs, 1, lambda done, total: None)
    assert told[0] == (0, 18) and told[-1] == (18, 18)


def test_the_picture_needs_its_part(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert main(["simulate", "--plot", str(tmp_path / "x.png")]) == 6
    assert "homenode[plot]" in capsys.readouterr().err


def test_the_picture_is_drawn(tmp_path) -> None:
    draw([[sum_up(load, [1], [outcome(100)]) for load in loads] for loads in workloads()], str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").stat().st_size > 10_000
