"""Trace validation: `python -m tests.spec.traces [--runs N]` writes logs of real runs as TLA+ for TLC to explain.

Every sound run must be explained to its last entry, no corrupted one may be, every kind of corruption must occur, and
every action that is logged must be seen. Exit status: 0 all of it holds, 1 it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from homenode_directory.store.base import Store
from homenode_directory.store.redis_store import RedisStore
from tests.spec.trace_faults import SPOILS, spoilt
from tests.spec.trace_module import Run, module
from tests.spec.trace_runs import in_memory, in_store, simulated
from tests.support.redis_process import RedisProcess

TLA = Path(__file__).resolve().parents[2] / "tla"
ACTIONS = {
    "GetS",
    "GetM",
    "Commit",
    "Put",
    "InvAck",
    "Expire",
    "EndSession",
    "SetPolicy",
    "Handoff",
    "Inherit",
    "Adopted",
}
UNLOGGED = {"Renew"}  # the only event that never writes a log entry
BATCH = 24  # sound runs in one call of TLC
REDIS_RUNS = 3


def tla_run() -> ModuleType:
    """`tla/run.py`, which is no package."""
    known = sys.modules.get("tla_run")
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location("tla_run", TLA / "run.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


@dataclass(frozen=True, slots=True)
class Verdict:
    """What TLC made of runs: how many entries of each were explained, and by which actions."""

    explained: dict[str, int]
    actions: frozenset[str]

    def wrong(self, runs: Sequence[Run]) -> list[str]:
        """What is not as it must be."""
        found = []
        for run in runs:
            at = self.explained.get(run.name, 0)
            if run.sound and at < len(run.lines):
                line = run.lines[at]
                found.append(f"{run.name}: entry {line.sequence} of {run.lines[-1].sequence} is not explained: {line}")
            elif not run.sound and at == len(run.lines):
                found.append(f"{run.name}: accepted, though it is corrupted")
        return found


def validate(runs: Sequence[Run], timeout_s: float = 600) -> Verdict:
    """Let TLC explain the runs. Raises RuntimeError where it did not come to its end."""
    config = (TLA / "Trace.cfg").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="trace-") as folder:
        file = Path(folder, "Run.tla")
        file.write_text(module("Run", runs), encoding="utf-8")
        outcome = tla_run().run_tlc("Run", config, file, workers=1, timeout_s=timeout_s)
    if outcome.exit_code != 0:
        raise RuntimeError(f"TLC ended with {outcome.exit_code} {outcome.broken}\n{outcome.output[-6_000:]}")
    explained: dict[str, int] = {}
    for name, at in re.findall(r'<<"explained", "([^"]+)", (\d+)>>', outcome.output):
        explained[name] = max(explained.get(name, 0), int(at))
    return Verdict(explained, frozenset(re.findall(r'<<"action", "(\w+)">>', outcome.output)))


def with_corruptions(runs: Sequence[Run], each: int) -> list[Run]:
    """The runs, each followed by corrupted ones, at most `each` of a kind."""
    return [made for run in runs for made in (run, *spoilt(run, each))]


def kinds(runs: Sequence[Run]) -> set[str]:
    """The kinds of corruption among them."""
    return {run.name.split("/")[1].split(".")[0] for run in runs if not run.sound}


@contextlib.contextmanager
def over_redis(folder: Path) -> Iterator[Callable[[int], list[Run]]]:
    """Driven runs over a Redis server of their own, by their seeds."""
    redis = RedisProcess(folder)
    redis.start()

    def run(seed: int) -> list[Run]:
        async def client() -> Store:
            store = RedisStore(redis.url, name=f"traces{seed}", slices=1)
            await store.open()
            return store

        opened: Callable[[], Awaitable[Store]] = client
        return in_store("redis", opened, seed)

    try:
        yield run
    finally:
        redis.stop()


def all_runs(number: int) -> list[Run]:
    """Driven runs over memory, lazy and strict, simulated ones, and some over Redis."""
    runs = [run for seed in range(number) for strict in (False, True) for run in in_memory(seed, strict=strict)]
    runs += [run for seed in range(number) for run in simulated(seed)]
    with tempfile.TemporaryDirectory(prefix="traces-") as folder, over_redis(Path(folder)) as driven:
        runs += [run for seed in range(REDIS_RUNS) for run in driven(seed)]
    return runs


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Validate logs of real runs against tla/Trace.tla.")
    parser.add_argument("--runs", type=int, default=24, help="seeds for each kind of run (default 24)")
    parser.add_argument("--each", type=int, default=2, help="corrupted runs of a kind for each sound run (default 2)")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.ERROR)  # of stores that come back as others, and of answers that are cut
    runs = all_runs(chosen.runs)
    seen: set[str] = set()
    spoiled: set[str] = set()
    wrong: list[str] = []
    for start in range(0, len(runs), BATCH):
        batch = with_corruptions(runs[start : start + BATCH], chosen.each)
        verdict = validate(batch)
        seen |= verdict.actions
        spoiled |= kinds(batch)
        wrong += verdict.wrong(batch)
        corrupted = sum(not run.sound for run in batch)
        lines = sum(len(run.lines) for run in batch if run.sound)
        print(f"{len(batch) - corrupted} runs of {lines} entries, {corrupted} corrupted ones", flush=True)
    wrong += [f"no sound run has the action {action}" for action in sorted(ACTIONS - seen)]
    wrong += [f"no run was corrupted by {kind}" for kind in sorted(set(SPOILS) - spoiled)]
    print("\n".join(wrong) or f"all as it must be; actions seen: {', '.join(sorted(seen))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
