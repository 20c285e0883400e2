"""A directory in a process of its own, which a test may kill, pause and start again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_port

READY_WAIT_S = 30.0


class ServerProcess:
    """`python -m homenode_directory` on a fixed loopback port.

    Args:
        store: its address, such as sqlite:///FILE.
        folder: where its log goes.
        flags: further settings.
    """

    def __init__(self, store: str, folder: Path, **flags: int) -> None:
        self.port = free_port()
        self.url = f"homenode://127.0.0.1:{self.port}/main"
        self._log = folder / f"server-{self.port}.log"
        self._command = [
            sys.executable, "-m", "homenode_directory", "--store", store, "--listen", f"127.0.0.1:{self.port}",
            "--metrics", "off", "--log-level", "warning", "--drain-ms", "200",
        ]  # fmt: skip
        for name, value in flags.items():
            self._command += ["--" + name.replace("_", "-"), str(value)]
        self._process: subprocess.Popen[str] | None = None

    async def start(self) -> ServerProcess:
        """Start it, and wait until it serves."""
        assert self._process is None
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), READY_WAIT_S)
        assert line.startswith("ready"), f"the server did not start: {self._log.read_text()}"
        return self

    def kill(self) -> None:
        """SIGKILL, and wait."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    async def stop(self) -> int:
        """SIGTERM, and its exit status."""
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        status = await asyncio.to_thread(process.wait, READY_WAIT_S)
        assert process.stdout is not None
        process.stdout.close()
        return status

    def pause(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)
