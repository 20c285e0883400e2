"""One simulated run from beginning to end: a few agents with the real SDK, faults, and rest."""

from __future__ import annotations

import asyncio
import hashlib

from homenode.artifact import STRICT
from homenode.cli.simulate.loop import run
from homenode.errors import HomenodeError
from homenode_directory.protocol.model import Version
from tests.sim.agents import Agent
from tests.sim.faults import NONE, Odds
from tests.sim.judge import judge
from tests.sim.net import SimTransport
from tests.sim.sdk import SimClient, connect
from tests.sim.server import tag_tasks
from tests.sim.trouble import Trouble
from tests.sim.world import HEAD, STRICT_KEYS, Report, World, keys_of, name_of

AGENTS = 3
REST_S = 25.0
DRILL_ROUNDS = 8


def simulate(seed: int, *, drill: bool = False) -> tuple[Report, list[str]]:
    """Run one seed; returns what it found and its trace.

    A drill is quiet but for what breaks strict consistency most easily, again and again.
    """
    return run(_simulate(seed, drill))


async def _simulate(seed: int, drill: bool) -> tuple[Report, list[str]]:
    loop = asyncio.get_running_loop()
    tag_tasks(loop)
    world = World(seed, NONE, STRICT_KEYS) if drill else World(seed, Odds(), keys_of(seed))
    await world.server.start()
    try:
        async with asyncio.timeout(3_600):
            await _work(world, drill)
    except TimeoutError:
        world.problem("the run did not come to its end")
    judge(world)
    report = world.report
    report.virtual_s = loop.time()
    report.log = world.history.items
    report.digest = hashlib.sha256("\n".join(world.log).encode()).hexdigest()[:16]
    return report, world.log


async def _work(world: World, drill: bool) -> None:
    for number in range(AGENTS):
        transport = SimTransport(lambda: world.server, world.faults)
        world.clients.append(await connect(transport, world.faults, world.rng, f"agent{number}", world.recording))
    await _found(world, world.clients[0])
    agents = [Agent(world, n, client) for n, client in enumerate(world.clients)]
    trouble = Trouble(world, agents)
    observers = [world.spawn(agent.watch_cache()) for agent in agents]
    if drill:
        await trouble.drill(DRILL_ROUNDS)
    else:
        striking = world.spawn(trouble.run())
        await asyncio.gather(*(agent.run() for agent in agents))
        world.over = True
        await striking
    world.observed = False
    await asyncio.gather(*observers)
    await _come_to_rest(world)


async def _found(world: World, client: SimClient) -> None:
    """The strict artifacts are there, and strict, before anybody works on them."""
    world.faults.active = False
    for key in world.keys:
        if key in STRICT_KEYS:
            await client.hn.put(key, world.tried(HEAD.get(key, "") + "founded\n"))
            await client.hn.set_policy(key, consistency=STRICT, timeout_ms=60_000)
    world.faults.active = True


async def _come_to_rest(world: World) -> None:
    """Without faults, everybody must soon read the newest version of everything."""
    world.faults.active = False
    for client in world.clients:
        client.transport.heal()
    await asyncio.sleep(REST_S)
    for client in world.clients:
        for key in world.keys:
            try:
                artifact = await client.hn.read(key, default="")
            except HomenodeError as failure:
                world.problem(f"at rest, {key} cannot be read: {failure!r}")
                continue
            versions = world.history.versions.get(name_of(key), [])
            lost = bool(world.history.wiped_at_s) and (not versions or versions[-1].at_s < world.history.wiped_at_s[-1])
            newest = None if lost or not versions else versions[-1].version
            if (artifact.version and Version(*artifact.version)) != newest:
                world.problem(f"at rest, {key} is read at {artifact.version}, not {newest}")
        await client.hn.close()
