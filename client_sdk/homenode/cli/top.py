"""top: a directory at work, live."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.look import STATES, stat_fields
from homenode.cli.metrics import Metrics, addresses, fetch
from homenode.cli.output import Output, console
from homenode.cli.session import Commands, connected
from homenode.cli.top_figures import FIGURES, Fleet, figures
from homenode.cli.top_picture import Sample, activities, by_activity, picture
from homenode.errors import HomenodeError, InvalidArgument

if TYPE_CHECKING:
    from homenode import Homenode

INTERVAL_S = 1.0
ARTIFACTS_MAX = 5_000
PLAIN_ROWS = 24

_DESCRIPTION = f"""\
Artifacts of the workspace, the busiest since the last look first, and what the servers' /metrics tell of all
workspaces together, until Ctrl-C.

NEW are versions, TURNS grants and ends of the write lease. Reads from caches are known in sum, as SDKs tell, and not
for each artifact. What no server tells is shown as –. Of a workspace with more artifacts the first {ARTIFACTS_MAX:,} by
name are looked at; a PREFIX chooses others.
"""
_EPILOG = (
    """\
With --json, a line a look: artifacts (as `ls --json` has them, with new_versions and lease_turns), more (there are
others), states, servers (address, reached, error), and server: null without metrics, else
"""
    + "\n".join(f"  {name:<21} {meaning}" for name, meaning in FIGURES.items())
    + """
and from the second look on hit_rate_now, and of what rises a …_per_s. null: no server tells it.
"""
)


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    from homenode.cli.main import seconds

    top = commands.add_parser(
        "top",
        parents=[common],
        help="artifacts, states, sharers, writers and the servers' figures, live",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("prefix", metavar="PREFIX", nargs="?", default="")
    top.add_argument("--once", action="store_true", help="print one snapshot and end")
    top.add_argument("--interval", type=seconds, default=INTERVAL_S, metavar="S", help="default: 1")
    top.add_argument(
        "--metrics",
        metavar="URL[,URL…]",
        help="of each server or worker; default: port 7401 of the directory's hosts; off: do without",
    )
    top.set_defaults(run=run_top)


async def run_top(args: argparse.Namespace, out: Output) -> int:
    """`top`: live on a terminal; with --json a line a look."""
    places = addresses(args.url, args.metrics)
    try:
        async with connected(args, agent="top") as hn:
            if args.once or out.json:
                return await _print(hn, args, places, out)
            return await _live(hn, args, places)
    except asyncio.CancelledError:
        return Exit.OK


async def _look(hn: Homenode, args: argparse.Namespace, places: list[str]) -> Sample:
    stats, answers = await asyncio.gather(
        hn.list(args.prefix, limit=ARTIFACTS_MAX),
        asyncio.gather(*(asyncio.to_thread(_fetch, place) for place in places)),
    )
    told = {place: found for place, found in zip(places, answers, strict=True) if isinstance(found, Metrics)}
    failed = {place: found for place, found in zip(places, answers, strict=True) if isinstance(found, str)}
    at = time.monotonic()
    return Sample(at, stats, Fleet(at, told, failed) if places else None, more=len(stats) == ARTIFACTS_MAX)


def _fetch(place: str) -> Metrics | str:
    """The server's metrics, or why there are none."""
    try:
        return fetch(place)
    except OSError as error:
        return error.strerror or str(error)


async def _first(hn: Homenode, args: argparse.Namespace, places: list[str]) -> Sample:
    """The first look. Raises CliError where none of the metrics that were asked for is there."""
    sample = await _look(hn, args, places)
    fleet = sample.fleet
    if fleet is not None and args.metrics and not fleet.told:
        why = "; ".join(f"{place}: {reason}" for place, reason in fleet.failed.items())
        raise CliError(f"no metrics from {why}", Exit.UNAVAILABLE)
    return sample


async def _print(hn: Homenode, args: argparse.Namespace, places: list[str], out: Output) -> int:
    before: Sample | None = None
    sample = await _first(hn, args, places)
    while True:
        if out.json:
            out.value(fields(sample, before))
        else:
            screen = console()
            screen.print(picture(args.url, sample, before, width=screen.width, rows=None))
        if args.once:
            return Exit.OK
        await asyncio.sleep(args.interval)
        before, sample = sample, await _look(hn, args, places)


def fields(sample: Sample, before: Sample | None) -> dict[str, Any]:
    """A look for programs."""
    found = activities(sample, before)
    artifacts = []
    for stat in by_activity(sample, before):
        seen = found.get(stat.key)
        more = {"new_versions": seen.versions if seen else None, "lease_turns": seen.turns if seen else None}
        artifacts.append({**stat_fields(stat), **more})
    fleet, earlier = sample.fleet, before.fleet if before is not None else None
    servers: list[dict[str, Any]] = []
    if fleet is not None:
        servers += [{"address": place, "reached": True, "error": None} for place in fleet.told]
        servers += [{"address": place, "reached": False, "error": why} for place, why in fleet.failed.items()]
    return {
        "artifacts": artifacts,
        "more": sample.more,
        "states": {state: sum(stat.state == state for stat in sample.stats) for state in STATES},
        "servers": servers,
        "server": figures(fleet, earlier) if fleet is not None and fleet.told else None,
    }


async def _live(hn: Homenode, args: argparse.Namespace, places: list[str]) -> int:
    """On a terminal the screen is its own; on one that knows no such thing, looks follow each other."""
    from rich.live import Live

    screen = console()
    sample = await _first(hn, args, places)
    if not screen.is_terminal or screen.is_dumb_terminal:
        return await _follow(hn, args, places, sample, screen.print, lambda: (screen.width, PLAIN_ROWS))
    with Live(console=screen, auto_refresh=False, screen=True) as live:

        def show(what: Any) -> None:
            live.update(what, refresh=True)

        return await _follow(hn, args, places, sample, show, lambda: (screen.size.width, screen.size.height))


async def _follow(
    hn: Homenode,
    args: argparse.Namespace,
    places: list[str],
    sample: Sample,
    show: Callable[[Any], None],
    size: Callable[[], tuple[int, int]],
) -> int:
    from rich.text import Text

    before: Sample | None = None
    while True:
        width, rows = size()
        show(picture(args.url, sample, before, width=width, rows=rows))
        await asyncio.sleep(args.interval)
        try:
            before, sample = sample, await _look(hn, args, places)
        except InvalidArgument:
            raise
        except HomenodeError as error:  # it reconnects by itself
            show(Text(f"{args.url}: {error.message or type(error).__name__}; trying again"))
            before, sample = None, dataclasses.replace(sample)
