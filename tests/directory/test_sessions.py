"""What a session leaves behind when it ends, and what it may still ask."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from homenode_directory.errors import DirectoryError, Overloaded
from homenode_directory.protocol.effects import Denial, Done, Reason
from homenode_directory.protocol.events import Base, Commit, GetM, GetS, Put
from homenode_directory.store.base import StoreError
from tests.directory.world import PLACE, TTL_MS, Process, World, reason


async def test_the_end_of_a_session_takes_its_lease_copies_and_places_in_queues(world: World, server: Process) -> None:
    a, b = await server.session(), await server.session()
    await server.commit(a, "h1")
    await server.attach(b)
    with server.expecting(b, "k"):
        await server.read(b)
    await server.lease(b)
    await server.directory.end_session(PLACE, b)
    stat = await server.directory.stat(PLACE, a, "k")
    assert not isinstance(stat, Denial)
    assert stat.entry.holder is None and dict(stat.entry.sharers) == {a: 1}
    assert reason(await server.answer("k", GetS(b))) is Reason.SESSION_LOST


async def test_a_session_that_lost_its_stream_leaves_no_copies_behind_either(world: World, server: Process) -> None:
    a, b = await server.session(ttl_ms=900_000), await server.session()
    await server.commit(a, "h1")
    await server.attach(b)
    with server.expecting(b, "k"):
        await server.read(b)
    server.delivery.detach(b)
    world.later(TTL_MS + 1)
    await server.sweep()
    stat = await server.directory.stat(PLACE, a, "k")
    assert not isinstance(stat, Denial)
    assert b not in stat.entry.sharers


async def test_a_session_that_settles_nothing_is_slowed_and_goes_on_when_it_does(server: Process) -> None:
    server.directory.settings = replace(server.directory.settings, unsettled_max=2)
    a = await server.session()
    for request in (1, 2):
        await server.answer("k", Put(a, "none"), request)
    with pytest.raises(Overloaded):
        await server.answer("k", Put(a, "none"), 3)
    await server.directory.keep_alive(PLACE, a, TTL_MS, settled_below=3)
    await server.answer("k", Put(a, "none"), 3)


async def test_a_waiting_request_is_answered_when_its_session_ends(server: Process) -> None:
    a, b = await server.session(), await server.session()
    await server.lease(a)
    waiting = server.directory.submit(PLACE, "k", GetM(b, "LB", 5_000, 900_000, True), 1, "d")
    await asyncio.sleep(0)
    await server.directory.end_session(PLACE, b)
    reply = await asyncio.wait_for(waiting, 2)
    assert reply is not None and reason(reply.answer) is Reason.SESSION_LOST
    assert not server.directory.slice_of(PLACE).waiting


async def test_a_waiting_request_is_answered_when_the_memory_is_lost(world: World, server: Process) -> None:
    a, b = await server.session(), await server.session()
    await server.lease(a)
    waiting = server.directory.submit(PLACE, "k", GetM(b, "LB", 5_000, 900_000, True), 1, "d")
    await asyncio.sleep(0)
    world.memory.wipe()
    await server.answer("k", GetS(a))
    try:
        reply = await asyncio.wait_for(waiting, 2)
        assert reply is not None and reason(reply.answer) is Reason.SESSION_LOST
    except DirectoryError:
        pass


async def test_a_grant_by_another_process_reaches_who_waits_here(server: Process, other: Process) -> None:
    a, b = await server.session(), await other.session()
    await server.lease(a)
    await other.attach(b)
    waiting = other.directory.submit(PLACE, "k", GetM(b, "LB", 5_000, 900_000, True), 1, "d")
    await asyncio.sleep(0.01)
    await server.release(a)
    await other.poll()
    reply = await asyncio.wait_for(waiting, 2)
    assert reply is not None and reason(reply.answer) is None


async def test_a_grant_that_is_heard_of_before_the_queuing_is_answered_reaches_who_waits(
    server: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await server.session(), await other.session()
    await server.lease(a)
    await other.attach(b)
    commit, released = other.store.commit, []

    async def slow(*args: Any, **more: Any) -> Any:
        outcomes = await commit(*args, **more)
        if not released:
            released.append(True)
            await server.release(a)
            await other.poll()
        return outcomes

    await other.answer("k", GetS(b))  # so that it knows of the lease
    monkeypatch.setattr(other.store, "commit", slow)
    waiting = other.directory.submit(PLACE, "k", GetM(b, "LB", 5_000, 900_000, True), 1, "d")
    reply = await asyncio.wait_for(waiting, 2)
    assert reply is not None and reason(reply.answer) is None


async def test_a_session_lives_as_long_as_it_gives_signs_of_life(world: World, server: Process) -> None:
    session = await server.session()
    for _ in range(3):
        world.later(TTL_MS - 1_000)
        await server.sweep()
        assert not isinstance(await server.keep(session), Denial)
    world.later(TTL_MS + 1)
    await server.sweep()
    assert reason(await server.keep(session)) is Reason.SESSION_LOST
    assert reason(await server.answer("k", GetM(session, "L", 1_000, create=True), 1)) is Reason.SESSION_LOST


async def test_what_is_left_of_a_session_is_forgotten_after_the_retention(world: World, server: Process) -> None:
    session = await server.session()
    await server.commit(session, "h1", request=1)
    await server.directory.end_session(PLACE, session)
    assert "r/1" in world.data.records[f"x/{session}"]
    for _ in range(3):
        world.later(601_000)
        await server.sweep()
    left = [key for shape in (world.data.records, world.data.ranks) for key in shape if session in key]
    assert left == [] and session not in world.data.ranks.get("due/sessions", {})


async def test_a_session_is_cleared_soon_when_the_store_failed_while_it_ended(world: World, server: Process) -> None:
    a, b = await server.session(), await server.session()
    await server.lease(b)
    await server.directory.slice_of(PLACE).close()
    process = await world.process(retry_for_ms=0)
    await process.session()  # so that it knows the slice's time already
    process.store.faults = ["after"]
    try:
        await process.directory.end_session(PLACE, b)
    except (DirectoryError, StoreError):
        pass
    world.later(1)
    for _ in range(3):
        await process.sweep()
    stat = await process.directory.stat(PLACE, a, "k")
    assert reason(stat) is Reason.NOT_FOUND
    entry = process.directory.slice_of(PLACE).entry("default/main/k")
    assert entry.holder is None
    await process.close()


async def test_a_repeated_end_after_an_unknown_outcome_still_clears(world: World, server: Process) -> None:
    a, b = await server.session(), await server.session()
    await server.lease(b)
    server.store.faults = ["after"]  # applied, not acknowledged; the retry finds the session over already
    await server.directory.end_session(PLACE, b)
    await server.answer("k", GetS(a))
    assert server.directory.slice_of(PLACE).entry("default/main/k").holder is None


async def test_a_session_with_many_leases_ends_whole(world: World, server: Process) -> None:
    session = await server.session()
    await asyncio.gather(
        *(server.answer(f"k{i}", GetM(session, "L", 10_000, create=True), i + 1) for i in range(1_000))
    )
    server.directory.slice_of(PLACE).limits = type(server.directory.settings.limits)(queue_max=600)
    await server.directory.end_session(PLACE, session)
    assert not world.data.ranks.get(f"h/{session}")


async def test_requests_of_sessions_that_never_were_leave_nothing_in_memory(server: Process) -> None:
    for i in range(50):
        await server.answer("k", Put(f"main~ghost{i}", "L"), 1)
    assert len(server.directory._answered) == 0


async def test_an_artifact_that_nobody_had_names_no_version(server: Process) -> None:
    session = await server.session()
    denial = await server.answer("never", GetS(session))
    assert isinstance(denial, Denial) and denial.current is None


async def test_a_sign_of_life_that_comes_late_through_another_server_lets_no_settled_request_run_again(
    world: World, server: Process, other: Process
) -> None:
    session = await server.session()
    await server.keep(session, settled_below=40)
    await other.keep(session, settled_below=40)
    assert isinstance(await other.answer("k", Commit(session, world.content("h1"), Base.ANY), 60), Done)
    await other.keep(session, settled_below=100)  # the client has the answer
    assert not isinstance(await server.keep(session, settled_below=50), Denial)  # sent before, and held up
    late = await server.answer("k", Commit(session, world.content("h1"), Base.ANY), 60)
    assert reason(late) is Reason.INVALID_ARGUMENT
    assert (await server.read(session)).version.n == 1
    assert not isinstance(await server.keep(session, settled_below=110), Denial)
    assert world.data.records[f"x/{session}"]["settled"] == "110"


async def test_answers_are_forgotten_only_with_the_mark_that_keeps_their_requests_from_running_again(
    world: World, server: Process
) -> None:
    session = await server.session()
    assert isinstance(await server.answer("k", Commit(session, world.content("h1"), Base.ANY), 60), Done)
    server.store.faults = ["before"]
    assert not isinstance(await server.keep(session, settled_below=100), Denial)
    assert world.data.records[f"x/{session}"]["settled"] == "100"
    again = await server.answer("k", Commit(session, world.content("h1"), Base.ANY), 60)
    assert reason(again) is Reason.INVALID_ARGUMENT
    assert (await server.read(session)).version.n == 1


async def test_whatever_is_asked_of_a_session_its_answers_are_not_read(
    world: World, server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in its record, tens of thousands perhaps."""
    a = await server.session()
    for request in range(1, 30):
        await server.answer("k", Put(a, "none"), request)
    other = await world.process()
    largest = 0

    for store in (server.store, other.store):
        real_load, real_commit = store.load, store.commit

        async def load(*args: Any, real: Any = real_load, **options: Any) -> Any:
            nonlocal largest
            records = await real(*args, **options)
            largest = max(largest, *map(len, records))
            return records

        async def commit(*args: Any, real: Any = real_commit, **options: Any) -> Any:
            nonlocal largest
            outcomes = await real(*args, **options)
            largest = max(largest, *(len(shown) for outcome in outcomes for shown in outcome.shown.values()), 0)
            return outcomes

        monkeypatch.setattr(store, "load", load)
        monkeypatch.setattr(store, "commit", commit)

    assert await server.directory.note_attach(PLACE, a, 1)
    assert await other.directory.note_attach(PLACE, a, 2)
    assert not await server.directory.note_attach(PLACE, a, 1)
    for process in (server, other):  # the second does not know the mark that the first has raised
        assert not isinstance(await process.keep(a, settled_below=5), Denial)
    await server.directory.end_session(PLACE, a)
    for process in (server, other):
        assert reason(await process.keep(a)) is Reason.SESSION_LOST
        assert reason(await process.directory.confirm_session(PLACE, a)) is Reason.SESSION_LOST
        await process.directory.end_session(PLACE, a)
        await process.sweep()
    assert 0 < largest < 12
