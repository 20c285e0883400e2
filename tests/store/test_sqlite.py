"""What only the embedded store promises: one opener, kill -9, a full disk, its file."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homenode_directory.store.base import Add, Commit, Delete, Equals, Put, StoreError, StoreFull, StoreLocked
from homenode_directory.store.sqlite_file import FORMAT, RESERVE_BYTES
from homenode_directory.store.sqlite_store import SqliteStore

KILLS = 8
WRITER = Path(__file__).parent / "sqlite_writer_process.py"


async def opened(path: Path, **options: int) -> SqliteStore:
    store = SqliteStore(path, **options)
    await store.open()
    return store


async def check_after_kill(path: Path, acknowledged: dict[int, tuple[int, int]]) -> int:
    """Every acknowledged commit is there, the log is dense and agrees with the records; returns the log's length."""
    store = await opened(path)
    logged: dict[int, int] = {}
    total = 0
    for slice_ in range(store.slices):
        entries, head = await store.read_log(slice_, 0, 1_000_000)
        assert [sequence for sequence, _ in entries] == list(range(1, head + 1))
        total += head
        for sequence, data in entries:
            task, n = map(int, data.split())
            assert n == logged.get(task, 0) + 1
            logged[task] = n
            if acknowledged.get(task, (0, 0))[0] == n:
                assert acknowledged[task][1] == sequence
    for task, (n, _) in acknowledged.items():
        (record,) = await store.load(task % store.slices, [f"task/{task}"])
        assert int(record["n"]) == logged[task] >= n
        assert len(record["filler"]) == (logged[task] - 1) % 3_000
    await store.close()
    return total


async def test_kill_9_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    rng = random.Random(1)
    acknowledged: dict[int, tuple[int, int]] = {}
    incarnations = []
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, WRITER, path], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines, wanted = 0, rng.randrange(1, 400)
        for line in process.stdout:
            if line.startswith("start"):
                continue
            lines += 1
            if lines == wanted:
                process.kill()
            task, n, sequence = map(int, line.split())
            assert acknowledged.get(task, (0, 0))[0] < n
            acknowledged[task] = (n, sequence)
        assert process.wait(20) == -9
        assert lines >= wanted
        assert await check_after_kill(path, acknowledged) >= sum(n for n, _ in acknowledged.values())
        with sqlite3.connect(path) as connection:
            incarnations.append(connection.execute("SELECT number FROM slices WHERE slice = 0").fetchone()[0])
        connection.close()
    assert incarnations == sorted(set(incarnations))


async def test_a_second_opener_is_told_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await opened(path)
    with pytest.raises(StoreLocked, match=r"pid \d+.*homenode serve"):
        await opened(path)
    code = (
        "import asyncio, sys; from homenode_directory.store import open_store\n"
        "asyncio.run(open_store('sqlite:///' + sys.argv[1]).open())"
    )
    process = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=30)
    assert "StoreLocked" in process.stderr
    await store.close()
    await (await opened(path)).close()


async def test_the_file_is_its_owners_and_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "store.db"
    store = await opened(path)
    await store.adopt(0, 0)
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
    await store.close()


async def test_each_opening_is_a_new_incarnation_even_of_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    numbers = []
    for _ in range(4):
        store = await opened(path, clock_ms=lambda: 1_000)  # a clock that stands still does not help
        numbers.append((await store.adopt(0, 0)).number)
        await store.close()
    assert numbers == [1_000, 1_001, 1_002, 1_003]
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    store = await opened(copy, clock_ms=lambda: 1_000)
    assert (await store.adopt(0, 0)).number == 1_004
    await store.close()


async def test_other_files_are_refused_clearly(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("certainly no database, and longer than its header " * 100)
    with pytest.raises(StoreError, match="not a database"):
        await opened(text)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StoreError, match="not a Homenode store"):
        await opened(foreign)
    newer = tmp_path / "newer.db"
    await (await opened(newer)).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=rf"format 99; this version of Homenode reads format {FORMAT}"):
        await opened(newer)
    with pytest.raises(StoreError, match="cannot use"):
        await opened(Path("/proc/none/store.db"))


async def test_an_unstorable_commit_hurts_no_other(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    token = (await store.adopt(0, 0)).token
    good = [Commit(writes=(Add("k", "n", 1),), log=(b"x",))]
    bad = [Commit(writes=(Put("k", "lone surrogate", "\ud800"),))]
    results = await asyncio.gather(
        *(store.commit(0, token, commits) for commits in (good, bad, good)), return_exceptions=True
    )
    assert isinstance(results[1], StoreError)
    assert await store.load(0, ["k"]) == [{"n": "2"}]
    await store.close()


async def test_a_closed_store_says_so_and_has_finished_its_work(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    token = (await store.adopt(0, 0)).token
    tasks = [asyncio.create_task(store.commit(0, token, [Commit(log=(b"x",))])) for _ in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert sorted(outcomes[0].head for outcomes in await asyncio.gather(*tasks)) == list(range(1, 51))
    with pytest.raises(StoreError, match="closed"):
        await store.commit(0, token, [])
    with pytest.raises(StoreError, match="closed"):
        await store.load(0, ["k"])
    await store.close()


async def test_a_log_is_trimmed_by_count(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db", log_max=100)
    token = (await store.adopt(0, 0)).token
    for _ in range(30):
        await store.commit(0, token, [Commit(log=(b"x",) * 100)])
    entries, head = await store.read_log(0, 2_950, 100)
    assert head == 3_000 and len(entries) == 50
    with sqlite3.connect(store.path) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM log").fetchone()
    connection.close()
    assert kept < 2_000
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def fill(store: SqliteStore, token: str) -> int:
    """Commit until the store is full; returns how many commits were acknowledged."""
    for n in range(10_000):
        try:
            await store.commit(
                0, token, [Commit(writes=(Put(f"k{n}", "v", "x" * 40_000), Add("count", "n", 1)), log=(b"x",))]
            )
        except StoreFull:
            return n
    raise AssertionError("never full")


async def test_a_full_disk_refuses_whole_and_relief_still_works(small_disk: Path) -> None:
    path = small_disk / "store.db"
    other = small_disk / "other"
    store = await opened(path)
    token = (await store.adopt(0, 0)).token
    other.write_bytes(b"x" * 8_000_000)
    acknowledged = await fill(store, token)
    assert acknowledged > 20
    assert await store.load(0, ["count", f"k{acknowledged}"]) == [{"n": str(acknowledged)}, {}]
    assert (await store.read_log(0, 0, 100_000))[1] == acknowledged
    for n in range(1_000):  # what ends leases, and may even write a little
        (outcome,) = await store.commit(
            0, token, [Commit((Equals(f"lease{n}", "v", None),), (Put(f"lease{n}", "v", "x"),), (b"y",))], relief=True
        )
        assert outcome.ok
    with pytest.raises(StoreFull):
        for _ in range(1_000):
            await store.commit(0, token, [Commit(writes=(Put(f"more{_}", "v", "x" * 40_000),))])
    with pytest.raises(StoreFull):
        await store.put_blobs(0, [("blob", b"x" * 16_000_000)])
    other.unlink()
    (outcome,) = await store.commit(0, token, [Commit(writes=(Put("after", "v", "x" * 40_000),), log=(b"z",))])
    assert outcome.head == acknowledged + 1_001
    await store.close()
    assert (small_disk / "store.db.reserve").stat().st_size == RESERVE_BYTES
    store = await opened(path)
    assert (await store.load(0, ["after"]))[0]
    assert len((await store.read_log(0, 0, 100_000))[0]) == acknowledged + 1_001
    await store.close()


async def test_room_that_deletes_make_is_used_again(small_disk: Path) -> None:
    store = await opened(small_disk / "store.db")
    token = (await store.adopt(0, 0)).token
    acknowledged = await fill(store, token)
    for n in range(acknowledged):
        await store.commit(0, token, [Commit(writes=(Delete(f"k{n}"),))], relief=True)
    (outcome,) = await store.commit(0, token, [Commit(writes=(Put("after", "v", "x" * 40_000),))])
    assert outcome.ok
    await store.close()
