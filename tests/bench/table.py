"""The rows as Markdown for the README: `python -m tests.bench.table FILE`, FILE as `make bench JSON=FILE` wrote it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_UNITS = {"operations/s": "/s", "bytes": " B"}


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


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "missing" in row:
        return f"| {row['what']} | not measured: {row['missing']} | {row['beside']} | | |"
    beside = f"{row['beside']}: {_figure(row['peer'], row['unit'])}" if row["peer"] is not None else ""
    ratio = f"{row['ratio']:.3g}" if row["ratio"] is not None else ""
    verdict = f"{'≥' if row['at_least'] else '≤'} {row['target']:g}{'' if row['met'] else ', missed'}"
    return f"| {row['what']} | {_figure(row['ours'], row['unit'])} | {beside} | {ratio} | {verdict} |"


def main() -> None:
    """Print the table."""
    rows = [row for row in json.loads(Path(sys.argv[1]).read_text()) if "points" not in row]
    print(f"{device()}.\n\n| | Homenode | beside it | ratio | target |\n|---|---|---|---|---|")
    for row in rows:
        print(line(row))
    judged = [row for row in rows if row["met"] is not None]
    print(f"\n{sum(row['met'] for row in judged)} of {len(rows)} targets are met.")


if __name__ == "__main__":
    main()
