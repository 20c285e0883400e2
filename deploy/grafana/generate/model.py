"""The parts of Grafana's dashboard model that are used here, as small functions that give JSON values.

A test holds that what comes out has the fields and types of Grafana's published model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Json = dict[str, Any]

SCHEMA_VERSION = 41  # Grafana 11.6
TAG = "homenode"
COLUMNS = 24
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, BLUE = "green", "#EAB839", "red", "blue"

# Where a figure turns from one colour to the next; the first has no lower end.
Steps = Sequence[tuple[float | None, str]]
PLAIN: Steps = ((None, BLUE),)
ANY_IS_BAD: Steps = ((None, GREEN), (1e-9, RED))


def worse_above(warn: float, bad: float) -> Steps:
    """Green, yellow from `warn` on, red from `bad` on."""
    return ((None, GREEN), (warn, YELLOW), (bad, RED))


def worse_below(warn: float, bad: float) -> Steps:
    """Red, yellow from `bad` on, green from `warn` on."""
    return ((None, RED), (bad, YELLOW), (warn, GREEN))


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and how its series are called. `exemplar`: with points that lead to traces."""

    expr: str
    legend: str = ""
    exemplar: bool = False
    instant: bool = False
    form: str = "time_series"

    def target(self, number: int) -> Json:
        """As a panel has it."""
        return {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "legendFormat": self.legend or "__auto",
            "format": self.form,
            "instant": self.instant,
            "range": not self.instant,
            "exemplar": self.exemplar,
        }


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel without a place; `dashboard` gives it one. `text` says what it shows, and what to do about it."""

    kind: str
    title: str
    text: str
    queries: tuple[Query, ...]
    defaults: Json
    options: Json
    width: int
    height: int

    def json(self, number: int, x: int, y: int) -> Json:
        """The panel at its place."""
        panel: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "datasource": DATASOURCE,
            "targets": [query.target(n) for n, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self.defaults, "overrides": []},
            "options": self.options,
        }
        if self.kind == "table":
            panel["transformations"] = [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]
        return panel

    def wide(self, width: int, height: int = 0) -> Panel:
        """The same, so many of 24 columns wide; `height` where it differs."""
        return replace(self, width=width, height=height or self.height)


def _thresholds(steps: Steps) -> Json:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def stat(
    title: str,
    text: str,
    expr: str,
    unit: str,
    steps: Steps,
    *,
    whole: bool = False,
    named: dict[str, tuple[str, str]] | None = None,
) -> Panel:
    """One figure on its colour. `whole`: shown without decimals, as increases are estimates. `named` gives words and
    colours to values: {"1": ("on disk", "green")}."""
    defaults: Json = {
        "unit": unit,
        "noValue": "–",
        "color": {"mode": "thresholds"},
        "thresholds": _thresholds(steps),
        "mappings": [],
    }
    if whole:
        defaults["decimals"] = 0
    if named:
        words = {
            value: {"text": word, "color": color, "index": n} for n, (value, (word, color)) in enumerate(named.items())
        }
        defaults["mappings"] = [{"type": "value", "options": words}]
    options = {
        "graphMode": "none" if named else "area",
        "colorMode": "background",
        "justifyMode": "auto",
        "textMode": "value",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return Panel("stat", title, text, (Query(expr),), defaults, options, 3, 4)


def lines(
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str,
    *,
    steps: Steps = (),
    stacked: bool = False,
    most: float | None = None,
    log: bool = False,
) -> Panel:
    """Lines over time; `steps` are drawn as bounds. `most` is the end of the axis, `log` makes it logarithmic."""
    custom: Json = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 8,
        "gradientMode": "none",
        "showPoints": "never",
        "spanNulls": False,
        "axisPlacement": "auto",
        "axisLabel": "",
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    defaults: Json = {
        "unit": unit,
        "color": {"mode": "palette-classic"},
        "thresholds": _thresholds(steps or PLAIN),
        "mappings": [],
        "custom": custom,
    }
    if not log:
        defaults["min"] = 0
    if most is not None:
        defaults["max"] = most
    options = {
        "legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, text, tuple(queries), defaults, options, 8, 9)


def heat(title: str, text: str, expr: str, unit: str) -> Panel:
    """A histogram's buckets over time; `expr` is a rate by `le`."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "exemplars": {"color": "rgba(31,120,193,0.9)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    defaults: Json = {
        "custom": {
            "scaleDistribution": {"type": "linear"},
            "hideFrom": {"legend": False, "tooltip": False, "viz": False},
        }
    }
    return Panel("heatmap", title, text, (Query(expr, "{{le}}", form="heatmap"),), defaults, options, 8, 9)


def table(title: str, text: str, expr: str) -> Panel:
    """The labels of an instant vector, a row each."""
    defaults: Json = {
        "unit": "none",
        "thresholds": _thresholds(PLAIN),
        "mappings": [],
        "custom": {"align": "auto", "inspect": False},
    }
    options = {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"}
    return Panel("table", title, text, (Query(expr, instant=True, form="table"),), defaults, options, 8, 9)


def note(title: str, markdown: str) -> Panel:
    """Words."""
    options = {"mode": "markdown", "content": markdown}
    return Panel("text", title, markdown.split("\n", 1)[0], (), {}, options, COLUMNS, 6)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, from left to right."""

    title: str
    panels: tuple[Panel, ...]


def _variable(name: str, label: str, query: str, **more: Any) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": query,
        "refresh": 2,
        "sort": 1,
        **more,
    }


DATA_SOURCE: Json = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "query": "prometheus",
    "current": {"text": "Prometheus", "value": "prometheus"},
    "refresh": 1,
}


def series(name: str, label: str, query: str) -> Json:
    """A variable for any number of series, at first all of them."""
    chosen = {"text": ["All"], "value": ["$__all"]}
    return _variable(name, label, query, multi=True, includeAll=True, allValue=".*", current=chosen)


VARIABLES: list[Json] = [
    DATA_SOURCE,
    _variable(
        "job", "Job", "label_values(homenode_build_info, job)", current={"text": "homenode", "value": "homenode"}
    ),
    series("instance", "Directory", 'label_values(homenode_build_info{job="$job"}, instance)'),
]


def _annotation(name: str, color: str, expr: str) -> Json:
    return {"name": name, "datasource": DATASOURCE, "enable": True, "iconColor": color, "expr": expr}


# A minute back, which a restart may take: what happened is where the marked time begins.
ANNOTATIONS = [
    _annotation(
        "Restarts",
        YELLOW,
        'changes(process_start_time_seconds{job="$job",instance=~"$instance"}[1m]) > 0',
    ),
    _annotation(
        "The store's memory changed",
        RED,
        'increase(homenode_incarnations_total{job="$job",instance=~"$instance"}[1m]) > 0',
    ),
]


def dashboard(
    uid: str,
    title: str,
    text: str,
    rows: Sequence[Row],
    *,
    variables: Sequence[Json] = VARIABLES,
    annotations: Sequence[Json] = ANNOTATIONS,
) -> Json:
    """A dashboard: its rows, one below the other, their panels laid out over 24 columns."""
    panels: list[Json] = []
    number, y = 1, 0
    for row in rows:
        panels.append(
            {
                "id": number,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
                "panels": [],
            }
        )
        number, x, y, height = number + 1, 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            panels.append(panel.json(number, x, y))
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-15m", "to": "now"},
        "refresh": "5s",
        "timepicker": {},
        "templating": {"list": list(variables)},
        "annotations": {"list": list(annotations)},
        "links": [
            {
                "title": "Homenode",
                "type": "dashboards",
                "icon": "external link",
                "tooltip": "the other dashboards, for the same time and directories",
                "tags": [TAG],
                "asDropdown": False,
                "targetBlank": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": panels,
    }
