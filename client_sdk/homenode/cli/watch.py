"""watch: changes as they come."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from homenode.cli.exits import Exit
from homenode.cli.output import Output, size_text, version_fields
from homenode.cli.session import Commands, connected


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    watch = commands.add_parser(
        "watch", parents=[common], help="print changes under a prefix as they come, until Ctrl-C"
    )
    watch.add_argument("prefix", metavar="PREFIX", nargs="?", default="")
    watch.add_argument("--count", type=count, metavar="N", help="end after this many changes")
    watch.set_defaults(run=run_watch)


def count(text: str) -> int:
    """A positive whole number, as an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1, not {text!r}")
    return int(text)


async def run_watch(args: argparse.Namespace, out: Output) -> int:
    """`watch`: one line a change; a note says when it has begun. Ctrl-C is its ordinary end."""
    seen = 0
    try:
        async with connected(args) as hn:
            async with hn.watch(args.prefix) as events:
                out.note(f"watching {args.prefix or 'everything'}; Ctrl-C ends")
                async for event in events:
                    _print(event, out)
                    seen += 1
                    if seen == args.count:
                        break
    except asyncio.CancelledError:
        return Exit.OK
    return Exit.OK


def _print(event: Any, out: Output) -> None:
    if out.json:
        version = version_fields(event.version)
        out.value(
            {
                "kind": event.kind,
                "key": event.key,
                **version,
                "by": event.by,
                "by_name": event.by_name,
                "size": event.size,
            }
        )
        return
    by = event.by_name or event.by
    clock = time.strftime("%H:%M:%S")
    if event.kind == "resync":
        out.line(f"{clock}  changes may have been missed; list again")
    elif event.kind == "delete":
        out.line(f"{clock}  {event.key}  deleted  by {by}")
    elif event.kind == "handoff":
        out.line(f"{clock}  {event.key}  write lease handed over by {by}")
    else:
        out.line(f"{clock}  {event.key}  version {event.version.n}  {size_text(event.size)} bytes  by {by}")
