"""The picture of `homenode simulate --plot`: three panels, from sweeps of its own."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.simulate.figures import Result
from homenode.cli.simulate.paper import SCENARIOS
from homenode.cli.simulate.workload import CHANGE, COMPARE, EAGER, Workload

VOLATILITIES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
AGENTS = (2, 4, 8, 16)
LOSSES = (0.0, 0.1, 0.2, 0.3, 0.4)
BOUND_STEPS = 3
_SEED = SCENARIOS[0].base_seed


def check(path: str) -> None:
    """Raises CliError where a picture could not be drawn, or not there; before the runs, which may take minutes."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CliError("--plot needs a part that is not installed: pip install 'homenode[plot]'", Exit.MISSING_EXTRA)
    from matplotlib.backend_bases import FigureCanvasBase

    file, formats = Path(path), FigureCanvasBase.get_supported_filetypes()
    if file.suffix[1:].lower() not in formats:
        raise CliError(f"--plot: the name must end in one of .{', .'.join(sorted(formats))}, not {path!r}", Exit.USAGE)
    if file.is_dir() or not file.parent.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise CliError(f"--plot: nothing can be written to {path!r}", Exit.USAGE)


def workloads() -> list[list[Workload]]:
    """What `draw` needs: savings over V in three ways, cost over n in two, staleness over loss with and without K."""
    volatile = [Workload(f"V={part:g}", part, _SEED) for part in VOLATILITIES]
    many = [Workload(f"V=0.05 n={count}", 0.05, _SEED, agents=count) for count in AGENTS]
    lossy = [Workload("V=0.25", 0.25, _SEED, lost=part) for part in LOSSES]
    return [
        volatile,
        [replace(load, strategy=EAGER) for load in volatile],
        [replace(load, edit="one_block", shows=CHANGE, writes=COMPARE) for load in volatile],
        many,
        [replace(load, strategy=EAGER) for load in many],
        lossy,
        [replace(load, max_steps=BOUND_STEPS, scenario=f"V=0.25 K={BOUND_STEPS}") for load in lossy],
    ]


def draw(results: Sequence[Sequence[Result]], path: str) -> None:
    """Write the picture to a file; its name says the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lazy, eager, blocks, many, many_eager, lossy, bounded = results
    figure, (over_v, over_n, staleness) = pyplot.subplots(1, 3, figsize=(17, 5), layout="constrained")
    _savings(over_v, lazy, eager, blocks)
    _costs(over_n, many, many_eager)
    _staleness(staleness, lossy, bounded)
    seeds = lazy[0].row.seeds
    figure.supxlabel(f"means of {seeds} runs; bars: one standard deviation of a run, on the right one standard error")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _savings(axes: Any, lazy: Sequence[Result], eager: Sequence[Result], blocks: Sequence[Result]) -> None:
    where = [result.row.volatility for result in lazy]
    for found, label, marker in (
        (blocks, "lazy, changes of one block", "^"),
        (lazy, "lazy, whole rewrites", "o"),
        (eager, "eager, whole rewrites", "s"),
    ):
        means, spread = _percent(found, "saving_mean"), _percent(found, "saving_sd")
        axes.errorbar(where, means, spread, marker=marker, capsize=3, label=label)
    for index, label, style in ((0, "floor as published", ":"), (1, "floor as proved", "--")):
        axes.plot(where, [100 * result.floors[index] for result in lazy], style, color="grey", label=label)
    axes.plot(
        [one.volatility for one in SCENARIOS],
        [100 * one.saving for one in SCENARIOS],
        "kx",
        zorder=9,
        label="published",
    )
    axes.set(title="Saved against broadcast", xlabel="V, part of actions that write", ylabel="%", ylim=(0, 101))
    axes.legend()


def _costs(axes: Any, lazy: Sequence[Result], eager: Sequence[Result]) -> None:
    where = [result.workload.agents for result in lazy]
    for found, label, marker in ((lazy, "lazy", "o"), (eager, "eager", "s")):
        means, spread = _thousands(found, "tokens_mean"), _thousands(found, "tokens_sd")
        axes.errorbar(where, means, spread, marker=marker, capsize=3, label=label)
    axes.plot(where, _thousands(lazy, "broadcast_mean"), "--", color="grey", label="broadcast")
    axes.set(title="Cost over agents, V = 0.05", xlabel="agents", ylabel="thousand tokens a run")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(where, [str(count) for count in where])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.legend()


def _staleness(axes: Any, lossy: Sequence[Result], bounded: Sequence[Result]) -> None:
    """Points may lie on each other, so what belongs to them is told by colour and in the legend, not beside them."""
    from matplotlib import colormaps

    shades = colormaps["viridis_r"]
    for found, label, marker in ((lossy, "lazy", "o"), (bounded, f"lazy, K = {BOUND_STEPS}", "s")):
        savings, stale = _percent(found, "saving_mean"), [100 * result.stale_part for result in found]
        errors = [100 * result.row.saving_sd / result.row.seeds**0.5 for result in found]
        axes.errorbar(savings, stale, xerr=errors, marker=marker, color="grey", linewidth=0.8, capsize=3, label=label)
        for index, (x, y) in enumerate(zip(savings, stale, strict=True)):
            axes.plot(x, y, marker, color=shades(index / (len(found) - 1)), markersize=8, zorder=3 + index)
    for index, (one, other) in enumerate(zip(lossy, bounded, strict=True)):
        ages = f"{one.row.max_age_steps} and {other.row.max_age_steps}"
        shade = shades(index / (len(lossy) - 1))
        axes.plot([], [], "D", color=shade, label=f"{100 * one.row.lost_rate:.0f} % lost: {ages}")
    axes.set(title="Lost news look like savings, V = 0.25", xlabel="saved, %", ylabel="stale reads, %")
    axes.margins(x=0.1)
    axes.set_ylim(0, 115 * max(result.stale_part for result in (*lossy, *bounded)) or 1)
    axes.legend(
        title=f"oldest read in steps,\nlazy and with K = {BOUND_STEPS}", loc="center left", bbox_to_anchor=(1.01, 0.5)
    )


def _percent(results: Sequence[Result], name: str) -> list[float]:
    return [100 * getattr(result.row, name) for result in results]


def _thousands(results: Sequence[Result], name: str) -> list[float]:
    return [getattr(result.row, name) / 1_000 for result in results]
