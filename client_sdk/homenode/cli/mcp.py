"""mcp: serve MCP clients."""

from __future__ import annotations

import argparse
import ipaddress
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output
from homenode.cli.session import Commands, connected, installed_version


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    mcp = commands.add_parser(
        "mcp",
        parents=[common],
        help="serve MCP clients: artifacts as resources, and tools that read and write them",
        description="Serves one MCP client at stdin and stdout, or with --http any number of them, until Ctrl-C.",
    )
    mcp.add_argument("--http", metavar="HOST:PORT", help="streamable HTTP at http://HOST:PORT/mcp instead of stdio")
    mcp.add_argument(
        "--allow-remote",
        action="store_true",
        help="with --http: listen on an address that other hosts reach. Nobody is asked who they are: put a proxy "
        "that does in front",
    )
    mcp.add_argument("--agent", default="mcp", metavar="NAME", help="the name that the directory shows (default: mcp)")
    mcp.set_defaults(run=run_mcp)


async def run_mcp(args: argparse.Namespace, out: Output) -> int:
    """`mcp`: until the client goes, or Ctrl-C."""
    try:
        from homenode.adapters import mcp
    except ImportError as missing:
        raise CliError(str(missing), Exit.MISSING_EXTRA) from None
    place = _place(args.http, args.allow_remote) if args.http else None
    async with connected(args, agent=args.agent) as hn:
        if place is None:
            await mcp.serve_stdio(hn, version=installed_version())
        else:
            out.note(f"MCP at http://{args.http}/mcp; Ctrl-C ends")
            await mcp.serve_http(hn, *place, version=installed_version())
    return Exit.OK


def _place(text: str, remote: bool) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise CliError(f"--http is HOST:PORT, not {text!r}", Exit.USAGE)
    if not remote and not _is_local(host):
        raise CliError(
            f"{host} is reached by other hosts, and nobody is asked who they are: see --allow-remote", Exit.USAGE
        )
    return host, int(port)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
