"""`python -m tests.bench`: measure the rows, print them, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.bench import bodies, growth, large, local, spread, throughput  # noqa: F401  (they register their rows)
from tests.bench.processes import COMPILED, ROOT
from tests.bench.rows import GROUPS, ORDER, Figures, Group, entry
from tests.bench.running import Bench


def main() -> int:
    """Measure and tell; 1 where a row could not be measured."""
    args = _arguments()
    wanted = None if args.rows is None else set(args.rows.split(",")) - {"none"}
    known = [row.id for group in GROUPS for row in group.rows]
    if wanted and not wanted <= set(known):
        print(f"no such row: {', '.join(sorted(wanted - set(known)))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if args.compiled:
        if not COMPILED.is_dir():
            print("nothing is compiled: make compiled", file=sys.stderr)
            return 2
        # For servers and loads alike: over `embedded://` the directory is in the load's process.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(COMPILED), os.environ.get("PYTHONPATH"))))
    (ROOT / ".run").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".run"))
    entries: list[dict[str, Any]] = []
    started = time.monotonic()
    try:
        with Bench(folder, rounds=args.rounds, seconds=args.seconds, peers=not args.alone) as bench:
            for group in sorted(GROUPS, key=lambda group: ORDER.index(group.rows[0].id)):
                rows = [row for row in group.rows if wanted is None or row.id in wanted]
                if rows:
                    figures = _measured(group, bench)
                    entries += (found := [entry(row, figures) for row in rows])
                    _show(found, figures)
            if args.growth:
                entries += growth.measure(bench)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{len(entries)} rows in {time.monotonic() - started:.0f} s")
    if args.json:
        Path(args.json).write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    return int(any("missing" in found for found in entries))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", help="only these, separated by commas; none: no rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each load in each round")
    parser.add_argument(
        "--growth", action="store_true", help="also over sessions, artifacts and sharers; takes minutes"
    )
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--compiled", action="store_true", help="with what `make compiled` made")
    parser.add_argument("--json", help="write the rows to this file")
    return parser.parse_args()


def _measured(group: Group, bench: Bench) -> Figures:
    try:
        return group.run(bench)
    except Exception as failure:
        traceback.print_exc()
        why = f"{type(failure).__name__}: {failure}".splitlines()[0]
        return Figures(missing={row.id: why for row in group.rows})


def _show(found: list[dict[str, Any]], figures: Figures) -> None:
    for row in found:
        if "missing" in row:
            print(f"{row['id']:18} NOT MEASURED: {row['missing']}")
            continue
        line = f"{row['id']:18} {row['ours']:12,.2f} {row['unit']:12}"
        if row["peer"] is not None:
            line += f" beside {row['peer']:12,.2f}: {row['ratio']:8.2f}"
        verdict = "met" if row["met"] else "MISSED"
        print(f"{line}  ({'at least' if row['at_least'] else 'at most'} {row['target']:g}: {verdict})")
    for side, rounds in figures.sides.items():
        if not rounds:
            continue
        median = {name: statistics.median(m.figures[name] for m in rounds) for name in rounds[0].figures}
        cpu = {name: statistics.median(m.cpu_us[name] for m in rounds) for name in rounds[0].cpu_us}
        told = ", ".join(f"{name} {us:.0f}" for name, us in cpu.items())
        shown = "  ".join(f"{name} {median[name]:,.2f}" for name in ("per_s", "p50_ms", "p99_ms") if name in median)
        print(f"    {side:14} {shown}   CPU us/operation: {told}")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
