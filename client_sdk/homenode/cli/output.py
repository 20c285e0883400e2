"""What commands print: tables for people, JSON for programs; results on stdout, remarks and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from homenode.versions import Version

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Width of what is printed where there is no terminal to ask.
PLAIN_WIDTH = 160


def console() -> Console:
    """A console that takes text as it is: no markup, no emoji, no guesses at what a word means."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=width, soft_wrap=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """Columns without a frame, so that other tools can read them; those named in `right` are numbers."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


class Output:
    """Where a command's results go. `json` says that a program reads them."""

    def __init__(self, *, as_json: bool) -> None:
        self.json = as_json

    def value(self, value: Any) -> None:
        """One JSON document, on one line."""
        print(json.dumps(value, ensure_ascii=False), flush=True)

    def line(self, text: str) -> None:
        """A line of result for people."""
        print(text, flush=True)

    def note(self, text: str) -> None:
        """A remark beside the result; programs do not get it."""
        if not self.json:
            print(text, file=sys.stderr, flush=True)

    def error(self, kind: str, message: str, fields: dict[str, object]) -> None:
        """Why the command ends."""
        if self.json:
            print(json.dumps({"error": {"kind": kind, "message": message, **fields}}), file=sys.stderr, flush=True)
        else:
            print(f"homenode: {message}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None] | None]:
        """A bar on stderr for work that may take long, where somebody looks; what to call with bytes done and all."""
        if self.json or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextlib.contextmanager
    def counting(self) -> Iterator[Callable[[str, int, int], None]]:
        """A bar on stderr, where somebody looks, for several phases; what to call with the phase, done and all."""
        if self.json or not sys.stderr.isatty():
            yield lambda what, done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=Console(file=sys.stderr), transient=True) as bar:
            task = bar.add_task("starting", total=None)
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)

    def bytes(self, data: bytes) -> None:
        """Content, byte for byte."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def version_fields(version: Version | None) -> dict[str, object]:
    """A version for programs: `version` is exact, `n` its short form. `--base` and `--version` take either."""
    if version is None:
        return {"version": None, "n": None}
    return {"version": str(version), "n": version.n}


def short(version: Version | None) -> str:
    """A version for people."""
    return str(version.n) if version is not None else "-"


def size_text(size: int) -> str:
    """A number of bytes for people."""
    if size < 10_000:
        return f"{size}"
    return f"{size / 1000:.0f}k" if size < 10_000_000 else f"{size / 1_000_000:.0f}M"


def ago_text(unix_ms: float, now_ms: float | None = None) -> str:
    """How long ago, roughly, for people; "-" where it is not known."""
    if not unix_ms:
        return "-"
    seconds = max(0.0, ((time.time() * 1000 if now_ms is None else now_ms) - unix_ms) / 1000)
    for limit, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"
