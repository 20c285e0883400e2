"""From the log to the sinks: nothing missed, nothing after a gap, bookmarks that tell the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from homenode_directory.place import Place, Position
from homenode_directory.protocol.events import Base, Commit, GetM, GetS
from homenode_directory.protocol.model import Cause
from homenode_directory.sinks import Bookmark, Change, Invalidation, LeaseLost, Resync, SessionOver
from homenode_directory.store.base import LogTrimmed
from tests.directory.world import PLACE, Inbox, Process, World


def told(inbox: Inbox) -> list[tuple[str, int]]:
    """Keys and version numbers of the invalidations."""
    return [(item.key, item.version.n) for item in inbox.items if isinstance(item, Invalidation)]


async def reader(server: Process, key: str = "k") -> tuple[str, Inbox]:
    """A session that is attached and holds a copy."""
    session = await server.session("reader")
    inbox = await server.attach(session)
    with server.expecting(session, key):
        await server.read(session, key)
    return session, inbox


async def test_own_commits_are_delivered_at_once(server: Process) -> None:
    writer = await server.session()
    await server.commit(writer, "h1")
    _, inbox = await reader(server)
    await server.commit(writer, "h2")
    assert told(inbox) == [("k", 2)]


async def test_what_another_process_commits_arrives_with_the_poll(server: Process, other: Process) -> None:
    writer = await other.session()
    await other.commit(writer, "h1")
    _, inbox = await reader(server)
    await other.commit(writer, "h2")
    assert told(inbox) == []
    await server.poll()
    await server.poll()
    assert told(inbox) == [("k", 2)]


async def test_own_commits_behind_a_hole_wait_until_it_is_read(server: Process, other: Process) -> None:
    writer, elsewhere = await server.session(), await other.session()
    await server.commit(writer, "h1")
    _, inbox = await reader(server)
    await other.commit(elsewhere, "h2")
    await server.commit(writer, "h3")
    assert told(inbox) == []
    await server.poll()
    assert told(inbox) == [("k", 2), ("k", 3)]


async def test_only_holders_are_told(server: Process) -> None:
    writer, bystander = await server.session(), await server.session()
    await server.commit(writer, "h1")
    idle = await server.attach(bystander)
    session, inbox = await reader(server)
    server.delivery.drop(session, "k")
    await server.commit(writer, "h2")
    assert told(idle) == told(inbox) == []


async def test_a_copy_that_is_on_its_way_is_told_of(server: Process) -> None:
    """Interest begins before the commit of the read, not with its answer."""
    writer, session = await server.session(), await server.session()
    await server.commit(writer, "h1")
    inbox = await server.attach(session)
    with server.expecting(session, "k"):
        read = server.directory.submit(PLACE, "k", GetS(session))
        write = server.directory.submit(PLACE, "k", Commit(writer, server.world.content("h2"), Base.ANY), 77, "d")
        await asyncio.gather(read, write)
    assert told(inbox) == [("k", 2)]


async def test_a_drop_does_not_end_the_interest_of_a_read_under_way(server: Process) -> None:
    writer = await server.session()
    await server.commit(writer, "h1")
    session, inbox = await reader(server)
    with server.expecting(session, "k"):
        server.delivery.drop(session, "k")
        await server.read(session)
    await server.commit(writer, "h2")
    assert told(inbox) == [("k", 2)]


async def test_a_read_that_began_before_the_session_was_attached_is_told_of(server: Process) -> None:
    writer, session = await server.session(), await server.session()
    await server.commit(writer, "h1")
    with server.expecting(session, "k"):
        inbox = await server.attach(session)
        await server.read(session)
    await server.commit(writer, "h2")
    assert told(inbox) == [("k", 2)]


async def test_resume_replays_exactly_what_was_missed(server: Process, other: Process) -> None:
    writer = await server.session()
    await server.commit(writer, "h1", key="a")
    await server.commit(writer, "h1", key="b")
    session, first = await reader(server, "a")
    await server.commit(writer, "h2", key="a")
    await server.poll()
    seen = first.of(Invalidation)[-1]
    at = Position(server.directory.slice_of(PLACE).incarnation.number, seen.sequence)  # type: ignore[union-attr]
    server.delivery.detach(session)
    await server.commit(writer, "h3", key="a")
    await server.commit(writer, "h3", key="b")
    await server.commit(writer, "h4", key="a")
    for process in (server, other):  # on whichever server it comes back
        again = Inbox()
        attached = await process.delivery.attach(PLACE, session, again, {"a": 2}, at)
        assert not attached.resync
        assert told(again) == [("a", 3), ("a", 4)]


@pytest.mark.parametrize("gone", [False, True], ids=["resumed", "resynchronised"])
async def test_what_is_committed_while_a_session_is_brought_back_is_told(
    server: Process, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    writer, session = await server.session(), await server.session()
    await server.commit(writer, "h1")
    with server.expecting(session, "k"):
        await server.read(session)
        resume = await server.directory.confirm_session(PLACE, session)
        assert isinstance(resume, Position)
        await server.attach(writer)  # somebody listens, so the cursor goes along
        await server.commit(writer, "h2", key="other")
        read_log = server.store.read_log

        async def meanwhile(*args: Any, **named: Any) -> Any:
            monkeypatch.setattr(server.store, "read_log", read_log)
            found = await read_log(*args, **named)
            await server.commit(writer, "h2")
            if gone:
                raise LogTrimmed("gone")
            return found

        monkeypatch.setattr(server.store, "read_log", meanwhile)
        inbox = await server.attach(session, resume, {"k": 1})
    assert told(inbox) == [("k", 2)]


async def test_resume_tells_of_a_lease_that_was_lost_meanwhile(world: World, server: Process) -> None:
    session = await server.session()
    await server.lease(session, "L", ttl_ms=2_000)
    at = (await server.open()).position
    world.later(2_100)
    await server.sweep()
    inbox = await server.attach(session, at)
    assert [(item.lease, item.cause) for item in inbox.items if isinstance(item, LeaseLost)] == [("L", Cause.EXPIRED)]


@pytest.mark.parametrize("wrong", ["incarnation", "future", "trimmed", "too much"])
async def test_resume_from_a_place_that_the_log_does_not_have_is_a_resync(
    world: World, server: Process, wrong: str
) -> None:
    writer, session = await server.session(), await server.session()
    for i in range(5):
        await server.commit(writer, f"h{i}")
    head = (await server.open()).position
    resume = Position(head.incarnation, 1)
    if wrong == "incarnation":
        resume = Position(head.incarnation - 1, head.sequence)
    elif wrong == "future":
        resume = Position(head.incarnation, head.sequence + 1)
    elif wrong == "trimmed":
        await server.store.trim_log(world.number, 3)
    else:
        server.tail.pace = type(server.tail.pace)(replay_max=3)
    inbox = Inbox()
    attached = await server.delivery.attach(PLACE, session, inbox, {"k": 1}, resume)
    assert attached.resync and attached.position == head
    assert inbox.items == []


async def test_holdings_without_a_place_to_resume_from_are_dropped(server: Process) -> None:
    """Nobody knows what was missed since the copies were made."""
    writer, session = await server.session(), await server.session()
    await server.commit(writer, "h1")
    attached = await server.delivery.attach(PLACE, session, Inbox(), {"k": 1}, None)
    assert attached.resync


async def test_a_log_that_was_trimmed_before_it_was_read_is_a_resync_for_all(
    world: World, server: Process, other: Process
) -> None:
    writer = await other.session()
    await other.commit(writer, "h1")
    _, one = await reader(server)
    _, two = await reader(server)
    for i in range(5):
        await other.commit(writer, f"x{i}")
    head = (await other.open()).position
    await other.store.trim_log(world.number, head.sequence)
    await server.poll()
    for inbox in (one, two):
        assert [item.position for item in inbox.items if isinstance(item, Resync)] == [head]
    last = await other.commit(writer, "y")
    await server.poll()
    assert told(one) == told(two) == [("k", last.n)]  # what is on its way, as of the same place, may be kept


async def test_a_bookmark_answers_a_ping_after_everything_before_it(server: Process, other: Process) -> None:
    writer = await other.session()
    await other.commit(writer, "h1")
    session, inbox = await reader(server)
    await server.bookmark()
    assert inbox.of(Bookmark) == []  # nobody asked
    await other.commit(writer, "h2")
    server.delivery.ping(session, 77)
    head = (await other.open()).position
    await server.bookmark()
    assert [type(item) for item in inbox.items if isinstance(item, Invalidation | Bookmark)] == [Invalidation, Bookmark]
    assert (inbox.bookmark.echo, inbox.bookmark.position) == (77, head)
    await server.bookmark()
    assert len(inbox.of(Bookmark)) == 1


async def test_one_read_of_the_heads_answers_every_ping_of_every_slice(server: Process) -> None:
    places = [Place("default", f"w{n}") for n in range(8)]
    assert {place.slice_of(2) for place in places} == {0, 1}
    inboxes = []
    for place in places:
        for _ in range(3):
            opened = await server.directory.open_session(place, "n", 30_000)
            inboxes.append(Inbox())
            await server.delivery.attach(place, opened.session, inboxes[-1], {}, None)
            server.delivery.ping(opened.session, 5)
    asked: list[Mapping[int, str]] = []
    heads = server.store.heads

    async def ask(slices: Mapping[int, str]) -> Mapping[int, int | None]:
        asked.append(slices)
        return await heads(slices)

    server.store.heads = ask  # type: ignore[method-assign]
    await server.bookmark()
    assert all(inbox.bookmark.echo == 5 for inbox in inboxes)
    assert [set(slices) for slices in asked] == [{0, 1}]


async def test_no_bookmark_where_the_store_cannot_be_asked(server: Process) -> None:
    session = await server.session()
    inbox = await server.attach(session)
    server.delivery.ping(session, 77)
    server.store.faults = ["before"]
    await server.bookmark()
    assert inbox.of(Bookmark) == []
    await server.bookmark()
    assert inbox.bookmark.echo == 77


async def test_memory_that_is_lost_while_the_slice_is_looked_up_first_holds_nothing_up(
    world: World, server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await server.session()
    heads = server.store.heads
    losses = [1]

    async def lose(slices: Mapping[int, str]) -> Mapping[int, int | None]:
        found = await heads(slices)
        if losses:
            losses.pop()
            world.memory.wipe()
            world.later(1_000)
            await server.incarnations.renew(world.number, slices[world.number])
        return found

    monkeypatch.setattr(server.store, "heads", lose)
    await server.attach(session)
    fresh = await server.session()
    inbox = await server.attach(fresh)
    server.delivery.ping(fresh, 3)
    await server.bookmark()
    assert inbox.bookmark.echo == 3


async def test_lost_memory_ends_every_session_and_begins_a_new_incarnation(world: World, server: Process) -> None:
    sessions = [await server.session() for _ in range(3)]
    inboxes = [await server.attach(session) for session in sessions]
    old = (await server.open()).position.incarnation
    world.memory.wipe()
    world.later(1_000)
    server.delivery.ping(sessions[0], 1)
    await server.bookmark()
    assert all(inbox.of(SessionOver) and not inbox.of(Bookmark) for inbox in inboxes)
    fresh = await server.open()
    assert fresh.position.incarnation > old
    await server.attach(fresh.session)  # and all goes on
    server.delivery.ping(sessions[0], 2)


@pytest.mark.parametrize("grown", [False, True])
async def test_a_log_that_was_lost_and_grew_again_is_no_continuation(
    world: World, server: Process, other: Process, grown: bool
) -> None:
    writer = await server.session()
    await server.commit(writer, "h1")
    _, inbox = await reader(server)
    world.memory.wipe()
    world.later(1_000)
    fresh = await other.open()
    for i in range(10 if grown else 1):
        await other.commit(fresh.session, f"x{i}")
    await server.poll()
    assert told(inbox) == []
    assert inbox.of(SessionOver)


async def test_a_watch_sends_changes_under_its_prefix_in_order(server: Process, other: Process) -> None:
    writer, session = await server.session(), await server.session()
    inbox = await server.attach(session)
    await server.delivery.watch(session, 9, "docs/", None)
    await server.commit(writer, "h1", key="docs/a")
    await server.commit(writer, "h1", key="src/a")
    await other.commit(writer, "h2", key="docs/b")
    await other.commit(writer, None, key="docs/a")
    await server.poll()
    changes = [(item.watch, item.key, item.version.n, item.deleted) for item in inbox.items if isinstance(item, Change)]
    assert changes == [(9, "docs/a", 1, False), (9, "docs/b", 1, False), (9, "docs/a", 2, True)]
    server.delivery.unwatch(session, 9)
    await server.commit(writer, "h3", key="docs/b")
    assert len(inbox.of(Change)) == 3


async def test_a_watch_from_a_position_begins_with_what_came_after_it(server: Process) -> None:
    writer, session = await server.session(), await server.session()
    await server.commit(writer, "h1", key="a")
    listing = await server.directory.list(PLACE, session, "", "", 10)
    await server.commit(writer, "h1", key="b")
    inbox = await server.attach(session)
    await server.delivery.watch(session, 1, "", listing.as_of)  # type: ignore[union-attr]
    await server.commit(writer, "h2", key="a")
    assert [(item.key, item.version.n) for item in inbox.items if isinstance(item, Change)] == [("b", 1), ("a", 2)]


async def test_a_watch_from_a_position_that_is_gone_says_so(world: World, server: Process) -> None:
    writer, session = await server.session(), await server.session()
    for i in range(5):
        await server.commit(writer, f"h{i}")
    await server.attach(session)
    head = (await server.open()).position
    await server.store.trim_log(world.number, 4)
    for gone in (Position(head.incarnation, 1), Position(head.incarnation - 1, head.sequence)):
        with pytest.raises(LogTrimmed):
            await server.delivery.watch(session, 1, "", gone)


async def test_a_writer_that_loses_its_lease_is_told_why(world: World, server: Process) -> None:
    session = await server.session()
    inbox = await server.attach(session)
    await server.answer("k", GetM(session, "L", 2_000, create=True), 1)
    await server.release(session, "L")
    await server.answer("k", GetM(session, "M", 2_000, create=True), 2)
    world.later(2_100)
    await server.sweep()
    lost = [(item.lease, item.cause) for item in inbox.items if isinstance(item, LeaseLost)]
    assert lost == [("M", Cause.EXPIRED)]  # giving one up is no news
