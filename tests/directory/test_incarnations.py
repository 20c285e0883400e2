"""What a client says of an incarnation that it has seen: heeded where the store was lost, harmless everywhere else."""

from __future__ import annotations

import pytest

from homenode_directory.incarnations import ECHO_AHEAD_MS
from homenode_directory.protocol.effects import Denial
from homenode_directory.sinks import SessionOver
from tests.directory.world import PLACE, START_MS, TTL_MS, Process, World

HOUR_MS = 3_600_000


async def opened_having_seen(server: Process, number: int) -> int:
    """The incarnation of a session that a client opens which has seen incarnation `number`."""
    return (await server.directory.open_session(PLACE, "n", TTL_MS, number)).position.incarnation


async def test_after_a_loss_and_a_clock_that_went_back_the_number_is_above_what_was_seen(world: World) -> None:
    lost = (await (await world.process()).open()).position.incarnation
    world.memory.wipe()
    world.later(-HOUR_MS)
    server = await world.process()  # nobody here remembers
    assert (await server.incarnations.current(world.number)).number < lost
    assert await opened_having_seen(server, lost) > lost


async def test_a_server_that_lived_through_a_loss_needs_nobody_to_tell_it(world: World, server: Process) -> None:
    lost = (await server.open()).position.incarnation
    world.memory.wipe()
    world.later(-HOUR_MS)
    stranger = await world.process()
    assert (await stranger.open()).position.incarnation < lost  # came first, and knows nothing
    assert (await server.open()).position.incarnation > lost
    assert (await stranger.open()).position.incarnation > lost


@pytest.mark.parametrize("ahead_ms", [1, 1_000, HOUR_MS, ECHO_AHEAD_MS, ECHO_AHEAD_MS + 1, 2**52 - START_MS])
async def test_a_false_echo_ends_nobodys_session(server: Process, other: Process, ahead_ms: int) -> None:
    session = await server.session()
    inbox = await server.attach(session)
    before = (await server.open()).position.incarnation
    for process in (server, other):
        assert await opened_having_seen(process, before + ahead_ms) == before
    assert not isinstance(await server.keep(session), Denial)
    assert inbox.of(SessionOver) == []


async def test_a_false_echo_where_nobody_works_stays_near_the_clock(world: World, server: Process) -> None:
    known = (await server.incarnations.current(world.number)).number
    refused = await server.directory.open_session(PLACE, "n", TTL_MS, START_MS + ECHO_AHEAD_MS + 1)
    assert refused.position.incarnation == known
    await server.directory.end_session(PLACE, refused.session)
    assert await opened_having_seen(server, START_MS + ECHO_AHEAD_MS) == START_MS + ECHO_AHEAD_MS + 1


async def test_sessions_that_are_over_do_not_count(world: World, server: Process) -> None:
    ended = await server.open()
    await server.directory.end_session(PLACE, ended.session)
    seen = ended.position.incarnation + 5
    assert await opened_having_seen(server, seen) > seen
