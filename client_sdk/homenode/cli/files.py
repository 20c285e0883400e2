"""put, get, cat, diff: artifacts as files."""

from __future__ import annotations

import argparse
import asyncio
import base64
import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output, short, version_fields
from homenode.cli.session import Commands, connected, need_text, open_input, resolve, version_argument
from homenode.errors import LeaseDenied, NotFound, VersionConflict
from homenode.lines import lines_of
from homenode.versions import Version

if TYPE_CHECKING:
    from homenode import Homenode


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add these commands to the command line."""
    put = commands.add_parser(
        "put",
        parents=[common],
        help="write an artifact",
        description="Write an artifact from a file or stdin. An artifact that exists is replaced only with --base or "
        "--force: a refusal names the current version, and leaves it as it is.",
    )
    put.add_argument("key", metavar="KEY")
    put.add_argument("file", metavar="FILE", nargs="?", default="-", help="what to write; - or nothing: stdin")
    base = put.add_mutually_exclusive_group()
    base.add_argument("--create", action="store_true", help="it must not exist (the default)")
    base.add_argument("--base", type=version_argument, metavar="V", help="it must be at this version")
    base.add_argument("--force", action="store_true", help="overwrite whatever is there")
    put.set_defaults(run=run_put)

    get = commands.add_parser("get", parents=[common], help="read an artifact, also an earlier version, also to a file")
    get.add_argument("key", metavar="KEY")
    get.add_argument("--version", type=version_argument, metavar="V", dest="at", help="a retained version")
    get.add_argument("-o", "--output", metavar="FILE", type=Path, help="write it here, at once or not at all")
    get.set_defaults(run=run_get)

    rm = commands.add_parser(
        "rm",
        parents=[common],
        help="delete an artifact",
        description="Delete an artifact. What was deleted can be read with its version as long as that is retained.",
    )
    rm.add_argument("key", metavar="KEY")
    rm.add_argument("--base", type=version_argument, metavar="V", help="it must be at this version (default: any)")
    rm.set_defaults(run=run_rm)

    cat = commands.add_parser("cat", parents=[common], help="print artifacts one after the other")
    cat.add_argument("keys", metavar="KEY", nargs="+")
    cat.set_defaults(run=run_cat)

    diff = commands.add_parser(
        "diff",
        parents=[common],
        help="what changed between two versions",
        description="A unified diff of two versions.",
    )
    diff.add_argument("key", metavar="KEY")
    diff.add_argument("old", metavar="V1", type=version_argument)
    diff.add_argument("new", metavar="V2", type=version_argument, nargs="?", help="default: the current version")
    diff.set_defaults(run=run_diff)


def run_put(args: argparse.Namespace, out: Output) -> int:
    """`put`: one compare-and-set. Its input is read first, where Ctrl-C still interrupts a read."""
    if args.file == "-" and sys.stdin.isatty():
        out.note("reading from the terminal; Ctrl-D ends")
    with open_input(args.file) as file:
        return asyncio.run(_put(args, file, out))


async def _put(args: argparse.Namespace, file: BinaryIO, out: Output) -> int:
    import homenode

    async with connected(args) as hn:
        base: Any = homenode.ABSENT
        if args.force:
            base = homenode.ANY
        try:
            if args.base is not None:
                base = await _base(hn, args.key, args.base)
            with out.progress(f"put {args.key}") as progress:
                written = await hn.upload(args.key, file, base=base, progress=progress)
        except VersionConflict as conflict:
            raise _refusal(args, conflict) from None
        except LeaseDenied as error:
            raise held(error, args.key) from None
    if out.json:
        out.value({"key": args.key, **version_fields(written.version), "size": written.size})
    else:
        out.line(f"{args.key} is at version {short(written.version)}")
    return Exit.OK


async def run_rm(args: argparse.Namespace, out: Output) -> int:
    """`rm`: one compare-and-set."""
    import homenode

    async with connected(args) as hn:
        try:
            base: Any = homenode.ANY if args.base is None else await _base(hn, args.key, args.base)
            gone = await hn.delete(args.key, base=base)
        except VersionConflict as conflict:
            raise _refusal(args, conflict) from None
        except LeaseDenied as error:
            raise held(error, args.key) from None
    if out.json:
        out.value({"key": args.key, **version_fields(gone)})
    else:
        out.line(f"{args.key} is deleted, in version {short(gone)}")
    return Exit.OK


async def _base(hn: Any, key: str, wanted: tuple[int | None, int]) -> Any:
    """The version to compare with. A bare number means the current version if it bears that number; else the write
    would be refused anyway, and the refusal should name what is there."""
    import homenode

    incarnation, n = wanted
    if incarnation is not None:
        return homenode.Version(incarnation, n)
    try:
        current = (await hn.stat(key)).version
    except homenode.NotFound:
        raise VersionConflict(f"{key} does not exist") from None
    if current.n != n:
        raise VersionConflict(current=current)
    return current


def _refusal(args: argparse.Namespace, conflict: VersionConflict) -> CliError:
    current = conflict.current
    if current is None:
        message = f"refused: {args.key} does not exist; --create makes it"
    elif args.base is None:
        message = (
            f"refused: {args.key} exists, at version {current.n}; "
            f"--base {current.n} replaces that version, --force whatever is there"
        )
    else:
        message = f"refused: {args.key} is at version {current.n}, not {args.base[1]}; diff shows what came in between"
    fields: dict[str, object] = {"kind": type(conflict).__name__, "key": args.key}
    if current is not None:
        fields["current"] = version_fields(current)
    return CliError(message, Exit.CONFLICT, **fields)


async def run_get(args: argparse.Namespace, out: Output) -> int:
    """`get`: to stdout, to a file, or as JSON with its version."""
    async with connected(args) as hn:
        version = await resolve(hn, args.key, args.at) if args.at is not None else None
        if args.output is not None:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            with out.progress(f"get {args.key}") as progress:
                info = await hn.download(args.key, args.output, version=version, progress=progress)
            if out.json:
                head = {"key": args.key, **version_fields(info.version), "size": info.size}
                out.value({**head, "file": str(args.output)})
            out.note(f"{args.key} version {short(info.version)} -> {args.output} ({info.size} bytes)")
        elif out.json:
            artifact = await hn.read(args.key, version=version)
            head = {"key": args.key, **version_fields(artifact.version), "size": len(artifact.bytes)}
            described = {"metadata": dict(artifact.metadata), "tags": list(artifact.tags)}
            out.value({**head, **described, **_body(artifact.bytes)})
        else:
            await _print(hn, args.key, version, out)
    return Exit.OK


async def _print(hn: Homenode, key: str, version: Version | None, out: Output) -> None:
    async with hn.open(key, version=version) as content:
        async for piece in content:
            await asyncio.to_thread(out.bytes, piece)


async def run_cat(args: argparse.Namespace, out: Output) -> int:
    """`cat`: nothing is printed unless all of them are there."""
    async with connected(args) as hn:
        for key in args.keys:
            try:
                await hn.stat(key)
            except NotFound:
                raise NotFound(f"there is no artifact {key!r}") from None
        for key in args.keys:
            if out.json:
                artifact = await hn.read(key)
                out.value({"key": key, **version_fields(artifact.version), **_body(artifact.bytes)})
            else:
                await _print(hn, key, None, out)
    return Exit.OK


def _body(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


async def run_diff(args: argparse.Namespace, out: Output) -> int:
    """`diff`: 0 also where they differ; programs see it in `changed`."""
    async with connected(args) as hn:
        old = await hn.read(args.key, version=await resolve(hn, args.key, args.old))
        new_version = await resolve(hn, args.key, args.new) if args.new is not None else None
        new = await hn.read(args.key, version=new_version)
    names = [f"{args.key} (version {short(artifact.version)})" for artifact in (old, new)]
    before, after = (lines_of(need_text(artifact.bytes, args.key)) for artifact in (old, new))
    lines = [
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(before, after, fromfile=names[0], tofile=names[1])
    ]
    if out.json:
        versions = {"from": version_fields(old.version), "to": version_fields(new.version)}
        out.value({"key": args.key, **versions, "changed": old.bytes != new.bytes, "diff": "".join(lines)})
    else:
        out.bytes("".join(lines).encode())
    return Exit.OK


def held(error: LeaseDenied, key: str) -> CliError:
    """Another writer has the artifact."""
    wait = f"; try again in {error.retry_after:.1f} s" if error.retry_after else ""
    return CliError(
        f"{key} is being written by {error.holder_name or error.holder or 'another session'}{wait}",
        Exit.CONFLICT,
        kind="LeaseDenied",
        holder=error.holder,
        retry_after=error.retry_after,
    )
