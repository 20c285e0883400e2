"""The Redis helper that other tests lean on does what it says: data survives a kill, and a wipe loses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RedisFactory
from tests.support.redis_process import RedisMissing, redis_binary

pytestmark = pytest.mark.redis


def test_kill_keeps_fsynced_data_and_wipe_loses_it(redis_factory: RedisFactory, tmp_path: Path) -> None:
    server = redis_factory(settings={"appendfsync": "always"})
    with server.client() as client:
        client.set("k", "1")
        first_run_id = client.info("server")["run_id"]
    server.kill()
    assert not server.running
    server.save_data(tmp_path / "older")
    server.start()
    with server.client() as client:
        assert client.get("k") == b"1"
        assert client.info("server")["run_id"] != first_run_id
        client.set("k", "2")
    server.kill()
    server.load_data(tmp_path / "older")
    server.start()
    with server.client() as client:
        assert client.get("k") == b"1"
    server.restart(wipe=True)
    with server.client() as client:
        assert client.get("k") is None


def test_settings_are_those_that_a_deployment_needs(redis_factory: RedisFactory) -> None:
    with redis_factory().client() as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("save")["save"] == ""


def test_missing_redis_is_a_clear_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RedisMissing, match="redis-server is not on PATH: run `make tools`"):
        redis_binary()
