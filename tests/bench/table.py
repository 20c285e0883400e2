"""The rows as Markdown: `python -m tests.bench.table FILE [PAGE] [--compiled FILE]`.

Each FILE is as `make bench JSON=FILE` wrote it.

With a page, the text between its marks is replaced. The ratios of a run with `--compiled` get a column of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_UNITS = {"operations/s": "/s", "bytes": " B", "ms, p50 to the last": " ms"}


def device() -> str:
    """The machine and what is compared, in words."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return (
        f"{os.cpu_count()} cores ({cpu}), {_system()}, Python {platform.python_version()},"
        f" Redis {_version('redis-server')}, etcd {_version('etcd')}, {time.strftime('%-d %B %Y')}"
    )


def _system() -> str:
    lines = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return lines.get("PRETTY_NAME", platform.system()).strip('"')


def _version(command: str) -> str:
    if shutil.which(command) is None:
        return "?"
    said = subprocess.run([command, "--version"], capture_output=True, text=True).stdout.split()
    return next((word.removeprefix("v=") for word in said if word.removeprefix("v=")[:1].isdigit()), "?")


def _figure(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text}{_UNITS.get(unit, ' ' + unit)}"


def line(row: dict[str, Any], compiled: dict[str, Any] | None) -> str:
    """One row of the table; `compiled` is the same of another run, with compiled code."""
    more = ""
    if compiled is not None:
        alone = "ours" in compiled and not row["beside"]
        more = f" {_figure(compiled['ours'], row['unit']) if alone else _ratio(compiled)} |"
    if "missing" in row:
        return f"| {row['what']} | not measured: {row['missing']} | {row['beside']} | |{more} |"
    beside = f"{row['beside']}: {_figure(row['peer'], row['unit'])}" if row["peer"] is not None else ""
    verdict = f"{'≥' if row['at_least'] else '≤'} {row['target']:g}{'' if row['met'] else ', missed'}"
    return f"| {row['what']} | {_figure(row['ours'], row['unit'])} | {beside} | {_ratio(row)} |{more} {verdict} |"


def _ratio(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.3g}" if row.get("ratio") is not None else ""


def growth(series: dict[str, Any]) -> str:
    """One line of growth."""
    points = ", ".join(f"{x:,.0f}: {_figure(y, series['unit'])}" for x, y in series["points"])
    name = series["id"].removeprefix("growth_").replace("_", ", ")
    return f"| {name}: {series['unit']} over {series['over']} | {points} | {series['slope']:+.2f} |"


def text(rows: list[dict[str, Any]], compiled: list[dict[str, Any]] | None = None) -> str:
    """All of it."""
    judged = [row for row in rows if "points" not in row]
    others = None if compiled is None else {row["id"]: row for row in compiled}
    titles = ["", "Homenode", "beside it", "ratio", *(["compiled"] if others is not None else []), "target"]
    lines = [f"{device()}.", "", f"| {' | '.join(titles)} |".replace("|  |", "| |"), "|---" * len(titles) + "|"]
    lines += [line(row, None if others is None else others.get(row["id"], {})) for row in judged]
    lines += ["", f"{sum(bool(row['met']) for row in judged)} of {len(judged)} targets are met."]
    grown = [row for row in rows if "points" in row]
    if grown:
        lines += ["", "| growth | points | slope of the logarithms |", "|---|---|---|", *map(growth, grown)]
    return "\n".join(lines)


def main() -> None:
    """Print the text, or put it between the marks of a page."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.table", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--compiled", type=Path, help="a run with `make bench ARGS=--compiled`")
    args = parser.parse_args()
    made = text(*(json.loads(file.read_text()) for file in (args.file, args.compiled) if file is not None))
    if args.page is None:
        print(made)
        return
    head, begin, rest = args.page.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{args.page} has no marks {BEGIN} and {END}")
    args.page.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}")


if __name__ == "__main__":
    main()
