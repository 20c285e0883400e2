"""Policies of prefixes among several processes: whoever judges, and whoever dies, the newest holds."""

from __future__ import annotations

from homenode_directory.prefixes import HEAD_START_MS
from homenode_directory.protocol.effects import Done, DoneMany, Reason
from homenode_directory.protocol.events import Base, Commit, GetS
from homenode_directory.protocol.model import Level, Policy
from homenode_directory.store import fields
from homenode_directory.together import Request
from tests.directory.world import PLACE, Process, World, reason

STRICT = Policy(Level.STRICT)
SHORT = Policy(max_age_ms=100)


async def set_policy(
    process: Process, session: str, policy: Policy | None, prefix: str = "", request: int = 0, settle: bool = True
) -> object:
    """The answer; `settle`: and what exists has taken it over."""
    number = request or process.world.new_request()
    reply = await process.prefixes.set(PLACE, Request(session, number, str(policy)), prefix, policy)
    if settle:
        assert await process.prefixes.settle(PLACE, prefix, 0) == 0
    return reply.answer


async def test_a_process_that_knows_of_no_policy_makes_nothing_without_it(
    world: World, server: Process, other: Process
) -> None:
    await server.session(), await other.session()  # who both know the time
    world.later(60_000)  # and the quarantine is over
    mine, theirs = await server.session(), await other.session()
    await other.commit(theirs, "h1")
    await set_policy(server, mine, STRICT, "s")
    made = await other.answer("strict", Commit(theirs, world.content("h2"), Base.ABSENT), 1)
    assert isinstance(made, Done) and made.level is Level.STRICT
    await set_policy(server, mine, SHORT, "n")
    events = ((f"n{number}", Commit(theirs, world.content("h3"), Base.ABSENT)) for number in range(2))
    reply = await other.joint.commit_many(PLACE, list(events), Request(theirs, 2, "d"))
    assert isinstance(reply.answer, DoneMany)
    for key in ("n0", "n1"):
        assert (await server.read(mine, key)).policy == SHORT
    assert (await server.read(mine, "k")).policy is None


async def test_who_dies_after_setting_a_policy_is_stood_in_for(world: World, server: Process, other: Process) -> None:
    mine, theirs = await server.session(), await other.session()
    for key in ("k", "n1", "n2"):
        await other.commit(theirs, "h1", key=key)
    await set_policy(server, mine, STRICT, "n", settle=False)
    await other.sweep()
    assert (await other.read(theirs, "n1")).level is Level.LAZY  # its sharer has a copy, and the setter a head start
    world.later(HEAD_START_MS + 1)
    await other.sweep()
    assert world.data.ranks[fields.DUE_POLICIES]
    world.later(60_000)  # the sharer is over
    for _ in range(4):
        world.later(HEAD_START_MS + 1)
        await other.sweep()
    assert not world.data.ranks.get(fields.DUE_POLICIES)
    reader = await other.session()
    levels = [(await other.read(reader, key)).level for key in ("k", "n1", "n2")]
    assert levels == [Level.LAZY, Level.STRICT, Level.STRICT]


async def test_a_policy_is_set_once_and_only_by_the_living(world: World, server: Process, other: Process) -> None:
    session = await server.session()
    await server.commit(session, "h1")
    assert isinstance(await set_policy(server, session, STRICT, request=7, settle=False), Done)
    assert isinstance(await set_policy(other, session, SHORT, request=8, settle=False), Done)
    assert isinstance(await set_policy(other, session, STRICT, request=7, settle=False), Done)  # comes again
    assert reason(await set_policy(other, session, SHORT, request=7, settle=False)) is Reason.INVALID_ARGUMENT
    table = await other.prefixes.of(PLACE, session)
    assert not isinstance(table, type(None)) and table.by_prefix == {"": SHORT}  # type: ignore[union-attr]
    await server.directory.end_session(PLACE, session)
    assert reason(await set_policy(other, session, STRICT, settle=False)) is Reason.SESSION_LOST
    assert reason(await other.answer("k", GetS(session))) is Reason.SESSION_LOST


async def test_a_policy_is_gone_with_the_memory(world: World, server: Process) -> None:
    session = await server.session()
    await set_policy(server, session, SHORT)
    world.memory.wipe()
    again = await server.session()
    await server.commit(again, "h1")
    assert (await server.read(again)).policy is None
