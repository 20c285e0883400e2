"""doctor: finds a sound deployment sound, and names each fault with what to do."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from homenode.cli import doctor_machine
from homenode.cli.doctor import told
from homenode.cli.doctor_servers import Server, agreement, certificate
from homenode.cli.doctor_store import parse_info, redis, sqlite
from homenode.cli.findings import Finding
from homenode.cli.metrics import Metrics
from homenode_api.v1 import directory_pb2 as pb
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
        assert "nothing listens on 127.0.0.1:9" in found[2]["advice"]
        told = {finding["check"]: finding for finding in together.json["findings"]}
        assert told["settings"]["found"].startswith("alike on all 2 servers: consistency=lazy term_ms=10000")
        assert told["version"]["level"] == told["invalidation"]["level"] == "ok"
        apart = cli("doctor", "--metrics", "off", "--url", f"homenode://{hosts[0]},{hosts[2]}/main")
        assert apart.code == 1
        assert "has another store" in apart.out
    finally:
        for server in pair:
            stop(server.process)


def test_nobody_there(cli: Cli) -> None:
    result = cli("doctor", "--url", "homenode://127.0.0.1:9/main", "--timeout", "2")
    assert result.code == 1
    assert "FAULT  directory: 127.0.0.1:9: Unavailable" in result.out
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
        ({"maxmemory": "0", "total_system_memory": str(1 << 20)}, ALWAYS, "memory", "warn"),
        ({"total_system_memory": str(1 << 30)}, ALWAYS, "memory", "warn"),
        ({"aof_last_bgrewrite_status": "err"}, ALWAYS, "persistence", "warn"),
        ({}, {**ALWAYS, "min-replicas-to-write": "1"}, "replication", "FAULT"),
        ({"connected_clients": "990", "maxclients": "1000"}, ALWAYS, "connections", "warn"),
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
        (("doctor", "--store", "sqlite:///"), "not a store"),
        (("doctor", "--store-only"), "needs --store"),
        (("doctor", "--store", "redis://x", "--store-password-file", "/nowhere"), "cannot read /nowhere"),
        (("doctor", "--metrics", "http://x/metrics,ftp://y"), "ftp://y"),
        (("doctor", "--store", "redis://127.0.0.1:notaport"), "Redis address"),
        (("doctor", "--url", "http://127.0.0.1"), "not an address of a directory"),
        (("doctor", "--timeout", "soon"), "a number of seconds"),
    ],
)
def test_wrong_input_is_named(cli: Cli, args: tuple[str, ...], said: str) -> None:
    result = cli(*args)
    assert result.code == 2
    assert said in result.err
    assert result.out == "", "something was looked at"


def test_a_store_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.sqlite3").write_bytes(b"x")
    result = cli("--json", "doctor", "--store-only", "--store", f"sqlite:///{tmp_path}/a.sqlite3")
    assert result.code == 0
    assert set(levels(result.json["findings"])) == {"sqlite", "disk"}


@pytest.mark.parametrize(
    ("change", "config", "check", "level"),
    [
        ({"aof_enabled": "0"}, {}, "persistence", "FAULT"),
        ({}, {**ALWAYS, "appendfsync": "everysec"}, "persistence", "warn"),
        ({"connected_slaves": "1"}, ALWAYS, "replication", "warn"),
        ({}, ALWAYS, "persistence", "ok"),
    ],
)
def test_strict_artifacts_need_more(change: dict[str, str], config: dict[str, str], check: str, level: str) -> None:
    found = {finding.check: finding for finding in redis({**SOUND, **change}, config, strict=True)}
    assert found[check].level == level


# --- servers ----------------------------------------------------------------------------------------------------------


def server(host: str, **told: Any) -> Server:
    return Server(host, pb.OpenSessionResponse(**{"term_ms": 10_000, "max_age_ms": 3_000, "consistency": 1, **told}), 1)


def test_settings_that_differ_are_a_fault() -> None:
    assert agreement([server("a"), server("b")]).level == "ok"
    apart = agreement([server("a"), server("b", term_ms=5_000)])
    assert apart.level == "FAULT"
    assert "--term-ms: a 10000, b 5000" in apart.found
    assert agreement([server("a"), server("b", consistency=2)]).level == "FAULT"
    assert agreement([server("a"), server("b", consistency=0)]).level == "ok", "an older server does not tell it"


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("homenode_store_seconds_sum 10\nhomenode_store_seconds_count 100", "store latency"),
        ("homenode_stream_lag_seconds 5", "stream lag"),
        ("homenode_clock_jumps_total 2", "clock jumps"),
        ("homenode_archive_failures 1", "log archive"),
        ('homenode_store_failures_total{kind="commit"} 1', "store failures"),
        ('homenode_mistakes_total{where="sweeper"} 1', "mistakes"),
    ],
)
def test_what_metrics_tell(line: str, check: str) -> None:
    found = {finding.check: finding for finding in told(Metrics.parse(line + "\n"), "h:1")}
    assert found[check].level == "warn"
    assert found[check].advice
    assert set(levels_of(told(Metrics.parse("homenode_sessions 1\n"), "h:1"))) == {"ok"}


def levels_of(found: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in found]


@pytest.mark.parametrize(("days", "level"), [(365, "ok"), (5, "warn")])
def test_a_certificate(days: int, level: str, tmp_path: Path) -> None:
    """A real handshake; one of an unknown authority is a fault."""
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem")
    subprocess.run([*made, *names, "-days", str(days)], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"

        def serve() -> None:
            for _ in range(2):
                with contextlib.suppress(OSError):
                    context.wrap_socket(listening.accept()[0], server_side=True).close()

        serving = threading.Thread(target=serve)
        serving.start()
        args = argparse.Namespace(tls_ca=str(tmp_path / "cert.pem"), tls_cert=None, tls_key=None)
        assert certificate(args, host).level == level
        found = certificate(argparse.Namespace(tls_ca=another_authority(tmp_path), tls_cert=None, tls_key=None), host)
        serving.join()
    assert found.level == "FAULT"
    assert "--tls-ca" in found.advice


def another_authority(folder: Path) -> str:
    """A file of authorities that has signed nothing."""
    other = folder / "other.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-days", "9"]
    subprocess.run([*command, "-keyout", os.devnull, "-out", str(other)], check=True, capture_output=True)
    return str(other)


# --- this machine -----------------------------------------------------------------------------------------------------


def test_limits_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor_machine.resource, "getrlimit", lambda _: (1_024, 4_096))
    assert "ulimit -n" in doctor_machine.files().advice
    setting = tmp_path / "overcommit"
    monkeypatch.setattr(doctor_machine, "OVERCOMMIT", setting)
    monkeypatch.setattr(doctor_machine, "HUGE_PAGES", tmp_path / "none")
    setting.write_text("0\n")
    assert [finding.level for finding in doctor_machine.kernel()] == ["warn"]
    setting.write_text("1\n")
    assert [finding.level for finding in doctor_machine.kernel()] == ["ok"]


def test_a_log_archive(tmp_path: Path) -> None:
    assert doctor_machine.archive(tmp_path / "no" / "folder").level == "FAULT"
    assert doctor_machine.archive(tmp_path).level == "ok"
    assert doctor_machine.archive(tmp_path / "log.jsonl").level == "ok"
