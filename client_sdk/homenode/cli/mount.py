"""mount: a plain folder kept coherent with the directory."""

from __future__ import annotations

import argparse
import asyncio
import socket
from pathlib import Path
from typing import Any

from homenode.cli.exits import Exit
from homenode.cli.output import Output
from homenode.cli.session import Commands, connected
from homenode.mount import Mount, Report


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    mount = commands.add_parser(
        "mount",
        parents=[common],
        help="keep a plain folder and the artifacts under a prefix in agreement",
        description="Keeps a folder and the artifacts under a prefix in agreement until Ctrl-C, for agents that know "
        "files only. Where both sides changed, the directory's content takes the file's place and the file's own is "
        "kept beside it as NAME.conflict-….",
    )
    mount.add_argument("folder", metavar="DIR", type=Path)
    mount.add_argument("--prefix", default="", metavar="P", help="what the artifacts' names begin with, such as repo/")
    mount.add_argument("--once", action="store_true", help="bring both to agree, and end")
    mount.add_argument(
        "--ignore", action="append", default=[], metavar="PATTERN", help="names that are not shared, such as '*.o'"
    )
    mount.add_argument(
        "--agent", default=f"mount on {socket.gethostname()}", metavar="NAME", help="the name others see"
    )
    mount.set_defaults(run=run_mount)


async def run_mount(args: argparse.Namespace, out: Output) -> int:
    """`mount`: a line for each file that moved; Ctrl-C is its ordinary end. With --once a conflict is exit code 4."""
    conflicts = 0

    def tell(report: Report) -> None:
        nonlocal conflicts
        conflicts += report.action == "conflict"
        _print(report, out)

    async with connected(args, agent=args.agent) as hn:
        mount = Mount(hn, args.folder, args.prefix, address=args.url, ignore=args.ignore, tell=tell)
        if args.once:
            await mount.sync()
            return Exit.CONFLICT if conflicts else Exit.OK
        out.note(f"{args.folder} is a mount of {args.prefix or 'everything'} now; Ctrl-C ends")
        try:
            await mount.run()
        except asyncio.CancelledError:
            return Exit.OK
    return Exit.OK


def _print(report: Report, out: Output) -> None:
    if out.json:
        version = str(report.version) if report.version is not None else None
        out.value({"action": report.action, "file": report.name, "version": version, "text": report.text})
        return
    if report.action == "conflict":
        out.line(f"conflict  {report.name}: what the folder had is kept as {report.text}")
    elif report.action == "skip":
        out.line(f"skipped   {report.name}: {report.text}")
    else:
        version = f"  version {report.version.n}" if report.version is not None else ""
        out.line(f"{report.action:<9} {report.name}{version}")
