"""What time does: leases end, tombstones and histories go, logs are cut."""

from __future__ import annotations

import asyncio

import pytest

from homenode_directory.audit.trimming import Keep
from homenode_directory.content.retention import RetentionPolicy
from homenode_directory.protocol.effects import Denial, Grant, Reason
from homenode_directory.protocol.events import Base, Commit, GetM
from homenode_directory.sweeper import Rounds
from tests.directory.world import PLACE, Process, World, reason


async def test_a_dead_writer_is_freed_and_the_next_one_goes_on(world: World, server: Process) -> None:
    a, b = await server.session(), await server.session(ttl_ms=600_000)
    await server.lease(a, ttl_ms=60_000)
    waiting = server.directory.submit(PLACE, "k", GetM(b, "LB", 5_000, 100_000, True), 1, "d")
    await asyncio.sleep(0)
    world.later(31_000)  # the session's time is over before the lease's
    await server.sweep()
    reply = await asyncio.wait_for(waiting, 5)
    assert reply is not None and isinstance(reply.answer, Grant)
    late = await server.answer("k", Commit(a, world.content("h"), Base.ANY, "L", 1), 9)
    assert reason(late) is Reason.SESSION_LOST


async def test_a_waiter_is_refused_when_its_time_is_over(world: World, server: Process) -> None:
    a, b = await server.session(), await server.session()
    await server.lease(a, ttl_ms=20_000)
    waiting = server.directory.submit(PLACE, "k", GetM(b, "LB", 5_000, 2_000, True), 1, "d")
    await asyncio.sleep(0)
    world.later(2_100)
    await server.sweep()
    reply = await asyncio.wait_for(waiting, 5)
    assert reply is not None and reason(reply.answer) is Reason.WAIT_TIMEOUT


async def test_history_is_cut_and_lets_go_of_its_contents(world: World) -> None:
    rounds = Rounds(idle_every=1, retention=RetentionPolicy(keep=3, slack=2))
    server = await world.process(rounds=rounds)
    session = await server.session()
    for i in range(6):
        await server.commit(session, f"h{i}")
    await server.sweep()
    history = await server.directory.history(PLACE, session, "k")
    assert not isinstance(history, Denial)
    assert [record.version.n for record in history] == [6, 5, 4]
    assert [world.references(f"h{i}") for i in range(6)] == [0, 0, 0, 1, 1, 1]
    await server.close()


async def test_a_history_is_looked_at_again_when_it_may_be_long_enough(world: World) -> None:
    server = await world.process(rounds=Rounds(idle_every=1, retention=RetentionPolicy(keep=3, slack=2)))
    session = await server.session()
    slice_ = server.directory.slice_of(PLACE)
    looked: list[bool] = []
    for i in range(12):
        await server.commit(session, f"h{i}")
        looked.append(bool(slice_.grown))
        await server.sweep()
    # The first commit, since nobody here knows what is there already; then with the 6th version, and every third.
    assert [n for n, look in enumerate(looked, 1) if look] == [1, 6, 9, 12]
    assert sorted(await server.directory.versions(PLACE, "k")) == ["10", "11", "12"]
    await server.close()


async def test_history_ages_though_nobody_writes_any_more(world: World) -> None:
    rounds = Rounds(idle_every=1, retention=RetentionPolicy(keep=10, age_ms=60_000))
    server = await world.process(rounds=rounds, history_look_every=1)
    session = await server.session(ttl_ms=600_000)
    for i in range(3):
        await server.commit(session, f"h{i}")
        world.later(10_000)
        await server.sweep()
    assert sorted(await server.directory.versions(PLACE, "k")) == ["1", "2", "3"]
    world.later(35_000)
    await server.sweep()
    assert sorted(await server.directory.versions(PLACE, "k")) == ["2", "3"]
    await server.close()
    server = await world.process(rounds=rounds, history_look_every=1)  # what is due is in the store
    await server.session()
    world.later(60_000)
    await server.sweep()
    assert sorted(await server.directory.versions(PLACE, "k")) == ["3"], "the committed version never ages"
    assert [world.references(f"h{i}") for i in range(3)] == [0, 0, 1]
    await server.close()


async def test_a_dropped_tombstone_takes_its_history_along_even_after_a_restart(world: World, server: Process) -> None:
    session = await server.session(ttl_ms=600_000)
    await server.commit(session, "h1")
    await server.commit(session, None)
    world.later(61_000)
    restarted = await world.process()
    await restarted.sweep()
    await restarted.close()
    assert world.references("h1") == 0
    left = [key for shape in (world.data.records, world.data.ranks) for key in shape if key.endswith("default/main/k")]
    assert left == [] and "default/main/k" not in world.data.ranks.get("due/artifacts", {})


async def test_many_tombstones_go_in_one_sweep_and_hold_nothing_up(world: World, server: Process) -> None:
    session = await server.session(ttl_ms=600_000)
    for i in range(40):  # each with a higher version than the one before
        for _ in range(i % 20 + 1):
            await server.commit(session, "h", key=f"k{i:02}")
        await server.commit(session, None, key=f"k{i:02}")
    doomed = await server.session(ttl_ms=1_000)
    world.later(61_000)
    await server.sweep()
    assert not [key for key in world.data.records if key.startswith("e/")]
    assert reason(await server.keep(doomed)) is Reason.SESSION_LOST


async def test_idle_slices_are_tidied_too(world: World) -> None:
    collected: list[int] = []

    async def collect(slice_: int) -> int:
        collected.append(slice_)
        return 0

    server = await world.process(collect=collect, rounds=Rounds(idle_every=4, tidy_every=8))
    for _ in range(17):
        await server.sweep()
    assert set(collected) == {0, 1}
    await server.close()


async def test_the_log_is_cut_to_its_length(world: World) -> None:
    server = await world.process(rounds=Rounds(idle_every=1, tidy_every=1, log=Keep(entries=10)))
    session = await server.session()
    for i in range(30):
        await server.commit(session, f"h{i}")
    await server.sweep()
    assert len(world.data.log) == 10
    await server.close()


async def test_after_the_memory_was_set_back_the_sessions_in_it_are_over(world: World, server: Process) -> None:
    a = await server.session(ttl_ms=600_000)
    await server.commit(a, "h1")
    await server.lease(a, ttl_ms=300_000)
    world.memory.restore(world.memory.snapshot())
    world.later(1_000)
    fresh = await server.session()
    await server.sweep()
    assert reason(await server.keep(a)) is Reason.SESSION_LOST
    answer = await server.answer("k", GetM(fresh, "F", 1_000), 1)
    assert isinstance(answer, Grant)


async def test_a_mistake_in_one_slice_does_not_end_the_sweeping(
    world: World, server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await server.session()
    sound = server.store.by_score

    async def broken(slice_: int, key: str, limit: int) -> tuple[list[tuple[str, int]], int]:
        if slice_ != world.number:
            raise ValueError("not a number")
        return await sound(slice_, key, limit)

    monkeypatch.setattr(server.store, "by_score", broken)
    world.later(31_000)
    for _ in range(2):
        await server.sweep()
    assert reason(await server.keep(session)) is Reason.SESSION_LOST
