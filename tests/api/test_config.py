"""Settings: where they come from, which wins, what is said of wrong ones."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from homenode_directory import config
from homenode_directory.errors import ConfigError


def _load(*flags: str, **environ: str) -> config.Settings:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    return config.load(parser.parse_args(flags), environ)


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "homenode.toml"
    file.write_text('term_ms = 11000\nlisten = "127.0.0.1:1"\nqueue_events = 99\n')
    loaded = _load("--config", str(file), "--term-ms", "13000", HOMENODE_TERM_MS="12000", HOMENODE_LISTEN="127.0.0.1:2")
    assert (loaded.term_ms, loaded.listen, loaded.queue_events) == (13_000, "127.0.0.1:2", 99)
    assert loaded.bookmark_ms == config.Settings().bookmark_ms
    assert _load(HOMENODE_CONFIG=str(file)).term_ms == 11_000


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("no", False), ("0", False)])
def test_booleans_in_variables(text: str, value: bool) -> None:
    assert _load(HOMENODE_INSECURE_LISTEN=text).insecure_listen is value


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)])
def test_ratios(text: str, value: float, tmp_path: Path) -> None:
    file = tmp_path / "homenode.toml"
    file.write_text(f"trace_ratio = {text}\n")
    for loaded in (_load(HOMENODE_TRACE_RATIO=text), _load("--trace-ratio", text), _load("--config", str(file))):
        assert loaded.trace_ratio == value
        assert f"trace_ratio = {value}\n" in config.dump(loaded)


@pytest.mark.parametrize("text", ["", "-0.1", "1.01", "nan", "inf", "half", "1,0"])
def test_what_is_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOMENODE_TRACE_RATIO must be a number from 0 to 1"):
        _load(HOMENODE_TRACE_RATIO=text)


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    settings = _load("--store", 'sqlite:///a "b"\\c.sqlite3', "--insecure-listen", "--drain-ms", "7")
    file = tmp_path / "printed.toml"
    file.write_text(config.dump(settings))
    assert _load("--config", str(file)) == settings


def test_printed_addresses_have_no_password() -> None:
    assert 'store = "redis://me:***@host:6379/0"' in config.dump(_load("--store", "redis://me:hunter2@host:6379/0"))
    assert config.hide_password("redis://:hunter2@host/0") == "redis://:***@host/0"
    assert config.hide_password("redis://host/0?db=1&password=hunter2") == "redis://host/0?db=1&password=***"
    assert config.hide_password("sqlite:///a@b:c") == "sqlite:///a@b:c"


@pytest.mark.parametrize(
    ("store", "with_it"),
    [
        ("redis://h:6379/0", "redis://:a%2Fb%40@h:6379/0"),
        ("rediss://me@h/0?name=x", "rediss://me:a%2Fb%40@h/0?name=x"),
        ("redis+sentinel://me@s1,s2/NAME/0", "redis+sentinel://me:a%2Fb%40@s1,s2/NAME/0"),
        ("redis+cluster://n1:1,n2:2", "redis+cluster://:a%2Fb%40@n1:1,n2:2"),
        ("unix:///run/redis.sock?db=1", "unix://:a%2Fb%40@/run/redis.sock?db=1"),
    ],
)
def test_a_password_from_a_file_goes_into_the_address(tmp_path: Path, store: str, with_it: str) -> None:
    file = tmp_path / "password"
    file.write_text("a/b@\n")
    settings = _load("--store", store, HOMENODE_STORE_PASSWORD_FILE=str(file))
    assert config.store_url(settings) == with_it
    assert "a/b" not in config.dump(settings) + repr(settings)
    assert config.store_url(_load("--store", store)) == store


@pytest.mark.parametrize(
    ("store", "content", "says"),
    [
        ("redis://h/0", None, "cannot read .*: No such file"),
        ("redis://h/0", b"", "one line"),
        ("redis://h/0", b"a\nb", "one line"),
        ("redis://h/0", b"a" * 2_000, "one line"),
        ("redis://h/0", b"\xff", "not text"),
        ("redis://me:pw@h/0", b"s3cret", "has a password already"),
        ("redis://h/0?password=pw", b"s3cret", "has a password already"),
        ("sqlite:///x", b"s3cret", "a sqlite store has no password"),
    ],
)
def test_wrong_password_files(tmp_path: Path, store: str, content: bytes | None, says: str) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    settings = _load("--store", store, "--store-password-file", str(file))
    with pytest.raises(ConfigError, match=says) as caught:
        config.store_url(settings)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("term_ms = 1", "term_ms must be 1000 to 60000"),
        ('term_ms = "long"', "whole number"),
        ("term_ms = 2000.5", "whole number"),
        ("term_ms = true", "whole number"),
        ("listen = 7400", "must be text"),
        ("insecure_listen = 3", "true or false"),
        ("lisen = 'x'", "no setting 'lisen'"),
        ("= 3", "not TOML"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        _load("--config", str(file))
    with pytest.raises(ConfigError, match="HOMENODE_TERM_MS must be"):
        _load(HOMENODE_TERM_MS="9")
