"""replay: archives, live stores and recorded histories, checked, and told in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import homenode
from homenode_directory.audit.archive import seal, unseal
from tests.cli.conftest import Cli, Served, start_server, stop
from tests.conftest import RedisFactory


@pytest.fixture
def archive(cli: Cli, tmp_path: Path) -> Path:
    """The archive of a server that has done a few things."""
    path = tmp_path / "archive"
    server = start_server("--store", f"sqlite:///{tmp_path / 'd.sqlite3'}", "--log-archive", str(path))
    try:
        url = ("--url", f"{server.address}/plans")
        assert cli(*url, "put", "plan.md", "--create", stdin="one").code == 0
        assert cli(*url, "edit", "plan.md", "--append", "two").code == 0
        assert cli(*url, "put", "other.md", "--create", stdin="x").code == 0
        assert cli(*url, "put", "plan.md", "--force", stdin="three").code == 0
    finally:
        stop(server.process)
    return path


def rewrite(path: Path, old: str, new: str) -> None:
    """Change an archive as if it had been written so."""
    crc, lines, last = 0, [], 0
    for line in path.read_bytes().splitlines():
        last = unseal(line, last)
        body = line.decode().partition(',"crc"')[0].replace(old, new) + "}"
        sealed, crc = seal(body.encode(), crc)
        lines.append(sealed)
    path.write_bytes(b"".join(lines))


def test_an_archive_is_checked_and_summed_up(cli: Cli, archive: Path) -> None:
    result = cli("replay", str(archive))
    assert result.code == 0, result.err
    assert "4 commits" in result.out and "nothing is wrong" in result.out
    told = cli("--json", "replay", str(archive)).json
    assert told["events"]["commits"] == 4 and told["violations"] == [] and told["missing"] == 0


def test_an_artifact_s_history_is_told_in_words(cli: Cli, archive: Path) -> None:
    result = cli("replay", str(archive), "--key", "plan.md")
    lines = [line for line in result.out.splitlines() if "v" in line]
    assert [n for n in (1, 2, 3) if any(f"v{n}: " in line and "committed" in line for line in lines)] == [1, 2, 3]
    assert "(3 bytes, " in result.out and "other" not in result.out
    assert "three" not in result.out and b"three" not in b"".join(p.read_bytes() for p in archive.glob("*.jsonl"))
    assert cli("replay", str(archive), "--key", "plan.md", "--workspace", "else").out.count("v1:") == 0
    told = cli("--json", "replay", str(archive), "--key", "plan.md").json["history"]
    assert {line["artifact"] for line in told} == {"default/plans/plan.md"} and all(line["at_ms"] for line in told)


def test_the_first_violation_is_explained_with_its_place(cli: Cli, archive: Path) -> None:
    (file,) = archive.glob("*.jsonl")
    (incarnation,) = re.findall(r'\["Inv",\[(\d+),3\]', file.read_text())
    rewrite(file, f'["Inv",[{incarnation},3]', f'["Inv",[{incarnation},2]')
    result = cli("replay", str(archive), "--key", "plan.md")
    assert result.code == 1
    assert "VIOLATION: version: default/plans/plan.md at log-000001.jsonl:" in result.out
    assert "version 2 after 2: it was used already" in result.out
    told = cli("--json", "replay", str(archive)).json
    assert told["violations_found"] == 1 and told["violations"][0]["rule"] == "version"


def test_a_damaged_archive_is_refused_with_its_line(cli: Cli, archive: Path) -> None:
    (file,) = archive.glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2] + lines[3:]))
    result = cli("replay", str(archive))
    assert (result.code, "log-000001.jsonl:3" in result.err) == (1, True)
    assert cli("--json", "replay", str(archive)).error["where"] == "log-000001.jsonl:3"


def test_a_sqlite_store_s_own_log_will_do_unless_it_is_in_use(cli: Cli, archive: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'd.sqlite3'}"
    assert "4 commits" in cli("replay", store).out
    server = start_server("--store", store)
    try:
        result = cli("replay", store)
    finally:
        stop(server.process)
    assert result.code == 5 and f"pid {server.process.pid}" in result.err


@pytest.mark.redis
def test_a_redis_store_is_read_while_it_is_served(cli: Cli, redis_factory: RedisFactory) -> None:
    redis = redis_factory()
    server = start_server("--store", redis.url)
    try:
        assert cli("--url", f"{server.address}/main", "put", "k", "--create", stdin="x").code == 0
        result = cli("replay", redis.url, "--key", "k")
        assert result.code == 0 and "v1: " in result.out and "nothing is wrong" in result.out
    finally:
        stop(server.process)


def test_a_recorded_history_is_judged(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    monkeypatch.setenv("HOMENODE_RECORD", str(path))
    assert cli("put", "k", "--create", stdin="one").code == 0
    assert cli("edit", "k", "--append", "two").code == 0
    monkeypatch.delenv("HOMENODE_RECORD")
    result = cli("replay", str(path), "--key", "k", "--max-age-ms", "3000")
    assert result.code == 0 and "2 write" in result.out and "nothing is wrong" in result.out
    told = cli("--json", "replay", str(path)).json
    assert told["operations"]["write"] == 2 and told["operations"]["read"] >= 1 and told["findings"] == []
    first = re.findall(rb'"id":"[^"]*"', path.read_bytes())[0]
    path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(keepends=True) if first not in line))
    result = cli("replay", str(path))
    assert result.code == 1 and "never written" in result.out and "--some-writers" in result.err
    assert cli("replay", str(path), "--some-writers").code == 0


def test_histories_of_two_workspaces_are_judged_apart(
    cli: Cli, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.jsonl"
    monkeypatch.setenv("HOMENODE_RECORD", str(path))
    for name in ("apart-1", "apart-2"):
        url = f"{served.address}/{name}"
        assert cli("--url", url, "put", "k", "--create", stdin=name).code == 0
        assert cli("--url", url, "edit", "k", "--append", "more").code == 0
    monkeypatch.delenv("HOMENODE_RECORD")
    result = cli("replay", str(path))
    assert result.code == 0 and "4 write" in result.out and "on 2 artifacts" in result.out, result.out
    assert "2 write" in cli("replay", str(path), "--workspace", "apart-2", "--key", "k").out


def test_a_handoff_is_told_in_words(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    server = start_server("--store", "memory://", "--log-archive", str(path))
    try:
        with homenode.connect_sync(f"{server.address}/main", agent="writer") as writer:
            critic = writer.agent("critic")
            with writer.write("plan.md", create=True) as draft:
                draft.text = "one"
                writer.handoff(draft, to=critic)
            with critic.write("plan.md") as draft:
                draft.text += " two"
    finally:
        stop(server.process)
    told = cli("replay", str(path), "--key", "plan.md").out
    assert "the write lease is kept for main~" in told and "acquired the write lease that was kept for it" in told
    assert "  went" not in told and "(; " not in told


@pytest.mark.parametrize("source", ["/no/such/file", "redis://127.0.0.1:9/0", "nonsense://x"])
def test_what_is_not_there_is_named(cli: Cli, source: str) -> None:
    result = cli("replay", source)
    assert result.code in (1, 5) and result.err.startswith("homenode: ")
