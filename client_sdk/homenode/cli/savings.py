"""savings: what coherence has spared the agents of a running directory, by artifact and agent."""

from __future__ import annotations

import argparse
import asyncio
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from homenode.cli.exits import Exit
from homenode.cli.output import Output, console, size_text, table
from homenode.cli.session import Commands, connected
from homenode.errors import HomenodeError
from homenode.transport import parse
from homenode.values import Saving, Savings

BY = ("artifact", "agent", "strategy", "both")
TOP = 20
_COUNTS = ("tokens_hit", "tokens_delta", "tokens_unchanged", "bytes_hit")
_DESCRIPTION = """\
Tokens that the workspace's agents were not shown again (hits of their caches, changes instead of whole texts,
versions that had not changed), and bytes that hits did not fetch: of the last hour and the last day, as SDKs tell with
their pings. Counted by each server in memory, for the sessions that it carries and since it started: each host of the
address is asked, of several workers behind one port only one answers. What a server had no room for to tell apart is
counted together, as –.
A saving alone says nothing: look at the stale reads in `homenode top` beside it.
"""


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    savings = commands.add_parser(
        "savings",
        parents=[common],
        help="tokens and bytes saved in the last hour and day, by artifact and agent",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    savings.add_argument("--by", choices=BY, default="both", help="add lines up by one of these (default: both)")
    savings.add_argument("--top", type=int, default=TOP, metavar="N", help=f"lines to show (default: {TOP})")
    savings.set_defaults(run=run_savings)


async def run_savings(args: Namespace, out: Output) -> int:
    """`savings`. Ends with 5 where no server answers."""
    target = parse(args.url)
    hosts = [""] if target.embedded else list(target.hosts)
    answers = await asyncio.gather(*(_ask(args, host) for host in hosts))
    told = [answer for answer in answers if isinstance(answer, Savings)]
    if not told:
        raise next(answer for answer in answers if isinstance(answer, HomenodeError))
    spans = {name: summed((getattr(one, name) for one in told), args.by) for name in ("hour", "day")}
    counted_s = min(one.counted_ms for one in told) // 1_000
    silent = [host for host, answer in zip(hosts, answers, strict=True) if isinstance(answer, HomenodeError)]
    if out.json:
        out.value({**spans, "counted_s": counted_s, "servers": len(told), "silent": silent})
        return Exit.OK
    for name, lines in spans.items():
        console().print(f"last {name}: {_tokens(lines):,} tokens, {size_text(sum(one['bytes_hit'] for one in lines))}")
        if lines:
            console().print(_table(lines[: args.top]))
    out.line(f"Counted by {len(told)} server{'s' if len(told) > 1 else ''}, for {counted_s // 60} minutes at least.")
    for host in silent:
        out.line(f"{host} does not answer.")
    return Exit.OK


async def _ask(args: Namespace, host: str) -> Savings | HomenodeError:
    one = Namespace(**vars(args))
    if host:
        one.url = f"homenode://{host}/{parse(args.url).workspace}"
    try:
        async with connected(one, "savings") as hn:
            return await hn.savings()
    except HomenodeError as failure:
        return failure


def summed(tables: Iterable[Sequence[Saving]], by: str) -> list[dict[str, Any]]:
    """All servers' lines, added up, the largest first."""
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    names = {"artifact": ("key",), "agent": ("agent",), "strategy": ("strategy",)}.get(by, ("key", "agent", "strategy"))
    for lines in tables:
        for line in lines:
            told = tuple(getattr(line, name) for name in names)
            one = sums.setdefault(told, {**dict(zip(names, told, strict=True)), **dict.fromkeys(_COUNTS, 0)})
            for name in _COUNTS:
                one[name] += getattr(line, name)
    found = [{**one, "tokens": sum(one[name] for name in _COUNTS[:3])} for one in sums.values()]
    return sorted(found, key=lambda one: (-one["tokens"], -one["bytes_hit"]))


def _tokens(lines: Sequence[dict[str, Any]]) -> int:
    return sum(one["tokens"] for one in lines)


def _table(lines: Sequence[dict[str, Any]]) -> Any:
    names = [name for name in ("key", "agent", "strategy") if name in lines[0]]
    heads = [{"key": "ARTIFACT"}.get(name, name.upper()) for name in names]
    counts = ("TOKENS", "HITS", "CHANGES", "UNCHANGED", "BYTES")
    rows = [
        (
            *(one[name] or "–" for name in names),
            f"{one['tokens']:,}",
            *(f"{one[name]:,}" for name in _COUNTS[:3]),
            size_text(one["bytes_hit"]),
        )
        for one in lines
    ]
    return table((*heads, *counts), rows, right=counts)
