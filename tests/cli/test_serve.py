"""serve: settings from everywhere, a clear line for what is wrong, an orderly end."""

from __future__ import annotations

import signal
import tomllib
from pathlib import Path

import pytest
from redis import Redis

from tests.cli.conftest import Cli, Served, start_server, stop
from tests.conftest import RedisFactory


def test_print_config_is_the_sum_of_file_variables_and_flags(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "homenode.toml"
    file.write_text('listen = "127.0.0.1:1"\nterm_ms = 5000\nmax_age_ms = 700\n')
    monkeypatch.setenv("HOMENODE_TERM_MS", "6000")
    monkeypatch.setenv("HOMENODE_MAX_AGE_MS", "800")
    result = cli("serve", "--config", str(file), "--max-age-ms", "900", "--print-config")
    assert result.code == 0
    settings = tomllib.loads(result.out)
    assert (settings["listen"], settings["term_ms"], settings["max_age_ms"]) == ("127.0.0.1:1", 6000, 900)


def test_a_password_is_not_printed(cli: Cli) -> None:
    shown = cli("serve", "--store", "redis://user:secret@h:1/0", "--print-config").out
    assert "secret" not in shown
    assert "user" in shown


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--nonsense",), 2, "--nonsense"),
        (("--term-ms", "5"), 2, "--term-ms must be 1000 to 60000"),
        (("--config", "/no/such/file"), 2, "/no/such/file"),
        (("--store", "mysql://x"), 2, "mysql"),
        (("--store", "memory://", "--listen", "nowhere"), 2, "not an address"),
        (("--store", "memory://", "--listen", "0.0.0.0:0"), 2, "--insecure-listen"),
        (("--store", "memory://", "--listen", "127.0.0.1:0", "--tls-cert", "/no/file"), 2, "tls"),
        (("--store", "redis://127.0.0.1:9/0", "--listen", "127.0.0.1:0", "--metrics", "off"), 1, "not reachable"),
    ],
)
def test_wrong_settings_are_named(cli: Cli, flags: tuple[str, ...], code: int, said: str) -> None:
    result = cli("serve", *flags)
    assert result.code == code
    assert said in result.err.lower() or said in result.err


@pytest.mark.redis
def test_the_stores_password_comes_from_a_file_and_is_told_to_nobody(
    cli: Cli, tmp_path: Path, redis_factory: RedisFactory
) -> None:
    redis = redis_factory(start=False, settings={"requirepass": "s3cret"})
    redis.client = lambda: Redis(host="127.0.0.1", port=redis.port, password="s3cret")  # type: ignore[method-assign]
    file = tmp_path / "password"
    file.write_text("wrong")
    flags = ("--store", redis.start().url, "--store-password-file", str(file))
    result = cli("serve", "--listen", "127.0.0.1:0", "--metrics", "off", *flags)
    assert (result.code, "not reachable" in result.err) == (1, True)
    file.write_text("s3cret\n")
    first = start_server(*flags)
    assert cli("--url", f"{first.address}/main", "put", "a", stdin="kept").code == 0
    out, log = stop(first.process)
    assert first.process.returncode == 0
    assert "s3cret" not in result.err + out + log


def test_a_taken_port_is_named(cli: Cli, served: Served) -> None:
    address = served.address.removeprefix("homenode://")
    result = cli("serve", "--store", "memory://", "--metrics", "off", "--listen", address)
    assert result.code == 2
    assert address in result.err


def test_a_second_server_on_one_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'one.sqlite3'}"
    first = start_server("--store", store)
    try:
        result = cli("serve", "--store", store, "--listen", "127.0.0.1:0", "--metrics", "off")
        assert result.code == 1
        assert f"pid {first.process.pid}" in result.err
    finally:
        stop(first.process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_and_keeps_what_it_had(cli: Cli, tmp_path: Path, number: signal.Signals) -> None:
    store = f"sqlite:///{tmp_path / 'kept.sqlite3'}"
    first = start_server("--store", store)
    assert cli("--url", f"{first.address}/main", "put", "a", stdin="kept").code == 0
    _, log = stop(first.process, number)
    assert (first.process.returncode, "Traceback" in log) == (0, False)
    second = start_server("--store", store)
    try:
        assert cli("--url", f"{second.address}/main", "cat", "a").out == "kept"
    finally:
        stop(second.process)
