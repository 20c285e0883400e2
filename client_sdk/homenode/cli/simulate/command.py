"""The command: which workloads, over which seeds; tables and JSON of what came of them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output, console, table
from homenode.cli.session import Commands
from homenode.cli.simulate import changes
from homenode.cli.simulate.corpus import CorpusError, load, pinned
from homenode.cli.simulate.edits import BLOCK, BLOCK_LINES, EDITS, HISTORY
from homenode.cli.simulate.figures import Agreement, Result, Verdict, agreement, sum_up, verdict
from homenode.cli.simulate.paper import ARTIFACT_TOKENS, SCENARIOS, SEEDS
from homenode.cli.simulate.pool import Job, processors, run_all
from homenode.cli.simulate.run import Outcome
from homenode.cli.simulate.workload import (
    ACCESSES,
    CHANGE,
    COMPARE,
    CONDITIONAL,
    DOCUMENT,
    LAZY,
    OVERWRITE,
    SHOWS,
    STRATEGIES,
    WRITES,
    Workload,
)
from homenode.errors import HomenodeError

T = TypeVar("T")
N = TypeVar("N", int, float)

SEEDS_MAX = 100_000
SEED_MAX = 1 << 32
ROWS_MAX = 2_000
AUTO = "auto"
_NAMES = tuple(scenario.name for scenario in SCENARIOS)


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    made = commands.add_parser(
        "simulate",
        parents=[common],
        help="what coherence saves: the published scenarios on the real directory, session and cache",
        description="Agents that read and write shared artifacts, over the real directory (in memory), sessions and "
        "caches, in virtual time. Tokens are compared with broadcast (everything to everybody after each step), with "
        "pulling at each access, and with prompts cached by exact prefix. Options that take several values, separated "
        "by commas, make a row for each combination. Scenarios: "
        + ", ".join(f"{one.name} {one.title} (V = {one.volatility:g})" for one in SCENARIOS)
        + ". Run i of a scenario has its published seed + i.",
    )
    add = made.add_argument
    add("--scenario", type=_some(_NAMES), default=None, metavar="A,…", help="published scenarios (default: all)")
    add("--volatility", type=_numbers(0, 1), metavar="V,…", help="instead: probabilities that an action is a write")
    add("--strategy", type=_some(STRATEGIES), default=[LAZY], metavar="S,…", help=f"all, or of {', '.join(STRATEGIES)}")
    add("--edit", type=_some(tuple(EDITS)), metavar="E,…", help=f"all, or of {', '.join(EDITS)} (default: whole)")
    add("--block-lines", type=_wholes(1, 1_024), metavar="L,…", help=f"of the edit {BLOCK} (default: {BLOCK_LINES})")
    real = "instead: what its history did to the Markdown and Python files that changed most often, --artifacts of them"
    add("--edits", metavar="REPOSITORY", help=real)
    add(
        "--lost",
        type=_numbers(0, 0.95),
        default=[0.0],
        metavar="P,…",
        help="part of the news that is lost (default: 0)",
    )
    add("--agents", type=_wholes(2, 64), default=[4], metavar="N,…", help="default: 4")
    add("--steps", type=_wholes(1, 10_000), metavar="S,…", help="default: 40")
    add("--artifacts", type=_wholes(1, 256), default=[3], metavar="M,…", help="default: 3")
    add(
        "--tokens",
        type=_wholes(16, 65_536),
        default=[ARTIFACT_TOKENS],
        metavar="D,…",
        help="of an artifact that is made up",
    )
    add("--max-steps", type=_wholes(0, 4_000), default=[None], metavar="K,…", help="greatest age of a copy in steps")
    add("--lease-steps", type=_whole(1, 4_000), default=10, metavar="T", help="of the strategy lease (default: 10)")
    add("--max-reads", type=_whole(0, 4_000), default=8, metavar="K", help="of the strategy access_count (default: 8)")
    show = "what a reader gets of a new version: the document, or what changed since the version in its context"
    add(
        "--show",
        type=_some((AUTO, *SHOWS)),
        default=[AUTO],
        metavar="S,…",
        help=f"{', '.join(SHOWS)}: {show}; auto: the document where the edit is whole",
    )
    writes = "over whatever is there, as published, or as compare-and-set"
    again = "what an access costs to what the context holds already: nothing, 8 tokens, or all of it"
    add("--access", type=_some(ACCESSES), default=[CONDITIONAL], metavar="A,…", help=f"{again}: {', '.join(ACCESSES)}")
    add("--writes", choices=(AUTO, *WRITES), default=AUTO, help=f"{writes} (auto: overwrite where the edit is whole)")
    add("--seeds", type=_seeds, default=range(SEEDS), metavar="N|A..B", help=f"runs of a row (default: {SEEDS})")
    add("--jobs", type=_whole(1, 256), default=processors(), metavar="N", help="processes (default: one a processor)")
    add(
        "--live",
        metavar="URL",
        help="the same with agents in processes of their own at a directory that runs, compared",
    )
    few = ", ".join(map(str, changes.STEPS))
    add(
        "--changes",
        action="store_true",
        help="instead: how many times fewer tokens changes take than documents, and how many at most (default: "
        f"scenario {changes.SCENARIO}, {BLOCK} of {', '.join(map(str, changes.BLOCKS))} lines, {few} steps)",
    )
    add("--plot", metavar="FILE", help="also draw a picture: savings over V, cost over n, staleness against saving")
    made.set_defaults(run=run_simulate)


def run_simulate(args: argparse.Namespace, out: Output) -> int:
    """`simulate`. Ends with 1 where more was fetched than is proved, or live runs disagree with the simulation."""
    _need_server()
    try:
        loads = workloads(args)
    except CorpusError as failure:
        raise CliError(str(failure), Exit.USAGE) from None
    pictures: list[list[Workload]] = []
    if args.plot:
        from homenode.cli.simulate import plot

        plot.check(args.plot)
        pictures = plot.workloads()
    compared = [one for load in loads for one in changes.pair(load)] if args.changes else loads
    every = list(dict.fromkeys([*compared, *(load for picture in pictures for load in picture)]))
    jobs = [(load, [load.base_seed + number for number in args.seeds]) for load in every]
    with out.counting() as count:
        results = _summed(jobs, run_all(jobs, args.jobs, lambda done, total: count("runs", done, total)))
        agreed: list[Agreement] = []
        if args.live:
            from homenode.cli.simulate.live import run_live

            args.url = args.live
            asked = [(load, seeds) for load, seeds in jobs if load in loads]
            live = asyncio.run(run_live(args, asked, lambda done, total: count("live runs", done, total)))
            simulated, results = results, results | _summed(asked, live)
            agreed = [agreement(simulated[load], results[load]) for load in loads]
    shown = [results[load] for load in dict.fromkeys(compared)]
    verdicts = [found for result in shown if (found := verdict(result)) is not None]
    if args.plot:
        plot.draw([[results[load] for load in picture] for picture in pictures], args.plot)
        out.note(f"drawn: {args.plot}")
    violations = {result.row.title: result.violations for result in results.values() if result.violations}
    rows = [changes.compare(load, results) for load in loads] if args.changes else []
    if out.json:
        gates = [found.as_dict() for found in verdicts]
        told = {"rows": [result.as_dict() for result in shown], "gate": gates, "violations": violations}
        told |= {"changes": changes.as_dicts(rows)} if rows else {}
        out.value(told | ({"live": [one.as_dict() for one in agreed]} if args.live else {}))
    else:
        changes.tell(out, rows) if rows else tell(out, shown, verdicts)
        for one in agreed:
            out.line(one.text())
        for scenario, seeds in violations.items():
            out.line(f"VIOLATION: {scenario}: more fetches than are proved with the seeds {list(seeds[:10])}")
    return Exit.ERROR if violations or not all(one.agree for one in agreed) else Exit.OK


def _summed(jobs: Sequence[Job], outcomes: Sequence[Sequence[Outcome]]) -> dict[Workload, Result]:
    return {load: sum_up(load, seeds, came) for (load, seeds), came in zip(jobs, outcomes, strict=True)}


def workloads(args: argparse.Namespace) -> list[Workload]:
    """What the options ask for. Raises CliError, CorpusError."""
    if args.edits and args.edit:
        raise CliError("--edit and --edits exclude each other", Exit.USAGE)
    if args.changes and (args.live or args.show != [AUTO]):
        raise CliError("--changes shows both ways, in virtual time: not with --show or --live", Exit.USAGE)
    args.steps = args.steps or (list(changes.STEPS) if args.changes else [40])
    args.block_lines = args.block_lines or (list(changes.BLOCKS) if args.changes else [BLOCK_LINES])
    args.corpus = pinned(args.edits) if args.edits else ""
    for count in args.artifacts if args.edits else ():
        load(args.corpus, count)
    edits = [HISTORY] if args.edits else args.edit or [BLOCK if args.changes else "whole"]
    if args.volatility:
        if args.scenario:
            raise CliError("--scenario and --volatility exclude each other", Exit.USAGE)
        bases = [Workload(f"V={part:g}", part, SCENARIOS[0].base_seed) for part in args.volatility]
    else:
        chosen = args.scenario or ((changes.SCENARIO,) if args.changes else _NAMES)
        bases = [Workload(one.name, one.volatility, one.base_seed) for one in SCENARIOS if one.name in chosen]
    sizes = product(args.agents, args.artifacts, args.tokens, args.max_steps, args.block_lines, args.steps)
    ways = product(args.strategy, edits, args.lost, args.access, args.show)
    found = [_workload(args, base, size, way) for base, size, way in product(bases, list(sizes), list(ways))]
    if len(found) > ROWS_MAX:
        raise CliError(f"{len(found)} rows are too many: at most {ROWS_MAX}", Exit.USAGE)
    return list(dict.fromkeys(found))


def _workload(args: argparse.Namespace, base: Workload, size: tuple[Any, ...], way: tuple[Any, ...]) -> Workload:
    agents, artifacts, tokens, max_steps, block_lines, steps = size
    strategy, edit, lost, access, show = way
    whole = edit == "whole"
    made = replace(
        base,
        agents=agents,
        steps=steps,
        artifacts=artifacts,
        tokens=tokens,
        max_steps=max_steps,
        strategy=strategy,
        edit=edit,
        lost=lost,
        block_lines=block_lines if edit == BLOCK else BLOCK_LINES,
        access=access,
        lease_steps=args.lease_steps,
        max_reads=args.max_reads,
        shows=(DOCUMENT if whole else CHANGE) if show == AUTO else show,
        writes=(OVERWRITE if whole else COMPARE) if args.writes == AUTO else args.writes,
        corpus=args.corpus,
    )
    said = [made.shows] * (show != AUTO) + [made.writes] * (args.writes != AUTO)
    return replace(made, scenario=" ".join([base.scenario, *_different(made), *said]))


def _different(load: Workload) -> list[str]:
    """What a row's name has to say beside its scenario."""
    marks = (
        ("n", load.agents, 4), ("S", load.steps, 40), ("m", load.artifacts, 3), ("d", load.tokens, ARTIFACT_TOKENS),
        ("K", load.max_steps, None), ("block", load.block_lines, BLOCK_LINES),
    )  # fmt: skip
    said = [f"{mark}={value}" for mark, value, usual in marks if value != usual]
    return said + [load.access] * (load.access != CONDITIONAL)


def tell(out: Output, results: Sequence[Result], verdicts: Sequence[Verdict]) -> None:
    """For people."""
    columns = ("SCENARIO", "V", "STRATEGY", "EDIT", "LOST", "TOKENS", "SAVED", "±", "FLOOR", "VS PULL", "VS PREFIX",
               "FETCHES", "BOUND", "HITS", "STALE", "OLDEST")  # fmt: skip
    rows = []
    for result in results:
        row = result.row
        rows.append((
            row.scenario, f"{row.volatility:g}", row.strategy, row.edit_model, f"{row.lost_rate:g}",
            f"{row.tokens_mean:,.0f}", _part(row.saving_mean), _part(row.saving_sd), _floor(result),
            _part(row.saving_vs_pull), _part(result.saving_vs_prefix), f"{row.fetches_mean:.1f}",
            f"{row.fetch_bound:.1f}", _part(row.hit_rate), f"{row.stale_reads} ({_part(result.stale_part)})",
            f"{row.max_age_steps} steps",
        ))  # fmt: skip
    console().print(table(columns, rows, right=columns[5:]))
    seeds = max(result.row.seeds for result in results)
    out.line(
        f"Means of {seeds} runs, in % but for tokens and counts. Fetches and their bound are of one artifact and run;"
    )
    out.line("stale: reads of a version that was superseded, and how long it had been (0: in the same step).")
    for found in verdicts:
        out.line(
            f"{found.scenario}: saved {100 * found.ours:.1f} %, published {100 * found.published:.1f} %, "
            f"{'inside' if found.inside else 'OUTSIDE'} ± {100 * found.allowed:.1f}"
        )


def _floor(result: Result) -> str:
    """Where the context pays again for what it holds, or sizes differ, nothing is proved."""
    fixed = result.workload.access == CONDITIONAL and not result.workload.corpus
    return _part(result.floors[1]) if fixed else "-"


def _part(value: float) -> str:
    return f"{100 * value:.1f}"


def _need_server() -> None:
    from homenode.embedded import server_packages

    try:
        server_packages()
    except HomenodeError as failure:
        raise CliError(
            "simulate needs the server's packages: pip install 'homenode[cli,server]'", Exit.MISSING_EXTRA
        ) from failure


# --- options ----------------------------------------------------------------------------------------------------------


def _several(one: Callable[[str], T]) -> Callable[[str], list[T]]:
    return lambda text: list(dict.fromkeys(one(part.strip()) for part in text.split(",")))


def _some(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        if text == "all":
            return list(names)
        found = [part.strip() for part in text.split(",")]
        for part in found:
            if part not in names:
                raise argparse.ArgumentTypeError(f"{part!r} is not one of {', '.join(names)}, all")
        return list(dict.fromkeys(found))

    return chosen


def _number(low: N, high: N, kind: Callable[[str], N]) -> Callable[[str], N]:
    def number(text: str) -> N:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if low <= value <= high:
                return value
        raise argparse.ArgumentTypeError(f"{low:g} to {high:g}, not {text!r}")

    return number


def _whole(low: int, high: int) -> Callable[[str], int]:
    return _number(low, high, int)


def _wholes(low: int, high: int) -> Callable[[str], list[int]]:
    return _several(_whole(low, high))


def _numbers(low: float, high: float) -> Callable[[str], list[float]]:
    return _several(_number(low, high, float))


def _seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    with contextlib.suppress(ValueError):
        start, stop = (int(first), int(last)) if dots else (0, int(first))
        if 0 <= start < stop <= min(SEED_MAX, start + SEEDS_MAX):
            return range(start, stop)
    raise argparse.ArgumentTypeError(
        f"how many (up to {SEEDS_MAX}), or a range A..B without B (up to {SEED_MAX}), not {text!r}"
    )
