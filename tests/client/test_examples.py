"""Every example runs, also twice in a row on the same directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.conftest import ServerFactory

EXAMPLES = Path(__file__).resolve().parents[2] / "client_sdk" / "examples"


def run(name: str, *arguments: str, timeout: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_there_is_a_test_for_every_example() -> None:
    run_here = {"five_lines.py", "generate.py", "langgraph_plan.py", "mcp_agents.py", "two_agents.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*run_here, "directory_process.py"}


def test_five_lines(short_tmp: Path) -> None:
    assert run("five_lines.py") == "# Plan\n- ship it\n"
    url = f"embedded://{short_tmp}/example.sqlite3"
    run("five_lines.py", url)
    assert run("five_lines.py", url) == "# Plan\n- ship it\n- ship it\n"


@pytest.mark.parametrize("where", ["embedded", "server"])
async def test_two_agents(where: str, server_factory: ServerFactory) -> None:
    arguments = [(await server_factory().start()).url] if where == "server" else []
    for _ in range(2):
        out = run("two_agents.py", *arguments)
        assert "instead of" in out
        assert "+Paragraph 30 proves" in out or "proves" in out
        assert "the writer is refused" in out
        assert out.endswith("> The proof of paragraph 30 is missing.\n")


def test_langgraph_plan(short_tmp: Path) -> None:
    out = run("langgraph_plan.py")
    assert "in LangGraph's own store: 16 added, " in out and "in Homenode: 24 added, 24 there" in out
    assert "tokens saved" in out


def test_mcp_agents() -> None:
    out = run("mcp_agents.py")
    assert "10 edits, 10 there" in out and "is refused: VersionConflict" in out and "tokens instead of" in out


@pytest.mark.slow
def test_generate() -> None:
    out = run("generate.py", timeout=300)
    assert out.splitlines()[-1] == "summary.md is at version 1"
    first, *later = [line for line in out.splitlines() if "computed before" in line]
    assert ", 0 of them computed before" in first
    assert len(later) == 2 and all(", 0 of them" not in line for line in later)  # also after the edit
