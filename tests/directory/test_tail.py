"""Following the log across processes: holes, hints, waits whose answers others commit, mistakes that end nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from homenode_directory.delivery import Delivery
from homenode_directory.incarnations import Incarnations
from homenode_directory.mistakes import Mistakes
from homenode_directory.observer import Silent
from homenode_directory.protocol.effects import Denial, Grant, Reason
from homenode_directory.protocol.events import GetM
from homenode_directory.sinks import Invalidation
from homenode_directory.store.base import StoreError
from homenode_directory.tail import Pace
from tests.directory.world import PLACE, Inbox, Process, World


def told(inbox: Inbox) -> list[int]:
    """Version numbers of the invalidations."""
    return [item.version.n for item in inbox.items if isinstance(item, Invalidation)]


async def until(true: Callable[[], object]) -> None:
    """Let other tasks run until it is so."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0)


async def reader(server: Process) -> Inbox:
    """A session that is attached and holds a copy of `k`."""
    session = await server.session("reader")
    inbox = await server.attach(session)
    with server.expecting(session, "k"):
        await server.read(session)
    return inbox


# --- holes and hints --------------------------------------------------------------------------------------------------


async def test_a_hint_makes_the_gap_be_read(server: Process, other: Process) -> None:
    writer = await other.session()
    await other.commit(writer, "h1")
    inbox = await reader(server)
    version = await other.commit(writer, "h2")
    server.tail.hinted(server.world.number, 1_000)
    await until(lambda: told(inbox) == [version.n])


async def test_an_own_commit_behind_a_hole_makes_the_hole_be_read(server: Process, other: Process) -> None:
    writer, elsewhere = await server.session(), await other.session()
    await server.commit(writer, "h1")
    inbox = await reader(server)
    await other.commit(elsewhere, "h2")
    await server.commit(writer, "h3")
    await until(lambda: told(inbox) == [2, 3])


async def test_own_commits_while_the_log_is_read_follow_without_another_read(server: Process) -> None:
    """Else a busy server would read every entry that it has itself written."""
    writer = await server.session()
    await server.commit(writer, "h1")
    inbox = await reader(server)
    cursor = server.tail.cursors[server.world.number]
    reads = 0

    async def read_log(*args: object, **named: object) -> object:
        nonlocal reads
        reads += 1
        return await type(server.store).read_log(server.store, *args, **named)  # type: ignore[arg-type]

    server.store.read_log = read_log  # type: ignore[assignment,method-assign]
    await until(lambda: cursor.reading is None)
    reads = 0
    async with server.tail.hold(cursor):
        await server.commit(writer, "h2")
        await server.commit(writer, "h3")
        assert told(inbox) == []
    assert told(inbox) == [2, 3]
    await asyncio.sleep(0)
    assert (reads, cursor.early) == (0, {})


async def test_what_waits_behind_a_hole_is_bounded(
    server: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homenode_directory.tail.EARLY_MAX", 4)
    writer, elsewhere = await server.session(), await other.session()
    await server.commit(writer, "h1")
    inbox = await reader(server)
    cursor = server.tail.cursors[server.world.number]
    async with server.tail.hold(cursor):
        await other.commit(elsewhere, "h2")
        for n in range(3, 12):
            await server.commit(writer, f"h{n}")
        assert len(cursor.early) == 4
    await until(lambda: told(inbox) == list(range(2, 12)))


async def test_a_slice_in_which_nobody_listens_is_not_followed(server: Process) -> None:
    writer = await server.session()
    inbox = await server.attach(writer)
    server.delivery.detach(writer)
    at = server.tail.cursors[server.world.number].position
    for n in range(5):
        await server.commit(writer, f"h{n}")
    assert server.tail.cursors[server.world.number].position == at
    head = (await server.open()).position
    attached = await server.delivery.attach(PLACE, writer, inbox, {}, None)
    assert attached.position >= head


class Hinting:
    """The store's hints, as a test gives them. A number ends the subscription with an error."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        self.subscriptions = 0

    async def __call__(self) -> AsyncIterator[tuple[int, int]]:
        self.subscriptions += 1
        while (hint := await self.queue.get()) is not None:
            yield hint
        raise StoreError("the subscription ended")


async def test_hints_are_listened_to_again_after_the_connection_broke(
    server: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homenode_directory.tail.LISTEN_AGAIN_S", (0.001, 0.01))
    server.tail.pace = Pace(poll_ms=3_600_000, bookmark_ms=3_600_000)
    hints = server.store.hints = Hinting()  # type: ignore[assignment,method-assign]
    server.delivery.start()
    try:
        writer = await other.session()
        await other.commit(writer, "h1")
        inbox = await reader(server)
        for n in (2, 3):
            await other.commit(writer, f"h{n}")
            hints.queue.put_nowait((server.world.number, 1_000 + n))
            async with asyncio.timeout(20):
                while told(inbox) != list(range(2, n + 1)):
                    await asyncio.sleep(0.001)
            hints.queue.put_nowait(None)
        async with asyncio.timeout(20):
            while hints.subscriptions < 3:
                await asyncio.sleep(0.001)
    finally:
        await server.delivery.close()


# --- waits ------------------------------------------------------------------------------------------------------------


async def queue(server: Process, session: str, request: int = 1) -> asyncio.Future:  # type: ignore[type-arg]
    """A request for the write lease of `k` that waits; nobody of the slice is attached to the server."""
    future = server.directory.submit(PLACE, "k", GetM(session, "L2", 10_000, wait_ms=20_000), request, "d")
    await until(lambda: server.directory.awaited(server.world.number))
    return future


@pytest.mark.parametrize("followed", ["hint", "poll"])
async def test_a_grant_by_another_server_answers_who_waits_here(server: Process, other: Process, followed: str) -> None:
    holder, waiter = await other.session(), await server.session()
    await other.commit(holder, "h1")
    await other.lease(holder)
    waiting = await queue(server, waiter)
    await other.release(holder)
    if followed == "hint":
        server.tail.hinted(server.world.number, 1_000)
    else:
        await server.poll()
    assert isinstance((await asyncio.wait_for(waiting, 20)).answer, Grant)
    assert not server.directory.awaited(server.world.number)


async def test_a_refusal_by_another_servers_sweeper_answers_who_waits_here(
    world: World, server: Process, other: Process
) -> None:
    holder, waiter = await other.session(), await server.session()
    await other.commit(holder, "h1")
    await other.lease(holder, ttl_ms=60_000)
    waiting = await queue(server, waiter)
    world.later(21_000)
    await other.sweep()
    await server.poll()
    answer = (await asyncio.wait_for(waiting, 20)).answer
    assert isinstance(answer, Denial) and answer.reason is Reason.WAIT_TIMEOUT


async def test_a_grant_that_was_trimmed_before_it_was_read_answers_who_waits(
    world: World, server: Process, other: Process
) -> None:
    holder, waiter = await other.session(), await server.session()
    await other.commit(holder, "h1")
    await other.lease(holder)
    waiting = await queue(server, waiter)
    await other.release(holder)
    head = (await other.open()).position.sequence
    await other.store.trim_log(world.number, head + 1)
    await server.poll()
    assert isinstance((await asyncio.wait_for(waiting, 20)).answer, Grant)


async def test_an_answer_is_fetched_again_where_the_store_failed(
    server: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homenode_directory.directory.FETCH_AGAIN_S", 0.001)
    holder, waiter = await other.session(), await server.session()
    await other.commit(holder, "h1")
    await other.lease(holder)
    waiting = await queue(server, waiter)
    await other.release(holder)
    failures = [1, 1, 1]
    load = server.store.load

    async def failing(slice_: int, keys: list[str], *names: list[str]) -> object:
        if failures:
            failures.pop()
            raise StoreError("cut")
        return await load(slice_, keys, *names)

    server.store.load = failing  # type: ignore[assignment,method-assign]
    await server.poll()
    assert isinstance((await asyncio.wait_for(waiting, 20)).answer, Grant)
    assert not failures


async def test_a_wait_that_nothing_answers_costs_no_more_when_it_is_over(
    world: World, server: Process, other: Process
) -> None:
    """Only slices in which somebody waits or listens are polled."""
    holder, waiter = await other.session(), await server.session()
    await other.commit(holder, "h1")
    await other.lease(holder)
    waiting = await queue(server, waiter)
    await server.directory.end_session(PLACE, waiter)
    assert (await asyncio.wait_for(waiting, 20)).answer.reason is Reason.SESSION_LOST
    reads = server.store.read_log
    server.store.read_log = None  # type: ignore[assignment,method-assign]
    await server.poll()
    server.store.read_log = reads  # type: ignore[method-assign]


# --- mistakes ---------------------------------------------------------------------------------------------------------


class Counting(Silent):
    """Counts mistakes."""

    mistakes = 0

    def mistake(self, where: str) -> None:
        self.mistakes += 1


async def test_a_mistake_in_a_tick_is_logged_and_counted_and_ends_nothing(
    world: World, server: Process, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Counting()
    delivery = Delivery(
        server.store, Incarnations(server.store), pace=Pace(poll_ms=1, bookmark_ms=3_600_000), observer=observer
    )
    session = await server.session()
    await delivery.attach(PLACE, session, Inbox(), {}, None)
    read_log, mistakes = server.store.read_log, [1] * 5

    async def mistaken(*args: object, **named: object) -> object:
        if mistakes:
            mistakes.pop()
            raise KeyError("a mistake")
        return await read_log(*args, **named)  # type: ignore[arg-type]

    server.store.read_log = mistaken  # type: ignore[assignment,method-assign]
    with caplog.at_level(logging.ERROR):
        delivery.start()
        async with asyncio.timeout(20):
            while mistakes:
                await asyncio.sleep(0.001)
        await delivery.close()
    assert observer.mistakes == 5
    assert [record.getMessage() for record in caplog.records] == ["unexpected in delivery; it goes on"]


async def test_a_mistake_is_told_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    mistakes = Mistakes(clock=lambda: now[0])

    async def fail() -> None:
        raise ValueError

    for now[0] in (0.0, 1.0, 11.0):
        await mistakes.guard("x", fail())
    assert len(caplog.records) == 2
