"""ls, stat, watch, top: what they show, in tables and as JSON."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

import homenode
from homenode.cli.metrics import Metrics, addresses
from homenode.cli.output import ago_text, size_text
from homenode.cli.top_picture import Sample, by_activity
from tests.cli.conftest import Cli, Served, spawn, stop


def test_ls_lists_by_prefix(cli: Cli) -> None:
    empty = cli("ls")
    assert (empty.code, empty.out, empty.err) == (0, "", "no artifacts\n")
    for key in ("docs/b", "docs/a", "plan"):
        cli("put", key, stdin="12345")
    rows = [line.split() for line in cli("ls", "docs/").out.splitlines()]
    assert rows[0][:3] == ["KEY", "VERSION", "BYTES"]
    assert [row[:3] for row in rows[1:]] == [["docs/a", "1", "5"], ["docs/b", "1", "5"]]
    assert [artifact["key"] for artifact in cli("--json", "ls").json] == ["docs/a", "docs/b", "plan"]
    assert cli("ls", "--json", "none/").json == []


def test_keys_are_shown_as_they_are(cli: Cli) -> None:
    key = "[bold]a[/bold] :smile: 100%"
    cli("put", key, stdin="x")
    assert key in cli("ls").out
    assert key in cli("stat", key).out


def test_stat_shows_versions(cli: Cli) -> None:
    cli("put", "a", stdin="1")
    cli("put", "a", "--base", "1", stdin="22")
    told = cli("--json", "stat", "a").json
    assert (told["n"], told["size"], told["holder"]) == (2, 2, None)
    assert [info["n"] for info in told["versions"]] == [2, 1]
    shown = cli("stat", "a").out
    assert f"2 (in full {told['version']})" in shown
    assert told["hash"] in shown


def test_a_writer_is_seen_and_another_one_refused(cli: Cli, url: str) -> None:
    cli("put", "a", stdin="1")

    async def held() -> list[object]:
        async with homenode.connect(url, agent="holder") as hn:
            async with hn.lease("a", "write"):
                command = spawn("--json", "put", "a", "--force", url=url)
                out, err = await asyncio.to_thread(command.communicate, None, 30)
                lines = await asyncio.to_thread(spawn("stat", "a", "--json", url=url).communicate, None, 30)
                return [command.returncode, out, json.loads(err)["error"]["kind"], json.loads(lines[0]), hn.session_id]

    code, out, kind, stat, session = asyncio.run(held())
    assert (code, out, kind) == (4, "", "LeaseDenied")
    assert isinstance(stat, dict)
    assert (stat["state"], stat["holder"]) == ("M", session)


def test_watch_prints_changes_until_its_count(cli: Cli, url: str) -> None:
    watch = spawn("watch", "notes/", "--count", "2", url=url)
    assert watch.stderr is not None
    assert "watching notes/" in watch.stderr.readline()
    cli("put", "other", stdin="x")
    cli("put", "notes/1", stdin="x")
    cli("put", "notes/1", "--base", "1", stdin="yy")
    out, _ = watch.communicate(timeout=30)
    assert watch.returncode == 0
    lines = out.splitlines()
    assert "notes/1  version 1  1 bytes" in lines[0]
    assert "notes/1  version 2  2 bytes" in lines[1]


def test_watch_ends_cleanly_with_ctrl_c(cli: Cli, url: str) -> None:
    watch = spawn("watch", url=url)
    assert watch.stderr is not None
    watch.stderr.readline()
    cli("put", "a", stdin="x")
    assert watch.stdout is not None
    assert "a  version 1" in watch.stdout.readline()
    assert stop(watch, signal.SIGINT) == ("", "")
    assert watch.returncode == 0


def test_top_shows_artifacts_and_the_server(cli: Cli, served: Served) -> None:
    cli("put", "docs/a", stdin="x")
    shown = cli("top", "--once", "--metrics", served.metrics).out
    assert "docs/a" in shown
    assert "sessions" in shown
    assert "commits" in shown
    told = cli("top", "--once", "--json", "--metrics", served.metrics).json
    assert told["artifacts"][0]["key"] == "docs/a"
    assert told["server"]["commits"] >= 1
    assert cli("top", "--once", "--json", "--metrics", "off").json["server"] is None


def test_top_says_when_the_metrics_asked_for_are_not_there(cli: Cli) -> None:
    result = cli("top", "--once", "--metrics", "http://127.0.0.1:9/metrics")
    assert result.code == 5
    assert "no metrics from http://127.0.0.1:9/metrics" in result.err


def test_top_goes_on_until_ctrl_c(cli: Cli, url: str, served: Served) -> None:
    cli("put", "a", stdin="x")
    process = spawn("--json", "top", "--interval", "0.1", "--metrics", served.metrics, url=url)
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert "commits_per_s" not in looks[0]["server"]
    assert looks[1]["server"]["commits_per_s"] >= 0
    stop(process, signal.SIGINT)
    assert process.returncode == 0


def test_top_puts_the_busiest_first(cli: Cli, url: str) -> None:
    async def looks() -> tuple[Sample, Sample]:
        async with homenode.connect(url, agent="test") as hn:
            for key in ("a", "b", "c", "d"):
                await hn.put(key, "1")
            before = Sample(0.0, await hn.list(), None)
            await hn.put("c", "2")
            async with hn.lease("d", "write"):
                return before, Sample(1.0, await hn.list(), None)

    before, after = asyncio.run(looks())
    assert [stat.key for stat in by_activity(after, before)][:2] == ["d", "c"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("ls", "a\x00b"), 2, "control"),
        (("ls", "a", "b"), 2, "unrecognized"),
        (("stat",), 2, "KEY"),
        (("stat", "nowhere"), 3, "nowhere"),
        (("watch", "--count", "0"), 2, "a number from 1"),
        (("watch", "a\x01"), 2, "control"),
        (("top", "--interval", "0"), 2, "a number of seconds"),
        (("top", "--once", "--metrics", "ftp://x"), 2, "not an address of metrics"),
    ],
)
def test_wrong_input_is_named(cli: Cli, args: tuple[str, ...], code: int, said: str) -> None:
    result = cli(*args)
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_metrics_are_read_from_the_text_format() -> None:
    text = '# HELP x y\nx_total{a="1",b="q\\"q"} 3\nx_total{a="2"} 4.5\ny 1e3\nnonsense\nz NaN?\n'
    metrics = Metrics.parse(text)
    assert metrics.total("x_total") == 7.5
    assert metrics.total("x_total", a="2") == 4.5
    assert metrics.by("x_total", "a") == {"1": 3.0, "2": 4.5}
    assert metrics.total("y") == 1000.0
    assert metrics.total("z") == 0


def test_where_metrics_are_if_nobody_says() -> None:
    pair = "homenode://10.0.0.7:7400,10.0.0.8:7400/main"
    assert addresses(pair, None) == ["http://10.0.0.7:7401/metrics", "http://10.0.0.8:7401/metrics"]
    assert addresses(pair, "http://a:1/metrics,b:2") == ["http://a:1/metrics", "b:2"]
    assert addresses(pair, "off") == addresses("embedded://x", None) == []


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "-"), (1_000, "9 s ago"), (-410_000, "7 min ago"), (-90_000_000, "25 h ago")]
)
def test_times_for_people(ms: int, text: str) -> None:
    assert ago_text(ms, now_ms=10_000) == text


def test_sizes_for_people() -> None:
    assert [size_text(size) for size in (0, 9_999, 12_345, 12_345_678)] == ["0", "9999", "12k", "12M"]
