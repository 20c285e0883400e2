"""`embedded://`: the directory in the process, its file, and what is said when it cannot be had."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import homenode


async def test_the_file_keeps_what_was_acknowledged(short_tmp: Path) -> None:
    url = f"embedded://{short_tmp}/notes.sqlite3"
    async with homenode.connect(url, agent="a") as hn:
        first = await hn.put("k", "one")
    async with homenode.connect(url, agent="b") as hn:
        assert (await hn.read("k")).version == first.version
        second = await hn.put("k", "two")
        assert second.version is not None
        assert first.version is not None
        assert second.version > first.version


async def test_connections_of_a_process_share_it_and_come_and_go(short_tmp: Path) -> None:
    url = f"embedded://{short_tmp}/notes.sqlite3"

    async def visit(i: int) -> None:
        async with homenode.connect(url, agent=f"a{i}") as hn:
            await hn.put(f"k{i}", "x")

    await asyncio.gather(*(visit(i) for i in range(4)))
    async with homenode.connect(url, agent="end") as hn:
        assert len(await hn.list()) == 4


async def test_workspaces_are_apart(short_tmp: Path) -> None:
    url = f"embedded://{short_tmp}/notes.sqlite3"
    async with homenode.connect(url) as main, homenode.connect(f"{url}?workspace=other") as other:
        await main.put("k", "x")
        assert await other.list() == []


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


OPEN = """
import asyncio, sys, homenode
async def main():
    try:
        async with homenode.connect(sys.argv[1]):
            print("open")
    except homenode.HomenodeError as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""


async def test_another_process_is_told_to_use_a_server(short_tmp: Path) -> None:
    url = f"embedded://{short_tmp}/notes.sqlite3"
    async with homenode.connect(url):
        said = await asyncio.to_thread(run, OPEN, url)
    assert said.startswith("Unavailable")
    assert "homenode serve" in said
    assert len(said.splitlines()) == 1
    assert run(OPEN, url) == "open\n"


@pytest.mark.parametrize("missing", ["homenode_directory", "hiredis", "redis"])
def test_a_missing_extra_gives_one_clear_line_or_is_not_needed(missing: str) -> None:
    said = run(f"import sys\nsys.modules[{missing!r}] = None\n{OPEN}", "embedded://")
    assert said == "open\n" or ("pip install 'homenode[server]'" in said and len(said.splitlines()) == 1)
    if missing == "homenode_directory":
        assert said != "open\n"


async def test_what_cannot_be_opened_is_a_typed_error(short_tmp: Path) -> None:
    (short_tmp / "text").write_text("not a database " * 100)
    for path in (short_tmp, short_tmp / "text", short_tmp / "text" / "below"):
        with pytest.raises(homenode.HomenodeError):
            await homenode.connect(f"embedded://{path}", timeout_ms=2_000)
