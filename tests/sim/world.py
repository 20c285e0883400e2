"""One simulated run: a few agents with the real SDK, a real directory that keeps dying, and what must hold at the end.

Every artifact is edited only by adding a line that names the edit, so its whole history can be judged:

  - lost update: a committed version that does not continue the one before it;
  - double effect: an edit that stands twice;
  - lost acknowledgement: an acknowledged edit that a later version of the same memory does not have;
  - a version number that stands for two contents, or goes back for one session;
  - a read older than the greatest age that the policy allows.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import homenode
from homenode.errors import HomenodeError
from homenode_directory.protocol.model import Version
from homenode_directory.store.memory_store import Memory
from tests.sim.faults import Faults, Odds
from tests.sim.loop import run
from tests.sim.net import SimTransport
from tests.sim.sdk import SimClient, connect
from tests.sim.server import SimServer, tag_tasks
from tests.sim.store import History

EPOCH_MS = 1_700_000_000_000
MAX_AGE_MS = 3_000
KEYS = ("plan.md", "notes/a.md", "notes/b.md")
HEAD = {"notes/b.md": random.Random(1).randbytes(30_000).hex() + "\n"}  # too large to travel on the session stream
SCRATCH = "scratch.md"  # deleted and made again
AGENTS = 3
STEPS = 24
OUTCOMES = ("acknowledged", "refused", "unknown")


@dataclass(slots=True)
class Report:
    """What a run did, and what it found wrong."""

    seed: int
    fired: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    digest: str = ""
    virtual_s: float = 0.0


class World:
    """The run's parts, as the agents and the fault scripts see them."""

    def __init__(self, seed: int, odds: Odds) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.faults = Faults(random.Random(seed * 7 + 1), odds)
        self.history = History()
        self.memory = Memory(self._store_ms, self._id)
        self.report = Report(seed, fired=self.faults.fired)
        self.texts: dict[str, str] = {}  # hash -> text, of everything that an agent tried to commit
        self.edits: dict[str, dict[str, str]] = {}  # artifact -> edit -> outcome
        self.log: list[str] = []
        self.clients: list[SimClient] = []
        self.server = self._new_server()
        self.over = False
        self.context = contextvars.copy_context()  # of no server process
        # Every third run has one hot artifact, whose body does not travel on the session stream.
        self.keys = KEYS[-1:] if seed % 3 == 0 else KEYS

    def _store_ms(self) -> int:
        return EPOCH_MS + int(self.loop.time() * 1_000)

    def _id(self) -> str:
        return f"{self.rng.getrandbits(64):016x}"

    def _new_server(self) -> SimServer:
        server = SimServer(self.memory, self.faults, self.history, random.Random(self.rng.getrandbits(64)))
        server.died.append(lambda: self.spawn(self._restart()))
        return server

    def spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the world itself, which no crash ends."""
        return self.loop.create_task(coro, context=self.context)

    async def _restart(self) -> None:
        self.note("server died")
        while True:
            await asyncio.sleep(self.rng.uniform(0.02, 1.0))
            self.server = self._new_server()
            await self.server.start()
            self.note("server started")
            return

    def note(self, text: str) -> None:
        """A line of the run's trace."""
        self.log.append(f"{self.loop.time():.6f} {text}")

    def problem(self, text: str) -> None:
        """Something that must not happen has happened."""
        self.note("PROBLEM " + text)
        self.report.problems.append(text)

    def tried(self, text: str) -> str:
        """Remember a text that somebody is about to commit; returns it."""
        self.texts[hashlib.sha256(text.encode()).hexdigest()] = text
        return text


class Agent:
    """One scripted agent: reads, edits, takes leases, deletes; notes every outcome and checks every read."""

    def __init__(self, world: World, number: int, client: SimClient) -> None:
        self.world = world
        self.name = f"agent{number}"
        self.rng = random.Random(world.seed * 1_000 + number)
        self.client = client
        self.edit_count = 0
        self.seen: dict[str, Version] = {}

    async def run(self) -> None:
        """Work through the script."""
        actions: list[tuple[Callable[[], Awaitable[object]], int]] = [
            (self._read, 6), (self._read_cached, 6), (self._edit, 4), (self._put, 3), (self._write, 3),
            (self._delete, 1), (self._recreate, 2), (self._pause, 3),
        ]  # fmt: skip
        choices, weights = [action for action, _ in actions], [weight for _, weight in actions]
        for _ in range(STEPS):
            action = self.rng.choices(choices, weights)[0]
            try:
                await action()
            except HomenodeError as failure:
                self._did(f"{action.__name__.lstrip('_')}:{type(failure).__name__}")

    async def watch_age(self) -> None:
        """Ask the cache all the time: whatever it serves must be young enough at that very moment."""
        while not self.world.over:
            for key in (*self.world.keys, SCRATCH):
                artifact = self.client.hn.read_cached(key)
                if artifact is not None:
                    self._check_read(key, artifact, self.world.loop.time())
            await asyncio.sleep(0.1)

    # --- actions ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        key = self.rng.choice((*self.world.keys, SCRATCH))
        started_s = self.world.loop.time()
        artifact = await self.client.hn.read(key, default="")
        self._check_read(key, artifact, started_s)
        self._did("read")

    async def _read_cached(self) -> None:
        key = self.rng.choice((*self.world.keys, SCRATCH))
        artifact = self.client.hn.read_cached(key)
        if artifact is not None:
            self._check_read(key, artifact, self.world.loop.time())
            self._did("hit")

    async def _edit(self) -> None:
        key, line = self.rng.choice(self.world.keys), self._line()

        def add(text: str) -> str:
            return self.world.tried(text + line)

        await self._outcome(key, line, lambda: self.client.hn.edit(key, add, default=HEAD.get(key, "")))

    async def _put(self) -> None:
        key, line = self.rng.choice(self.world.keys), self._line()
        base = await self.client.hn.read(key, default=HEAD.get(key, ""))
        if self.rng.random() < 0.3:
            await asyncio.sleep(self.rng.uniform(0, 0.5))
        text = self.world.tried(base.text + line)
        await self._outcome(key, line, lambda: self.client.hn.put(key, text))

    async def _write(self) -> None:
        key, line = self.rng.choice(self.world.keys), self._line()
        hold_s = self.rng.choice((0.0, 0.01, 0.5, 3.0, 12.0))

        async def write() -> None:
            async with self.client.hn.write(key, create=True, wait_ms=4_000) as draft:
                draft.text = self.world.tried((draft.text or HEAD.get(key, "")) + line)
                await asyncio.sleep(hold_s)

        await self._outcome(key, line, write)

    async def _delete(self) -> None:
        await self.client.hn.read(SCRATCH, default="")
        await self.client.hn.delete(SCRATCH)
        self._did("delete")

    async def _recreate(self) -> None:
        line = self._line()

        def add(text: str) -> str:
            return self.world.tried(text + line)

        await self.client.hn.edit(SCRATCH, add, default="")
        self._did("recreate")

    async def _pause(self) -> None:
        await asyncio.sleep(self.rng.choice((0.001, 0.1, 1.0, 4.0)))

    # --- book-keeping -------------------------------------------------------------------------------------------

    def _line(self) -> str:
        self.edit_count += 1
        return f"{self.name}.{self.edit_count}\n"

    async def _outcome(self, key: str, line: str, effect: Callable[[], Awaitable[object]]) -> None:
        world = self.world
        edits = world.edits.setdefault(key, {})
        edits[line] = "unknown"
        try:
            await effect()
        except homenode.errors.Unknown:
            self._did("unknown")
        except HomenodeError as failure:
            edits[line] = "refused"
            self._did(f"refused:{type(failure).__name__}")
        else:
            edits[line] = "acknowledged"
            world.note(f"{self.name} acknowledged {line.strip()} of {key}")
            self._did("acknowledged")

    def _check_read(self, key: str, artifact: homenode.Artifact, started_s: float) -> None:
        if artifact.version is None:
            return
        world = self.world
        version = Version(*artifact.version)
        name = f"default/main/{key}"
        before = self.seen.get(key)
        if before is not None and version < before:
            world.problem(f"{self.name} saw {key} at {version} after {before}")
        self.seen[key] = version
        gone_s = world.history.superseded_at_s(name, version)
        oldest_s = started_s - MAX_AGE_MS / 1_000 * 1.02 - 0.002
        if gone_s is not None and gone_s < oldest_s:
            world.problem(f"{self.name} read {key} at {version}, {started_s - gone_s:.3f} s after it was superseded")
        known = next((c for c in world.history.versions.get(name, ()) if c.version == version), None)
        if known is not None and known.hash != hashlib.sha256(artifact.bytes).hexdigest():
            world.problem(f"{key} at {version} was read with other bytes than were committed")

    def _did(self, what: str) -> None:
        self.world.report.done[what] += 1
        self.world.note(f"{self.name} {what}")


class Trouble:
    """What strikes from outside: black holes, sleeping clients, killed agents, wiped memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = random.Random(world.seed * 31 + 5)

    async def run(self) -> None:
        """One event now and then, until the run is to come to rest."""
        strikes = [self._black_hole, self._lag, self._suspend, self._kill, self._wipe]
        while not self.world.over:
            await asyncio.sleep(self.rng.uniform(1.0, 8.0))
            if self.world.over:
                return
            strike = self.rng.choices(strikes, (3, 4, 3, 1, 1 if self.world.seed % 4 == 0 else 0))[0]
            await strike()

    async def _black_hole(self) -> None:
        client = self.rng.choice(self.world.clients)
        client.transport.hole = True
        self.world.faults.note("black_hole")
        await asyncio.sleep(self.rng.uniform(0.5, 6.0))
        client.transport.hole = False

    async def _lag(self) -> None:
        """Streams grow slow, and then, more often than not, swallow what comes next."""
        client = self.rng.choice(self.world.clients)
        client.transport.lag_s = self.rng.uniform(0.2, 2.5)
        self.world.faults.note("lag")
        await asyncio.sleep(self.rng.uniform(0.5, 4.0))
        client.transport.hole = self.rng.random() < 0.7
        await asyncio.sleep(self.rng.uniform(1.0, 6.0))
        client.transport.hole = False
        client.transport.lag_s = 0.0

    async def _suspend(self) -> None:
        self.rng.choice(self.world.clients).clock.jump_s += self.rng.uniform(1.0, 20.0)
        self.world.faults.note("suspend")

    async def _kill(self) -> None:
        """A process that dies with the write lease in its hand: nothing more comes from it, not even a goodbye."""
        world = self.world
        transport = SimTransport(lambda: world.server, world.faults)
        victim = await connect(transport, world.faults, self.rng, "victim")
        try:
            await victim.hn.lease(self.rng.choice(self.world.keys), ttl_ms=3_000, create=True)
        except HomenodeError:
            pass
        await transport.die()
        world.faults.note("killed_agent")
        world.note("an agent was killed")

    async def _wipe(self) -> None:
        self.world.memory.wipe()
        self.world.history.wiped_at_s.append(self.world.loop.time())
        self.world.faults.note("wipe")
        self.world.note("memory wiped")


def judge(world: World) -> None:
    """What must hold of the whole history."""
    for found in world.history.auditor.violations:
        world.problem(f"the log shows: {found.rule}: {found.artifact}: {found.text} ({found.where})")
    for name, versions in world.history.versions.items():
        key = name.split("/", 2)[2]
        contents: dict[Version, str | None] = {}
        head = HEAD.get(key, "")
        text = ""
        for committed in versions:
            if contents.setdefault(committed.version, committed.hash) != committed.hash:
                world.problem(f"{key}: {committed.version} stands for two contents")
        newest, newest_at_s = Version(0, 0), 0.0
        for committed in versions:
            if committed.version <= newest:
                world.problem(f"{key}: {committed.version} was committed after {newest}")
            if any(newest_at_s <= wiped_s <= committed.at_s for wiped_s in world.history.wiped_at_s):
                text = ""
            newest, newest_at_s = committed.version, committed.at_s
            if committed.hash is None:
                text = ""
                continue
            now = world.texts[committed.hash]
            before = text or head
            if not now.startswith(before) or now[len(before) :].count("\n") != 1:
                world.problem(f"{key}: {committed.version} does not continue the version before it")
            text = now
        _judge_edits(world, key, text)


def _judge_edits(world: World, key: str, text: str) -> None:
    for line, outcome in world.edits.get(key, {}).items():
        times = text.count(line)
        if times > 1:
            world.problem(f"{key}: the edit {line.strip()} stands {times} times")
        if outcome == "acknowledged" and times == 0 and not world.history.wiped_at_s:
            world.problem(f"{key}: the acknowledged edit {line.strip()} is missing")
        if outcome == "refused" and times:
            world.problem(f"{key}: the refused edit {line.strip()} took effect")


def simulate(seed: int, odds: Odds | None = None) -> tuple[Report, list[str]]:
    """Run one seed; returns what it found and its trace."""
    return run(_simulate(seed, odds or Odds()))


async def _simulate(seed: int, odds: Odds) -> tuple[Report, list[str]]:
    loop = asyncio.get_running_loop()
    tag_tasks(loop)
    world = World(seed, odds)
    await world.server.start()
    try:
        async with asyncio.timeout(3_600):
            await _work(world)
    except TimeoutError:
        world.problem("the run did not come to its end")
    judge(world)
    report = world.report
    report.virtual_s = loop.time()
    report.digest = hashlib.sha256("\n".join(world.log).encode()).hexdigest()[:16]
    return report, world.log


async def _work(world: World) -> None:
    for number in range(AGENTS):
        transport = SimTransport(lambda: world.server, world.faults)
        world.clients.append(await connect(transport, world.faults, world.rng, f"agent{number}"))
    trouble = world.spawn(Trouble(world).run())
    agents = [Agent(world, n, client) for n, client in enumerate(world.clients)]
    observers = [world.spawn(agent.watch_age()) for agent in agents]
    await asyncio.gather(*(agent.run() for agent in agents))
    world.over = True
    await asyncio.gather(trouble, *observers)
    await _come_to_rest(world)


async def _come_to_rest(world: World) -> None:
    """Without faults, everybody must soon read the newest version of everything."""
    world.faults.active = False
    for client in world.clients:
        client.transport.hole = False
        client.transport.lag_s = 0.0
    await asyncio.sleep(15)
    for client in world.clients:
        for key in world.keys:
            try:
                artifact = await client.hn.read(key, default="")
            except HomenodeError as failure:
                world.problem(f"at rest, {key} cannot be read: {failure!r}")
                continue
            versions = world.history.versions.get(f"default/main/{key}", [])
            lost = bool(world.history.wiped_at_s) and (not versions or versions[-1].at_s < world.history.wiped_at_s[-1])
            newest = None if lost or not versions else versions[-1].version
            if (artifact.version and Version(*artifact.version)) != newest:
                world.problem(f"at rest, {key} is read at {artifact.version}, not {newest}")
        await client.hn.close()
