"""A directory in a process of its own, for the examples that were given no address."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def directory() -> Iterator[str]:
    """A directory for the time of the example."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "homenode.cli.main", "serve", "--store", f"sqlite:///{folder}/plan.sqlite3"]
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", "--metrics", "off"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            yield next(word.rstrip(",") for word in line.split() if word.startswith("homenode://"))
        finally:
            process.terminate()
            process.wait()
