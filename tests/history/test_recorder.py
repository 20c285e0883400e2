"""What the SDK writes down of itself."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import homenode
from homenode.history.operations import BadHistory, Kind, Operation, read_history
from homenode.history.recorder import Recorder
from homenode.history.report import judge
from homenode.versions import ABSENT, ANY
from tests.client.server_process import ServerProcess
from tests.faults.proxy import Proxy

HERE = Path(__file__).resolve().parents[2]


async def test_every_kind_of_operation_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    async with homenode.connect("embedded://", agent="a", record=str(path)) as hn:
        assert (await hn.read("k", default="none")).text == "none"
        first = await hn.put("k", "one")
        assert (await hn.read("k")).version == first.version
        assert hn.read_cached("k") is not None
        with pytest.raises(homenode.VersionConflict):
            await hn.agent("b").put("k", "two", base=homenode.ABSENT)
        async with hn.write("k") as draft:
            draft.text += " more"
        await hn.edit("k", lambda text: text + " still")
        assert (await hn.read("k", max_age_ms=0)).version is not None
        await hn.read("k", version=first.version)
        await hn.commit_many({"k": "joint"})
        await hn.set_policy("k", max_age_ms=500)
        with pytest.raises(homenode.NotFound):
            await hn.set_policy("else", max_age_ms=500)
        await hn.delete("k")
        with pytest.raises(homenode.NotFound) as missing:
            await hn.read("k", max_age_ms=0)
        session = hn.session_id
    found = read_history([path])
    assert [(o.kind, o.agent, o.refused) for o in found] == [
        (Kind.READ, "a", "NotFound"),
        (Kind.WRITE, "a", ""),
        (Kind.READ, "a", ""),
        (Kind.HIT, "a", ""),
        (Kind.WRITE, "b", "AlreadyExists"),
        (Kind.WRITE, "a", ""),
        (Kind.HIT, "a", ""),
        (Kind.WRITE, "a", ""),
        (Kind.READ, "a", ""),
        (Kind.WRITE, "a", ""),
        (Kind.POLICY, "a", ""),
        (Kind.POLICY, "a", "NotFound"),
        (Kind.DELETE, "a", ""),
        (Kind.READ, "a", "NotFound"),
    ]
    assert {o.session for o in found} == {session} and {o.key for o in found} == {"k", "else"}
    assert [o.base for o in found if o.writes][:2] == [ABSENT, ABSENT]
    assert [o.lease for o in found if o.writes] == [False, False, True, False, False, False]
    assert [o.asked for o in found if o.asked] == ["fresh", "fresh"]
    made, seen = found[1], found[3]
    assert made.version == seen.version == first.version and made.hash == seen.hash == first.hash.hex()[:24]
    assert found[4].version == first.version, "a refusal names what is there"
    assert found[0].absent and found[0].version is None
    assert found[-1].absent and found[-1].version == missing.value.current == found[-2].version
    assert all(o.start_ns <= (o.end_ns or 0) for o in found)
    assert [o.start_ns for o in found] == sorted(o.start_ns for o in found)
    assert b"one" not in path.read_bytes()
    assert not judge(found, max_age_ms=0).findings


async def test_the_environment_says_it_too_and_processes_may_share_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMENODE_RECORD", str(tmp_path))
    async with homenode.connect("embedded://", agent="a") as one, homenode.connect("embedded://", agent="b") as two:
        await asyncio.gather(one.put("k", "1", base=ANY), two.put("k", "2", base=ANY))
    (path,) = tmp_path.iterdir()
    assert {o.agent for o in read_history([path])} == {"a", "b"} == {o.agent for o in read_history([tmp_path])}


async def test_nothing_is_recorded_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOMENODE_RECORD", raising=False)
    code = (
        "import asyncio, sys, homenode\n"
        "async def main():\n"
        "    async with homenode.connect('embedded://') as hn:\n"
        "        await hn.put('k', 'x'); assert type(hn) is homenode.Homenode\n"
        "asyncio.run(main())\n"
        "assert not [name for name in sys.modules if name.startswith('homenode.history')]\n"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, cwd=tmp_path)


async def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(homenode.InvalidArgument, match="recorded"):
        async with homenode.connect("embedded://", record=str(tmp_path / "no" / "such" / "folder")):
            pass


async def test_an_outcome_that_nobody_knows_has_no_end(short_tmp: Path) -> None:
    """The answer is on its way when the caller gives up, or is stopped."""
    server = await ServerProcess(f"sqlite:///{short_tmp}/d.sqlite3", short_tmp).start()
    path = short_tmp / "history.jsonl"
    try:
        async with Proxy(server.port) as proxy, homenode.connect(proxy.url, agent="a", record=str(path)) as hn:
            await hn.put("k", "one")
            proxy.down.open.clear()
            stopped = asyncio.create_task(hn.put("k", "two", base=ANY))
            with pytest.raises(homenode.Unknown):
                await hn.put("k", "three", base=ANY, timeout_ms=500)
            stopped.cancel()
            await asyncio.wait([stopped])
            proxy.heal()
            assert (await hn.read("k", max_age_ms=0)).text in ("two", "three")
    finally:
        server.kill()
    found = read_history([path])
    assert [(o.kind, o.unknown, o.refused) for o in found] == [
        (Kind.WRITE, False, ""),
        (Kind.WRITE, True, ""),
        (Kind.WRITE, True, ""),
        (Kind.READ, False, ""),
    ]
    assert not judge(found).findings


def test_a_write_is_on_file_before_it_is_sent_and_its_end_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    code = (
        "import os, signal\n"
        "from homenode.history.recorder import Recorder\n"
        f"r = Recorder({str(path)!r})\n"
        "r.write({'kind': 'hit', 'key': 'k', 'agent': 'a', 'session': 's', 'start': 1, 'end': 2, 'version': '1.1'})\n"
        "r.begin(kind='write', key='k', agent='a', session='s', start=3, base='any')\n"
        "r.write({'kind': 'hit', 'key': 'k', 'agent': 'a', 'session': 's', 'start': 9, 'end': 9, 'version': '1.1'})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    hit, write = read_history([path])
    assert hit.kind is Kind.HIT and write.unknown and write.base is ANY


def test_a_torn_last_line_is_left_out_and_other_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    Recorder(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"hit","ke')
    assert read_history([path]) == []
    path.write_bytes(whole + b'{"kind":"hit"}\n')
    with pytest.raises(BadHistory, match=r"history\.jsonl:2"):
        read_history([path])
    other = json.loads(whole) | {"boot": "another machine"}
    path.write_bytes(whole + json.dumps(other).encode() + b"\n")
    with pytest.raises(BadHistory, match="another"):
        read_history([path])


def test_a_full_history_says_so_and_is_not_taken_for_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    recorder = Recorder(path, bytes_max=1_000)
    for n in range(100):
        recorder.begin(kind="write", key="k", agent="a", session="s", start=n, base="any")
    assert recorder.stopped and path.stat().st_size < 1_200
    with pytest.raises(BadHistory, match="full"):
        read_history([path])


def test_what_waits_in_the_buffer_goes_with_the_next_line(tmp_path: Path) -> None:
    path, now = tmp_path / "history.jsonl", [0]
    recorder = Recorder(path, clock=lambda: now[0])
    size = path.stat().st_size
    recorder.write({"kind": "hit"})
    assert path.stat().st_size == size
    now[0] += 300_000_000
    recorder.write({"kind": "hit"})
    assert path.stat().st_size > size


def test_threads_lose_no_line(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history.jsonl")
    line = {"kind": "hit", "key": "k", "agent": "a", "session": "s", "start": 1, "end": 2, "version": "1.1"}

    def hits() -> None:
        for n in range(2_000):
            recorder.write(line)
            if n % 50 == 0:
                recorder.begin(kind="write", key="k", agent="a", session="s", start=3, base="any")

    threads = [threading.Thread(target=hits) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    found = read_history([tmp_path])
    assert [sum(o.kind is kind for o in found) for kind in (Kind.HIT, Kind.WRITE)] == [8_000, 160]


def test_a_blocking_connection_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with homenode.connect_sync("embedded://", agent="a", record=str(path)) as hn:
        version = hn.put("k", "one").version
        assert hn.read("k").version == version
        assert hn.read_cached("k") is not None
    assert [o.kind for o in read_history([path])] == [Kind.WRITE, Kind.READ, Kind.HIT]


def test_the_clock_is_the_one_that_processes_share() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    code = "from homenode.clock import boot_clock; print(boot_clock()())"
    there = int(subprocess.check_output([sys.executable, "-c", code], cwd=HERE))
    assert before < there < time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_an_operation_reads_well() -> None:
    one = Operation(Kind.WRITE, "k", "a", "s", 1_000_000_000, 2_000_000_000, homenode.Version(1, 4), base=ANY)
    assert str(one) == "a: write of 4 over any [1.000000, 2.000000] s"
