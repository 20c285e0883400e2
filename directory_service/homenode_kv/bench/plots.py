"""Pictures of a run: quality against the refreshed share; reuse by anchors over γ and V; agents and rounds of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from homenode_kv.bench.rows import Row

_RULES = {"scattered": ("tab:red", "o"), "blocks": ("tab:purple", "s"), "repair": ("tab:blue", "^")}
_REUSED, _RIGHT, _AGREE, _KL = "tab:blue", "tab:green", "tab:olive", "tab:red"
_REFRESHED, _POINTS = 0.3, 0.02
"""What a way is to keep to: within so much of dense, with so much computed afresh."""
_WANTED = "wanted: within 2 points, 30 % afresh"
_CALLS = 0.7
_FASTER = 1.9

Panel = Callable[[Any, Sequence[Row]], None]


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes the pictures that these rows are enough for; where they are."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    quality, reuse = _of(rows, "accuracy/"), _of(rows, "anchors/")
    several = [(name, panel) for name, panel in (("agents/", _agents), ("collective/", _rounds)) if _of(rows, name)]
    found = []
    if quality:
        found.append(_figure(_by_task(quality, [_quality]), folder / "kv-refreshed.png"))
    if reuse:
        panels: list[Panel] = [_gammas, *([_most] if any("/V=" in row.id for row in reuse) else [])]
        found.append(_figure(_by_task(reuse, panels), folder / "kv-gamma.png"))
    if several:
        found.append(_figure([[("", panel, _of(rows, name)) for name, panel in several]], folder / "kv-agents.png"))
    return found


def _of(rows: Sequence[Row], prefix: str) -> list[Row]:
    return [row for row in rows if row.id.startswith(prefix)]


def _by_task(rows: Sequence[Row], panels: Sequence[Panel]) -> list[list[tuple[str, Panel, Sequence[Row]]]]:
    tasks = list(dict.fromkeys(row.id.split("/")[1] for row in rows))
    return [
        [(task, panel, [row for row in rows if row.id.split("/")[1] == task]) for task in tasks] for panel in panels
    ]


def _figure(panels: list[list[tuple[str, Panel, Sequence[Row]]]], path: Path) -> Path:
    """One row of panels below the other, and below each row what its lines are."""
    from matplotlib import pyplot

    columns = max(map(len, panels))
    wide = 4.2 if columns > 2 else 5.5
    whole = pyplot.figure(figsize=(wide * columns, 4.4 * len(panels)), layout="constrained")
    parts = whole.subfigures(len(panels), 1, squeeze=False)[:, 0]
    for part, line in zip(parts, panels, strict=True):
        axes = part.subplots(1, columns, squeeze=False)[0]
        named: dict[str, Any] = {}
        for axis, (title, panel, rows) in zip(axes, line, strict=True):
            panel(axis, rows)
            axis.grid(alpha=0.3)
            if title:
                axis.set_title(title)
            for each in (axis, *getattr(axis, "twins", ())):
                named |= dict(zip(*reversed(each.get_legend_handles_labels()), strict=True))
        part.legend(
            named.values(), named.keys(), loc="outside lower center", ncols=int(wide * columns / 2.7), fontsize=9
        )
    whole.savefig(path, dpi=110)
    pyplot.close(whole)
    return path


def _quality(axes: Any, rows: Sequence[Row]) -> None:
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        parts = row.id.split("/")
        if len(parts) == 3:
            color, line = {"dense": ("k", "--"), "naive": ("grey", ":")}[parts[2]]
            label = {"dense": "dense", "naive": "kept KV as it is"}[parts[2]]
            axes.axhline(row.value, color=color, linestyle=line, label=label)
            if parts[2] == "dense":
                axes.fill_between([0, _REFRESHED], row.value - _POINTS, 1.03, color="gold", alpha=0.4, label=_WANTED)
            continue
        curves.setdefault((parts[2], parts[3].removeprefix("layer=")), []).append(
            (float(row.beside["refreshed"]), row.value)
        )
    for (rule, layer), points in curves.items():
        x, y = zip(*sorted(points), strict=True)
        color, mark = _RULES[rule]
        line, fill = ("-", color) if layer == "2" else (":", "white")
        axes.plot(x, y, line, marker=mark, color=color, markerfacecolor=fill, label=f"{rule}, check layer {layer}")
    axes.set(xlabel="share computed afresh", ylabel="right answers across blocks")
    axes.set(xlim=(0, 0.8), ylim=(-0.03, 1.03))


def _gammas(axes: Any, rows: Sequence[Row]) -> None:
    swept = [row for row in rows if row.id.split("/")[2].startswith("gamma=") and "/V=" not in row.id]
    swept.sort(key=lambda row: float(row.beside["gamma"]))
    _reuse(axes, swept, [f"{float(row.beside['gamma']):g}" for row in swept])
    axes.set_xlabel("γ (at most 20 anchors a place)")


def _most(axes: Any, rows: Sequence[Row]) -> None:
    open_ = [row for row in rows if float(row.beside["gamma"]) == _open(rows) and "gamma=" in row.id.split("/")[2]]
    open_.sort(key=lambda row: int(row.beside["anchors_max"]))
    _reuse(axes, open_, [f"{row.beside['anchors_max']}" for row in open_])
    axes.set_xlabel(f"V, anchors a place at most (γ = {_open(rows):g})")


def _open(rows: Sequence[Row]) -> float:
    """The γ for which V was swept."""
    return max((float(row.beside["gamma"]) for row in rows if "/V=" in row.id), default=0.0)


def _reuse(axes: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Evenly spaced: what matters lies close together."""
    where = list(range(len(rows)))
    axes.plot(where, [row.value for row in rows], "o-", color=_REUSED, label="calls reused")
    axes.plot(where, [float(row.beside["accuracy"]) for row in rows], "s-", color=_RIGHT, label="right answers")
    axes.plot(where, [float(row.beside["agreement"]) for row in rows], "x--", color=_AGREE, label="tokens as dense")
    if rows:
        dense = float(rows[0].beside["accuracy_dense"])
        axes.axhline(dense, color="k", linestyle="--", linewidth=1, label="right answers, dense")
    axes.axhline(_CALLS, color=_REUSED, linestyle=":", linewidth=1, label="70 % of calls")
    axes.set_xticks(where, names)
    axes.set(ylim=(-0.03, 1.05), ylabel="share")
    other = axes.twinx()
    far = [float(row.beside["kl"]) for row in rows]
    other.plot(where, far, "d-.", color=_KL, alpha=0.6, label="KL from dense (axis on the right)")
    top = max([3.0, *far])
    other.set_ylim(-0.03 * top, 1.05 * top)
    other.set_ylabel("KL, nats a token")
    axes.twins = (other,)


def _agents(axes: Any, rows: Sequence[Row]) -> None:
    tasks = list(dict.fromkeys(row.id.split("/")[1] for row in rows))
    for color, task in zip(("tab:red", "tab:blue", "tab:green", "tab:orange"), tasks, strict=False):
        mine = [(int(row.beside["agents"]), row) for row in rows if row.id.split("/")[1] == task]
        where = [agents for agents, _ in mine]
        axes.plot(where, [row.value for _, row in mine], "o-", color=color, label=f"{task}: calls reused")
        right = [float(row.beside["accuracy"]) for _, row in mine]
        axes.plot(where, right, "s--", color=color, markerfacecolor="white", label=f"{task}: right answers")
    axes.set(xlabel="agents", ylabel="share", ylim=(-0.03, 1.05))
    axes.set_title(f"reuse by anchors, γ = {float(rows[0].beside['gamma']):g}")


def _rounds(axes: Any, rows: Sequence[Row]) -> None:
    lines = {("serial", ""): ("tab:blue", "o-"), ("batched", ""): ("tab:orange", "s-")}
    lines |= {("serial", "deep"): ("tab:blue", "o:"), ("batched", "deep"): ("tab:orange", "s:")}
    for (against, deep), (color, style) in lines.items():
        name = [f"speedup-over-{against}", *([deep] if deep else [])]
        mine = [(int(row.id.split("/")[1]), row) for row in rows if row.id.split("/")[2:] == name]
        what = {"serial": "calls one by one", "batched": "decisions one by one"}[against]
        if mine:
            axes.set_xticks([size for size, _ in mine] if not deep else axes.get_xticks())
            label = f"over {what}" + (f", {mine[0][1].model}" if deep else "")
            axes.plot([size for size, _ in mine], [row.value for _, row in mine], style, color=color, label=label)
    axes.axhline(_FASTER, color="k", linestyle=":", linewidth=1, label="1.9 times")
    axes.set(xlabel="members of a round", ylabel="times faster in one call", ylim=(0, None))
    axes.set_title(f"one call for a round, {rows[0].model}")
