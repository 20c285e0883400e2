"""ls, stat: what the directory knows of artifacts."""

from __future__ import annotations

import argparse
from typing import Any

from homenode.cli.exits import Exit
from homenode.cli.output import Output, ago_text, console, size_text, table, version_fields
from homenode.cli.session import Commands, connected

STATES = {
    "I": "no copies",
    "S": "shared",
    "E": "one copy",
    "M": "being written",
    "P": "commit waits for readers",
}


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add these commands to the command line."""
    ls = commands.add_parser("ls", parents=[common], help="list artifacts")
    ls.add_argument("prefix", metavar="PREFIX", nargs="?", default="")
    ls.set_defaults(run=run_ls)

    stat = commands.add_parser(
        "stat", parents=[common], help="state, holder, sharers, policy and versions of an artifact"
    )
    stat.add_argument("key", metavar="KEY")
    stat.set_defaults(run=run_stat)


async def run_ls(args: argparse.Namespace, out: Output) -> int:
    """`ls`: also 0 where there is nothing."""
    async with connected(args) as hn:
        stats = await hn.list(args.prefix)
    if out.json:
        out.value([stat_fields(stat) for stat in stats])
    elif stats:
        console().print(stat_table(stats))
    else:
        out.note(f"no artifacts{f' under {args.prefix}' if args.prefix else ''}")
    return Exit.OK


def stat_table(stats: list[Any]) -> Any:
    """Artifacts as a table for people."""
    rows = [
        (
            stat.key,
            str(stat.version.n),
            size_text(stat.size),
            stat.state,
            str(stat.sharers),
            holder_text(stat),
            ago_text(stat.committed_at_ms),
        )
        for stat in stats
    ]
    return table(
        ("KEY", "VERSION", "BYTES", "STATE", "SHARERS", "WRITER", "COMMITTED"),
        rows,
        right=("VERSION", "BYTES", "SHARERS"),
    )


def holder_text(stat: Any) -> str:
    """Who may write, for how long, and how many wait."""
    if not stat.holder:
        return "-"
    waiting = f", {stat.waiters} wait" if stat.waiters else ""
    return f"{stat.holder_name or stat.holder} ({stat.holder_remaining_ms / 1000:.1f} s{waiting})"


def stat_fields(stat: Any) -> dict[str, object]:
    """An artifact for programs."""
    return {
        "key": stat.key,
        **version_fields(stat.version),
        "size": stat.size,
        "hash": stat.hash.hex(),
        "state": stat.state,
        "sharers": stat.sharers,
        "holder": stat.holder or None,
        "holder_name": stat.holder_name or None,
        "holder_remaining_ms": stat.holder_remaining_ms,
        "waiters": stat.waiters,
        "fence": stat.fence,
        "committed_at_ms": stat.committed_at_ms,
        "metadata": dict(stat.metadata),
        "tags": list(stat.tags),
        "media_type": stat.media_type or None,
        "policy": policy_fields(stat.policy),
        "inherited": policy_fields(stat.inherited) if stat.inherited is not None else None,
    }


_POLICY = ("consistency", "push", "max_age_ms", "max_reads", "max_steps")


def policy_fields(policy: Any) -> dict[str, Any]:
    """A policy for programs."""
    return {name: getattr(policy, name) for name in _POLICY}


def policy_text(policy: Any) -> str:
    """A policy for people: what it says."""
    said = [f"{name}={value}" for name, value in policy_fields(policy).items() if value is not None]
    return " ".join(said) or "default"


async def run_stat(args: argparse.Namespace, out: Output) -> int:
    """`stat`."""
    async with connected(args) as hn:
        stat = await hn.stat(args.key)
        versions = await hn.history(args.key)
    if out.json:
        history = [
            {
                **version_fields(info.version),
                "size": info.size,
                "hash": info.hash.hex(),
                "by": info.by,
                "committed_at_ms": info.committed_at_ms,
                "deleted": info.deleted,
            }
            for info in versions
        ]
        out.value({**stat_fields(stat), "versions": history})
        return Exit.OK
    screen = console()
    screen.print(table(("", ""), _facts(stat)))
    if versions:
        rows = [
            (str(i.version.n), "deleted" if i.deleted else size_text(i.size), ago_text(i.committed_at_ms), i.by)
            for i in versions
        ]
        screen.print()
        screen.print(table(("VERSION", "BYTES", "COMMITTED", "BY SESSION"), rows, right=("VERSION", "BYTES")))
    return Exit.OK


def _facts(stat: Any) -> list[tuple[str, str]]:
    of_prefix = " (of its prefix)" if stat.nearest is stat.inherited else ""
    facts = [
        ("key", stat.key),
        ("version", f"{stat.version.n} (in full {stat.version})"),
        ("state", f"{stat.state}: {STATES.get(stat.state, 'unknown')}"),
        ("bytes", str(stat.size)),
        ("sha256", stat.hash.hex()),
        ("committed", ago_text(stat.committed_at_ms)),
        ("sharers", str(stat.sharers)),
        ("writer", holder_text(stat)),
        ("fence", str(stat.fence)),
        ("policy", f"{policy_text(stat.nearest)}{of_prefix}"),
    ]
    if stat.media_type:
        facts.append(("media type", stat.media_type))
    if stat.tags:
        facts.append(("tags", ", ".join(stat.tags)))
    facts += [(f"metadata {name}", value) for name, value in sorted(stat.metadata.items())]
    return facts
