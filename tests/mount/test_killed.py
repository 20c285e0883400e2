"""A mount that is killed in the middle of a swap loses nothing, and the next one puts right what it left."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import homenode
from homenode.mount import Mount, Report
from homenode.mount.disk import Disk

NEVER, WAIT_S = "an edit that nobody else has", 60

#: Brings a folder to agree, and dies at a point of a swap, having edited the file just before or not.
DIES = """
import asyncio, os, signal, sys
from pathlib import Path
import homenode
from homenode.mount import Mount, disk

url, folder, point, edit = sys.argv[1:]
real = {name: getattr(os, name) for name in ("link", "rename", "replace")}
exchange = disk._exchange

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def edited():
    if edit:
        (Path(folder) / "plan.md").write_text(edit)

def exchanging(a, b, aside):
    edited()
    if point == "before the swap":
        die()
    swapped = exchange(a, b, aside)
    if point == "after the swap":
        die()
    return swapped

def replacing(a, b):
    if point == "between two names" and ".homenode/moving" in str(a) and str(b).endswith("plan.md"):
        real["replace"](a, b)
        die()
    real["replace"](a, b)

def renaming(a, b):
    if point == "after the removal" and str(a).endswith("plan.md") and ".homenode" not in str(a):
        edited()
        real["rename"](a, b)
        die()
    real["rename"](a, b)

disk._exchange, os.rename = exchanging, renaming
if point == "between two names":
    disk._renameat2, os.replace = None, replacing

async def main():
    async with homenode.connect(url, agent="dies") as hn:
        await Mount(hn, Path(folder), "repo/").sync()

asyncio.run(main())
"""


def dies(url: str, folder: Path, point: str, edit: str = "") -> None:
    done = subprocess.run([sys.executable, "-c", DIES, url, str(folder), point, edit], timeout=WAIT_S, check=False)
    assert done.returncode == -signal.SIGKILL


def left(folder: Path) -> list[Path]:
    return [path for path in (folder / ".homenode" / "moving").rglob("*") if path.is_file()]


@pytest.mark.parametrize("edit", ["", NEVER])
@pytest.mark.parametrize("point", ["before the swap", "after the swap", "between two names"])
async def test_a_pull(server_url: str, tmp_path: Path, point: str, edit: str) -> None:
    told: list[Report] = []
    async with homenode.connect(server_url, agent="x") as hn:
        await hn.put("repo/sub/plan.md", "one")
        await hn.put("repo/plan.md", "one")
        await Mount(hn.agent("mount"), tmp_path, "repo/").sync()
        await hn.put("repo/plan.md", "two")
        dies(server_url, tmp_path, point, edit)
        assert left(tmp_path)
        await Mount(hn.agent("mount"), tmp_path, "repo/", tell=told.append).sync()
        assert not any((tmp_path / ".homenode" / "moving").iterdir())
        assert (tmp_path / "plan.md").read_text() == "two" == (await hn.read("repo/plan.md", max_age_ms=0)).text
        assert (tmp_path / "sub" / "plan.md").read_text() == "one"
    copies = [copy.read_text() for copy in tmp_path.glob("*.conflict-*")]
    assert copies == ([NEVER] if edit else []) and sum(one.action == "conflict" for one in told) == len(copies)


@pytest.mark.parametrize("edit", ["", NEVER])
async def test_a_removal(server_url: str, tmp_path: Path, edit: str) -> None:
    """What nobody else has is in its place again; and so it is not gone, though the artifact is."""
    told: list[Report] = []
    async with homenode.connect(server_url, agent="x") as hn:
        await hn.put("repo/plan.md", "one")
        await Mount(hn.agent("mount"), tmp_path, "repo/").sync()
        await hn.delete("repo/plan.md")
        dies(server_url, tmp_path, "after the removal", edit)
        assert left(tmp_path) and not (tmp_path / "plan.md").exists()
        await Mount(hn.agent("mount"), tmp_path, "repo/", tell=told.append).sync()
        assert not left(tmp_path) and (tmp_path / "plan.md").exists() == bool(edit)
        assert [one.key for one in await hn.list("repo/")] == (["repo/plan.md"] if edit else [])
        if edit:
            assert (tmp_path / "plan.md").read_text() == NEVER
            assert [one.action for one in told] == ["return", "restore"]


async def test_what_is_there_meanwhile_is_not_written_over(server_url: str, tmp_path: Path) -> None:
    async with homenode.connect(server_url, agent="x") as hn:
        await hn.put("repo/plan.md", "one")
        await Mount(hn.agent("mount"), tmp_path, "repo/").sync()
        await hn.delete("repo/plan.md")
        dies(server_url, tmp_path, "after the removal", NEVER)
        (tmp_path / "plan.md").write_text("written since")
        await Mount(hn.agent("mount"), tmp_path, "repo/").sync()
        assert (tmp_path / "plan.md").read_text() == "written since"
        assert [copy.read_text() for copy in tmp_path.glob("*.conflict-*")] == [NEVER]


async def test_one_mount_of_a_folder_at_a_time(server_url: str, tmp_path: Path) -> None:
    async with homenode.connect(server_url, agent="x") as hn:
        with Disk(tmp_path).alone() as alone:
            assert alone
            with pytest.raises(homenode.InvalidArgument, match="another mount"):
                await Mount(hn, tmp_path, "repo/").sync()
        await Mount(hn, tmp_path, "repo/").sync()


def test_a_folder_does_not_give_way_to_a_file(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "kept").write_text("x")
    new = disk.temporary()
    new.write_text("pulled")
    with pytest.raises(IsADirectoryError):
        disk.replace("plan", new, None)
    assert (tmp_path / "plan" / "kept").read_text() == "x"
