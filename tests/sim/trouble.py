"""What strikes from outside: partitions of streams, sleeping clients, killed agents, clocks that jump, wiped memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from homenode.errors import HomenodeError
from homenode_directory.protocol.effects import Inv
from homenode_directory.store.fields import LogRecord
from tests.sim.agents import Agent
from tests.sim.net import SimTransport
from tests.sim.sdk import connect
from tests.sim.world import MIXED, STRICT_KEYS, World, name_of


class Trouble:
    """See the module. Streams are cut off while unary calls still pass."""

    def __init__(self, world: World, agents: Sequence[Agent]) -> None:
        self.world = world
        self.agents = agents
        self.rng = random.Random(world.seed * 31 + 5)

    async def run(self) -> None:
        """One event now and then, until the run is to come to rest."""
        strikes: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._black_hole, 3), (self._one_way, 3), (self._hold, 3), (self._lag, 4), (self._suspend, 3),
            (self._kill, 3), (self._wipe, 6 if self.world.seed % 4 == 0 else 0),
            (self._store_clock, 3), (self._cut_off_reader, 12 if self._strict else 0),
            (self._cut_off_committer, 12 if self._strict else 0),
        ]  # fmt: skip
        choices, weights = [strike for strike, _ in strikes], [weight for _, weight in strikes]
        while not self.world.over:
            await asyncio.sleep(self.rng.uniform(0.5, 4.0) if self._strict else self.rng.uniform(1.0, 8.0))
            if self.world.over:
                return
            with suppress(HomenodeError):
                await self.rng.choices(choices, weights)[0]()

    async def drill(self, rounds: int) -> None:
        """Only readers and committers that are cut off, that many times each."""
        for _ in range(rounds):
            for strike in (self._cut_off_reader, self._cut_off_committer):
                with suppress(HomenodeError):
                    await strike()
                await asyncio.sleep(self.rng.uniform(1.0, 4.0))

    async def _black_hole(self) -> None:
        transport = self._somebody()
        transport.mute = transport.deaf = True
        self.world.faults.note("black_hole")
        await asyncio.sleep(self.rng.uniform(0.5, 6.0))
        transport.mute = transport.deaf = False

    async def _one_way(self) -> None:
        """What a client sends arrives, signs of life too, and nothing comes back; or the other way round."""
        transport = self._somebody()
        transport.deaf = self.rng.random() < 0.7
        transport.mute = not transport.deaf
        self.world.faults.note("one_way")
        await asyncio.sleep(self.rng.uniform(0.5, 6.0))
        transport.mute = transport.deaf = False

    async def _hold(self) -> None:
        """Nothing passes for a while; then all of it does, in order."""
        transport = self._somebody()
        hold_s = self.rng.uniform(0.5, 5.0)
        transport.up_held_until_s = transport.down_held_until_s = self.world.loop.time() + hold_s
        self.world.faults.note("hold")
        await asyncio.sleep(hold_s)

    async def _lag(self) -> None:
        """Streams grow slow, and then, more often than not, swallow what comes next."""
        transport = self._somebody()
        transport.lag_s = self.rng.uniform(0.2, 4.0)
        self.world.faults.note("lag")
        await asyncio.sleep(self.rng.uniform(0.5, 4.0))
        transport.mute = transport.deaf = self.rng.random() < 0.7
        await asyncio.sleep(self.rng.uniform(1.0, 6.0))
        transport.mute = transport.deaf = False
        transport.lag_s = 0.0

    @property
    def _strict(self) -> list[str]:
        """Artifacts that are strict, or may be."""
        return [key for key in self.world.keys if key in (MIXED, *STRICT_KEYS)]

    async def _cut_off_reader(self) -> None:
        """Somebody with a copy is cut off from its stream, another commits, a third reads what is new.

        The last that reaches the victim may be a bookmark that took its time.
        """
        key = self.rng.choice(self._strict)
        victim, writer, reader = self.rng.sample(self.agents, 3)
        transport = victim.client.transport
        await victim.read(victim.beside, key, timeout_ms=1_000)
        transport.down_held_until_s = self.world.loop.time() + self.rng.choice((0.0, self.rng.uniform(3.5, 4.8)))
        await asyncio.sleep(self.rng.uniform(0.0, 1.2))
        transport.deaf, transport.mute = True, self.rng.random() < 0.5
        self.world.faults.note("reader_cut_off")
        writing = self.world.spawn(writer.edit(writer.beside, key))
        if self.rng.random() < 0.3:
            await asyncio.sleep(0.1)
            self.world.store_jump_ms += 60_000
            self.world.faults.note("store_clock")
        for _ in range(self.rng.randrange(10, 30)):
            await reader.try_to_read(reader.beside, key, timeout_ms=1_000)
            await asyncio.sleep(0.2)
        transport.heal()
        await writing

    async def _cut_off_committer(self) -> None:
        """Somebody commits, another agent of its session reads, and the stream breaks off at the very commit."""
        key = self.rng.choice(self._strict)
        victim, reader = self.rng.sample(self.agents, 2)
        transport, listeners = victim.client.transport, self.world.history.listeners
        await victim.read(victim.beside, key, timeout_ms=1_000)

        def cut_off(record: LogRecord) -> None:
            by = [event.session for event in record.events if isinstance(event, Inv)]
            if record.artifact == name_of(key) and victim.client.hn.session_id in by and not transport.deaf:
                transport.deaf = True
                self.world.faults.note("committer_cut_off")

        listeners.append(cut_off)
        working = [self.world.spawn(victim.edit(victim.beside, key))]
        for _ in range(10):
            working.append(self.world.spawn(victim.try_to_read(victim.beside, key, max_age_ms=0)))
            await asyncio.sleep(self.rng.uniform(0.0, 0.003))
        for _ in range(self.rng.randrange(5, 20)):
            await reader.try_to_read(reader.beside, key, timeout_ms=1_000)
            await asyncio.sleep(0.2)
        listeners.remove(cut_off)
        transport.heal()
        await asyncio.gather(*working)

    async def _suspend(self) -> None:
        self.rng.choice(self.world.clients).clock.jump_s += self.rng.uniform(1.0, 20.0)
        self.world.faults.note("suspend")

    async def _store_clock(self) -> None:
        """The store's clock is set, forwards or back."""
        self.world.store_jump_ms += self.rng.choice((-1, 1)) * self.rng.choice((30, 300, 3_000, 30_000))
        self.world.faults.note("store_clock")

    async def _kill(self) -> None:
        """A process that dies with the write lease in its hand: nothing more comes from it, not even a goodbye."""
        world = self.world
        transport = SimTransport(lambda: world.server, world.faults)
        victim = await connect(transport, world.faults, self.rng, "victim", world.recording)
        try:
            await victim.hn.lease(self.rng.choice(world.keys), ttl_ms=3_000, create=True)
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

    def _somebody(self) -> SimTransport:
        return self.rng.choice(self.world.clients).transport
