"""Savings in the store: of all servers exactly once, bounded, and forgotten."""

from __future__ import annotations

import itertools

import pytest

from homenode_directory.errors import DirectoryError
from homenode_directory.observer import Saved
from homenode_directory.place import Place
from homenode_directory.savings import (
    DAY,
    DUE_SAVINGS,
    HOUR,
    LINES_MAX,
    PLACES_MAX,
    RECORDS_MAX,
    SAVINGS,
    STRATEGIES_MAX,
    TOLD_MAX,
    Ledger,
)
from homenode_directory.store.base import META
from homenode_directory.sweeper import Rounds, Sweeper
from tests.directory.world import PLACE, Process, World

OTHER = Place("default", "other")
HOUR_MS = 3_600_000


def saved(key: str, tokens: int, *, agent: str = "a", strategy: str = "lazy") -> Saved:
    return Saved(agent, key, strategy, (tokens, 0, 0, 4 * tokens))


def ledger(process: Process) -> Ledger:
    return Ledger(process.directory, process.world.new_id)


async def test_an_hour_and_a_day_are_told_and_then_forgotten(world: World, server: Process) -> None:
    one = ledger(server)
    one.note(PLACE, [saved("plan", 3), saved("plan", 4), saved("notes", 50)])
    one.note(OTHER, [saved("plan", 1_000)])
    await one.flush()
    world.later(HOUR_MS)
    one.note(PLACE, [saved("plan", 5)])
    told = await one.told(PLACE)
    assert [(line.key, sums) for line, sums in told.hour] == [("plan", (5, 0, 0, 20))]
    assert [(line.key, sums[0]) for line, sums in told.day] == [("notes", 50), ("plan", 12)]
    assert HOUR_MS <= told.since_ms < 2 * HOUR_MS
    assert [sums[0] for _, sums in (await one.told(OTHER)).day] == [1_000]
    world.later(25 * HOUR_MS)
    assert not (await one.told(PLACE)).day
    sweeper = Sweeper(server.directory, forget=one.forget, rounds=Rounds(idle_every=1, tidy_every=1))
    await sweeper.sweep()
    assert DUE_SAVINGS not in world.data.ranks and not [key for key in world.data.records if key.startswith("sv/")]
    assert world.data.field(META, SAVINGS) == "0"


async def test_what_nobody_expected_in_one_workspace_ends_nothing(world: World, server: Process) -> None:
    one, told = ledger(server), list[str]()
    one._mistakes.tell = lambda where, mistake: told.append(f"{where}: {mistake}")  # type: ignore[method-assign]
    one.note(PLACE, [saved("plan", 3)])
    await one.flush()
    (record, *_) = (key for key in world.data.records if key.startswith(f"sv/{PLACE.tenant}/{PLACE.workspace}/"))
    line = next(name for name in world.data.records[record] if name.startswith("l/"))
    right, world.data.records[record][line] = world.data.records[record][line], "no number"
    one.note(PLACE, [saved("plan", 4)])
    one.note(OTHER, [saved("plan", 5)])
    await one.flush()
    assert len(told) == 1 and told[0].startswith("savings: ")
    assert [sums[0] for _, sums in (await one.told(OTHER)).hour] == [5]
    world.data.records[record][line] = right
    assert [sums[0] for _, sums in (await one.told(PLACE)).hour] == [7], "kept for when it can be written"


async def test_servers_are_added_up_and_survive(world: World, server: Process, other: Process) -> None:
    one, two = ledger(server), ledger(other)
    for number in range(1, 4):
        one.note(PLACE, [saved("plan", number)])
        two.note(PLACE, [saved("plan", 10 * number), saved("notes", 1)])
        await one.flush()
        await two.flush()
    one.note(PLACE, [saved("plan", 7)])
    await one.close()
    again = ledger(await world.process())  # a server that is started anew
    assert [(line.key, sums[0]) for line, sums in (await again.told(PLACE)).hour] == [("plan", 73), ("notes", 3)]
    again.note(PLACE, [saved("plan", 100)])
    assert [sums[0] for _, sums in (await two.told(PLACE)).day] == [73, 3], "what the other has not written yet"
    await again.flush()
    assert [sums[0] for _, sums in (await two.told(PLACE)).day] == [173, 3]


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_what_may_have_been_written_is_counted_once(world: World, fault: str) -> None:
    server = await world.process(retry_for_ms=0)
    one = ledger(server)
    one.note(PLACE, [saved("plan", 1)])
    await one.flush()
    for number in range(3):
        one.note(PLACE, [saved("plan", 10)])
        server.store.faults = [fault] * (number + 1)
        await one.flush()
        server.store.faults = []
        one.note(PLACE, [saved("plan", 100)])
    assert [sums for _, sums in (await one.told(PLACE)).hour] == [(331, 0, 0, 4 * 331)]


async def test_another_server_that_was_faster_takes_nothing_away(world: World, server: Process, other: Process) -> None:
    one, two = ledger(server), ledger(other)
    two.note(PLACE, [saved("plan", 5)])
    await two.flush()
    one.note(PLACE, [saved("plan", 1)])
    data = world.data
    key = HOUR.key(PLACE, world.ms // HOUR.step_ms)

    def meanwhile() -> None:  # the other's commit, while ours is on its way
        data.put(key, "rev", "99")
        data.put(key, 'l/["a","plan","lazy"]', "50 0 0 0")

    server.store.on_commit = meanwhile
    await one.flush()
    assert [sums[0] for _, sums in (await one.told(PLACE)).hour] == [51]


async def test_whoever_names_everything_fills_no_more_than_there_is_room_for(world: World, server: Process) -> None:
    one = ledger(server)
    strategies = itertools.cycle(("lazy", "eager"))
    many = [saved(f"k{n}", n + 1, strategy=next(strategies)) for n in range(3 * LINES_MAX)]
    for part in range(3):  # more than one batch has room for, in several, the largest last
        one.note(PLACE, many[part * LINES_MAX : (part + 1) * LINES_MAX])
        await one.flush()
    one.note(PLACE, many)
    told = (await one.told(PLACE)).day
    assert len(told) <= TOLD_MAX and sum(sums[0] for _, sums in told) == 2 * sum(range(1, 3 * LINES_MAX + 1))
    ours = [record for key, record in world.data.records.items() if key.startswith("sv/")]
    assert len(ours) == 2 and all(len(record) <= LINES_MAX + STRATEGIES_MAX + 2 for record in ours)
    assert told[0][0].key == f"k{3 * LINES_MAX - 1}" or not told[0][0].key, "the largest stay"
    for number in range(2 * PLACES_MAX):
        one.note(Place("default", str(number)), [saved("k", 1)])
    assert len(one._pending) <= PLACES_MAX


async def test_records_that_find_no_room_are_not_begun(world: World, server: Process) -> None:
    one = ledger(server)
    one.note(PLACE, [saved("plan", 1)])
    await one.flush()
    world.data.put(META, SAVINGS, str(RECORDS_MAX))
    one.note(PLACE, [saved("plan", 2)])
    assert [sums[0] for _, sums in (await one.told(PLACE)).day] == [3], "those that are there go on"
    world.later(DAY.step_ms)
    one.note(PLACE, [saved("plan", 4)])
    assert [sums[0] for _, sums in (await one.told(PLACE)).day] == [3]
    assert world.data.field(META, SAVINGS) == str(RECORDS_MAX)


async def test_a_store_that_is_away_costs_nothing_but_time(world: World) -> None:
    server = await world.process(retry_for_ms=0)
    one = ledger(server)
    one.note(PLACE, [saved("plan", 1)])
    await one.flush()
    server.store.faults = ["before"] * 1_000
    for _ in range(20):
        one.note(PLACE, [saved(f"k{n}", 1) for n in range(100)])
        await one.flush()
    one.note(PLACE, [saved("plan", 1)])
    with pytest.raises(DirectoryError):
        await one.told(PLACE)
    server.store.faults = []
    assert sum(sums[0] for _, sums in (await one.told(PLACE)).day) == 2_002
