"""Strict artifacts in the directory: rounds, who ends them, and what becomes of them in crashes and lost memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from homenode_directory.directory import Gone, Settings
from homenode_directory.errors import DirectoryError, Unavailable
from homenode_directory.jobs import Reply
from homenode_directory.protocol.effects import Done, Reason
from homenode_directory.protocol.events import Base, Commit, GetM, GetS, InvAck, SetPolicy
from homenode_directory.protocol.model import Level, Policy
from homenode_directory.sinks import Change, Invalidation
from homenode_directory.store import fields
from homenode_directory.store.base import META
from tests.directory.world import PLACE, STRICT, TERMS, Process, World, reason

LONG_MS = 600_000


@pytest.fixture
async def server(world: World) -> AsyncIterator[Process]:
    """A process whose artifacts are strict, after the quarantine that follows the adoption."""
    process = await world.process(settings=STRICT)
    await process.session(ttl_ms=5_000)
    world.later(2 * TERMS.quiet_ms)
    yield process
    await process.close()


@pytest.fixture
async def other(world: World, server: Process) -> AsyncIterator[Process]:
    """Another process over the same memory, which was there when the clock was watched."""
    await sweep(server)
    process = await world.process(settings=STRICT)
    await process.session(ttl_ms=5_000)
    yield process
    await process.close()


async def sweep(*processes: Process) -> None:
    """A round of each sweeper, and whatever follows from it."""
    for process in processes:
        process.directory.slice_of(PLACE).used = True
        await process.sweep()
        await process.poll()
        for _ in range(5):
            await asyncio.sleep(0)


async def person(process: Process) -> str:
    """A session that lives long."""
    return await process.session(ttl_ms=LONG_MS)


async def commit(process: Process, session: str, hash_: str, request: int) -> asyncio.Future[Reply | None]:
    """A commit under way, judged already."""
    event = Commit(session, process.world.content(hash_), Base.ANY)
    future = process.directory.submit(PLACE, "k", event, request, "d")
    for _ in range(5):
        await asyncio.sleep(0)
    return future


async def ack(process: Process, *sessions: str) -> None:
    """Sessions have dropped their copies in the round that is under way."""
    pending = process.world.entry.pending
    assert pending is not None
    event = InvAck(sessions, pending.version.n, pending.fence)
    await process.directory.submit(PLACE, "k", event)


async def version(future: asyncio.Future[Reply | None]) -> int:
    """The version that a commit made."""
    reply = await asyncio.wait_for(future, 5)
    assert reply is not None and isinstance(reply.answer, Done) and reply.answer.level is Level.STRICT, reply
    return reply.answer.version.n


async def test_a_round_ends_with_the_last_ack(world: World, server: Process) -> None:
    a, b, c = [await person(server) for _ in range(3)]
    await server.commit(a, "h1")
    for session in (b, c):
        assert (await server.read(session, "k")).cacheable
    future = await commit(server, a, "h2", 1)
    await ack(server, b)
    assert not future.done()
    assert (await server.read(c, "k")).version.n == 1
    await ack(server, c)
    assert await version(future) == 2
    assert set(world.entry.sharers) == {a}


async def test_a_round_ends_with_time_whichever_process_is_there(world: World, server: Process, other: Process) -> None:
    a, b = await person(server), await person(other)
    await server.commit(a, "h1")
    await other.read(b, "k")
    future = await commit(server, a, "h2", 1)
    world.later(TERMS.quiet_ms - 1_000)
    await sweep(other)
    assert world.entry.pending is not None
    world.later(3_000)
    await sweep(other)
    assert world.entry.pending is None and world.entry.version.n == 2
    await server.poll()
    assert await version(future) == 2


async def test_a_prepare_that_is_late_is_judged_again(world: World, server: Process) -> None:
    """Or a copy that was renewed just before it would outlive its round."""
    a, b = await person(server), await person(server)
    await server.commit(a, "h1")
    await server.read(b, "k")
    server.store.on_commit = lambda: world.later(2_000)
    await commit(server, a, "h2", 1)
    assert world.entry.pending is not None
    assert world.entry.pending.until_ms >= world.ms + TERMS.quiet_ms


async def test_a_thousand_copies_cost_no_more_rounds_than_one(world: World, server: Process) -> None:
    a = await person(server)
    readers = [await person(server) for _ in range(1_000)]
    await server.commit(a, "h1")
    await asyncio.gather(*(server.read(session, "k") for session in readers))
    before = server.store.commits
    future = await commit(server, a, "h2", 1)
    assert server.store.commits == before + 1 and len(world.entry.pending.waits) == 1_000  # type: ignore[union-attr]
    await ack(server, *readers)
    assert await version(future) == 2
    assert server.store.commits == before + 2


@pytest.mark.parametrize("how", ["gives it up", "ends", "comes back without it"])
async def test_nobody_waits_for_a_copy_that_is_gone(world: World, server: Process, how: str) -> None:
    a, b = await person(server), await person(server)
    await server.commit(a, "h1")
    await server.read(b, "k")
    future = await commit(server, a, "h2", 1)
    if how == "gives it up":
        await server.release(b, "")
    elif how == "ends":
        await server.directory.end_session(PLACE, b)
    else:
        assert await server.directory.note_attach(PLACE, b, 1)
        await server.directory.redeclare(PLACE, b, (), 1)
    assert await version(future) == 2


async def test_what_a_session_said_before_it_went_elsewhere_takes_it_out_of_no_sharer_set(
    world: World, server: Process
) -> None:
    a, b = await person(server), await person(server)
    await server.commit(a, "h1")
    await server.read(b, "k")
    assert await server.directory.note_attach(PLACE, b, 1)
    assert await server.directory.note_attach(PLACE, b, 2)
    await server.directory.redeclare(PLACE, b, (), 1)
    assert not await server.directory.note_attach(PLACE, b, 1)
    future = await commit(server, a, "h2", 1)
    assert world.entry.pending is not None and world.entry.pending.waits == (b,)
    await ack(server, b)
    assert await version(future) == 2


async def test_a_session_that_is_over_gets_the_answer_of_what_it_has_prepared(world: World, server: Process) -> None:
    a, b = await person(server), await person(server)
    await server.commit(a, "h1")
    await server.read(b, "k")
    first = await commit(server, a, "h2", 1)
    await server.directory.end_session(PLACE, a)
    again = await commit(server, a, "h2", 1)
    assert reason(await server.answer("k", GetS(a))) is Reason.SESSION_LOST
    await ack(server, b)
    assert await version(first) == await version(again) == 2
    assert a not in world.entry.sharers, "nobody is to be waited for in vain next time"


async def test_a_resolved_commit_is_answered_when_it_is_published(world: World, server: Process) -> None:
    a, b = await person(server), await person(server)
    await server.commit(a, "h1", request=1)
    await server.read(b, "k")
    await commit(server, a, "h2", 2)
    asked = asyncio.ensure_future(server.directory.resolve(PLACE, a, [1, 2, 3]))
    await asyncio.wait({asked}, timeout=0.2)
    assert not asked.done()
    await ack(server, b)
    one, two, three = await asyncio.wait_for(asked, 5)
    assert isinstance(one[1], Done) and isinstance(two[1], Done) and three[1] is Gone.NEVER
    assert two[1].version.n == 2


async def test_who_resolves_is_told_when_publishing_takes_too_long(world: World) -> None:
    server = await world.process(settings=Settings(terms=TERMS, default=Policy(Level.STRICT), resolve_wait_ms=0))
    a = await person(server)
    await commit(server, a, "h1", 1)  # in quarantine
    with pytest.raises(Unavailable):
        await server.directory.resolve(PLACE, a, [1])
    world.later(2 * TERMS.quiet_ms)
    await sweep(server)
    ((_, answer),) = await server.directory.resolve(PLACE, a, [1])
    assert isinstance(answer, Done)
    await server.close()


async def test_waiters_come_after_the_round_with_the_version_that_it_makes(world: World, server: Process) -> None:
    a, b, c = [await person(server) for _ in range(3)]
    await server.commit(a, "h1")
    await server.read(b, "k")
    await commit(server, a, "h2", 1)
    waiting = server.directory.submit(PLACE, "k", GetM(c, "L", 5_000, 60_000), 1, "d")
    await asyncio.sleep(0)
    await ack(server, b)
    reply = await asyncio.wait_for(waiting, 5)
    assert reply is not None and reply.answer.version.n == 2  # type: ignore[union-attr]


async def test_a_kept_lease_goes_on_behind_the_round(world: World, server: Process) -> None:
    a, b = await person(server), await person(server)
    await server.commit(a, "h1")
    await server.read(b, "k")
    grant = await server.lease(a)
    event = Commit(a, world.content("h2"), grant.version, "L", grant.fence, keep=True)
    future = server.directory.submit(PLACE, "k", event, 1, "d")
    await asyncio.sleep(0)
    await ack(server, b)
    reply = await asyncio.wait_for(future, 5)
    assert reply is not None and isinstance(reply.answer, Done)
    done = reply.answer
    again = Commit(a, world.content("h3"), done.version, "L", done.fence)
    assert isinstance(await server.answer("k", again, 2), Done)


async def test_a_version_that_is_followed_at_once_is_in_the_history(world: World, server: Process) -> None:
    a, b = await person(server), await person(server)
    await server.commit(a, "h1")
    await server.read(b, "k")
    await commit(server, a, "h2", 1)
    world.later(2 * TERMS.quiet_ms)  # and no sweeper came by
    future = await commit(server, a, "h3", 2)
    assert await version(future) == 3
    history = await server.directory.history(PLACE, a, "k")
    assert [record.version.n for record in history] == [3, 2, 1]  # type: ignore[union-attr]
    assert [world.references(hash_) for hash_ in ("h1", "h2", "h3")] == [1, 1, 1]


@pytest.mark.parametrize("first", [Level.LAZY, Level.STRICT])
async def test_a_level_changes_when_all_copies_of_the_other_are_gone(
    world: World, server: Process, first: Level
) -> None:
    a, b = await person(server), await person(server)
    second = Level.STRICT if first is Level.LAZY else Level.LAZY
    await server.commit(a, "h1")
    await server.release(a, "")
    await server.answer("k", SetPolicy(a, Policy(first)), 1)
    assert (await server.read(b, "k")).level is first
    change = server.directory.submit(PLACE, "k", SetPolicy(a, Policy(second)), 2, "d")
    await asyncio.sleep(0)
    grant = await server.read(a, "k")
    assert (grant.level, grant.cacheable) == (first, False) and not change.done()
    world.later(TERMS.quiet_ms - 1_000)
    await sweep(server)
    assert not change.done()
    world.later(3_000)
    await sweep(server)
    reply = await asyncio.wait_for(change, 5)
    assert reply is not None and reply.answer.level is second  # type: ignore[union-attr]
    found = await server.read(b, "k")
    assert (found.level, found.content, found.cacheable) == (second, grant.content, True)
    assert world.references("h1") == 2  # each version of the history has one


async def test_streams_hear_of_the_round_and_watches_of_its_end(world: World, server: Process) -> None:
    a, b = await person(server), await person(server)
    inbox = await server.attach(b)
    await server.delivery.watch(b, 1, "", None)
    await server.commit(a, "h1")
    with server.expecting(b, "k"):
        await server.read(b, "k")
    inbox.items.clear()
    future = await commit(server, a, "h2", 1)
    await server.poll()
    (told,) = inbox.items
    assert isinstance(told, Invalidation) and told.prepared
    await ack(server, b)
    await version(future)
    await server.poll()
    (change,) = inbox.of(Change)
    assert isinstance(change, Change) and change.version == told.version and change.sequence > told.sequence


# --- crashes and lost memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash_at", range(8))
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_process_that_dies_at_any_store_call_leaves_one_version_and_one_answer(
    world: World, server: Process, other: Process, crash_at: int, fault: str
) -> None:
    a, b, c = [await person(server) for _ in range(3)]
    await server.commit(a, "h1")
    await server.read(b, "k")
    await server.read(c, "k")
    dying = await world.process(settings=Settings(terms=TERMS, default=Policy(Level.STRICT)))
    await dying.session(ttl_ms=5_000)
    dying.store.faults = [*([""] * crash_at), *([fault] * 1_000)]  # from there on nothing of it is heard of
    first = await commit(dying, a, "h2", 1)
    for session in (b, c):
        pending = world.entry.pending
        if pending is not None:
            dying.directory.submit(PLACE, "k", InvAck((session,), pending.version.n, pending.fence))
            for _ in range(3):
                await asyncio.sleep(0)
    again = await commit(other, a, "h2", 1)
    world.later(2 * TERMS.quiet_ms)
    await sweep(other)
    assert await version(again) == 2
    if first.done() and not first.cancelled() and first.exception() is None:
        assert await version(first) == 2
    assert world.entry.pending is None and world.entry.version.n == 2
    assert world.references("h2") == 1
    first.cancel()
    with pytest.raises((DirectoryError, TimeoutError, asyncio.CancelledError)):
        await asyncio.wait_for(first, 0.01)
        raise asyncio.CancelledError
    world.later(10_000)
    await dying.close()


@pytest.mark.parametrize("copies", [True, False])
async def test_a_prepared_commit_is_rolled_forward_by_the_next_incarnation(
    world: World, server: Process, copies: bool
) -> None:
    a, b = await person(server), await person(server)
    await server.commit(a, "h1")
    if copies:
        await server.read(b, "k")
    else:
        world.data.put(
            META, fields.CALM, f"{server.directory.slice_of(PLACE).incarnation.token} {world.ms + 9_000} 10000"
        )
    future = await commit(server, a, "h2", 1)
    assert world.entry.pending is not None
    before = world.entry.pending.version
    world.memory.restart()
    world.later(1_000)
    fresh = await server.session(ttl_ms=LONG_MS)
    assert reason(await server.answer("k", GetS(b))) is Reason.SESSION_LOST
    for _ in range(9):  # old copies are about for a term
        world.later(1_000)
        await sweep(server)
        assert world.entry.pending is not None, "published over copies of the old memory"
        grant = await server.read(fresh, "k")
        assert (grant.version.n, grant.cacheable) == (1, False)
    world.later(4_000)
    await sweep(server)
    assert world.entry.version == before
    assert (await server.read(fresh, "k")).version == before
    await commit(server, fresh, "h3", 1)
    with pytest.raises(Unavailable):
        await future
    await server.release(fresh, "")
    assert world.entry.version.n == 3 and world.entry.version > before


async def test_strict_commits_wait_after_an_adoption_even_where_nobody_is_known_to_share(
    world: World, server: Process
) -> None:
    a, b = await person(server), await person(server)
    await server.commit(a, "h1")
    await server.read(b, "k")
    world.memory.restart()
    world.later(1_000)
    fresh = await server.session(ttl_ms=LONG_MS)
    await sweep(server)  # ends the sessions of the old memory
    assert not world.entry.sharers
    future = await commit(server, fresh, "h2", 1)
    world.later(TERMS.lease_ms - 1_000)
    await sweep(server)
    assert not future.done()
    world.later(4_000)
    await sweep(server)
    assert await version(future) == 2


async def test_a_quarantine_that_begins_while_a_commit_is_judged_holds_it_up(world: World, server: Process) -> None:
    a = await person(server)
    await server.commit(a, "h1")
    token = server.directory.slice_of(PLACE).incarnation.token
    until_ms = world.ms + 9_000

    def begin() -> None:
        world.data.put(META, fields.CALM, f"{token} {until_ms} {TERMS.lease_ms}")
        world.data.put(META, fields.TICK, str(world.ms + 1_000))

    server.store.on_commit = begin
    future = await commit(server, a, "h2", 1)
    await asyncio.wait({future}, timeout=0.05)
    assert not future.done() and world.entry.pending is not None and world.entry.pending.until_ms == until_ms
    world.later(12_000)
    await sweep(server)
    assert await version(future) == 2
