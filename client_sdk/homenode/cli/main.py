"""`homenode`: parsing, dispatch, and one place where an error becomes a line and an exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence

from homenode.cli import (
    bench,
    demo,
    doctor,
    edit,
    export,
    files,
    kv,
    look,
    mcp,
    mount,
    policy,
    replay,
    restore,
    savings,
    serve,
    simulate,
    top,
    watch,
)
from homenode.cli.exits import CliError, Exit, epilog, exit_of, fields_of
from homenode.cli.output import Output
from homenode.cli.session import address_options, installed_version
from homenode.errors import DeadlineExceeded, HomenodeError, Unavailable

DEFAULT_URL = "homenode://127.0.0.1:7400/main"
DEFAULT_TIMEOUT_S = 10.0

_GROUPS = (
    serve,
    files,
    edit,
    look,
    policy,
    watch,
    top,
    savings,
    export,
    restore,
    replay,
    doctor,
    bench,
    simulate,
    kv,
    mcp,
    mount,
    demo,
)
_DESCRIPTION = """\
Shared artifacts for a fleet of agents: read, write and watch what a Homenode directory keeps.

A command has no view of its own, so a write says what it replaces: put refuses to replace an existing artifact unless
--base names its version or --force says to overwrite whatever is there. A version is written 7, or 1763780000000.7 in
full; either is taken wherever a version is asked for.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    made = argparse.ArgumentParser(
        prog="homenode",
        description=_DESCRIPTION,
        epilog=epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"homenode {installed_version()}")
    made.set_defaults(
        url=None,
        json=False,
        timeout=DEFAULT_TIMEOUT_S,
        tls_ca=None,
        tls_cert=None,
        tls_key=None,
    )
    _common(made)
    # The same options after the command: given there, they win.
    common = argparse.ArgumentParser(add_help=False)
    _common(common)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in _GROUPS:
        group.register(commands, common)
    return made


def _common(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("common options")
    quiet = argparse.SUPPRESS
    address_options(group, f"the directory and workspace (default: HOMENODE_URL or {DEFAULT_URL})")
    group.add_argument("--json", action="store_true", default=quiet, help="results and errors as JSON")
    group.add_argument(
        "--timeout", type=seconds, default=quiet, metavar="S", help="how long to wait for the directory (default: 10)"
    )


def positive(high: float, of: str = "") -> Callable[[str], float]:
    """The type of an option that is a number above 0, up to `high`; `of` says of what."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value <= high:
            raise argparse.ArgumentTypeError(f"a number {of}above 0, not {text!r}")
        return value

    return parse


seconds = positive(86_400, "of seconds ")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. Never raises for what a user can cause."""
    try:
        args = parser().parse_args(argv)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    args.said_url = args.url is not None
    args.url = args.url or os.environ.get("HOMENODE_URL") or DEFAULT_URL
    out = Output(as_json=args.json)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of artifacts that the terminal's encoding cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _need_rich()
        result = args.run(args, out)
        return int(asyncio.run(result) if inspect.iscoroutine(result) else result)
    except CliError as error:
        out.error(str(fields_of(error).get("kind", "error")), error.message, fields_of(error))
        return error.code
    except HomenodeError as error:
        out.error(type(error).__name__, _text(error, args), fields_of(error))
        return exit_of(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `homenode ls | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:
        name = error.filename2 or error.filename  # of a rename, the name that the user gave
        out.error("OSError", f"{name}: {error.strerror}" if name else str(error), {})
        return Exit.ERROR


def _text(error: HomenodeError, args: argparse.Namespace) -> str:
    """The error's message; with the artifact's name, where the command is about one and the message leaves it out."""
    if not isinstance(error, Unavailable | DeadlineExceeded):
        error.about(getattr(args, "key", None) or "")  # None: of a prefix
    return error.message or type(error).__name__


def _need_rich() -> None:
    if importlib.util.find_spec("rich") is None:
        raise CliError(
            "the command line needs a part that is not installed: pip install 'homenode[cli]'", Exit.MISSING_EXTRA
        )


if __name__ == "__main__":
    sys.exit(main())
