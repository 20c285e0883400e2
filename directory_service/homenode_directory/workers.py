"""`homenode serve`: one server process, or with `--workers N` that many on one port (SO_REUSEPORT).

The parent serves nothing. It holds the port's address, starts the workers, starts another for one that ends (the
later the more often that happens), hands SIGTERM and SIGINT on, and waits while they drain. A worker gets its settings
on standard input, tells its ports on standard output, and stops when its parent is gone. Each has metrics of its own,
on consecutive ports; all write to one log, where each line names its worker. The first keeps the routing index of KV
workers for all (`api.kv_relay`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable

from homenode_directory.config import OFF, Settings
from homenode_directory.errors import ConfigError
from homenode_directory.process import Ready, Sibling, on_signals
from homenode_directory.process import main as serve

LOG = logging.getLogger("homenode.server")

START_S = 120.0  # a longest lease for settings that were changed, and what a start takes
STOP_S = 10.0  # beside the time to drain
RESTART_S = (0.1, 10.0)
SETTLED_S = 30.0  # a worker that lived for so long is started again at once

Announce = Callable[[Ready], None]


def main(settings: Settings, ready: Announce = lambda ready: None) -> int:
    """Serve until a signal; returns the exit status, after printing what was wrong."""
    if settings.workers == 1:
        return serve(settings, ready)
    from homenode_directory.telemetry.logs import set_up_logs

    set_up_logs(settings.log_level, settings.log_format)
    try:
        return asyncio.run(_supervise(settings, ready))
    except ConfigError as error:
        print(f"homenode: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class _NotStarted(Exception):
    """A worker ended before it served; it has said why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Worker:
    """One worker process after the other, under one number."""

    def __init__(self, number: int, settings: Settings, index: str) -> None:
        self.number = number
        self.settings = settings
        self._index = index
        self.ready = Ready(0, 0)
        self.process: Process | None = None
        self._pause_s = RESTART_S[0]

    async def start(self) -> None:
        """Start a process and wait until it serves. Raises _NotStarted."""
        sibling = dataclasses.asdict(Sibling(self.number, self._index))
        task = json.dumps({"sibling": sibling, "settings": dataclasses.asdict(self.settings)})
        self.process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "homenode_directory.workers", stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(task.encode() + b"\n")
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
        except TimeoutError:
            process.kill()
            line = b""
        if not line:
            raise _NotStarted(await process.wait() or 1)
        self.ready = Ready(**json.loads(line))
        metrics = self.settings.metrics
        if metrics != OFF:  # the next process is found where this one was
            address = f"{metrics.rpartition(':')[0]}:{self.ready.metrics_port}"
            self.settings = dataclasses.replace(self.settings, metrics=address)

    async def keep(self) -> None:
        """Start another process whenever one ends, until cancelled."""
        while True:
            started = time.monotonic()
            assert self.process is not None
            status = await self.process.wait()
            if time.monotonic() - started >= SETTLED_S:
                self._pause_s = RESTART_S[0]
            LOG.warning("a worker ended; another is started", extra={"worker": self.number, "status": status})
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, RESTART_S[1])
            with contextlib.suppress(_NotStarted, OSError):
                await self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


async def _supervise(settings: Settings, ready: Announce) -> int:
    stop = asyncio.Event()
    on_signals(stop)
    with _hold_port(settings) as held, tempfile.TemporaryDirectory(prefix="homenode-") as folder:  # for us alone
        host = settings.listen.rpartition(":")[0]
        settings = dataclasses.replace(settings, listen=f"{host}:{held.getsockname()[1]}")
        index = f"{folder}/routing"
        workers = [_Worker(number, _own(settings, number), index) for number in range(settings.workers)]
        try:
            await workers[0].start()  # what is wrong is told once
            await asyncio.gather(*(worker.start() for worker in workers[1:]))
            ports = tuple(worker.ready.metrics_port for worker in workers)
            ready(Ready(workers[0].ready.port, ports[0], ports[1:]))
            keepers = [asyncio.ensure_future(worker.keep()) for worker in workers]
            await stop.wait()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        except _NotStarted as failure:
            return failure.status
        finally:
            await _stop(workers, settings.drain_ms / 1_000 + STOP_S)
    return 0


async def _stop(workers: list[_Worker], within_s: float) -> None:
    """Let all drain at the same time; what does not end is killed."""
    processes = [worker.process for worker in workers if worker.process is not None]
    for worker in workers:
        worker.signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(process.wait() for process in processes))
    for worker in workers:
        worker.signal(signal.SIGKILL)
    await asyncio.gather(*(process.wait() for process in processes))


def _own(settings: Settings, number: int) -> Settings:
    """The settings of one worker: its metrics have a port of their own."""
    if settings.metrics == OFF:
        return settings
    host, _, port = settings.metrics.rpartition(":")
    own = int(port) + number if port.isdecimal() and int(port) else port
    return dataclasses.replace(settings, metrics=f"{host}:{own}")


def _hold_port(settings: Settings) -> socket.socket:
    """A socket that is bound to the address and takes no connections: the port stays ours. Raises ConfigError."""
    scheme = settings.store.partition(":")[0]
    if scheme in ("sqlite", "memory"):
        wanted = f"--workers {settings.workers}"
        raise ConfigError(f"{wanted}: the workers share the store, which must be Redis for that, not {scheme}")
    host, _, port = settings.listen.rpartition(":")
    if not host or not port.isdecimal() or settings.listen.startswith("unix"):
        raise ConfigError(f"--workers needs an address host:port to listen on, not {settings.listen!r}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as alone:  # another server on the port is a mistake
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {settings.listen}: {error}") from None
    return held


# --- in the worker ----------------------------------------------------------------------------------------------------


def work() -> int:
    """Serve as one of several workers."""
    line = sys.stdin.readline()
    if not line:
        return 0  # the parent has changed its mind
    task = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return serve(Settings(**task["settings"]), _announce, sibling=Sibling(**task["sibling"]))


def _announce(ready: Ready) -> None:
    print(json.dumps({"port": ready.port, "metrics_port": ready.metrics_port}), flush=True)


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(work())
