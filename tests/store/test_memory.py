"""The memory store repeats exactly and imitates what happens to a Redis."""

from __future__ import annotations

import itertools

import pytest

from homenode_directory.store.base import Commit, LogTrimmed, Put, StoreChanged
from homenode_directory.store.memory_store import Memory, MemoryStore


def new_memory(log_max: int = 100) -> Memory:
    ids, clock = itertools.count(), itertools.count(5_000)
    return Memory(lambda: next(clock), lambda: f"id{next(ids)}", log_max=log_max)


async def test_clock_and_ids_decide_everything() -> None:
    results = []
    for _ in range(2):
        store = MemoryStore(new_memory())
        await store.open()
        adopted = await store.adopt(0, 0)
        outcomes = await store.commit(0, adopted.token, [Commit(writes=(Put("k", "a", "1"),), log=(b"x",))])
        results.append((adopted, outcomes))
    assert results[0] == results[1]
    assert results[0][0].token == "5000-id1"


async def test_a_wipe_under_open_clients_is_noticed() -> None:
    memory = new_memory()
    store, other = MemoryStore(memory), MemoryStore(memory)
    await store.open()
    await other.open()
    before = await store.adopt(0, 0)
    await store.commit(0, before.token, [Commit(writes=(Put("k", "a", "1"),), log=(b"x",))])
    memory.wipe()
    for client in (store, other):
        with pytest.raises(StoreChanged):
            await client.commit(0, before.token, [])
    after = await other.adopt(0, before.number + 1)
    assert after.number > before.number
    assert await store.adopt(0, 0) == after
    assert await store.load(0, ["k"]) == [{}]


async def test_a_restart_keeps_data_and_a_snapshot_is_not_touched_by_what_follows() -> None:
    memory = new_memory()
    store = MemoryStore(memory)
    await store.open()
    first = await store.adopt(0, 0)
    await store.commit(0, first.token, [Commit(writes=(Put("k", "a", "1"),))])
    snapshot = memory.snapshot()
    memory.restart()
    with pytest.raises(StoreChanged):
        await store.commit(0, first.token, [])
    second = await store.adopt(0, 0)
    await store.commit(0, second.token, [Commit(writes=(Put("k", "a", "2"),))])
    for _ in range(2):
        memory.restore(snapshot)
        with pytest.raises(StoreChanged):
            await store.commit(0, first.token, [])
        third = await store.adopt(0, second.number)
        assert third.number >= second.number and third.token != second.token
        assert await store.load(0, ["k"]) == [{"a": "1"}]
        await store.commit(0, third.token, [Commit(writes=(Put("k", "a", "3"),))])


async def test_the_log_is_bounded() -> None:
    store = MemoryStore(new_memory(log_max=10))
    await store.open()
    token = (await store.adopt(0, 0)).token
    await store.commit(0, token, [Commit(log=tuple(bytes([n]) for n in range(25)))])
    assert [sequence for sequence, _ in (await store.read_log(0, 15, 100))[0]] == list(range(16, 26))
    with pytest.raises(LogTrimmed):
        await store.read_log(0, 14, 100)
