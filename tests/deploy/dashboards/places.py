"""Where the files are, and what is read out of them."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
PROMETHEUS = DEPLOY / "prometheus"
ALERTMANAGER = DEPLOY / "alertmanager" / "alertmanager.yml"
#: The dashboard that is about workers of the KV tier and no directories.
KV = "kv"
RUNBOOK = DEPLOY / "runbook.md"


@functools.cache
def boards() -> dict[str, dict[str, Any]]:
    """Each dashboard by its file's name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


@functools.cache
def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a file of deploy/prometheus."""
    content = yaml.safe_load((PROMETHEUS / name).read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


@dataclass(frozen=True, slots=True)
class Expression:
    """A PromQL expression and where it stands."""

    place: str
    text: str


def expressions() -> list[Expression]:
    """Every expression of every dashboard of directories, annotations included, and of every rule."""
    found = []
    for name, board in boards().items():
        if name == KV:
            continue
        for panel in panels(board):
            found += [Expression(f"{name}: {panel['title']}", target["expr"]) for target in panel["targets"]]
        found += [Expression(f"{name}: {note['name']}", note["expr"]) for note in board["annotations"]["list"]]
    found += [Expression(f"rules.yml: {rule['record']}", rule["expr"]) for rule in rules("rules.yml")]
    found += [Expression(f"alerts.yml: {rule['alert']}", rule["expr"]) for rule in rules("alerts.yml")]
    return found


def kv_expressions() -> list[Expression]:
    """Every expression of the workers' dashboard."""
    return [
        Expression(f"{KV}: {panel['title']}", target["expr"])
        for panel in panels(boards()[KV])
        for target in panel["targets"]
    ]


def filled(text: str, *, lately: str = "20s", whole: str = "60s") -> str:
    """An expression with its dashboard's variables as Grafana fills them in."""
    values = {"$job": "homenode", "$instance": ".*", "$worker": ".*", "$__rate_interval": lately, "$__range": whole}
    for variable, value in values.items():
        text = text.replace(variable, value)
    return text


def evaluated(expression: Expression) -> str:
    """What to ask of Prometheus: filled in, and conditions as values.

    `x > 1` gives nothing while all is well, which looks like a metric that does not exist; `x > bool 1` gives 0.
    """
    text = filled(expression.text)
    if expression.place.startswith("alerts.yml") or text.endswith("> 0"):
        text = re.sub(r" (>|<|==) (?=[\d.]+(\s|$))", r" \1 bool ", text)
    return text
