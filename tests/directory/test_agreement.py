"""Servers over one store must have some settings alike: one that differs does not start, or waits for its time."""

from __future__ import annotations

import asyncio

import pytest

from homenode_directory import agreement
from homenode_directory.agreement import SLICE, Agreement
from homenode_directory.errors import ConfigError
from homenode_directory.incarnations import Incarnations
from homenode_directory.store.base import META, StoreError
from homenode_directory.store.fields import AGREED
from homenode_directory.store.memory_store import Memory, MemoryStore
from tests.support.ports import wait_until_async

RENEW_MS = 40


class Shared:
    """A memory, what time it is there, and the servers over it."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.memory = Memory(lambda: self.now_ms, lambda: "id", log_max=100)

    async def server(self, **settings: str | int) -> Agreement:
        store = MemoryStore(self.memory, slices=2)
        await store.open()
        return Agreement(store, Incarnations(store), settings, 1_000)

    async def agreed(self) -> str:
        store = MemoryStore(self.memory, slices=2)
        await store.open()
        return (await store.load(SLICE, [META]))[0].get(AGREED, "")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Shared:
    monkeypatch.setattr(agreement, "RENEW_MS", RENEW_MS)
    monkeypatch.setattr(agreement, "LOOK_S", 0.005)
    return Shared()


async def test_equal_servers_start_at_once(shared: Shared) -> None:
    await asyncio.gather(*[(await shared.server(term_ms=1_000)).reach() for _ in range(8)])
    assert (await shared.agreed()).startswith("term_ms=1000 ")


async def test_one_that_differs_from_a_running_server_does_not_start(shared: Shared) -> None:
    first = await shared.server(term_ms=1_000, consistency="lazy")
    await first.reach()
    first.start(lambda error: None)
    other = asyncio.create_task((await shared.server(term_ms=10_000, consistency="lazy")).reach())
    while not other.done():
        shared.now_ms += RENEW_MS  # the first one renews now and then
        await asyncio.sleep(0.02)
    with pytest.raises(ConfigError) as refused:
        await other
    assert "has --term-ms 1000, this one --term-ms 10000" in str(refused.value)
    assert "consistency" not in str(refused.value)
    await first.close()


async def test_one_that_differs_from_stopped_servers_waits_until_their_copies_are_gone(shared: Shared) -> None:
    await (await shared.server(term_ms=1_000)).reach()
    began_ms = shared.now_ms
    other = asyncio.create_task((await shared.server(term_ms=10_000)).reach())
    await asyncio.sleep(0.05)
    assert not other.done()
    while not other.done():
        shared.now_ms += 100
        await asyncio.sleep(0.01)
    await other
    assert shared.now_ms - began_ms >= 1_000
    assert (await shared.agreed()).startswith("term_ms=10000 ")


async def test_a_server_that_slept_while_others_were_started_anew_is_told(shared: Shared) -> None:
    slow, told = await shared.server(term_ms=1_000), []
    await slow.reach()
    shared.now_ms += 60_000
    await (await shared.server(term_ms=10_000)).reach()
    slow.start(told.append)
    await wait_until_async(lambda: told)
    assert "--term-ms 10000" in str(told[0])
    await slow.close()


async def test_a_wiped_store_is_told_again(shared: Shared) -> None:
    server = await shared.server(term_ms=1_000)
    await server.reach()
    shared.memory.wipe()
    server.start(lambda error: pytest.fail(str(error)))
    await wait_until_async(shared.agreed)
    await server.close()


async def test_a_store_that_fails_keeps_nobody_from_starting(shared: Shared, caplog: pytest.LogCaptureFixture) -> None:
    server = await shared.server(term_ms=1_000)

    async def fail(*_: object, **__: object) -> None:
        raise StoreError("gone")

    server._store.commit = fail  # type: ignore[method-assign, assignment]
    await server.reach()
    assert "could not be compared" in caplog.text
