"""What the commands share: a connection, versions on the command line, bytes in and out."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from homenode.cli.exits import CliError, Exit
from homenode.errors import DeadlineExceeded, NotFound, Unavailable
from homenode.versions import Version

if TYPE_CHECKING:
    from homenode import Homenode

Commands = argparse._SubParsersAction  # argparse names it so, and nothing else

TLS_OPTIONS = ("tls_ca", "tls_cert", "tls_key")


def address_options(group: argparse._ActionsContainer, url: str) -> None:
    """Add --url, with this help, and what TLS needs."""
    quiet = argparse.SUPPRESS  # given before the command or after it
    group.add_argument("--url", default=quiet, help=url)
    group.add_argument(
        "--tls-ca", default=quiet, metavar="FILE", help="connect with TLS, trusting the certificates in this PEM file"
    )
    group.add_argument(
        "--tls-cert", default=quiet, metavar="FILE", help="this client's certificate, where it is asked for"
    )
    group.add_argument("--tls-key", default=quiet, metavar="FILE", help="its private key")


@contextlib.asynccontextmanager
async def connected(args: argparse.Namespace, agent: str = "cli") -> AsyncIterator[Homenode]:
    """The directory that `args.url` names; a command is one step. The time limit holds for connecting; requests have
    their own."""
    import homenode

    options: dict[str, Any] = {"agent": agent, "timeout_ms": int(args.timeout * 1000), "credentials": credentials(args)}
    try:
        async with homenode.connect(args.url, **options) as hn, hn.step():
            yield hn
    except Unavailable as error:
        raise Unavailable(f"{error.message or 'the directory does not answer'} ({args.url})") from error
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"{error.message} ({args.url})") from error


def credentials(args: argparse.Namespace) -> ssl.SSLContext | None:
    """For TLS as the options say; None: plain text. Raises OSError for a file that cannot be used."""
    if not args.tls_ca:
        if args.tls_cert or args.tls_key:
            raise CliError("--tls-cert and --tls-key need --tls-ca", Exit.USAGE)
        return None
    if bool(args.tls_cert) != bool(args.tls_key):
        raise CliError("--tls-cert and --tls-key belong together", Exit.USAGE)
    context = ssl.create_default_context(cafile=args.tls_ca)
    if args.tls_cert:
        context.load_cert_chain(args.tls_cert, args.tls_key)
    return context


def installed_version() -> str:
    """The version of this distribution."""
    try:
        return importlib.metadata.version("homenode")
    except importlib.metadata.PackageNotFoundError:
        return "0.0.0 (a source tree)"


def version_argument(text: str) -> tuple[int | None, int]:
    """`7` or `1763780000000.7` as (incarnation or None, n)."""
    first, dot, second = text.partition(".")
    if first.isdecimal() and (second.isdecimal() if dot else True):
        return (int(first), int(second)) if dot else (None, int(first))
    raise argparse.ArgumentTypeError(f"a version is a number such as 7, or 1763780000000.7 in full, not {text!r}")


async def resolve(hn: Homenode, key: str, wanted: tuple[int | None, int]) -> Version:
    """The version that the command line means: a bare number is the newest retained version that bears it.

    Raises NotFound where no retained version of `key` bears it.
    """
    incarnation, n = wanted
    if incarnation is not None:
        return Version(incarnation, n)
    known = [info.version for info in await hn.history(key)]
    matching = [version for version in known if version.n == n]
    if matching:
        return max(matching)
    if not known:
        raise NotFound(f"there is no artifact {key!r}")
    kept = ", ".join(str(version.n) for version in sorted(known)[-10:])
    raise NotFound(f"{key!r} has no version {n}; kept are {kept}")


@contextlib.contextmanager
def open_input(source: str) -> Iterator[BinaryIO]:
    """A file, or for `-` what stdin has, read to its end into a temporary file."""
    if source != "-":
        with open(source, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool, 1 << 20)
        spool.flush()
        spool.seek(0)
        yield spool


def write_file(path: Path, data: bytes) -> None:
    """Replace a file at once: whoever looks sees the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def need_text(data: bytes, key: str) -> str:
    """The bytes as text. Raises CliError for what is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CliError(f"{key} is not text (UTF-8); use get -o FILE and put", Exit.ERROR) from None
