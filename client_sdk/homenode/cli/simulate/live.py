"""`homenode simulate --live URL`: the same runs by agents in processes of their own, against a directory that runs.

The agents go from step to step together. A step begins when each of them has everything that was committed before; so
the runs are those of the simulation, over real connections and a real store.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from typing import Any

from homenode.cli.exits import CliError, Exit
from homenode.cli.session import TLS_OPTIONS, connected
from homenode.cli.simulate.agents import Deed, key_of
from homenode.cli.simulate.pool import Job
from homenode.cli.simulate.run import Outcome, found, play
from homenode.errors import HomenodeError
from homenode.transport import parse
from homenode.versions import Version

_LINE_BYTES_MAX = 1 << 24
_END_S = 10.0
_ANSWER_S = 60.0


class _Process:
    """An agent's process, spoken to in turn."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> _Process:
        """Start one."""
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "homenode.cli.simulate.live_agent",
                stdin=pipe,
                stdout=pipe,
                limit=_LINE_BYTES_MAX,
                start_new_session=True,  # Ctrl-C is for the process that ends them
            )
        )

    async def ask(self, **what: Any) -> dict[str, Any]:
        """Tell it something; what it says. Raises CliError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = b""
        with contextlib.suppress(OSError, TimeoutError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            line = await asyncio.wait_for(self._process.stdout.readline(), _ANSWER_S)
        if not line:
            raise CliError("the process of an agent has ended, or says nothing", Exit.ERROR)
        said: dict[str, Any] = json.loads(line)
        if failed := said.get("failed"):
            raise CliError(f"an agent failed: {failed['kind']}: {failed['message']}", Exit.UNAVAILABLE, **failed)
        return said

    async def end(self) -> None:
        """Let it end, or kill it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _END_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class _LiveStage:
    """See `run.Stage`."""

    def __init__(self, processes: Sequence[_Process]) -> None:
        self._processes = processes

    async def begin_step(self, lost: Sequence[bool]) -> list[Deed]:
        """See `run.Stage`."""
        said = await asyncio.gather(
            *(process.ask(step=gone) for process, gone in zip(self._processes, lost, strict=True))
        )
        return [deed for one in said for deed in _deeds(one)]

    async def act(self, agent: int, key: str | None, *, writes: bool) -> Deed | None:
        """See `run.Stage`."""
        return next(iter(_deeds(await self._processes[agent].ask(act=key, writes=writes))), None)

    async def totals(self) -> tuple[int, int]:
        """See `run.Stage`; the agents disconnect."""
        said = await asyncio.gather(*(process.ask(end=True) for process in self._processes))
        return sum(one["signals"] for one in said), sum(one["bytes"] for one in said)


def _deeds(said: dict[str, Any]) -> list[Deed]:
    return [Deed(**deed | {name: _version(deed[name]) for name in ("version", "committed")}) for deed in said["deeds"]]


def _version(parts: list[int] | None) -> Version | None:
    return Version(*parts) if parts is not None else None


async def run_live(
    args: argparse.Namespace, jobs: Sequence[Job], told: Callable[[int, int], None]
) -> list[list[Outcome]]:
    """The outcomes of each workload's seeds, as `pool.run_all` gives them, one run after another.

    Artifacts are made under a name of their own, and deleted. Raises CliError, HomenodeError.
    """
    if parse(args.url).embedded:
        raise CliError("--live needs the address of a directory that runs", Exit.USAGE)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # as Ctrl-C: nothing is left behind
    total, done = sum(len(seeds) for _, seeds in jobs), 0
    told(done, total)
    outcomes: list[list[Outcome]] = [[] for _ in jobs]
    async with connected(args, "simulate") as hn, _processes(max(load.agents for load, _ in jobs)) as processes:
        for came, (load, seeds) in zip(outcomes, jobs, strict=True):
            for seed in seeds:
                place = f"simulate/{secrets.token_hex(4)}"
                keys = [key_of(place, number) for number in range(load.artifacts)]
                used = processes[: load.agents]
                try:
                    truth = await found(hn, load, seed, keys)
                    run = {
                        "workload": asdict(load), "seed": seed, "url": args.url, "keys": keys,
                        "timeout_s": args.timeout, "tls": [getattr(args, name) for name in TLS_OPTIONS],
                    }  # fmt: skip
                    await asyncio.gather(*(one.ask(begin={**run, "agent": n}) for n, one in enumerate(used)))
                    came.append(await play(load, seed, truth, _LiveStage(used)))
                except BaseException:  # what an agent is writing must not come after the delete
                    await asyncio.gather(*(one.end() for one in used))
                    raise
                finally:
                    await _delete(hn, keys)
                done += 1
                told(done, total)
    return outcomes


@contextlib.asynccontextmanager
async def _processes(count: int) -> AsyncIterator[list[_Process]]:
    found = [await _Process.start() for _ in range(count)]
    try:
        yield found
    finally:
        await asyncio.gather(*(process.end() for process in found))


async def _delete(hn: Any, keys: Sequence[str]) -> None:
    import homenode

    for key in keys:
        with contextlib.suppress(HomenodeError):
            await hn.delete(key, base=homenode.ANY)
