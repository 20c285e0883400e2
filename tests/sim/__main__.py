"""`python -m tests.sim --seeds N | A..B | --seed S [--trace] [--drill] [--mutant NAME]`: run seeds, say what fired and
what went wrong. With a mutant they are drills, and something must go wrong.

Runs are the same for the same seed in every process with the same PYTHONHASHSEED; a failure prints its command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter

from tests.sim.faults import NAMES
from tests.sim.mutants import MUTANTS, planted
from tests.sim.simulate import simulate

#: In so many runs every fault must have fired.
FIRING_SEEDS = 80


def main(argv: list[str] | None = None) -> int:
    """Exit status 1: something went wrong in a seed, or a fault never fired; with a mutant, nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="200", help="how many (from 0), or a range A..B without B")
    parser.add_argument("--seed", type=int, help="one seed only")
    parser.add_argument("--trace", action="store_true", help="print the run's trace")
    parser.add_argument("--drill", action="store_true", help="quiet runs but for what breaks strict consistency")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break a rule; stops at the first seed that shows it")
    args = parser.parse_args(argv)
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"  # the order of sets of strings is part of a run
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *(sys.argv[1:] if argv is None else argv)])
    first, _, last = args.seeds.partition("..")
    seeds = range(int(first), int(last)) if last else range(int(first))
    chosen = list(seeds) if args.seed is None else [args.seed]
    if args.mutant:
        return hunt(args.mutant, chosen)
    return report(chosen, trace=args.trace, drill=args.drill)


def hunt(mutant: str, seeds: list[int]) -> int:
    """Run drills with a broken rule until one shows it."""
    with planted(mutant):
        for seed in seeds:
            result, _ = simulate(seed, drill=True)
            if result.problems:
                print(f"{mutant}: found by seed {seed}: {result.problems[0]}")
                return 0
    print(f"{mutant}: not found by the seeds {seeds[0]} to {seeds[-1]}")
    return 1


def report(seeds: list[int], *, trace: bool, drill: bool) -> int:
    """Run the seeds and print what came of them."""
    fired: Counter[str] = Counter()
    done: Counter[str] = Counter()
    failed = []
    virtual_s = 0.0
    also = " --drill" if drill else ""
    for seed in seeds:
        result, log = simulate(seed, drill=drill)
        fired += result.fired
        done += result.done
        virtual_s += result.virtual_s
        if trace:
            print("\n".join(log))
        if result.problems:
            failed.append(seed)
            print(f"seed {seed}: {len(result.problems)} problems; again: make sim ARGS='--seed {seed} --trace{also}'")
            for problem in result.problems[:5]:
                print(f"  {problem}")
        elif len(seeds) == 1:
            print(f"seed {seed}: digest {result.digest}")
    print(f"{len(seeds)} seeds, {virtual_s / 3_600:.1f} simulated hours")
    print("done: " + ", ".join(f"{name} {n}" for name, n in sorted(done.items())))
    print("fired: " + ", ".join(f"{name} {fired[name]}" for name in NAMES))
    silent = [name for name in NAMES if not fired[name]]
    if len(seeds) >= FIRING_SEEDS and not drill and silent:
        print(f"faults that never fired: {', '.join(silent)}")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
