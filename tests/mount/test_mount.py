"""A mounted folder agrees with the directory, whatever happens on either side, and no edit is thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import homenode
from homenode.mount import Mount, Report
from homenode.mount.disk import Disk
from homenode.mount.plan import Action, Remote, plan
from homenode.versions import Version


def remote(n: int, text: str) -> Remote:
    return Remote(Version(1, n), hashlib.sha256(text.encode()).digest())


@pytest.mark.parametrize(
    ("base", "file", "artifact", "action"),
    [
        (None, None, None, Action.NOTHING),
        (None, "a", None, Action.PUSH),
        (None, None, (1, "a"), Action.PULL),
        (None, "a", (1, "a"), Action.AGREE),
        (None, "b", (1, "a"), Action.CONFLICT),
        ((1, "a"), "a", (1, "a"), Action.NOTHING),
        ((1, "a"), "b", (1, "a"), Action.PUSH),
        ((1, "a"), None, (1, "a"), Action.DELETE),
        ((1, "a"), "a", (2, "b"), Action.PULL),
        ((1, "a"), None, (2, "b"), Action.PULL),
        ((1, "a"), "b", (2, "b"), Action.AGREE),
        ((1, "a"), "c", (2, "b"), Action.CONFLICT),
        ((1, "a"), "a", (3, "a"), Action.AGREE),
        ((1, "a"), "a", None, Action.REMOVE),
        ((1, "a"), "b", None, Action.RESTORE),
        ((1, "a"), None, None, Action.AGREE),
    ],
)
def test_three_facts_say_what_to_do(base: object, file: object, artifact: object, action: Action) -> None:
    def of(one: object) -> Remote | None:
        return remote(*one) if isinstance(one, tuple) else None

    hash = hashlib.sha256(file.encode()).digest() if isinstance(file, str) else None
    assert plan(of(base), hash, of(artifact)) is action


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    numbers = itertools.count()
    return (tmp_path / f"folder{n}" for n in numbers)  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def mounted(url: str, folder: Path, prefix: str = "repo/") -> AsyncIterator[list[Report]]:
    told: list[Report] = []
    async with homenode.connect(url, agent=folder.name) as hn:
        running = asyncio.create_task(Mount(hn, folder, prefix, tell=told.append, every_s=0.05).run())
        try:
            yield told
        finally:
            running.cancel()
            ended = await asyncio.gather(running, return_exceptions=True)
            assert isinstance(ended[0], asyncio.CancelledError), ended


async def until(condition: object) -> None:
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(FileNotFoundError):
                if condition():  # type: ignore[operator]
                    return
            await asyncio.sleep(0.02)


async def test_two_folders_and_an_agent_see_each_others_edits(server_url: str, folders: Iterator[Path]) -> None:
    a, b = next(folders), next(folders)
    a.mkdir()
    (a / "src").mkdir()
    (a / "src" / "main.py").write_text("print(1)\n")
    (a / ".git").mkdir()
    (a / ".git" / "HEAD").write_text("ref")
    async with mounted(server_url, a), mounted(server_url, b), homenode.connect(server_url, agent="x") as hn:
        await until(lambda: (b / "src" / "main.py").read_text() == "print(1)\n")
        assert [one.key for one in await hn.list()] == ["repo/src/main.py"]
        await hn.edit("repo/src/main.py", lambda text: text + "print(2)\n")
        await until(lambda: (a / "src" / "main.py").read_text().endswith("print(2)\n"))
        (b / "notes.md").write_bytes(b"\x00\xff")
        await until(lambda: (a / "notes.md").read_bytes() == b"\x00\xff")
        (a / "notes.md").unlink()
        await until(lambda: not (b / "notes.md").exists())
        await hn.delete("repo/src/main.py", base=homenode.ANY)
        await until(lambda: not (a / "src").exists() and not (b / "src").exists())
        await hn.put("repo/../escape", "no")
        await hn.put("repo/fine", "yes")
        await until(lambda: (a / "fine").read_text() == "yes")
    assert not (a.parent / "escape").exists()


async def test_both_sides_changed_and_nothing_is_lost(server_url: str, folders: Iterator[Path]) -> None:
    a = next(folders)
    async with homenode.connect(server_url, agent="x") as hn:
        await hn.put("repo/plan.md", "one")
        await Mount(hn.agent("mount"), a, "repo/").sync()
        (a / "plan.md").write_text("the folder's")
        await hn.put("repo/plan.md", "the directory's")
        async with mounted(server_url, a) as told:
            await until(lambda: (a / "plan.md").read_text() == "the directory's")
            await until(lambda: any(one.action == "conflict" for one in told))
        (copy,) = a.glob("*.conflict-*")
        assert copy.read_text() == "the folder's" and copy.suffix == ".md"
        assert (await hn.read("repo/plan.md", max_age_ms=0)).text == "the directory's"
        assert {one.key for one in await hn.list()} == {"repo/plan.md"}  # copies stay where they are


async def test_an_edited_file_outlives_its_artifact(server_url: str, folders: Iterator[Path]) -> None:
    a = next(folders)
    async with homenode.connect(server_url, agent="x") as hn:
        await hn.put("repo/plan.md", "one")
        await Mount(hn.agent("mount"), a, "repo/").sync()
        (a / "plan.md").write_text("two")
        await hn.delete("repo/plan.md")
        async with mounted(server_url, a) as told:
            await until(lambda: any(one.action == "restore" for one in told))
        assert (await hn.read("repo/plan.md", max_age_ms=0)).text == "two"


def test_what_came_between_look_and_replacement_is_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    file = tmp_path / "plan.md"
    file.write_text("seen")
    expected = disk.hash("plan.md")
    file.write_text("edited meanwhile")
    new = disk.temporary()
    new.write_text("pulled")
    kept = disk.replace("plan.md", new, expected)
    assert file.read_text() == "pulled" and kept is not None and kept.read_text() == "edited meanwhile"
    with file.open("r+") as editor:  # it has the file open across the next pull
        new = disk.temporary()
        new.write_text("pulled again")
        assert disk.replace("plan.md", new, disk.hash("plan.md")) is None
        editor.write("too late")
    ((name, copy),) = disk.examine(all=True)
    assert name == "plan.md" and copy.read_text().startswith("too late") and file.read_text() == "pulled again"


async def test_every_line_that_anybody_wrote_is_somewhere(server_url: str, folders: Iterator[Path]) -> None:
    rng = random.Random(7)
    homes = [next(folders), next(folders)]
    written: set[str] = set()
    async with mounted(server_url, homes[0]), mounted(server_url, homes[1]), homenode.connect(server_url) as hn:
        for number in range(40):
            line, file = f"line {number}\n", rng.choice(["a.md", "b.md"])
            written.add(line)
            if rng.random() < 0.3:
                await hn.edit(f"repo/{file}", lambda text, line=line: text + line, default="")
            else:
                path = rng.choice(homes) / file
                old = path.read_text() if path.exists() else ""
                temporary = path.with_name(f".{path.name}.swp")
                temporary.write_text(old + line)
                os.replace(temporary, path)
            await asyncio.sleep(rng.random() * 0.1)
        await until(lambda: all((homes[0] / n).read_text() == (homes[1] / n).read_text() for n in ("a.md", "b.md")))
        await asyncio.sleep(0.5)
        versions = [
            (await hn.read(f"repo/{file}", version=one.version)).text
            for file in ("a.md", "b.md")
            for one in await hn.history(f"repo/{file}")
            if not one.deleted
        ]
    there = "".join(versions) + "".join(copy.read_text() for home in homes for copy in home.glob("*.conflict-*"))
    assert [line for line in sorted(written) if line not in there] == []


async def test_a_mount_that_was_killed_goes_on(server_url: str, folders: Iterator[Path]) -> None:
    a = next(folders)
    command = [sys.executable, "-m", "homenode.cli.main", "mount", str(a), "--prefix", "repo/", "--url", server_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    async with homenode.connect(server_url, agent="x") as hn:
        await hn.put("repo/plan.md", "one")
        await until(lambda: (a / "plan.md").read_text() == "one")
        await until(lambda: "plan.md" in (a / ".homenode" / "mount.json").read_text())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (a / "plan.md").write_text("while nobody looked")
        done = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "push      plan.md" in done.stdout
        assert (await hn.read("repo/plan.md", max_age_ms=0)).text == "while nobody looked"
        (a / "plan.md").write_text("mine")
        await hn.put("repo/plan.md", "theirs", base=homenode.ANY)
        done = subprocess.run([*command, "--once"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 4 and "is kept as plan.conflict-" in done.stdout


async def test_a_folder_that_was_emptied_deletes_nothing_at_once(server_url: str, folders: Iterator[Path]) -> None:
    a = next(folders)
    async with homenode.connect(server_url, agent="x") as hn:
        for number in range(5):
            await hn.put(f"repo/{number}", "x")
        await Mount(hn, a, "repo/").sync()
        for number in range(5):
            (a / str(number)).unlink()
        with pytest.raises(homenode.InvalidArgument, match="are gone"):
            await Mount(hn, a, "repo/").sync()
        with pytest.raises(homenode.InvalidArgument, match="is a mount of"):
            Mount(hn, a, "other/")
        assert len(await hn.list()) == 5


async def test_what_somebody_else_writes_is_waited_for_and_then_left(server_url: str, folders: Iterator[Path]) -> None:
    a, told = next(folders), list[Report]()
    async with homenode.connect(server_url, agent="x") as hn:
        await hn.put("repo/plan.md", "one")
        mount = Mount(hn.agent("mount"), a, "repo/", tell=told.append)
        await mount.sync()
        (a / "plan.md").write_text("two")
        (a / ".homenode" / "moving" / "left").write_text("by a mount that was killed")
        async with hn.lease("repo/plan.md"):
            await mount.sync(wait_s=0.5)
        assert {one.name for one in told if one.action == "skip"} == {"plan.md", ".homenode/moving"}
        assert (await hn.read("repo/plan.md", max_age_ms=0)).text == "one" and (a / "plan.md").read_text() == "two"
        await mount.sync()
        assert (await hn.read("repo/plan.md", max_age_ms=0)).text == "two"
