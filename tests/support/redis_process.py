"""A real redis-server of the test's own: started on a free loopback port, killed, restarted and wiped at will."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from pathlib import Path

import redis

from tests.support.ports import HOST, free_port, wait_until

START_ATTEMPTS = 5
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0


class RedisMissing(RuntimeError):
    """There is no redis-server on this machine. Tests that need it fail; they are not skipped."""


def redis_binary() -> str:
    """The path of redis-server (or valkey-server); raises `RedisMissing` with what to do about it."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    raise RedisMissing("redis-server is not on PATH: run `make tools` as root, or install redis-server 7.0 or later")


class RedisProcess:
    """One redis-server with its data folder. The port stays the same over restarts, so clients find it again.

    Settings are those of a deployment that Homenode accepts: append-only file, fsync every second, no eviction,
    no RDB snapshots. `settings` adds to them or replaces them (`{"appendfsync": "always"}`).
    """

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = 0
        self.settings = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`redis://` address of database 0."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id; raises `RuntimeError` while it is down."""
        if self._process is None:
            raise RuntimeError("redis-server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> RedisProcess:
        """Starts it and waits until it answers PING; on the first start it picks a free port."""
        if self.running:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        fixed = self.port != 0
        for _ in range(1 if fixed else START_ATTEMPTS):
            if not fixed:
                self.port = free_port()
            self._process = self._spawn()
            try:
                wait_until(self._up_or_dead, timeout_s=START_TIMEOUT_S, what=f"redis-server on port {self.port}")
            except TimeoutError:
                self.kill()
                raise
            if self.running:
                return self
        raise RuntimeError(f"redis-server ended at its start:\n{self.log()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL: no farewell to clients, no last fsync."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: an orderly shutdown that flushes the append-only file."""
        self._end(signal.SIGTERM)

    def restart(self, *, kill: bool = True, wipe: bool = False) -> RedisProcess:
        """Down and up again on the same port; `wipe` starts it empty."""
        if kill:
            self.kill()
        else:
            self.stop()
        if wipe:
            self.wipe()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Removes all data; the server has to be down."""
        if self.running:
            raise RuntimeError("wipe while redis-server is running")
        shutil.rmtree(self.folder, ignore_errors=True)

    def save_data(self, to: Path) -> None:
        """Copies the data folder, to bring an older state back later; the server has to be down."""
        if self.running:
            raise RuntimeError("save_data while redis-server is running")
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder, to)

    def load_data(self, source: Path) -> None:
        """Replaces the data folder by a copy that `save_data` made; the server has to be down."""
        self.wipe()
        shutil.copytree(source, self.folder)

    def flushall(self) -> None:
        with self.client() as client:
            client.flushall()

    def client(self) -> redis.Redis:
        """A blocking client for looking inside; close it, or use it in a `with`."""
        return redis.Redis(host=HOST, port=self.port, socket_timeout=10)

    def log(self) -> str:
        """What redis-server wrote so far."""
        path = self.folder / "redis.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [redis_binary(), "--bind", HOST, "--port", str(self.port), "--dir", str(self.folder)]
        command += ["--logfile", str(self.folder / "redis.log"), "--daemonize", "no"]
        for name, value in self.settings.items():
            command += [f"--{name}", value]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _up_or_dead(self) -> bool:
        if not self.running:
            return True
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
        self._process = None
