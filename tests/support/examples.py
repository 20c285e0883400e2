"""Runs the examples as users do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "client_sdk" / "examples"


def run_example(name: str, *arguments: str, timeout: float = 60) -> str:
    """What it prints. It says nothing on stderr."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def check_plan(out: str) -> None:
    """Some items of two agents were lost without Homenode; with it none of three agents, and tokens were saved."""
    before = re.search(r"^in (?!Homenode).*: 12 added, (\d+) there$", out, re.MULTILINE)
    assert before and int(before[1]) < 12, out
    assert "in Homenode: 18 added, 18 there, from 3 processes" in out, out
    saved = re.search(r"^(\d+) tokens saved", out, re.MULTILINE)
    assert saved and int(saved[1]) > 0, out
