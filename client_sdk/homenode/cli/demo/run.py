"""One run of the demo, from the first page to the verdict."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homenode.cli.demo import script, show
from homenode.cli.demo.figures import Figures, Tally
from homenode.cli.demo.stage import Arm, Server, free_or_say, serving
from homenode.cli.demo.verdict import Verdict, judge
from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output, console
from homenode.cli.session import TLS_OPTIONS, credentials, write_file
from homenode.clock import NS_PER_MS
from homenode.transport import parse

if TYPE_CHECKING:
    from homenode import Homenode

TERM_MS = 2_000
RUN_S = 120.0
EVENTS_SHOWN = 6
FRAME_S, LINE_S = 0.25, 2.0
LISTEN, METRICS = "127.0.0.1:7400", "127.0.0.1:7401"
ANY_PORT = "127.0.0.1:0"


async def run(args: argparse.Namespace, out: Output) -> int:
    """Play, judge, print; go on serving where that is asked for. 1 when a verdict fails."""
    _end_on_signals()
    name = f"demo-{time.strftime('%m%d-%H%M%S')}-{os.getpid()}"
    folder = (args.dir / name).absolute()
    (folder / "logs").mkdir(parents=True)
    async with _directory(args, folder) as server:
        for number in range(args.plays):
            again = f"-{number}" if number else ""
            verdict = await _play(args, args.seed + number, server.workspace(name + again), folder / f"pages{again}")
            if not verdict.holds:
                break
        if _serves_on(args):
            await _serve_on(server, name + again, folder / f"pages{again}")
    return Exit.OK if verdict.holds else Exit.ERROR


async def _play(args: argparse.Namespace, seed: int, url: str, pages: Path) -> Verdict:
    """One play in a workspace of its own; its pages end up in a folder."""
    control, logs = pages.with_name(pages.name.replace("pages", "control")), pages.parent / "logs"
    for place in (pages, control):
        _lay_out(place)
    _line(f"directory at {url}, pages in {pages}")
    play = Play(args, seed, url, pages, control, logs)
    try:
        async with asyncio.timeout(RUN_S + args.turns):
            verdict = await play.run()
    except TimeoutError:
        raise CliError(f"the demo did not come to its end in time; see {logs}", Exit.ERROR) from None
    if args.figures is not None:
        write_file(args.figures, json.dumps(play.report(verdict), indent=1).encode() + b"\n")
        _line(f"figures in {args.figures}")
    return verdict


def _serves_on(args: argparse.Namespace) -> bool:
    return bool(args.serve) and os.environ.get("DEMO_ONLY") != "1"


@contextlib.asynccontextmanager
async def _directory(args: argparse.Namespace, folder: Path) -> AsyncIterator[Server]:
    """The directory to play at: the one that --url names, or one of the demo's own until the block ends."""
    if args.said_url:
        flags = {"--serve": args.serve, "--store": args.store, "--listen": args.listen, "--metrics": args.metrics}
        if given := [flag for flag, value in flags.items() if value]:
            raise CliError(f"{given[0]} is for a directory of the demo's own, and --url names another one", Exit.USAGE)
        if parse(args.url).embedded:
            raise CliError("processes cannot share an embedded directory: say --url homenode://…", Exit.USAGE)
        yield Server(None, args.url)
        return
    serve_on = _serves_on(args)
    store = args.store or f"sqlite:///{(args.dir.absolute() if serve_on else folder) / 'directory.sqlite3'}"
    listen, metrics = _addresses(args, serve_on)
    async with serving(store, listen, metrics, folder / "logs" / "server.log") as server:
        yield server


def _end_on_signals() -> None:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: the processes that it started end with it."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _addresses(args: argparse.Namespace, serve_on: bool) -> tuple[str, str]:
    """Where to listen: the well-known ports where somebody is to find them, else any."""
    listen = args.listen or (LISTEN if serve_on else ANY_PORT)
    metrics = args.metrics or (METRICS if serve_on else ANY_PORT)
    free_or_say(listen, "--listen")
    if metrics != "off":
        free_or_say(metrics, "--metrics")
    return listen, metrics


def _lay_out(place: Path) -> None:
    """The pages as they are at the beginning, as files."""
    source = resources.files("homenode.cli.demo") / "files"
    for page in script.PAGES:
        write_file(place / page, source.joinpath(*page.split("/")).read_bytes())


def _line(text: str) -> None:
    print(text, flush=True)


class Play:
    """Both arms, from the import of the pages to the verdict.

    Args:
        args: of the command.
        seed: of the turns.
        url: the workspace to play in.
        pages, control: folders with the pages, for the directory's arm and for the other one.
        logs: folder for what the processes complain of.
    """

    def __init__(self, args: argparse.Namespace, seed: int, url: str, pages: Path, control: Path, logs: Path) -> None:
        self._args = args
        self._seed = seed
        self._url = url
        self._pages = pages
        self._control = control
        self._logs = logs
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._began = time.monotonic()
        self._screen = console()
        self._is_live = sys.stdout.isatty()
        self._final: tuple[Figures, Figures] | None = None
        self.max_age_ms = 0

    async def run(self) -> Verdict:
        """Play and judge; what is to be seen is printed."""
        import homenode

        async with homenode.connect(self._url, agent="stage", credentials=credentials(self._args)) as hn:
            await self._import(hn)
            # What the directory told this client to be the greatest age of a copy.
            self.max_age_ms = (await hn.read(script.PLAN)).window.max_age_ns // NS_PER_MS
            ours = Arm("homenode", Tally(self.max_age_ms), self._say)
            theirs = Arm("control", Tally(self.max_age_ms), self._say)
            try:
                await self._play(hn, ours, theirs)
            finally:
                await asyncio.gather(ours.close(), theirs.close())
            texts = await self._export(hn)
            holders = {stat.key: stat.holder for stat in await hn.list() if stat.holder}
        self._final = ours.tally.figures(texts), theirs.tally.figures(self._control_texts())
        unfinished = [actor.error for arm in (ours, theirs) for actor in arm.everyone if actor.error]
        verdict = judge(self._final[0], max_age_ms=self.max_age_ms, holders=holders, unfinished=unfinished)
        self._conclude(verdict)
        return verdict

    async def _import(self, hn: Homenode) -> None:
        import homenode

        for page in script.PAGES:
            await hn.put(page, (self._pages / page).read_text(), base=homenode.ABSENT, media_type="text/markdown")

    async def _export(self, hn: Homenode) -> dict[str, str]:
        """The final pages, asked of the directory itself, into their files."""
        texts = {page: (await hn.read(page, max_age_ms=0)).text for page in script.PAGES}
        for page, text in texts.items():
            write_file(self._pages / page, text.encode())
        return texts

    def _control_texts(self) -> dict[str, str]:
        return {page: (self._control / page).read_text() for page in script.PAGES}

    async def _play(self, hn: Homenode, ours: Arm, theirs: Arm) -> None:
        spec = {"seed": self._seed, "turns": self._args.turns}
        tls = {name: getattr(self._args, name) for name in TLS_OPTIONS}
        shared = {**spec, "url": self._url, "term_ms": TERM_MS, "tls": tls}
        number = len(script.CAST)
        _line(f"starting {number} agents and an observer on the directory, and {number} agents on plain files")
        await ours.cast("homenode.cli.demo.agent", shared, self._logs)
        await ours.watch_with("homenode.cli.demo.observer", shared, self._logs)
        await theirs.cast("homenode.cli.demo.control", {**spec, "folder": str(self._control)}, self._logs)
        await asyncio.gather(ours.ready(), theirs.ready())
        self._began = time.monotonic()
        for arm in (ours, theirs):
            arm.go()
        async with self._shown(hn, ours, theirs):
            await asyncio.gather(ours.finished(), theirs.finished())

    @contextlib.asynccontextmanager
    async def _shown(self, hn: Homenode, ours: Arm, theirs: Arm) -> AsyncIterator[None]:
        """Keep the screen up to date during the block."""
        showing = asyncio.create_task(
            self._show_live(hn, ours, theirs) if self._is_live else self._tell(hn, ours, theirs)
        )
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def _so_far(self, hn: Homenode, ours: Arm, theirs: Arm) -> tuple[Figures, Figures]:
        texts = {page: (await hn.read(page)).text for page in script.PAGES}
        return (
            ours.tally.figures(texts, final=False),
            theirs.tally.figures(self._control_texts(), final=False),
        )

    async def _show_live(self, hn: Homenode, ours: Arm, theirs: Arm) -> None:
        from rich.live import Live

        with Live(console=self._screen, auto_refresh=False, transient=True) as screen:
            while True:
                figures = await self._so_far(hn, ours, theirs)
                seconds = time.monotonic() - self._began
                screen.update(show.live(*figures, list(self._events), seconds), refresh=True)
                await asyncio.sleep(FRAME_S)

    async def _tell(self, hn: Homenode, ours: Arm, theirs: Arm) -> None:
        while True:
            await asyncio.sleep(LINE_S)
            self._say(show.progress(*await self._so_far(hn, ours, theirs)))

    def _say(self, text: str) -> None:
        stamped = f"{time.monotonic() - self._began:5.1f} s  {text}"
        self._events.append(stamped)
        if not self._is_live:
            _line(stamped)

    def _conclude(self, verdict: Verdict) -> None:
        assert self._final is not None
        if self._is_live:
            for event in self._events:
                _line(event)
        self._screen.print(show.arms_table(*self._final))
        self._screen.print(f"control: {show.CONTROL_SAYS}.\n", soft_wrap=not self._is_live)
        for line in (*show.conclusion(*self._final), *show.verdict_lines(verdict)):
            self._screen.print(line, soft_wrap=not self._is_live)

    def report(self, verdict: Verdict) -> dict[str, Any]:
        """All figures, for programs."""
        assert self._final is not None
        checks = [{"promise": c.promise, "kept": c.kept, "figures": c.figures} for c in verdict.checks]
        return {
            "seed": self._seed,
            "turns": self._args.turns,
            "max_age_ms": self.max_age_ms,
            "homenode": self._final[0].to_json(),
            "control": self._final[1].to_json(),
            "verdict": {"holds": verdict.holds, "checks": checks},
        }


def _own_name() -> str:
    """What to type to run this again: it need not be on the PATH."""
    own = Path(sys.argv[0])
    if own.name != "homenode":
        return "homenode"
    return os.path.relpath(own) if own.is_absolute() and own.is_relative_to(Path.cwd()) else str(own)


async def _serve_on(server: Server, name: str, pages: Path) -> None:
    """Until Ctrl-C, or the server's end."""
    _line("")
    _line(f"The directory goes on serving {server.url}" + (f", metrics at {server.metrics}" if server.metrics else ""))
    _line("Try, in another terminal:")
    for command in ("ls", "cat plan.md", 'edit plan.md --append "- [ ] your turn"', "stat plan.md", "watch", "top"):
        _line(f"  {_own_name()} --url {server.workspace(name)} {command}")
    _line(f"The pages are in {pages}. Ctrl-C ends.")
    with contextlib.suppress(asyncio.CancelledError):
        assert server.process is not None
        await server.process.wait()
        raise CliError("the directory has ended by itself; its log lies beside the pages", Exit.UNAVAILABLE)
