"""The dashboards' files: made by the generator, valid for Grafana, and readable."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.generate.__main__ import files
from homenode_directory.telemetry.catalog import COUNTERS, GAUGES, HISTOGRAMS
from homenode_kv.worker.metrics import LEVELS, Metrics
from tests.deploy.dashboards.grafana_model import problems
from tests.deploy.dashboards.places import (
    DASHBOARDS,
    DEPLOY,
    KV,
    boards,
    expressions,
    kv_expressions,
    panels,
    rules,
)

EACH = pytest.mark.parametrize("name", sorted(boards()))


def test_the_files_are_what_the_generator_makes() -> None:
    there = {path.name: path.read_text() for path in DASHBOARDS.iterdir()}
    made = files()
    assert sorted(there) == sorted(made)
    assert [name for name in made if there[name] != made[name]] == [], "run make dashboards"


@EACH
def test_a_dashboard_is_valid_for_grafana(name: str) -> None:
    assert problems(boards()[name]) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda board: board.update(tittle="x"), "dashboard: there is no field 'tittle'"),
        (lambda board: board.update(refresh=5), "dashboard.refresh: 5 is not of type str"),
        (lambda board: board.pop("schemaVersion"), "dashboard: 'schemaVersion' is missing"),
        (lambda board: board["panels"][1]["gridPos"].pop("h"), "dashboard.panels[1].gridPos: 'h' is missing"),
        (lambda board: board["panels"][1]["targets"][0].update(exemplar="yes"), "exemplar: 'yes' is not of type bool"),
        (lambda board: board["panels"][1]["options"].update(colorMode="loud"), "options.colorMode: 'loud' is none of"),
        (lambda board: board["panels"][1]["options"].update(colour="red"), "options: there is no field 'colour'"),
    ],
)
def test_what_grafana_does_not_know_is_noticed(spoil: Callable[[dict[str, Any]], Any], said: str) -> None:
    board = copy.deepcopy(boards()["overview"])
    spoil(board)
    found = problems(board)
    assert any(said in problem for problem in found), found


@EACH
def test_the_first_row_says_whether_it_is_healthy(name: str) -> None:
    first = boards()[name]["panels"][0]
    assert (first["type"], first["title"]) == ("row", "Is it healthy?")
    for panel in panels(boards()[name]):
        if panel["gridPos"]["y"] == 1:
            assert panel["type"] == "stat"
            assert panel["options"]["colorMode"] == "background"


@EACH
def test_a_panel_explains_itself(name: str) -> None:
    alerts = {rule["alert"] for rule in rules("alerts.yml")}
    for panel in panels(boards()[name]):
        assert len(panel["description"]) > 10, panel["title"]
        named = set(re.findall(r"Homenode[A-Z]\w+", panel["description"]))
        assert named <= alerts, f"{panel['title']} names alerts that do not exist: {named - alerts}"
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults.get("unit") or panel["options"]["yAxis"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert "$job" in target["expr"] or name == KV or "ALERTS" in target["expr"], panel["title"]
            if panel["type"] == "timeseries" and len(panel["targets"]) > 1:
                assert target["legendFormat"] != "__auto", panel["title"]


@EACH
def test_panels_lie_beside_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in boards()[name]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in boards()[name]["panels"]]
    assert len(set(ids)) == len(ids)


def test_metrics_and_panels_know_each_other() -> None:
    kinds = {"_total": COUNTERS, "": GAUGES, "_bucket": HISTOGRAMS, "_sum": HISTOGRAMS, "_count": HISTOGRAMS}
    there = {name + ending for ending, kind in kinds.items() for name in kind} | {"homenode_build_info"}
    named = {name for one in expressions() for name in re.findall(r"\bhomenode_\w+", one.text)}
    assert named <= there, "expressions over metrics that no server has"
    named |= {name for one in kv_expressions() for name in re.findall(r"\bhomenode_\w+", one.text)}
    unseen = {
        name for kind in (COUNTERS, GAUGES, HISTOGRAMS) for name in kind if not any(name in text for text in named)
    }
    assert unseen == set(), "metrics that nobody sees"


def test_metrics_of_workers_and_panels_know_each_other() -> None:
    there = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples}
    kinds = {metric.name: metric.type for metric in Metrics().registry.collect()}
    there |= {name + "_bucket" for name, kind in kinds.items() if kind == "histogram"} | set(LEVELS)
    there |= (
        {f"{name}_total" for name in LEVELS if name.endswith("_events")}
        | set(GAUGES)
        | {f"{name}_total" for name in COUNTERS}
    )
    named = {name for one in kv_expressions() for name in re.findall(r"\bhomenode_\w+", one.text)}
    assert named <= there | {name + "_total" for name in kinds}, "expressions over metrics that no worker has"
    unseen = {name for name in (*kinds, *LEVELS) if not any(name in text for text in named)}
    assert unseen <= {"homenode_kv_output_tokens", "homenode_kv_anchor_bytes"}, "metrics that nobody sees"


def test_latencies_lead_to_traces() -> None:
    for name in ("overview", "coherence", "store"):
        assert any(target["exemplar"] for panel in panels(boards()[name]) for target in panel["targets"]), name
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/homenode.yml").read_text())["datasources"]
    by_uid = {source["uid"]: source for source in sources}
    (leads,) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert leads["datasourceUid"] in by_uid


@EACH
def test_dashboards_lead_to_each_other_and_keep_what_is_looked_at(name: str) -> None:
    board = boards()[name]
    (link,) = board["links"]
    assert link["includeVars"] and link["keepTime"] and set(link["tags"]) <= set(board["tags"])
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == (["datasource", "worker"] if name == KV else ["datasource", "job", "instance"])
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/homenode.yml").read_text())["datasources"]
    assert board["templating"]["list"][0]["current"]["value"] in {source["uid"] for source in sources}


def test_pictures_are_small_and_shown_for_what_they_are(repo_root: Path) -> None:
    pages = (repo_root / "README.md").read_text() + (DEPLOY / "servers.md").read_text()
    pictures = sorted((DEPLOY / "pictures").glob("*.png"))
    assert pictures and sum(picture.stat().st_size for picture in pictures) < 300_000
    for picture in pictures:
        assert f"pictures/{picture.name}" in pages
        assert picture.stem in boards()
    assert "not Grafana screenshots" in pages


def test_uids_are_stable_and_apart() -> None:
    assert {board["uid"] for board in boards().values()} == {f"homenode-{name}" for name in boards()}
