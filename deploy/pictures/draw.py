"""Draws dashboards' panels from a recorded run: `draw.py RUN.json FOLDER`. Needs matplotlib; `make pictures` has it.

Panels lie where the dashboard has them, with its titles, units, legends and thresholds. These are not screenshots of
Grafana, and each picture says so.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

DASHBOARDS = Path(__file__).resolve().parents[1] / "grafana" / "dashboards"
# What is drawn of each dashboard: the rows of these titles.
PICTURES = {
    "overview": ("Is it healthy?", "What it does"),
    "store": ("Is it healthy?", "Calls"),
    "coherence": ("Is it healthy?", "Invalidations", "Writes and leases"),
}
WIDTH_PX, UNIT_PX, HEAD_PX, DPI = 1_440, 34, 72, 100
COLORS_MAX = 128  # of a picture, to keep the files small
BACK, PANEL, TEXT, FAINT, GRID = "#111217", "#181b1f", "#d8d9da", "#8e8e96", "#2c3235"
NAMED = {"green": "#3d8b40", "red": "#c4362f", "blue": "#2f5f9e", "transparent": TEXT}
PALETTE = (
    "#7EB26D", "#EAB839", "#6ED0E0", "#EF843C", "#E24D42", "#1F78C1", "#BA43A9", "#705DA0", "#508642", "#CCA300",
    "#447EBC", "#C15C17", "#890F02", "#0A437C", "#6D1F62", "#9AC48A",
)  # fmt: skip


def shown(value: float, unit: str) -> str:
    """A figure as Grafana would write it, more or less."""
    if math.isnan(value) or math.isinf(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s":
        for size, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return "0 s"
    ending = {"ops": "/s", "cps": "/s", "Bps": "B/s", "bytes": "B"}.get(unit, "")
    if unit == "bytes" or unit == "Bps":
        sizes = ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki"))
    else:
        sizes = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    for size, name in sizes:
        if abs(value) >= size:
            return f"{value / size:.3g} {name}{ending}"
    return f"{value:.3g}{' ' if ending[:1] == 'B' else ''}{ending}"


def named(legend: str, labels: dict[str, str]) -> str:
    """A series' name; directories are told apart by number, not by the run's ports."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


class Picture:
    """One dashboard's rows, one below the other."""

    def __init__(self, run: dict[str, Any], name: str) -> None:
        self.run = run
        self.board = json.loads((DASHBOARDS / f"{name}.json").read_text())
        self.recorded = run["boards"][name]
        self.start, self.end = run["start"], run["end"]
        instances = sorted({labels["instance"] for labels, _ in self._all_series() if "instance" in labels})
        self.directories = {address: f"directory-{n}" for n, address in enumerate(instances, 1)}

    def _all_series(self) -> Iterator[tuple[dict[str, str], list[Any]]]:
        for answers in self.recorded["panels"].values():
            for answer in answers:
                yield from ((labels, values) for labels, values in answer)

    def draw(self, rows: tuple[str, ...], path: Path) -> None:
        """Draw the rows of these titles into a PNG file."""
        placed, height = self._placed(rows)
        total = HEAD_PX + height * UNIT_PX
        figure = plt.figure(figsize=(WIDTH_PX / DPI, total / DPI), dpi=DPI, facecolor=BACK)
        minutes = f"{(self.end - self.start) / 60:.1f} minutes on {self.run['day']}: {self.run['device']}"
        figure.text(0.008, 1 - 22 / total, self.board["title"], color=TEXT, fontsize=13, weight="bold")
        label = f"Drawn from the run's own queries, not a Grafana screenshot. {minutes}."
        marks = "Dotted: a directory was killed and started again (yellow), Redis was restarted (red)."
        figure.text(0.008, 1 - 42 / total, label, color=FAINT, fontsize=8.5)
        figure.text(0.008, 1 - 58 / total, marks, color=FAINT, fontsize=8.5)
        for panel, y in placed:
            at = panel["gridPos"]
            box = (
                at["x"] / 24 + 0.004,
                1 - (HEAD_PX + (y + at["h"]) * UNIT_PX - 4) / total,
                at["w"] / 24 - 0.008,
                (at["h"] * UNIT_PX - 8) / total,
            )
            getattr(self, "_" + panel["type"])(figure, panel, box, total)
        figure.savefig(path, facecolor=BACK)
        plt.close(figure)
        Image.open(path).convert("RGB").quantize(COLORS_MAX).save(path, optimize=True)

    def _placed(self, rows: tuple[str, ...]) -> tuple[list[tuple[dict[str, Any], int]], int]:
        placed, shift, below, taking = [], 0, 0, False
        for panel in self.board["panels"]:
            at = panel["gridPos"]
            if panel["type"] == "row":
                taking = panel["title"] in rows
                shift = at["y"] - below
            if taking:
                placed.append((panel, at["y"] - shift))
                below = max(below, at["y"] - shift + at["h"])
        return placed, below

    def _row(self, figure: Figure, panel: dict[str, Any], box: tuple[float, ...], total: int) -> None:
        figure.text(
            box[0], box[1] + box[3] / 2, "▾ " + panel["title"], color=TEXT, fontsize=10, weight="bold", va="center"
        )

    def _stat(self, figure: Figure, panel: dict[str, Any], box: tuple[float, ...], total: int) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        values = [(at, float(value)) for _, series in self._answer(panel, 0) for at, value in series]
        values = [(at, value) for at, value in values if not math.isnan(value)]
        last = values[-1][1] if values else math.nan
        color = next(
            (s["color"] for s in reversed(defaults["thresholds"]["steps"]) if s["value"] is None or last >= s["value"]),
            "blue",
        )
        text = shown(round(last) if defaults.get("decimals") == 0 and values else last, defaults["unit"])
        for mapping in defaults["mappings"]:
            if f"{last:g}" in mapping["options"]:
                text = mapping["options"][f"{last:g}"]["text"]
        axes = figure.add_axes(box, facecolor=NAMED.get(color, color))
        self._bare(axes)
        if panel["options"]["graphMode"] == "area" and len(values) > 1:
            over = axes.twinx()
            self._bare(over)
            over.fill_between([at for at, _ in values], [value for _, value in values], color="white", alpha=0.18, lw=0)
            over.set_xlim(self.start, self.end)
            over.set_ylim(0, (max(value for _, value in values) or 1) * 2.6)
        axes.text(
            0.05, 0.92, panel["title"], color="white", fontsize=8, va="top", transform=axes.transAxes, weight="bold"
        )
        axes.text(
            0.5,
            0.42,
            text,
            color="white",
            fontsize=19,
            ha="center",
            va="center",
            transform=axes.transAxes,
            weight="bold",
        )

    def _timeseries(self, figure: Figure, panel: dict[str, Any], box: tuple[float, ...], total: int) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        custom, unit = defaults["custom"], defaults["unit"]
        series = self._series(panel)
        legend_px = 13 * min(len(series), 7) + 4
        axes = self._frame(figure, panel, box, total, legend_px)
        if custom["stacking"]["mode"] == "normal" and series:
            times = sorted({at for _, points in series for at in points})
            columns = [[points.get(at, 0.0) for at in times] for _, points in series]
            colors = [PALETTE[n % len(PALETTE)] for n in range(len(series))]
            axes.stackplot(times, columns, colors=colors, alpha=0.55, lw=0)
        for number, (_, points) in enumerate(series if custom["stacking"]["mode"] == "none" else []):
            times = _with_gaps(points)
            color = PALETTE[number % len(PALETTE)]
            axes.plot(times, [points.get(at, math.nan) for at in times], color=color, lw=1.2)
            if custom["scaleDistribution"]["type"] == "linear":
                axes.fill_between(times, [points.get(at, math.nan) for at in times], color=color, alpha=0.08, lw=0)
        if custom["scaleDistribution"]["type"] == "log":
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        else:
            axes.set_ylim(0, defaults.get("max"))
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=unit == "short" and axes.get_ylim()[1] > 1))
        if custom["thresholdsStyle"]["mode"] == "dashed":
            for step in defaults["thresholds"]["steps"][1:]:
                if step["value"] <= axes.get_ylim()[1]:
                    axes.axhline(step["value"], color=NAMED.get(step["color"], step["color"]), lw=1, ls="--")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
        self._marks(axes)
        self._legend(figure, series, unit, box, total)

    def _heatmap(self, figure: Figure, panel: dict[str, Any], box: tuple[float, ...], total: int) -> None:
        unit = panel["options"]["yAxis"]["unit"]
        found = sorted((float(labels["le"]), dict(map(tuple, values))) for labels, values in self._answer(panel, 0))
        axes = self._frame(figure, panel, box, total, 0)
        times = sorted({at for _, points in found for at in points})
        rows = []
        for number in range(len(found)):
            below = found[number - 1][1] if number else {}
            rows.append([max(0.0, float(found[number][1].get(at, 0)) - float(below.get(at, 0))) for at in times])
        while len(rows) > 1 and not any(rows[-1]):
            rows.pop()
        cells = [[math.nan if value <= 0 else value**0.5 for value in row] for row in rows]
        if times:
            axes.pcolormesh(
                [*times, times[-1] + 1], range(len(rows) + 1), cells, cmap="Oranges_r", shading="flat", rasterized=True
            )
        axes.set_yticks(range(1, len(rows) + 1), [shown(found[n][0], unit) for n in range(len(rows))])
        self._marks(axes)

    def _table(self, figure: Figure, panel: dict[str, Any], box: tuple[float, ...], total: int) -> None:
        back = figure.add_axes(box, facecolor=PANEL)
        self._bare(back)
        y = box[1] + box[3] - 7 / total
        figure.text(box[0] + 0.006, y, panel["title"], color=TEXT, fontsize=9.5, va="top", weight="bold")
        rows = [labels for labels, values in self._answer(panel, 0) if float(values[-1][0]) >= self.end - 2]
        names = sorted({name for labels in rows for name in labels})
        for number, labels in enumerate([{name: name for name in names}, *rows]):
            for column, name in enumerate(names):
                told = self.directories.get(labels.get(name, ""), labels.get(name, ""))
                at = (box[0] + 0.008 + column * box[2] / len(names), y - (32 + 18 * number) / total)
                figure.text(*at, told, color=FAINT if number == 0 else TEXT, fontsize=8.5, va="center")

    def _answer(self, panel: dict[str, Any], number: int) -> list[Any]:
        answers = self.recorded["panels"][str(panel["id"])]
        return answers[number] if answers else []

    def _series(self, panel: dict[str, Any]) -> list[tuple[str, dict[float, float]]]:
        found = []
        for number, target in enumerate(panel["targets"]):
            for labels, values in self._answer(panel, number):
                told = {**labels, "instance": self.directories.get(labels.get("instance", ""), "")}
                points = {at: float(value) for at, value in values if not math.isnan(float(value))}
                found.append((named(target["legendFormat"], told), points))
        return [(name, points) for name, points in found if any(points.values())] or found[:3]

    def _frame(self, figure: Figure, panel: dict[str, Any], box: tuple[float, ...], total: int, legend_px: int) -> Axes:
        back = figure.add_axes(box, facecolor=PANEL)
        self._bare(back)
        figure.text(
            box[0] + 0.006,
            box[1] + box[3] - 7 / total,
            panel["title"],
            color=TEXT,
            fontsize=9.5,
            va="top",
            weight="bold",
        )
        left, bottom, top = 58 / WIDTH_PX, (24 + legend_px) / total, 28 / total
        inner = (box[0] + left, box[1] + bottom, box[2] - left - 12 / WIDTH_PX, box[3] - bottom - top)
        axes = figure.add_axes(inner, facecolor=PANEL)
        axes.tick_params(colors=FAINT, labelsize=7.5, length=0)
        axes.grid(color=GRID, lw=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlim(self.start, self.end)
        ticks = range(0, int(self.end - self.start) + 1, 20)
        axes.set_xticks([self.start + tick for tick in ticks], [f"{tick} s" for tick in ticks])
        return axes

    def _marks(self, axes: Axes) -> None:
        for mark in self.recorded["marks"]:
            times = sorted(float(at) for _, values in mark["series"] for at, _ in values)
            firsts = [at for n, at in enumerate(times) if not n or at - times[n - 1] > 3]
            for at in firsts:
                axes.axvline(at, color=NAMED.get(mark["color"], mark["color"]), lw=1, ls=":")

    def _legend(self, figure: Figure, series: list[Any], unit: str, box: tuple[float, ...], total: int) -> None:
        for number, (name, points) in enumerate(series[:7]):
            y = box[1] + (13 * (min(len(series), 7) - 1 - number) + 9) / total
            last = list(points.values())[-1] if points else math.nan
            most = max(points.values()) if points else math.nan
            more = f"  … and {len(series) - 7} more" if number == 6 and len(series) > 7 else ""
            figure.text(box[0] + 0.008, y, "▬", color=PALETTE[number % len(PALETTE)], fontsize=7.5, va="center")
            figure.text(box[0] + 0.019, y, name + more, color=TEXT, fontsize=7.5, va="center")
            figures = f"last {shown(last, unit)}   max {shown(most, unit)}"
            figure.text(box[0] + box[2] - 0.008, y, figures, color=FAINT, fontsize=7.5, va="center", ha="right")

    @staticmethod
    def _bare(axes: Axes) -> None:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)


def _with_gaps(points: dict[float, float]) -> list[float]:
    """The times, with one more in each gap, so that no line is drawn across it."""
    times: list[float] = []
    for at in sorted(points):
        if times and at - times[-1] > 2:
            times.append(times[-1] + 1)
        times.append(at)
    return times


def main() -> None:
    """Draw all of them."""
    run, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for name, rows in PICTURES.items():
        Picture(run, name).draw(rows, folder / f"{name}.png")


if __name__ == "__main__":
    main()
