"""Puts the demo on: the server, the agents' processes of both arms, and what happens to some of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homenode.cli.demo.figures import Tally
from homenode.cli.demo.records import DONE, EDIT, HOLDING, READY, REFUSED, clock_ns
from homenode.cli.demo.script import CAST, Fate
from homenode.cli.exits import CliError, Exit

START_S = 60.0
STOP_S = 10.0
FROZEN_S = (3.0, 15.0)
LINE_MAX = 1 << 20

Say = Callable[[str], None]


@dataclass(slots=True)
class Actor:
    """One process. `error` says why it did not come to its end as it should."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    done: bool = False
    killed: bool = False

    @property
    def error(self) -> str:
        """Empty when it ended as it should."""
        if self.done or self.killed:
            return ""
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:] if self.log.exists() else []
        return f"{self.name} ended with {self.process.returncode}: {last[0] if last else 'no message'}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


async def spawn(module: str, arguments: Sequence[str], log: Path) -> asyncio.subprocess.Process:
    """A Python process in a process group of its own, so that Ctrl-C reaches only the stage, which ends it."""
    with log.open("wb") as errors:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=LINE_MAX,
            start_new_session=True,
        )


class Server:
    """The directory: in a process that was started here, or (`process` is None) somewhere else."""

    def __init__(self, process: asyncio.subprocess.Process | None, url: str, metrics: str | None = None) -> None:
        self.process = process
        self.url = url
        self.metrics = metrics

    def workspace(self, name: str) -> str:
        """The address of a workspace."""
        return f"{self.url.rpartition('/')[0]}/{name}"


@contextlib.asynccontextmanager
async def serving(store: str, listen: str, metrics: str, log: Path) -> AsyncIterator[Server]:
    """`homenode serve`, until the block ends. Raises CliError with what it said when it does not start."""
    flags = ["--store", store, "--listen", listen, "--metrics", metrics, "--log-level", "warning"]
    process = await spawn("homenode.cli.main", ["--json", "serve", *flags], log)
    try:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
        except TimeoutError:
            raise CliError(f"the directory did not start within {START_S:g} s; see {log}", Exit.UNAVAILABLE) from None
        if not line:
            said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise CliError(f"the directory did not start: {said[0].removeprefix('homenode: ')}", Exit.ERROR)
        ready = json.loads(line)
        yield Server(process, ready["url"], ready["metrics"])
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL for what does not go."""
    if process.returncode is not None:
        return
    for number in (signal.SIGCONT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Arm:
    """One arm: its processes, and what they tell.

    Args:
        name: for people.
        tally: takes the records.
        say: takes a line for each thing that happens.
    """

    def __init__(self, name: str, tally: Tally, say: Say) -> None:
        self.name = name
        self.tally = tally
        self.actors: list[Actor] = []
        self.observer: Actor | None = None
        self._say = say
        self._listening: list[asyncio.Task[None]] = []
        self._fates: list[asyncio.Task[None]] = []
        self._edits: list[tuple[str, str, int]] = []

    async def cast(self, module: str, spec: dict[str, Any], folder: Path) -> None:
        """Start a process for each role."""
        for role in CAST:
            self.actors.append(await self._start(role.name, module, {**spec, "role": role.name}, folder))

    async def watch_with(self, module: str, spec: dict[str, Any], folder: Path) -> None:
        """Start the observer."""
        self.observer = await self._start("observer", module, spec, folder)

    async def _start(self, name: str, module: str, spec: dict[str, Any], folder: Path) -> Actor:
        log = folder / f"{self.name}-{name}.log"
        actor = Actor(name, await spawn(module, [json.dumps(spec)], log), log)
        self._listening.append(asyncio.create_task(self._listen(actor)))
        return actor

    @property
    def everyone(self) -> list[Actor]:
        """The agents, and the observer where there is one."""
        return [*self.actors, *([self.observer] if self.observer else [])]

    async def ready(self) -> None:
        """Wait until every process is. Raises CliError where one ended before."""
        for actor in self.everyone:
            await actor.ready.wait()
            if actor.process.returncode is not None:
                raise CliError(f"an agent did not start: {actor.error}")

    def go(self) -> None:
        """Let them begin."""
        for actor in self.everyone:
            self._line_to(actor)

    @staticmethod
    def _line_to(actor: Actor) -> None:
        if actor.process.stdin is not None and not actor.process.stdin.is_closing():
            actor.process.stdin.write(b"\n")

    async def finished(self) -> None:
        """Wait until every agent has ended, then end the observer."""
        watching = self._listening[: len(self.actors)]
        await asyncio.gather(*watching)
        await asyncio.gather(*self._fates)
        if self.observer is not None:
            self._line_to(self.observer)
            await asyncio.gather(*self._listening)

    async def close(self) -> None:
        """End whatever is left."""
        for task in (*self._fates, *self._listening):
            task.cancel()
        await asyncio.gather(*self._fates, *self._listening, return_exceptions=True)
        for actor in self.everyone:
            if actor.process.returncode is None:
                actor.signal(signal.SIGKILL)
                await actor.process.wait()

    async def _listen(self, actor: Actor) -> None:
        assert actor.process.stdout is not None
        async for line in actor.process.stdout:
            try:
                record = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            self._heed(actor, record)
        await actor.process.wait()
        actor.ready.set()

    def _heed(self, actor: Actor, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == READY:
            actor.ready.set()
        elif kind == DONE:
            actor.done = True
        else:
            self.tally.take(actor.name, record)
            if kind == EDIT:
                self._edits.append((actor.name, record["page"], record["acked"]))
            elif kind == HOLDING:
                fate = self._kill if record["fate"] == Fate.KILLED else self._freeze
                self._fates.append(asyncio.create_task(fate(actor, record)))
            elif kind == REFUSED:
                told = f"{record['error']}, its lease was over: {record['cause']}"
                self._say(f"{self.name}: {actor.name}'s late commit is refused: {told}")

    async def _kill(self, actor: Actor, record: dict[str, Any]) -> None:
        actor.killed = True
        actor.signal(signal.SIGKILL)
        self._say(f"{self.name}: {actor.name} is killed (-9) with {record['page']} {self._in_hand(record)}")

    async def _freeze(self, actor: Actor, record: dict[str, Any]) -> None:
        """The actor stops itself. It wakes up when others have written the page, as a long pause would have it."""
        self._say(f"{self.name}: {actor.name} is stopped with {record['page']} {self._in_hand(record)}")
        least, most = (record["at"] + int(seconds * 1e9) for seconds in FROZEN_S)
        while clock_ns() < most and (clock_ns() < least or not self._written_since(actor, record)):
            await asyncio.sleep(0.05)
        others = self._written_since(actor, record)
        self._say(f"{self.name}: {actor.name} wakes up after {others} edits of the page by others, and writes")
        actor.signal(signal.SIGCONT)

    def _written_since(self, actor: Actor, record: dict[str, Any]) -> int:
        return sum(n != actor.name and p == record["page"] and t > record["at"] for n, p, t in self._edits)

    @staticmethod
    def _in_hand(record: dict[str, Any]) -> str:
        return f"under its write lease (fence {record['fence']})" if "fence" in record else "read and not yet written"


def free_or_say(address: str, option: str) -> None:
    """Raise CliError with what to do where an address is taken."""
    import socket

    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in host.strip("[]") else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except (OSError, ValueError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not an address"
            raise CliError(
                f"cannot listen on {address} ({reason}): stop what uses it, or choose another with {option} HOST:PORT",
                Exit.ERROR,
            ) from None
