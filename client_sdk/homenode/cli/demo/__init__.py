"""demo: agents in processes of their own share real files, beside a control arm that does without a directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from homenode.cli.output import Output
from homenode.cli.session import Commands, address_options

DESCRIPTION = """\
Several processes play agents (a planner, writers, reviewers; scripted, no network, no model) that read, edit and review
the same pages through a directory. One writer is killed while it holds a write lease; another one is stopped until its
lease has run out, and then tries to write all the same. A control arm plays the same turns on plain shared files.
It ends with a verdict that is computed from what the processes saw.

With --url the agents share the pages through the directory there, in workspaces of their own, and none is started here.
"""


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    demo = commands.add_parser(
        "demo",
        help="agents share files, one is killed, a control arm loses edits: with a verdict",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--serve", action="store_true", help="go on serving afterwards, until Ctrl-C (not if DEMO_ONLY=1)"
    )
    address_options(demo, "a directory to play at, instead of one that is started here")
    demo.add_argument("--store", metavar="URL", help="default: a SQLite file in the folder")
    demo.add_argument("--listen", metavar="HOST:PORT", help="default: 127.0.0.1:7400; a free port without --serve")
    demo.add_argument("--metrics", metavar="HOST:PORT", help="default: 127.0.0.1:7401; a free port without --serve")
    demo.add_argument("--dir", metavar="FOLDER", type=Path, default=Path(".homenode"), help="default: .homenode")
    demo.add_argument("--turns", metavar="N", type=turns, default=30, help="turns of each agent (default: 30)")
    demo.add_argument("--seed", metavar="N", type=int, default=7, help="of the agents' choices (default: 7)")
    demo.add_argument(
        "--plays", metavar="N", type=plays, default=1, help="play so often, each time with other turns (default: 1)"
    )
    demo.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        dest="figures",
        help="write all figures and the verdict of the last play here",
    )
    demo.set_defaults(run=run_demo)


def turns(text: str) -> int:
    """Enough turns for everything to happen, as an option."""
    if not text.isdecimal() or not 16 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"16 to 10000, not {text!r}")
    return int(text)


def plays(text: str) -> int:
    """How often, as an option."""
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"1 to 10000, not {text!r}")
    return int(text)


async def run_demo(args: argparse.Namespace, out: Output) -> int:
    """`demo`."""
    from homenode.cli.demo.run import run

    return await run(args, out)
