"""The log archive follows the log, over restarts, losses, trims and full disks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from homenode_directory.audit.archive import read_archive
from homenode_directory.audit.exporter import Exporter, Pace
from homenode_directory.audit.items import Corrupt, Gap, Item, Logged, Renewed
from homenode_directory.audit.live import read_store
from homenode_directory.audit.rules import Auditor
from homenode_directory.audit.trimming import Keep, trim
from homenode_directory.audit.writer import ArchiveBusy
from tests.directory.world import Process, World, reason

PACE = Pace(period_ms=5, again_ms=5)


class Site:
    """A directory, its work, and what exports its log."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = path
        self.process: Process | None = None
        self.session = ""
        self._keys = itertools.count()

    def exporter(self, **options: int) -> Exporter:
        assert self.process is not None
        return Exporter(self.process.store, str(self.path), pace=PACE, **options)  # type: ignore[arg-type]

    async def export(self, **options: int) -> None:
        """One exporter's whole life."""
        exporter = self.exporter(**options)
        await exporter.round(everything=True)
        await exporter.close()

    async def work(self, commits: int = 5) -> None:
        """Some entries more."""
        assert self.process is not None
        if not self.session or reason(await self.process.keep(self.session)) is not None:
            self.session = await self.process.session()
        for n in range(commits):
            await self.process.commit(self.session, f"h{next(self._keys)}", key=f"k{n % 3}")

    @property
    def data(self):  # type: ignore[no-untyped-def]
        return self.world.data

    def items(self) -> list[Item]:
        return list(read_archive(self.path))

    def sequences(self) -> list[int]:
        return [item.sequence for item in self.items() if isinstance(item, Logged)]

    def violations(self) -> list[object]:
        auditor = Auditor()
        for item in self.items():
            auditor.see(item)
        return list(auditor.violations)


@pytest.fixture(params=["log.jsonl", "folder"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    site = Site(World(), tmp_path / request.param)
    site.process = await site.world.process()
    return site


async def test_it_follows_and_goes_on_after_a_restart(site: Site) -> None:
    for _ in range(3):
        await site.work()
        await site.export()
        await site.export()
    assert site.sequences() == list(range(1, site.data.head + 1))
    assert site.process is not None
    live = [item async for item in read_store(site.process.store) if isinstance(item, Logged)]
    assert [item.record for item in site.items() if isinstance(item, Logged)] == [item.record for item in live]
    assert not site.violations()


async def test_it_follows_by_itself_and_takes_the_rest_with_it_when_it_ends(site: Site) -> None:
    await site.work()
    exporter = site.exporter()
    exporter.start()
    for _ in range(10):
        await site.work(2)
        await asyncio.sleep(0.01)
    await exporter.close()
    assert site.sequences() == list(range(1, site.data.head + 1))


async def test_a_line_that_was_being_written_is_cut_off(site: Site) -> None:
    await site.work()
    await site.export()
    last = sorted(site.path.glob("*.jsonl"))[-1] if site.path.is_dir() else site.path
    for cut in (1, 30, 200):
        with last.open("r+b") as file:
            file.truncate(last.stat().st_size - cut)
        await site.export()
        assert site.sequences() == list(range(1, site.data.head + 1))


async def test_what_was_trimmed_meanwhile_is_a_gap_that_says_so(site: Site) -> None:
    await site.work()
    await site.export()
    head = site.data.head
    await site.work(20)
    assert site.process is not None
    await site.process.store.trim_log(site.world.number, head + 11)
    await site.export()
    (gap,) = [item for item in site.items() if isinstance(item, Gap)]
    assert (gap.first, gap.last) == (head + 1, head + 10) and "trimmed" in gap.why
    assert site.sequences() == [*range(1, head + 1), *range(head + 11, site.data.head + 1)]
    assert not site.violations()


@pytest.mark.parametrize("grown", [2, 50])
async def test_lost_memory_is_told_even_when_the_log_has_grown_again(site: Site, grown: int) -> None:
    await site.work(10)
    await site.export()
    site.world.memory.wipe()
    site.world.later(10)
    await site.work(grown)
    await site.export()
    first, second = [item for item in site.items() if isinstance(item, Renewed)]
    assert second.number > first.number and second.after == 0
    assert site.sequences()[-site.data.head :] == list(range(1, site.data.head + 1))
    assert not site.violations()


@pytest.mark.parametrize("grown", [1, 50])
async def test_an_older_memory_takes_back_what_was_exported(site: Site, grown: int) -> None:
    await site.work(10)
    older, head = site.world.memory.snapshot(), site.data.head
    await site.work(10)
    await site.export()
    site.world.memory.restore(older)
    site.world.later(10)
    await site.export()
    await site.work(grown)
    await site.export()
    second = [item for item in site.items() if isinstance(item, Renewed)][-1]
    assert second.after == head
    assert site.sequences()[-(site.data.head - head) :] == list(range(head + 1, site.data.head + 1))
    assert not site.violations()


async def test_a_restart_of_the_store_loses_nothing(site: Site) -> None:
    await site.work(10)
    await site.export()
    site.world.memory.restart()
    site.world.later(10)
    await site.work(10)
    await site.export()
    assert site.sequences() == list(range(1, site.data.head + 1))
    assert len([item for item in site.items() if isinstance(item, Renewed)]) == 2
    assert not site.violations()


async def test_files_of_a_folder_follow_each_other_and_a_missing_one_shows(tmp_path: Path) -> None:
    site = Site(World(), tmp_path / "folder")
    site.process = await site.world.process()
    for _ in range(6):
        await site.work(10)
        await site.export(file_bytes_max=1_000)
    files = sorted(site.path.glob("*.jsonl"))
    assert len(files) == 6
    assert site.sequences() == list(range(1, site.data.head + 1))
    files[2].rename(tmp_path / "away")
    with pytest.raises(Corrupt) as corrupt:
        site.items()
    assert corrupt.value.where == f"{files[3].name}:1"
    (tmp_path / "away").unlink()
    for older in files[:2]:  # the beginning may go
        older.unlink()
    assert site.sequences()[-1] == site.data.head
    assert not site.violations()


async def test_a_damaged_file_is_set_aside_and_exported_again(site: Site) -> None:
    await site.work(10)
    await site.export()
    last = sorted(site.path.glob("*.jsonl"))[-1] if site.path.is_dir() else site.path
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 4
    last.write_bytes(data)
    await site.work(3)
    await site.export()
    assert site.sequences() == list(range(1, site.data.head + 1))
    assert [path for path in last.parent.iterdir() if ".damaged-" in path.name]


async def test_one_process_writes_and_the_next_takes_over(site: Site) -> None:
    await site.work()
    first, second = site.exporter(), site.exporter()
    await first.round(everything=True)
    with pytest.raises(ArchiveBusy):
        await second.round(everything=True)
    assert second.exported(site.world.number) is None
    second.start()
    await first.close()
    await site.work()
    for _ in range(400):
        if second.exported(site.world.number) == site.data.head:
            break
        await asyncio.sleep(0.01)
    await second.close()
    assert site.sequences() == list(range(1, site.data.head + 1))
    assert second.failures == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("a file system can only be mounted by root")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


async def test_a_full_disk_is_told_and_made_up_for(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(World(), small_disk / "log.jsonl")
    site.process = await site.world.process()
    await site.work()
    exporter = site.exporter()
    await exporter.round(everything=True)
    exporter.start()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4_096):
            pass
    for _ in range(10):
        await site.work(30)
        await asyncio.sleep(0.01)
    assert exporter.failures > 0
    assert len(list(read_archive(site.path))) < site.data.head, "what did not fit is not half there"
    filler.unlink()
    for _ in range(400):
        if exporter.exported(site.world.number) == site.data.head:
            break
        await asyncio.sleep(0.01)
    await exporter.close()
    assert site.sequences() == list(range(1, site.data.head + 1))
    told = [record.message for record in caplog.records if record.name == "homenode.archive"]
    assert [("cannot be written" in text, "written again" in text) for text in told] == [(True, False), (False, True)]


# --- trimming -----------------------------------------------------------------------------------------------------


async def test_the_log_is_cut_by_number_and_by_age_but_not_before_it_is_exported(tmp_path: Path) -> None:
    site = Site(World(), tmp_path / "log.jsonl")
    site.process = await site.world.process()
    await site.work(20)
    old = site.data.head
    site.world.later(50_000)
    await site.work(10)
    store, number, head = site.process.store, site.world.number, site.data.head

    async def cut(keep: Keep, exported: int | None = None) -> int:
        await trim(store, number, head, site.world.ms, keep, exported=exported)
        return int(site.data.first)

    assert await cut(Keep(entries=1_000, age_ms=0)) == 1
    assert await cut(Keep(entries=1_000, age_ms=60_000)) == 1
    assert await cut(Keep(entries=25, age_ms=0), exported=3) == 4
    assert await cut(Keep(entries=25, age_ms=0)) == head - 24
    assert await cut(Keep(entries=1_000, age_ms=40_000), exported=head) == old + 1
    young = [item async for item in read_store(store) if isinstance(item, Logged)]
    assert young and all(item.record.at_ms >= site.world.ms - 40_000 for item in young)
    assert await cut(Keep(entries=5, age_ms=0)) == head - 4
