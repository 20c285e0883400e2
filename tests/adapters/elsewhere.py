"""What another process does."""

from __future__ import annotations

import subprocess
import sys


def elsewhere(code: str, *arguments: str) -> None:
    """Run the code in a process of its own, to its end."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
