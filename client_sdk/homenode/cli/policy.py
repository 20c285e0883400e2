"""policy get, set, unset: how artifacts are kept coherent, one by one, by prefix, or for the whole workspace."""

from __future__ import annotations

import argparse
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.look import policy_fields, policy_text
from homenode.cli.output import Output, console, table
from homenode.cli.session import Commands, connected
from homenode.values import STRATEGIES

WORKSPACE = "the whole workspace"
_PARTS = ("strategy", "consistency", "push", "max_age_ms", "max_reads", "max_steps")


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    text = (
        "Policies: an artifact's own comes first, then the longest prefix's, then the workspace's, then the server's."
    )
    policy = commands.add_parser("policy", parents=[common], help="show and set policies", description=text)
    words = policy.add_subparsers(dest="word", metavar="get | set | unset", required=True)
    get = words.add_parser("get", parents=[common], help="an artifact's, or without KEY those of all prefixes")
    get.add_argument("key", metavar="KEY", nargs="?")
    get.set_defaults(run=run_get)
    for name, run, help_ in (
        ("set", run_set, "what is not said has the server's default"),
        ("unset", run_unset, "back to the policy of a shorter prefix, the workspace or the server"),
    ):
        made = words.add_parser(name, parents=[common], help=help_)
        which = made.add_mutually_exclusive_group(required=True)
        which.add_argument("key", metavar="KEY", nargs="?")
        which.add_argument(
            "--prefix", metavar="P", help='artifacts whose names begin with P; "" is the whole workspace'
        )
        made.set_defaults(run=run, **dict.fromkeys(_PARTS))
        if run is run_set:
            _parts(made)


def _parts(made: argparse.ArgumentParser) -> None:
    made.add_argument("--strategy", choices=tuple(STRATEGIES), help="a preset for push, max age and max reads")
    made.add_argument("--consistency", choices=("lazy", "strict"))
    made.add_argument("--push", choices=("none", "sharers", "all"), help="to whom new content goes by itself")
    made.add_argument("--max-age-ms", type=int, metavar="MS", help="greatest age of a cached read")
    made.add_argument("--max-reads", type=int, metavar="N", help="reads of a copy before it is fetched again")
    made.add_argument("--max-steps", type=int, metavar="K", help="steps of an agent without hearing from the directory")


async def run_get(args: argparse.Namespace, out: Output) -> int:
    """`policy get`."""
    async with connected(args) as hn:
        if args.key is not None:
            stat = await hn.stat(args.key)
            inherited = stat.inherited
            if out.json:
                own = {"key": args.key, "policy": policy_fields(stat.policy)}
                out.value({**own, "inherited": policy_fields(inherited) if inherited is not None else None})
            else:
                whose = "of its prefix" if stat.nearest is inherited else "its own"
                said = policy_text(stat.nearest)
                out.line(said if said == "default" else f"{said} ({whose})")
            return Exit.OK
        found = await hn.policies()
    if out.json:
        out.value([{"prefix": prefix, "policy": policy_fields(one)} for prefix, one in found.items()])
    elif found:
        rows = [(prefix or f"({WORKSPACE})", policy_text(one)) for prefix, one in found.items()]
        console().print(table(("PREFIX", "POLICY"), rows))
    else:
        out.note("no prefix has a policy")
    return Exit.OK


async def run_set(args: argparse.Namespace, out: Output) -> int:
    """`policy set`."""
    said = {name: getattr(args, name) for name in _PARTS}
    if all(value is None for value in said.values()):
        raise CliError("say what the policy is: --strategy, --consistency, --push, …; or unset it", Exit.USAGE)
    return await _change(args, out, said)


async def run_unset(args: argparse.Namespace, out: Output) -> int:
    """`policy unset`."""
    return await _change(args, out, {})


async def _change(args: argparse.Namespace, out: Output, said: dict[str, Any]) -> int:
    async with connected(args) as hn:
        remaining = await hn.set_policy(args.key, prefix=args.prefix, **said)
    what = {"key": args.key} if args.key is not None else {"prefix": args.prefix}
    if out.json:
        out.value({**what, "remaining": remaining})
    else:
        later = f"; {remaining} artifacts follow when writers and readers let them" if remaining else ""
        name = args.key if args.key is not None else args.prefix or WORKSPACE
        out.note(f"{name}: policy {'set' if said else 'unset'}{later}")
    return Exit.OK
