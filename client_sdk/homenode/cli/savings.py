"""savings: what coherence has spared the agents of a running directory, by artifact and agent."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from homenode.cli.exits import Exit
from homenode.cli.output import Output, console, size_text, table
from homenode.cli.session import Commands, connected
from homenode.values import Saving

BY = ("artifact", "agent", "strategy", "both")
TOP = 20
_COUNTS = ("tokens_hit", "tokens_delta", "tokens_unchanged", "bytes_hit")
_DESCRIPTION = """\
Tokens that the workspace's agents were not shown again (hits of their caches, changes instead of whole texts,
versions that had not changed), and bytes that hits did not fetch: of the last hour, in steps of a quarter of it, and
the last day, in steps of an hour, as SDKs tell with their pings. It lies in the store, so it is of all servers and
survives them; a server that is killed takes what it was told in the last 5 seconds with it. What there was no room
for to tell apart is counted together, as –.
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
    async with connected(args, "savings") as hn:
        told = await hn.savings()
    spans = {name: summed(getattr(told, name), args.by) for name in ("hour", "day")}
    if out.json:
        out.value({**spans, "counted_s": told.counted_ms // 1_000})
        return Exit.OK
    for name, lines in spans.items():
        console().print(f"last {name}: {_tokens(lines):,} tokens, {size_text(sum(one['bytes_hit'] for one in lines))}")
        if lines:
            console().print(_table(lines[: args.top]))
    if told.counted_ms:
        hours = -(-told.counted_ms // 3_600_000)
        out.line(f"The first of it was told within the last {f'{hours} hours' if hours > 1 else 'hour'}.")
    return Exit.OK


def summed(lines: Iterable[Saving], by: str) -> list[dict[str, Any]]:
    """Lines, added up, the largest first."""
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    names = {"artifact": ("key",), "agent": ("agent",), "strategy": ("strategy",)}.get(by, ("key", "agent", "strategy"))
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
