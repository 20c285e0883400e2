"""The command: starts the processes of a load, keeps them in step, and tells what came of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from homenode.cli.bench.plan import KINDS, Plan, mix, plan_of, sizes, whole
from homenode.cli.bench.report import Outcome, as_json, tell
from homenode.cli.bench.server import Watched, listeners, use_of
from homenode.cli.exits import CliError, Exit
from homenode.cli.output import Output
from homenode.cli.session import Commands
from homenode.transport import parse

_LINE_BYTES_MAX = 1 << 22
LOOK_S = 0.5
END_WAIT_S = 90.0
HERE = ("127.0.0.1", "localhost", "[::1]")


def register(commands: Commands[Any], common: argparse.ArgumentParser) -> None:
    """Add this command to the command line."""
    from homenode.cli.main import positive, seconds

    kinds = commands.add_parser(
        "bench",
        help="load on a directory: latencies, throughput, errors, memory",
        description="Load on a directory, to see what it takes.",
    ).add_subparsers(dest="kind", metavar="KIND", required=True)
    load = kinds.add_parser(
        "load",
        parents=[common],
        help="sessions that read and write, and sessions that only live",
        description="Sessions that work and sessions that only live, from processes of their own, and how long each "
        "kind of operation took. It makes artifacts of its own in the workspace, and removes them. Operations: "
        + "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
        + ". Ctrl-C ends it with the figures so far.",
    )
    add = load.add_argument
    add("--active", type=whole(0, 100_000), default=64, metavar="N", help="sessions that work (default: 64)")
    add("--idle", type=whole(0, 1_000_000), default=0, metavar="N", help="sessions that only live (default: 0)")
    add("--artifacts", type=whole(1, 10_000_000), default=1_000, metavar="N", help="shared by all (default: 1000)")
    add("--mix", type=mix, default={"read": 90.0, "commit": 10.0}, help="weights (default: read=90,commit=10)")
    add("--size", type=sizes, default=(1_024, 1_024), help="bytes of a content: 1k, or 200..8k (default: 1k)")
    add("--seconds", type=seconds, default=10.0, metavar="S", help="how long to measure (default: 10)")
    add("--warmup", type=seconds, default=1.0, metavar="S", help="work before that (default: 1)")
    add(
        "--rate",
        type=positive(1e7),
        default=0.0,
        metavar="N",
        help="operations a second in all; times then count from when each was due (default: one after another)",
    )
    add("--own-streams", action="store_true", help="a connection and stream for each session, as if each were a host's")
    add("--processes", type=whole(1, 64), metavar="N", help="of the load (default: as few as can hold the sessions)")
    add("--pid", type=whole(1, 1 << 31), action="append", metavar="PID", help="watch this process too, such as Redis")
    add("--keep", action="store_true", help="leave the artifacts there")
    load.set_defaults(run=run_load)


class Process:
    """One process of the load."""

    def __init__(self, plan: Plan, process: asyncio.subprocess.Process) -> None:
        self.plan = plan
        self._process = process
        self.last: dict[str, Any] = {}

    @classmethod
    async def start(cls, plan: Plan) -> Process:
        """Start it, and tell it its part."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "homenode.cli.bench.worker", stdin=pipe, stdout=pipe, limit=_LINE_BYTES_MAX
        )
        started = cls(plan, process)
        started.say(plan.dump())
        return started

    def say(self, line: str) -> None:
        """A line for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{line}\n".encode())

    async def hear(self, told: Callable[[dict[str, Any]], None]) -> None:
        """Take in what it says until it has said all."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            what = json.loads(line)
            self.last |= what
            told(what)

    def finish(self) -> None:
        """It is to come to its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def end(self) -> None:
        """Wait for its end, or kill it."""
        self.finish()
        try:
            await asyncio.wait_for(self._process.wait(), END_WAIT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Run:
    """A load under way."""

    def __init__(self, plan: Plan, watched: list[Watched]) -> None:
        self.outcome = Outcome(plan, watched)
        self._processes: list[Process] = []
        self._hearing: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    async def start(self, processes: int) -> None:
        """Start all processes."""
        for part in self.outcome.plan.parts(processes):
            process = await Process.start(part)
            self._processes.append(process)
            self._hearing.append(asyncio.create_task(process.hear(lambda _: self._changed.set())))

    def sum(self, name: str) -> int:
        """What all processes have said last, added up."""
        return sum(process.last.get(name, 0) for process in self._processes)

    async def until(self, name: str, look: Callable[[], None]) -> None:
        """Until every process has said `name`. Raises CliError if one has failed, or ended without."""
        while not all(name in process.last for process in self._processes):
            for process, hearing in zip(self._processes, self._hearing, strict=True):
                if failed := process.last.get("failed"):
                    raise CliError(failed["message"], Exit.UNAVAILABLE, kind=failed["kind"])
                if hearing.done() and name not in process.last:
                    raise CliError("a process of the load has ended")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_S)
            for one in self.outcome.watched:
                one.look()
            look()

    async def work(self, progress: Callable[[str, int, int], None]) -> None:
        """Open the sessions, make the artifacts, let all begin at once, and wait for what comes of it."""
        plan, watched = self.outcome.plan, self.outcome.watched

        def preparing() -> None:
            if (opened := self.sum("opened")) < plan.sessions:
                progress("opening sessions", opened, plan.sessions)
            else:
                progress("making artifacts", self.sum("made"), plan.artifacts)

        await self.until("ready", preparing)
        for one in watched:
            one.opened_now()
        for process in self._processes:
            process.say("go")
        await self.until("measuring", lambda: None)
        for one in watched:
            one.begin()
        loop = asyncio.get_running_loop()
        began = loop.time()

        def working() -> None:
            text = f"{self.sum('done'):,} operations, {self.sum('errors'):,} errors"
            progress(text, min(int(loop.time() - began), int(plan.seconds)), int(plan.seconds))

        await self.until("result", working)

    async def _settled(self) -> None:
        """Until nobody is at work any more."""
        while not all(
            "result" in process.last or "failed" in process.last or hearing.done()
            for process, hearing in zip(self._processes, self._hearing, strict=True)
        ):
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_S)

    async def stop(self) -> None:
        """Let all end: what there is of figures comes now."""
        for one in self.outcome.watched:
            one.end()
        for process in self._processes:
            process.say("stop")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_WAIT_S):
                await self._settled()
        await asyncio.gather(*(process.end() for process in self._processes))
        await asyncio.gather(*self._hearing)
        for process in self._processes:
            if result := process.last.get("result"):
                self.outcome.add(result)
        self.outcome.left = self.sum("left")


async def run_load(args: argparse.Namespace, out: Output) -> int:
    """`bench load`."""
    plan, processes = plan_of(args)
    run = Run(plan, _watched(args))
    try:
        with out.counting() as progress:
            try:
                await run.start(processes)
                await run.work(progress)
            finally:
                await run.stop()
    except asyncio.CancelledError:
        run.outcome.interrupted = True
    outcome = run.outcome
    if out.json:
        out.value(as_json(outcome))
    else:
        tell(outcome, out)
    if outcome.interrupted:
        return Exit.INTERRUPTED
    return Exit.OK if outcome.all.count or not plan.active else Exit.ERROR


def _watched(args: argparse.Namespace) -> list[Watched]:
    """The server's processes where they run here, and those that were named. Raises CliError for one that is not."""
    found = Counter[int]()
    for host in parse(args.url).hosts:
        name, _, port = host.rpartition(":")
        if name in HERE:
            found.update(listeners(int(port)))
    for pid in args.pid or ():
        if use_of(pid) is None:
            raise CliError(f"there is no process {pid} that can be watched", Exit.USAGE)
        found[pid] += 1
    return [Watched(pid) for pid in found]
