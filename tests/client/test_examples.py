"""Every example runs, also twice in a row on the same directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.conftest import ServerFactory
from tests.support.examples import EXAMPLES, check_plan
from tests.support.examples import run_example as run


def test_there_is_a_test_for_every_example() -> None:
    plans = {f"{name}_plan.py" for name in ("autogen", "crewai", "langgraph", "mount", "openai_agents")}
    others = {"five_lines.py", "generate.py", "mcp_agents.py", "two_agents.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*plans, *others, "directory_process.py", "team.py"}


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


@pytest.mark.parametrize("name", ["mount_plan.py", "openai_agents_plan.py"])
def test_agents_keep_all_of_their_plan(name: str) -> None:
    check_plan(run(name, timeout=240))


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
