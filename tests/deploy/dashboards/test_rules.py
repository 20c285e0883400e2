"""The rules of Prometheus and the routes of Alertmanager, by promtool and amtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from homenode_directory.config import FIELDS
from tests.deploy.dashboards.places import ALERTMANAGER, PROMETHEUS, RUNBOOK, boards, panels, rules

SEVERITIES = {"critical", "warning", "info"}
ALERTS = [rule["alert"] for rule in rules("alerts.yml")]


def run(*command: str, cwd: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def cases() -> list[dict[str, Any]]:
    return [
        case
        for test in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]


def test_prometheus_takes_the_configuration() -> None:
    result = run("promtool", "check", "config", "prometheus.yml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_alertmanager_takes_its_configuration() -> None:
    result = run("amtool", "check-config", str(ALERTMANAGER))
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_goes_to_somebody_who_exists() -> None:
    for severity in SEVERITIES:
        result = run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}")
        assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_fire_and_stay_silent_as_told() -> None:
    result = run("promtool", "test", "rules", "alerts_test.yml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tried_both_ways() -> None:
    fires, silent = defaultdict(int), defaultdict(int)
    for case in cases():
        (fires if case["exp_alerts"] else silent)[case["alertname"]] += 1
    assert set(fires) == set(silent) == set(ALERTS)


def test_a_bound_that_moved_is_noticed(tmp_path: Path) -> None:
    for path in PROMETHEUS.iterdir():
        shutil.copy(path, tmp_path)
    tried = yaml.safe_load((tmp_path / "alerts_test.yml").read_text())
    tried["tests"] = [test for test in tried["tests"] if test["name"] == "HomenodeDeliveryBehind"]
    (tmp_path / "alerts_test.yml").write_text(yaml.safe_dump(tried))
    alerts = tmp_path / "alerts.yml"
    alerts.write_text(alerts.read_text().replace("homenode:log_behind:max > 1000", "homenode:log_behind:max > 100000"))
    result = run("promtool", "test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert result.returncode == 1
    assert "HomenodeDeliveryBehind" in result.stdout + result.stderr


@pytest.mark.parametrize("rule", rules("alerts.yml"), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in SEVERITIES
    notes = rule["annotations"]
    assert notes["summary"] and notes["description"]
    assert notes["runbook_url"] == f"deploy/runbook.md#{rule['alert'].lower()}"
    assert re.search(r" (>|<|==) [\d.]+\s*$", rule["expr"]), "a condition is of the form: expression > number"


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_has_a_section_for_an_alert(alert: str) -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL))
    for part in ("Means", "Look", "Do", "Don't"):
        assert f"**{part}:**" in sections[alert], part


def test_the_runbook_names_panels_that_exist() -> None:
    there = {name.title(): {panel["title"] for panel in panels(board)} for name, board in boards().items()}
    looks = re.findall(r"\*(Overview|Coherence|Streams|Store) → ([^*]+)\*", RUNBOOK.read_text().replace("\n", " "))
    assert len(looks) > 30
    for board, titles in looks:
        missing = [title for title in titles.split(", ") if title not in there[board]]
        # A title may have a comma of its own.
        assert not missing or titles in there[board], f"{board} has no panel {missing}"


def test_the_runbook_names_settings_that_exist() -> None:
    flags = set(re.findall(r"`--([a-z-]+)", RUNBOOK.read_text()))
    assert flags
    assert flags <= {name.replace("_", "-") for name in FIELDS}


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    assert sorted(re.findall(r"^### (Homenode\w+)", RUNBOOK.read_text(), re.MULTILINE)) == sorted(ALERTS)
