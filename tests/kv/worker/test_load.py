"""How soon the directory hears that a worker has nothing to do: its real streams, to a directory in this process."""

from __future__ import annotations

import asyncio

import pytest

from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_kv.worker import placement as placements
from homenode_kv.worker.placement import Placement
from homenode_kv.worker.turns import Turns
from tests.api.conftest import serve
from tests.client.scripted import until


async def test_a_worker_that_has_nothing_to_do_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for often in ("LOAD_S", "LOAD_MAX_S"):
        monkeypatch.setattr(placements, often, 3_600.0)
    turns = Turns(4)
    async with serve() as served:
        session = await served.open()
        model = pb.KvModel(name="m", fingerprint="f")
        placement = Placement(
            [f"127.0.0.1:{served.api.port}"],
            None,
            pb.KvWorkerId(worker="w", epoch=1),
            lambda: pb.WorkerHello(session_id=session, address="w:1", model=model),
            lambda: pb.WorkerLoad(running=turns.running, queued=turns.waiting),
        )
        turns.on_idle = placement.idle
        running = asyncio.ensure_future(placement.run())
        everyone = served.server.endpoint.kv.routing.placements.everyone
        try:
            async with turns.turn():  # the first load is told while this call is under way
                await until(lambda: bool(everyone()) and everyone()[0].load.running == 1)
            await until(lambda: everyone()[0].load.running == 0)
        finally:
            running.cancel()
            turns.close()
