"""One effect per request, whatever is retried and whoever answers."""

from __future__ import annotations

import asyncio

import pytest

from homenode_directory.directory import Gone
from homenode_directory.errors import OutcomeUnknown
from homenode_directory.protocol.effects import Done, Grant, Reason
from homenode_directory.protocol.events import Base, Commit, GetM, GetS, Put
from homenode_directory.protocol.model import Cause, Content, Version
from tests.directory.world import PLACE, Process, World, reason


async def test_the_same_request_has_one_effect_and_one_answer(world: World, server: Process, other: Process) -> None:
    session = await server.session()
    commit = Commit(session, world.content("h1"), Base.ANY)
    first = await server.answer("k", commit, 5)
    assert [await server.answer("k", commit, 5), await other.answer("k", commit, 5)] == [first, first]
    assert (await server.read(session)).version == first.version  # type: ignore[union-attr]
    assert world.references("h1") == 1


async def test_a_refusal_is_remembered_too(server: Process) -> None:
    session = await server.session()
    commit = Commit(session, server.world.content("h1"), Version(1, 1))
    assert reason(await server.answer("k", commit, 5)) is Reason.VERSION_CONFLICT
    await server.commit(session, "h1")
    assert reason(await server.answer("k", commit, 5)) is Reason.VERSION_CONFLICT


async def test_another_request_under_the_same_id_is_refused(server: Process) -> None:
    session = await server.session()
    commit = Commit(session, server.world.content("h1"), Base.ANY)
    await server.ask("k", commit, 5, "d")
    other = await server.ask("k", commit, 5, "other")
    assert reason(other.answer) is Reason.INVALID_ARGUMENT


async def test_another_request_under_the_id_of_a_waiting_one_is_refused(server: Process) -> None:
    a, b = await server.session(), await server.session()
    await server.lease(a)
    waiting = server.directory.submit(PLACE, "k", GetM(b, "LB", 1_000, 9_000, True), 5, "d")
    again = server.directory.submit(PLACE, "k", GetM(b, "LB", 1_000, 9_000, True), 5, "d")
    wrong = await server.ask("k", GetM(b, "LC", 1_000, 9_000, True), 5, "other")
    assert reason(wrong.answer) is Reason.INVALID_ARGUMENT
    await server.release(a)
    one, two = await asyncio.wait_for(asyncio.gather(waiting, again), 5)
    assert one is not None and two is not None and one.answer == two.answer
    assert isinstance(one.answer, Grant)


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_store_failure_during_a_commit_is_retried_without_a_second_effect(
    world: World, server: Process, fault: str
) -> None:
    session = await server.session()
    base = await server.commit(session, "h1")
    server.store.faults = [fault]
    version = await server.commit(session, "h2", base)
    assert version.n == base.n + 1
    assert (await server.read(session)).version == version
    assert world.references("h2") == 1


async def test_when_the_outcome_stays_unknown_the_request_id_resolves_it(world: World) -> None:
    server = await world.process(retry_for_ms=0)
    session = await server.session()
    commit = Commit(session, world.content("h1"), Base.ABSENT)
    server.store.faults = ["after"]
    with pytest.raises(OutcomeUnknown):
        await server.ask("k", commit, 5)
    assert isinstance(await server.answer("k", commit, 5), Done)
    await server.close()


async def test_resolve_ends_the_session_and_says_what_ran(server: Process, other: Process) -> None:
    session = await server.session()
    version = await server.commit(session, "h1", request=5)
    done = Done(version, committed_ms=server.world.entry.committed_ms)
    assert await other.directory.resolve(PLACE, session, [5, 6]) == [(5, done), (6, Gone.NEVER)]
    never = Commit(session, server.world.content("h2"), Base.ANY)
    assert reason(await server.answer("k", never, 6)) is Reason.SESSION_LOST
    assert await server.directory.resolve(PLACE, "main~nobody", [1]) == [(1, Gone.UNKNOWN)]


async def test_a_settled_request_does_not_run_again(world: World, server: Process) -> None:
    session = await server.session()
    commit = Commit(session, world.content("h1"), Base.ANY)
    first = await server.answer("k", commit, 5)
    await server.keep(session, settled_below=6)
    await server.answer("k", commit, 5)  # a copy of the request that was delayed
    assert (await server.read(session)).version == first.version  # type: ignore[union-attr]


async def test_another_process_does_not_take_a_new_artifact_for_the_deleted_one(
    world: World, server: Process, other: Process
) -> None:
    """Revs, versions and fences of a dropped record never come back, so what a process remembers cannot fit again."""
    a, b = await server.session(), await other.session()
    old = await server.commit(a, "h1")
    await other.read(b)
    remembered = (await other.directory.stat(PLACE, b, "k")).entry  # type: ignore[union-attr]
    await server.commit(a, None)
    world.later(61_000)
    await server.keep(a)
    await other.keep(b)
    await server.sweep()
    assert world.data.records.get("e/default/main/k") is None
    await server.commit(a, "h2", Base.ABSENT)
    while int(world.data.records["e/default/main/k"]["rev"]) < remembered.rev:
        await server.release(a, "L") if (await server.lease(a)) else None
    other.directory.slice_at(world.number).keep("default/main/k", remembered)
    seen = await other.read(b)
    assert seen.version > old and seen.content == Content("h2", 1)
    lost = await other.answer("k", Commit(b, world.content("h3"), old), 7)
    assert reason(lost) is Reason.VERSION_CONFLICT


async def test_versions_are_not_reused_and_old_bases_are_refused_after_a_delete(world: World, server: Process) -> None:
    session = await server.session()
    bases = [await server.commit(session, "h1")]
    for round_ in range(3):
        fence = (await server.lease(session)).fence
        await server.release(session)
        await server.commit(session, None, bases[-1])
        if round_ % 2:
            world.later(61_000)
            await server.keep(session)
            await server.sweep()
        assert reason(await server.answer("k", GetS(session))) is Reason.NOT_FOUND
        for i, base in enumerate(bases):
            stale = await server.answer("k", Commit(session, world.content("h"), base), 100 * (round_ + 1) + i)
            assert reason(stale) is Reason.VERSION_CONFLICT
        bases.append(await server.commit(session, "h1", Base.ABSENT))
        assert bases[-1] > bases[-2]
        assert (await server.lease(session)).fence > fence
        await server.release(session)


async def test_a_killed_writer_is_fenced_and_told_why(world: World, server: Process) -> None:
    a, b = await server.session(), await server.session()
    grant = await server.lease(a, "LA", ttl_ms=2_000)
    waiting = server.directory.submit(PLACE, "k", GetM(b, "LB", 5_000, 10_000, True), 1, "d")
    await asyncio.sleep(0)
    world.later(2_100)
    await server.sweep()
    reply = await asyncio.wait_for(waiting, 5)
    assert reply is not None and isinstance(reply.answer, Grant) and reply.answer.fence > grant.fence
    late = await server.answer("k", Commit(a, world.content("h"), Base.ANY, "LA", grant.fence), 2)
    assert (reason(late), late.cause) == (Reason.STALE_FENCE, Cause.EXPIRED)  # type: ignore[union-attr]


async def test_a_commit_whose_lease_has_run_out_is_refused_before_anybody_sweeps(world: World, server: Process) -> None:
    session = await server.session()
    grant = await server.lease(session, ttl_ms=2_000)
    world.later(2_100)
    late = await server.answer("k", Commit(session, world.content("h"), Base.ANY, "L", grant.fence), 2)
    assert reason(late) is Reason.STALE_FENCE


async def test_waiters_are_served_in_order_and_the_dead_are_skipped(server: Process) -> None:
    sessions = [await server.session() for _ in range(4)]
    await server.lease(sessions[0])
    served: list[int] = []

    async def wait(i: int) -> None:
        answer = await server.answer("k", GetM(sessions[i], f"L{i}", 5_000, 9_000, True), 1)
        served.append(i)
        if isinstance(answer, Grant):
            await server.answer("k", Put(sessions[i], f"L{i}"), 2)

    tasks = [asyncio.ensure_future(wait(i)) for i in (1, 2, 3)]
    await asyncio.sleep(0)
    await server.directory.end_session(PLACE, sessions[2])
    await server.release(sessions[0])
    await asyncio.wait_for(asyncio.gather(tasks[0], tasks[2]), 5)
    assert [i for i in served if i != 2] == [1, 3]
    tasks[1].cancel()


async def test_many_dead_waiters_do_not_make_a_release_fail(world: World, server: Process, other: Process) -> None:
    """The store refuses a grant for each dead session in turn; that is no contention."""
    holder = await server.session()
    await server.lease(holder)
    waiters = [await server.session() for _ in range(20)]
    queued = [
        server.directory.submit(PLACE, "k", GetM(session, "L" + session, 5_000, 900_000, True), 1, "d")
        for session in waiters
    ]
    await server.keep(holder)
    for session in waiters:  # dead, and not yet cleared away
        world.data.put("x/" + session, "live", "")
    await other.release(holder)
    for future in queued:
        future.cancel()


async def test_missing_content_is_refused_and_may_be_sent_again(world: World, server: Process) -> None:
    session = await server.session()
    commit = Commit(session, Content("gone", 1), Base.ABSENT)
    assert reason(await server.answer("k", commit, 5)) is Reason.CONTENT_MISSING
    world.content("gone")
    assert isinstance(await server.answer("k", commit, 5), Done)


async def test_writers_without_a_lease_lose_nothing_however_many_processes(world: World) -> None:
    processes = [await world.process() for _ in range(3)]

    async def count(process: Process) -> int:
        session = await process.session()
        done = request = 0
        while done < 10:
            seen = await process.answer("n", GetS(session))
            base = seen.version if isinstance(seen, Grant) else Base.ABSENT
            n = int(seen.content.hash) if isinstance(seen, Grant) and seen.content else 0
            request += 1
            answer = await process.answer("n", Commit(session, world.content(str(n + 1)), base), request)
            done += isinstance(answer, Done)
            await asyncio.sleep(0)
        return done

    acknowledged = sum(await asyncio.gather(*(count(process) for process in processes)))
    session = await processes[0].session()
    assert (await processes[0].read(session, "n")).content == Content(str(acknowledged), 1)
    for process in processes:
        await process.close()
