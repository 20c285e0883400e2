"""Two pictures of a run: quality against the refreshed share, and quality against reuse by anchors over γ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homenode_kv.bench.rows import Row

_STYLES = {"scattered": "o-", "blocks": "s-", "repair": "^-"}


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes the pictures that these rows are enough for; where they are."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, prefix, panel in (("refreshed", "accuracy/", _quality), ("gamma", "anchors/", _frontier)):
        chosen = [row for row in rows if row.id.startswith(prefix)]
        if chosen:
            found.append(_figure(chosen, panel, folder / f"kv-{name}.png"))
    return found


def _figure(rows: Sequence[Row], panel: Any, path: Path) -> Path:
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(row.id.split("/")[1] for row in rows))
    figure, axes = pyplot.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 4.2), layout="constrained", squeeze=False)
    for task, one in zip(tasks, axes[0], strict=True):
        panel(one, [row for row in rows if row.id.split("/")[1] == task])
        one.set(title=task, ylim=(-0.03, 1.05))
        one.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=8, loc="center left")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _quality(axes: Any, rows: Sequence[Row]) -> None:
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        parts = row.id.split("/")
        if len(parts) == 3:
            style = {"dense": ("k", "--"), "naive": ("grey", ":")}[parts[2]]
            axes.axhline(row.value, color=style[0], linestyle=style[1], label=parts[2])
            continue
        curves.setdefault((parts[2], parts[3].removeprefix("layer=")), []).append(
            (float(row.beside["refreshed"]), row.value)
        )
    for (rule, layer), points in curves.items():
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, _STYLES[rule], alpha=1.0 if layer == "2" else 0.4, label=f"{rule}, check layer {layer}")
    axes.set(xlabel="refreshed share of reused tokens", ylabel="right answers across blocks", xlim=(-0.02, 1.02))


def _frontier(axes: Any, rows: Sequence[Row]) -> None:
    swept = sorted(
        (row for row in rows if row.id.split("/")[2].startswith("gamma=") and "/V=" not in row.id),
        key=lambda row: float(row.beside["gamma"]),
    )
    gammas = list(range(len(swept)))  # evenly spaced: what matters lies close together
    axes.plot(gammas, [row.value for row in swept], "o-", label="calls reused")
    axes.plot(gammas, [float(row.beside["tokens_reused"]) for row in swept], "x:", label="tokens reused")
    axes.plot(gammas, [float(row.beside["accuracy"]) for row in swept], "s-", label="right answers")
    if swept:
        axes.axhline(float(swept[0].beside["accuracy_dense"]), color="k", linestyle="--", label="right answers, dense")
    axes.set_xticks(gammas, [f"{float(row.beside['gamma']):g}" for row in swept])
    axes.set(xlabel="γ")
