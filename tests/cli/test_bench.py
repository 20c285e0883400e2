"""bench load: a real server under a short load."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from homenode.cli.bench.latency import Latencies, total
from homenode.cli.bench.plan import mix, sizes
from homenode.cli.bench.server import listeners, use_of
from tests.cli.conftest import Cli, Served, spawn
from tests.support.ports import wait_until

SHORT = ("--seconds", "1", "--warmup", "0.2", "--artifacts", "20")


def test_every_kind_of_operation_is_measured_and_nothing_is_left(cli: Cli, served: Served) -> None:
    kinds = ("read", "fetch", "commit", "edit", "write")
    result = cli("--json", "bench", "load", "--active", "8", "--idle", "6", "--processes", "2", "--size", "100..3k",
                 "--mix", ",".join(kinds), *SHORT, "--seconds", "4")  # fmt: skip
    assert result.code == 0, result.err
    found = result.json
    assert set(found["operations"]) == {*kinds, "all"}
    for kind in kinds:
        told = found["operations"][kind]
        assert told["count"] + sum(told["errors"].values()) > 0
        assert told["p50_ms"] <= told["p90_ms"] <= told["p99_ms"] <= told["p99.9_ms"] <= told["max_ms"]
        assert set(told["errors"]) <= {"VersionConflict", "LeaseDenied", "Contended"}
    assert found["operations"]["all"]["count"] == sum(found["operations"][kind]["count"] for kind in kinds)
    assert found["sessions"] == {"open": 14, "lost": 0, "replaced": 0}
    assert found["load"]["processes"] == 2 and not found["interrupted"]
    (server,) = [one for one in found["processes"] if one["pid"] == served.process.pid]
    assert server["cores"] > 0 and server["memory_most_bytes"] >= server["memory_sessions_bytes"] > 0
    assert found["left"] == 0 and cli("--json", "ls").json == []


def test_people_get_a_table(cli: Cli, served: Served) -> None:
    result = cli("bench", "load", "--active", "2", "--own-streams", "--rate", "40", "--keep", *SHORT)
    assert result.code == 0, result.err
    first, columns, *rows = result.out.splitlines()
    assert first.startswith("2 active and 0 idle sessions in 1 process, a stream each; 20 artifacts of 1,024 bytes")
    assert columns.split()[:3] == ["OPERATION", "COUNT", "PER"] and "P99.9 MS" in columns
    assert {row.split()[0] for row in rows if row} >= {"read", "commit", "all", "PROCESS"}
    assert any(row.split()[1:2] == [str(served.process.pid)] for row in rows)
    assert "20 artifacts are left under bench-" in result.err
    assert len(cli("--json", "ls").json) == 20


def test_with_a_rate_there_are_no_more_operations_than_are_due(cli: Cli) -> None:
    found = cli(
        "--json",
        "bench",
        "load",
        "--active",
        "10",
        "--rate",
        "50",
        "--mix",
        "fetch",
        "--seconds",
        "2",
        "--artifacts",
        "5",
    ).json
    assert 0 < found["operations"]["fetch"]["count"] <= 110  # ten sessions, each with its own first moment


def test_idle_sessions_alone_are_a_load_too(cli: Cli) -> None:
    result = cli("--json", "bench", "load", "--active", "0", "--idle", "40", *SHORT)
    assert result.code == 0
    assert (result.json["operations"], result.json["sessions"]["open"]) == ({}, 40)


@pytest.mark.parametrize("after", ["opened", "at work"])
def test_ctrl_c_ends_it_with_the_figures_so_far(url: str, cli: Cli, after: str) -> None:
    sessions = "3000" if after == "opened" else "4"
    process = spawn("--json", "bench", "load", "--active", sessions, "--seconds", "600", "--warmup", "0.1",
                    "--artifacts", "20", url=url)  # fmt: skip
    try:
        if after == "at work":
            wait_until(lambda: any(stat["n"] > 3 for stat in cli("--json", "ls").json), what="versions")
        else:
            wait_until(lambda: _children(process.pid), what="the load's process")
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert time.monotonic() - started < 120
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["interrupted"] and "Traceback" not in err
    if after == "at work":
        assert found["operations"]["read"]["count"] > 0
    assert cli("--json", "ls").json == []


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mix", "nonsense=1"), "weights such as read=90,commit=10"),
        (("--mix", "read=-1"), "weights such as"),
        (("--size", "2k..1k"), "bytes such as 1k or 200..8k"),
        (("--active", "-1"), "a whole number from 0"),
        (("--active", "0"), "at least one session"),
        (("--idle", "9000", "--processes", "2"), "need --processes 3 or more"),
        (("--active", "2", "--processes", "3"), "--processes is at most 2 here"),
        (("--rate", "0"), "a number above 0"),
        (("--seconds", "x"), "a number of seconds"),
        (("--pid", str(1 << 30)), "there is no process"),
        (("--url", "embedded:///tmp/x"), "works on a server"),
        (("--url", "http://x"), "http://x"),
        (("--tls-key", "key.pem"), "need --tls-ca"),
    ],
)
def test_what_makes_no_sense_is_named(cli: Cli, words: tuple[str, ...], said: str) -> None:
    result = cli("bench", "load", *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_nobody_there_is_one_line(cli: Cli) -> None:
    result = cli("--json", "bench", "load", "--url", "homenode://127.0.0.1:9/main", "--timeout", "1")
    assert (result.code, result.error["kind"]) == (5, "Unavailable")


def test_a_process_of_the_load_that_dies_is_said(url: str) -> None:
    process = spawn("bench", "load", "--seconds", "600", url=url)
    try:
        wait_until(lambda: _children(process.pid), what="the load's process")
        os.kill(_children(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1
    assert err.splitlines()[-1] == "homenode: a process of the load has ended"


# --- parts ------------------------------------------------------------------------------------------------------------


def test_percentiles_are_within_one_percent_and_add_up() -> None:
    one, two = Latencies(), Latencies()
    for n in range(1, 1001):
        (one if n % 2 else two).note(n / 1000)
    two.errors["Unavailable"] += 2
    both = total([one, two])
    assert both.count == 1000 and both.in_time == 1000 and both.errors == {"Unavailable": 2}
    for percent in (50.0, 90.0, 99.0, 99.9):
        assert abs(both.percentile_s(percent) - percent / 100) <= 0.011 * percent / 100
    assert both.percentile_s(100) == both.longest_s == 1.0
    assert Latencies().percentile_s(50) == 0.0


def test_options() -> None:
    assert mix("read=90,commit=10") == {"read": 90.0, "commit": 10.0} and mix("edit") == {"edit": 1.0}
    assert sizes("1k") == (1024, 1024) and sizes("200..8k") == (200, 8192) and sizes("16m") == (1 << 24, 1 << 24)


def test_the_process_behind_a_port_is_found(served: Served) -> None:
    assert served.process.pid in listeners(int(served.address.rpartition(":")[2]))
    use = use_of(served.process.pid)
    assert use is not None and use.cpu_s > 0 and use.memory_bytes > 1 << 20
    assert use_of(1 << 30) is None
