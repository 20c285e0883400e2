"""doctor: finds a sound deployment sound, and names each fault with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from homenode.cli.doctor_store import parse_info, redis, sqlite
from tests.cli.conftest import Cli, Served, start_server, stop
from tests.conftest import RedisFactory

SOUND = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "maxmemory": str(1 << 30),
    "used_memory": str(1 << 20),
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "role": "master",
    "connected_slaves": "0",
}
ALWAYS = {"appendfsync": "always", "maxmemory-policy": "noeviction"}


def levels(found: list[dict[str, str]]) -> dict[str, str]:
    return {finding["check"]: finding["level"] for finding in found}


def test_a_sound_deployment(cli: Cli, served: Served) -> None:
    result = cli("--json", "doctor", "--metrics", served.metrics)
    assert result.code == 0
    found = levels(result.json["findings"])
    assert {"version", "limits", "latency", "clock"} <= set(found)
    assert all(found[check] == "ok" for check in ("directory", "stream", "write", "invalidation", "delete", "metrics"))
    assert cli("--json", "ls").json == []  # the scratch artifact is gone


@pytest.mark.redis
def test_several_servers(cli: Cli, served: Served, redis_url: str) -> None:
    """Each is looked at; one that has another store is a fault, one that is gone is not."""
    pair = [start_server("--store", redis_url) for _ in range(2)]
    hosts = [server.address.removeprefix("homenode://") for server in (*pair, served)]
    try:
        together = cli(
            "--json", "doctor", "--metrics", "off", "--url", f"homenode://{hosts[0]},{hosts[1]},127.0.0.1:9/main"
        )
        assert together.code == 0
        found = [finding for finding in together.json["findings"] if finding["check"] == "directory"]
        assert [finding["level"] for finding in found] == ["ok", "ok", "warn"]
        assert "over the same store" in found[1]["found"]
        apart = cli("doctor", "--metrics", "off", "--url", f"homenode://{hosts[0]},{hosts[2]}/main")
        assert apart.code == 1
        assert "has another store" in apart.out
    finally:
        for server in pair:
            stop(server.process)


def test_nobody_there(cli: Cli) -> None:
    result = cli("doctor", "--url", "homenode://127.0.0.1:9/main", "--timeout", "2")
    assert result.code == 1
    assert "FAULT  directory: Unavailable" in result.out
    assert "homenode serve" in result.out


@pytest.mark.redis
def test_redis_as_it_should_be_and_not(cli: Cli, redis_factory: RedisFactory) -> None:
    server = redis_factory()
    sound = levels(cli("--json", "doctor", "--store", server.url).json["findings"])
    assert (sound["redis"], sound["eviction"], sound["persistence"]) == ("ok", "ok", "ok")
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
    result = cli("--json", "doctor", "--store", server.url)
    assert result.code == 1
    broken = {finding["check"]: finding for finding in result.json["findings"]}
    assert broken["eviction"]["level"] == "FAULT"
    assert "noeviction" in broken["eviction"]["advice"]
    assert broken["persistence"]["level"] == "warn"
    assert "appendonly yes" in broken["persistence"]["advice"]
    server.kill()
    gone = levels(cli("--json", "doctor", "--store", server.url).json["findings"])
    assert gone["redis"] == "FAULT"


@pytest.mark.parametrize(
    ("change", "config", "check", "level"),
    [
        ({}, ALWAYS, "persistence", "ok"),
        ({}, {**ALWAYS, "appendfsync": "no"}, "persistence", "warn"),
        ({"aof_last_write_status": "err"}, ALWAYS, "persistence", "FAULT"),
        ({"redis_version": "6.2.1"}, ALWAYS, "redis", "FAULT"),
        ({"maxmemory_policy": "volatile-lru"}, {}, "eviction", "FAULT"),
        ({}, {}, "eviction", "ok"),
        ({"maxmemory": "0"}, ALWAYS, "memory", "note"),
        ({"used_memory": str(1 << 30)}, ALWAYS, "memory", "warn"),
        ({"role": "slave"}, ALWAYS, "replication", "FAULT"),
        ({"connected_slaves": "2"}, ALWAYS, "replication", "note"),
    ],
)
def test_what_redis_says_of_itself(change: dict[str, str], config: dict[str, str], check: str, level: str) -> None:
    found = {finding.check: finding for finding in redis({**SOUND, **change}, config)}
    assert found[check].level == level
    assert found[check].level == "ok" or found[check].advice


def test_info_is_parsed() -> None:
    assert parse_info("# Server\r\nredis_version:7.2.4\r\nos:Linux: x\r\n\r\n") == {
        "redis_version": "7.2.4",
        "os": "Linux: x",
    }


def test_a_sqlite_file(tmp_path: Path) -> None:
    path = tmp_path / "directory.sqlite3"
    assert sqlite(path)[0].level == "FAULT"
    path.write_bytes(b"x" * 10)
    assert [finding.check for finding in sqlite(path)] == ["sqlite", "disk"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("doctor", "--store", "mysql://x"), "not a store"),
        (("doctor", "--store", "redis://127.0.0.1:notaport"), "Redis address"),
        (("doctor", "--url", "http://127.0.0.1"), "not an address of a directory"),
        (("doctor", "--timeout", "soon"), "a number of seconds"),
    ],
)
def test_wrong_input_is_named(cli: Cli, args: tuple[str, ...], said: str) -> None:
    result = cli(*args)
    assert result.code == 2
    assert said in result.err
