"""The log tells when the store fails and when it is back: once, and nothing of what is stored."""

from __future__ import annotations

import asyncio

import pytest

from homenode_directory.clock import monotonic_ms
from homenode_directory.observer import SILENT
from homenode_directory.store.base import StoreError
from homenode_directory.store.open import open_store
from homenode_directory.telemetry.timed_store import TimedStore
from tests.conftest import RedisFactory

BACK_S = 30.0


@pytest.mark.redis
async def test_an_outage_is_told_once_at_each_end(
    redis_factory: RedisFactory, caplog: pytest.LogCaptureFixture
) -> None:
    redis = redis_factory()
    store = TimedStore(open_store(redis.url, slices=1), SILENT, monotonic_ms)
    await store.open()
    try:
        await store.now_ms()
        assert caplog.messages == []
        redis.kill()
        for _ in range(3):
            with pytest.raises(StoreError):
                await store.now_ms()
        assert [message.partition(":")[0] for message in caplog.messages] == ["the store fails"]
        redis.start()
        async with asyncio.timeout(BACK_S):
            while len(caplog.messages) < 2:
                try:
                    await store.now_ms()
                except StoreError:
                    await asyncio.sleep(0.05)
        assert caplog.messages[1:] == ["the store answers again"]
    finally:
        await store.close()
