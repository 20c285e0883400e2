"""Clocks that jump, and servers that cannot know what a clock did: nothing strict is published early."""

from __future__ import annotations

import asyncio

import pytest

from homenode_directory.observer import Silent
from homenode_directory.protocol.effects import Done
from homenode_directory.protocol.events import Base, Commit
from homenode_directory.slicetime import STEP_MS, TICK_LIFE_MS, Calm
from homenode_directory.store import fields
from homenode_directory.store.base import META, OFFSET
from tests.directory.world import PLACE, STRICT, TERMS, Process, World

HOUR_MS = 3_600_000


def calm(world: World) -> Calm:
    """The slice's quarantine, as it is stored."""
    return Calm.of(world.data.field(META, fields.CALM))


class Jumps(Silent):
    """Counts them."""

    jumps = 0

    def clock_jumped(self) -> None:
        self.jumps += 1


async def settled(world: World, process: Process) -> None:
    """Some sweeps, so that a jump is noticed."""
    for _ in range(3):
        world.later(250)
        process.directory.slice_of(PLACE).used = True
        await process.sweep()
        await asyncio.sleep(0)  # nobody waits for a tick


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
async def test_deadlines_pass_when_they_should_though_the_clock_jumps(
    world: World, server: Process, jump_ms: int
) -> None:
    session = await server.session(ttl_ms=20_000)
    await server.lease(session, ttl_ms=10_000)
    world.jump(jump_ms)
    await settled(world, server)
    world.later(8_000)
    await server.sweep()
    assert world.entry.holder is not None
    fresh = await server.session(ttl_ms=20_000)  # what is computed from the time is right too
    world.later(2_000)
    await server.sweep()
    assert world.entry.holder is None
    assert await server.directory.confirm_session(PLACE, session) and world.data.records[fields.session_key(session)]
    world.later(10_000)
    await server.sweep()
    assert session in server.directory.slice_of(PLACE).dead
    assert fresh not in server.directory.slice_of(PLACE).dead
    world.later(10_000)
    await server.sweep()
    assert fresh in server.directory.slice_of(PLACE).dead


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, 2 * STEP_MS, -2 * STEP_MS])
async def test_a_jump_begins_a_quarantine(world: World, server: Process, jump_ms: int) -> None:
    server.directory.observer = told = Jumps()
    await server.session()
    before = calm(world)
    world.later(TERMS.quiet_ms)
    await settled(world, server)
    assert calm(world) == before and told.jumps == 0
    world.jump(jump_ms)
    await settled(world, server)
    after, now_ms = calm(world), server.directory.slice_of(PLACE).time.now_ms
    assert now_ms < after.until_ms <= now_ms + TERMS.quiet_ms
    assert abs(now_ms - world.ms) <= 2, "time goes on as if nothing had happened"
    assert told.jumps == 1


@pytest.mark.parametrize("step_ms", [STEP_MS - 10, 10 - STEP_MS])
async def test_a_small_step_is_put_up_with(world: World, server: Process, step_ms: int) -> None:
    await server.session()
    before = calm(world)
    await settled(world, server)
    world.jump(step_ms)
    await settled(world, server)
    assert calm(world) == before


async def test_a_clock_that_runs_a_little_off_is_followed(world: World, server: Process) -> None:
    await server.session()
    before = calm(world)
    for _ in range(400):
        world.later(250)
        world.jump(2)  # 0.8 %
        server.directory.slice_of(PLACE).used = True
        await server.sweep()
    assert calm(world) == before
    assert abs(server.directory.slice_of(PLACE).time.now_ms - world.ms - world.jumped_ms) <= STEP_MS


async def test_servers_agree_on_what_becomes_of_a_jump(world: World, server: Process, other: Process) -> None:
    await server.session()
    await other.session()
    world.jump(HOUR_MS)
    await server.session()
    await other.session()
    for process in (server, other, server, other):
        await settled(world, process)
    times = [process.directory.slice_of(PLACE).time for process in (server, other)]
    assert times[0].calm == times[1].calm == calm(world)
    assert all(abs(time.now_ms - world.ms) <= 1_000 for time in times)


async def test_a_server_that_starts_believes_a_time_that_another_vouches_for(world: World, server: Process) -> None:
    await server.session()
    before = calm(world)
    world.later(60_000)
    await settled(world, server)
    world.later(TICK_LIFE_MS - 300)
    fresh = await world.process()
    await fresh.session()
    assert calm(world) == before
    await fresh.close()


@pytest.mark.parametrize("jump_ms", [0, HOUR_MS, -HOUR_MS])
async def test_a_server_that_starts_where_nobody_has_watched_the_clock_begins_a_quarantine(
    world: World, server: Process, jump_ms: int
) -> None:
    await server.session()
    before = calm(world)
    world.later(TICK_LIFE_MS + 1_000)
    world.jump(jump_ms)
    fresh = await world.process()
    await fresh.session()
    after, time = calm(world), fresh.directory.slice_of(PLACE).time
    assert after.until_ms > before.until_ms and after.until_ms >= time.now_ms + TERMS.quiet_ms
    assert time.now_ms >= world.ms - TICK_LIFE_MS - 1_000, "time does not go back"
    await settled(world, server)  # the other follows, whatever it thinks
    assert calm(world) == after == server.directory.slice_of(PLACE).time.calm
    await fresh.close()


async def test_a_server_that_starts_right_after_a_jump_publishes_nothing_early(world: World) -> None:
    server = await world.process(settings=STRICT)
    a, b = await server.session(), await server.session()
    world.later(2 * TERMS.quiet_ms)
    await server.commit(a, "h1")
    await server.read(b, "k")
    waiting = server.directory.submit(PLACE, "k", Commit(a, world.content("h2"), Base.ANY), 7, "d")
    await server.keep(a)
    world.jump(HOUR_MS)
    fresh = await world.process(settings=STRICT)
    for _ in range(3):
        world.later(1_000)
        await fresh.sweep()
        await server.sweep()
        assert world.entry.pending is not None, "a copy may live still"
    for _ in range(30):
        world.later(1_000)
        await server.keep(b)
        await fresh.sweep()
        await server.sweep()
    assert world.entry.pending is None and world.entry.version.n == 2
    await server.poll()
    reply = await waiting
    assert reply is not None and isinstance(reply.answer, Done)
    for process in (server, fresh):
        await process.close()


async def test_every_adoption_begins_a_quarantine(world: World, server: Process) -> None:
    await server.session()
    before = calm(world)
    assert before.until_ms >= world.ms + TERMS.quiet_ms
    for lose in (world.memory.restart, world.memory.restart_empty, world.memory.wipe):
        world.later(60_000)
        lose()
        await server.session()
        after = calm(world)
        assert after.token != before.token and after.until_ms >= world.ms + TERMS.quiet_ms
        before = after


async def test_an_unused_slice_gets_no_ticks(world: World, server: Process) -> None:
    await server.session()
    ticks = []
    for _ in range(30):
        world.later(250)
        await server.sweep()
        await asyncio.sleep(0)
        ticks.append(int(world.data.field(META, fields.TICK)))
    vouched = server.sweeper.rounds.ticks
    assert ticks[0] < ticks[vouched - 1] == ticks[-1], "for a while after its last use, and then no more"


async def test_the_lease_that_was_granted_first_holds_for_servers_with_another_term(world: World) -> None:
    long = await world.process(settings=STRICT)
    await long.session()
    short = await world.process(
        settings=type(STRICT)(terms=type(TERMS)(lease_ms=1_000, tombstone_ms=60_000), default=STRICT.default)
    )
    await short.session()
    assert short.directory.lease_ms(PLACE, 30_000) == long.directory.lease_ms(PLACE, 30_000) == TERMS.lease_ms
    for process in (long, short):
        await process.close()


async def test_of_two_servers_that_notice_a_jump_one_follows_the_other(world: World, server: Process) -> None:
    await server.session()
    token = calm(world).token
    world.jump(HOUR_MS)
    await server.session()  # its answer shows the jump
    theirs = Calm(token, world.ms + 2 * TERMS.quiet_ms, TERMS.lease_ms)

    def rewrite() -> None:
        world.data.put(META, fields.CALM, theirs.text)
        world.data.put(META, OFFSET, str(-HOUR_MS))
        world.data.put(META, fields.TICK, str(world.ms + TICK_LIFE_MS))

    def looked() -> None:
        server.store.on_commit = rewrite  # before what follows from the look is written

    server.store.on_commit = looked
    await server.session()
    assert calm(world) == theirs == server.directory.slice_of(PLACE).time.calm
