"""Savings over every store: what servers write is added up, and is there when another one opens the store."""

from __future__ import annotations

import itertools

from homenode_directory.clock import monotonic_ms
from homenode_directory.directory import Directory
from homenode_directory.incarnations import Incarnations
from homenode_directory.observer import Saved
from homenode_directory.place import Place
from homenode_directory.savings import Ledger, Line
from homenode_directory.store.base import Store
from homenode_directory.sweeper import Rounds, Sweeper
from tests.store.beds import Bed

PLACE = Place("default", "main")
IDS = itertools.count(1)


def server(store: Store) -> tuple[Directory, Ledger]:
    directory = Directory(store, Incarnations(store), clock=monotonic_ms, ids=lambda: f"id{next(IDS)}")
    return directory, Ledger(directory, lambda: f"server{next(IDS)}")


async def test_savings_of_several_servers_are_there_for_the_next_one(bed: Bed) -> None:
    servers = [server(await bed.client()) for _ in range(2)]
    for number, (_, ledger) in enumerate(servers):
        for agent in ("a", 'b "quoted" ü'):
            ledger.note(PLACE, [Saved(agent, "plan/é\n", "lazy", (number + 1, 2, 3, 4))])
            await ledger.flush()
    for directory, ledger in servers:
        await ledger.close()
        await directory.close()
    await bed.close()
    directory, ledger = server(await bed.client())
    told = await ledger.told(PLACE)
    want = [(Line(agent, "plan/é\n", "lazy"), (3, 4, 6, 8)) for agent in ("a", 'b "quoted" ü')]
    assert told.hour == told.day == want
    sweeper = Sweeper(directory, forget=ledger.forget, rounds=Rounds(tidy_every=1))
    await sweeper._tidy(directory.slice_of(PLACE))
    assert (await ledger.told(PLACE)).day == want, "it is not time yet"
    await directory.close()
