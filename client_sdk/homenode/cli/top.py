"""top: a directory at work, live."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.look import STATES, holder_text, stat_fields
from homenode.cli.metrics import Metrics, default_address, fetch
from homenode.cli.output import Output, ago_text, console, size_text, table
from homenode.cli.session import Commands, connected
from homenode.errors import HomenodeError, InvalidArgument

if TYPE_CHECKING:
    from homenode import Homenode
    from homenode.values import Stat

INTERVAL_S = 1.0
HEAD_LINES = 9
_WRITING = ("M", "P")
_REQUESTS = "homenode_requests_total"
_CONFLICTS = ("version_conflict", "already_exists", "stale_fence", "lease_lost", "held")


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    from homenode.cli.main import seconds

    top = commands.add_parser(
        "top",
        parents=[common],
        help="artifacts, states, sharers, writers and the server's figures, live",
        description="Artifacts of the workspace, those that are being written or were just committed first, and what "
        "the server's /metrics tells of all workspaces. Reads that agents serve from their own caches do not reach the "
        "server, so it cannot count them. Until Ctrl-C.",
    )
    top.add_argument("prefix", metavar="PREFIX", nargs="?", default="")
    top.add_argument("--once", action="store_true", help="print one snapshot and end")
    top.add_argument("--interval", type=seconds, default=INTERVAL_S, metavar="S", help="default: 1")
    top.add_argument("--metrics", metavar="URL", help="default: port 7401 of the directory's host; off: do without")
    top.set_defaults(run=run_top)


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `metrics` is None where there are none; `at` in seconds of the monotonic clock."""

    at: float
    stats: Sequence[Stat]
    metrics: Metrics | None


async def run_top(args: argparse.Namespace, out: Output) -> int:
    """`top`: live on a terminal; with --json a line a look."""
    address = _address(args)
    try:
        async with connected(args, agent="top") as hn:
            if args.once or out.json:
                return await _print(hn, args, address, out)
            return await _live(hn, args, address)
    except asyncio.CancelledError:
        return Exit.OK


def _address(args: argparse.Namespace) -> str:
    if args.metrics == "off":
        return ""
    return args.metrics or default_address(args.url)


async def _look(hn: Homenode, args: argparse.Namespace, address: str) -> Sample:
    stats = await hn.list(args.prefix)
    metrics = None
    if address:
        try:
            metrics = await asyncio.to_thread(fetch, address)
        except OSError as error:
            if args.metrics:  # asked for
                raise CliError(f"no metrics from {address}: {error}", Exit.UNAVAILABLE) from None
    return Sample(time.monotonic(), stats, metrics)


async def _print(hn: Homenode, args: argparse.Namespace, address: str, out: Output) -> int:
    before: Sample | None = None
    while True:
        sample = await _look(hn, args, address)
        if out.json:
            out.value({"artifacts": [stat_fields(stat) for stat in sample.stats], "server": figures(sample, before)})
        else:
            console().print(picture(args.url, sample, before, rows=len(sample.stats)))
        if args.once:
            return Exit.OK
        before = sample
        await asyncio.sleep(args.interval)


async def _live(hn: Homenode, args: argparse.Namespace, address: str) -> int:
    from rich.live import Live
    from rich.text import Text

    screen = console()
    before = sample = await _look(hn, args, address)
    with Live(console=screen, auto_refresh=False, screen=screen.is_terminal) as live:
        while True:
            rows = max(3, screen.size.height - HEAD_LINES)
            live.update(picture(args.url, sample, before, rows=rows), refresh=True)
            await asyncio.sleep(args.interval)
            try:
                before, sample = sample, await _look(hn, args, address)
            except InvalidArgument:
                raise
            except HomenodeError as error:  # it reconnects by itself
                live.update(Text(f"{args.url}: {error.message or type(error).__name__}; trying again"), refresh=True)


def figures(sample: Sample, before: Sample | None) -> dict[str, float] | None:
    """What the server tells of itself, all workspaces together; rates need an earlier look."""
    now = sample.metrics
    if now is None:
        return None
    told = {
        "sessions": now.total("homenode_sessions"),
        "streams": now.total("homenode_streams"),
        "write_leases": now.total("homenode_leases"),
        "requests": now.total(_REQUESTS),
        "reads": now.total(_REQUESTS, operation="read"),
        "commits": _commits(now),
        "refused_writes": sum(now.total(_REQUESTS, operation="commit", outcome=reason) for reason in _CONFLICTS),
        "invalidations": now.total("homenode_delivered_total", kind="invalidation"),
        "bodies_held": now.total("homenode_content_bodies_total", kind="held"),
        "bodies": now.total("homenode_content_bodies_total"),
        "bytes_sent": now.total("homenode_content_bytes_total"),
        "tokens_saved": now.total("homenode_tokens_saved_total"),
    }
    earlier = before.metrics if before is not None and before is not sample else None
    if earlier is not None and before is not None:
        passed_s = max(0.001, sample.at - before.at)
        told["requests_per_s"] = max(0.0, now.total(_REQUESTS) - earlier.total(_REQUESTS)) / passed_s
        told["commits_per_s"] = max(0.0, _commits(now) - _commits(earlier)) / passed_s
    return told


def _commits(metrics: Metrics) -> float:
    return metrics.total(_REQUESTS, operation="commit", outcome="ok")


def picture(url: str, sample: Sample, before: Sample | None, *, rows: int) -> Any:
    """One look as text for a screen of some rows."""
    from rich.console import Group
    from rich.text import Text

    states = {state: sum(stat.state == state for stat in sample.stats) for state in STATES}
    summary = "  ".join(f"{state} {number}" for state, number in states.items() if number)
    lines = [
        Text(f"{url}  {time.strftime('%H:%M:%S')}", style="bold"),
        Text(f"artifacts {len(sample.stats)}  {summary}"),
        *(Text(line) for line in _server_lines(figures(sample, before))),
        Text(""),
    ]
    shown = by_activity(sample, before)[:rows]
    return Group(*lines, _table(shown, before), *_left_out(len(sample.stats) - len(shown)))


def _left_out(number: int) -> list[Any]:
    from rich.text import Text

    return [Text(f"… and {number} more")] if number > 0 else []


def _server_lines(told: dict[str, float] | None) -> list[str]:
    if told is None:
        return ["server: no metrics (--metrics URL names them)"]

    def rate(name: str) -> str:
        per_s = told.get(f"{name}_per_s")
        return f" ({per_s:.0f}/s)" if per_s is not None else ""

    held = f"{100 * told['bodies_held'] / told['bodies']:.0f} %" if told["bodies"] else "–"
    return [
        f"server: sessions {told['sessions']:.0f}  streams {told['streams']:.0f}"
        f"  write leases {told['write_leases']:.0f}  commits {told['commits']:.0f}{rate('commits')}"
        f"  refused writes {told['refused_writes']:.0f}",
        f"        requests {told['requests']:.0f}{rate('requests')}  reads {told['reads']:.0f}"
        f"  invalidations {told['invalidations']:.0f}",
        f"        bodies already held {held}  bytes sent {size_text(int(told['bytes_sent']))}"
        f"  tokens kept off the wire ~{told['tokens_saved']:.0f}",
    ]


def by_activity(sample: Sample, before: Sample | None) -> list[Stat]:
    """Those being written first, then those committed since the last look, then those with most copies."""
    return sorted(
        sample.stats,
        key=lambda stat: (stat.state not in _WRITING, -_new_versions(stat, before), -stat.sharers, stat.key),
    )


def _new_versions(stat: Stat, before: Sample | None) -> int:
    if before is None:
        return 0
    old = next((earlier.version.n for earlier in before.stats if earlier.key == stat.key), 0)
    return max(0, stat.version.n - old)


def _table(stats: Sequence[Stat], before: Sample | None) -> Any:
    rows = []
    for stat in stats:
        new = _new_versions(stat, before)
        rows.append(
            (
                stat.key,
                f"{stat.state} {STATES.get(stat.state, '')}",
                str(stat.version.n),
                f"+{new}" if new else "",
                str(stat.sharers),
                holder_text(stat),
                size_text(stat.size),
                ago_text(stat.committed_at_ms),
            )
        )
    columns = ("KEY", "STATE", "VERSION", "NEW", "SHARERS", "WRITER", "BYTES", "COMMITTED")
    return table(columns, rows, right=("VERSION", "NEW", "SHARERS", "BYTES"))
