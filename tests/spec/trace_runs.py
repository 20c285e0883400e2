"""Real runs whose logs are validated: directories over one store, driven at random, and the simulation.

The driver asks two directories (two servers over one store) for everything that the protocol has, in any order, without
waiting for what has to wait, while sessions die, answers are cut, servers start anew and the store comes back as a new
one. What comes of it does not matter: whatever it is, the log must be one that the specification explains.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from homenode.cli.simulate.loop import run
from homenode_directory.audit.items import Item
from homenode_directory.audit.live import read_store
from homenode_directory.clock import monotonic_ms
from homenode_directory.directory import Directory, Settings
from homenode_directory.errors import DirectoryError
from homenode_directory.incarnations import Incarnations
from homenode_directory.place import Place
from homenode_directory.prefixes import Prefixes
from homenode_directory.protocol.effects import Done, Grant, Inv
from homenode_directory.protocol.events import Base, Commit, GetM, GetS, Handoff, InvAck, Put, Renew, SetPolicy
from homenode_directory.protocol.facts import Terms
from homenode_directory.protocol.model import Content, Level, Policy
from homenode_directory.slice import Limits
from homenode_directory.store import fields
from homenode_directory.store.base import Commit as StoreCommit
from homenode_directory.store.base import Put as PutField
from homenode_directory.store.base import Store, StoreError
from homenode_directory.store.memory_store import Memory, MemoryStore
from homenode_directory.sweeper import Rounds, Sweeper
from homenode_directory.together import Joint, Request
from tests.sim.simulate import simulate
from tests.spec.trace_module import Run, runs_of

PLACE = Place("default", "main")
KEYS = ("a", "b", "c")
START_MS = 1_700_000_000_000
STEPS = 150
TURNS = 12  # of the event loop, in which what can be answered is


class CutStore(MemoryStore):
    """A client of the memory whose answers are cut when it is told so."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory, slices=1)
        self.cuts = 0

    async def commit(self, *arguments: object, **options: object) -> list[object]:  # type: ignore[override]
        outcomes = await super().commit(*arguments, **options)  # type: ignore[arg-type]
        if self.cuts:
            self.cuts -= 1
            raise StoreError("the answer was cut")
        return list(outcomes)


class Site:
    """A store on a clock, and the directories over it."""

    def __init__(self, open_store: Callable[[], Awaitable[Store]], clock: Callable[[], float], terms: Terms) -> None:
        self.open_store = open_store
        self.clock = clock
        self.terms = terms
        self.later: Callable[[int], Awaitable[None]] = _sleep
        self.cut: Callable[[Server], None] = lambda server: None
        self.restart_store: Callable[[], Awaitable[None]] | None = None
        self.ids = itertools.count(1)

    async def server(self) -> Server:
        """A directory process."""
        server = Server(self, await self.open_store())
        with contextlib.suppress(StoreError):
            await server.directory.look_at_store()
        return server


class Server:
    """One directory with its sweeper; nothing in it runs by itself but the slices' queues."""

    def __init__(self, site: Site, store: Store) -> None:
        self.store = store
        self.directory = Directory(
            store,
            Incarnations(store),
            clock=site.clock,
            ids=lambda: f"id{next(site.ids)}",
            settings=Settings(terms=site.terms, limits=Limits(retry_for_ms=2_000)),
        )
        self.prefixes = Prefixes(self.directory, Joint(self.directory))
        rounds = Rounds(idle_every=1, tidy_every=1_000_000)
        self.sweeper = Sweeper(self.directory, rounds=rounds, inherit=self.prefixes.sweep)

    async def close(self) -> None:
        """End it."""
        await self.directory.close()
        await self.store.close()


async def _sleep(ms: int) -> None:
    await asyncio.sleep(ms / 1_000)


@dataclass
class Driver:
    """Asks at random. `asked` are answers that are still awaited."""

    site: Site
    servers: list[Server]
    rng: random.Random
    strict: bool = False
    sessions: list[str] = field(default_factory=list)
    leases: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)  # (session, key) -> (lease, fence)
    asked: list[asyncio.Future[object]] = field(default_factory=list)
    requests: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def run(self, steps: int) -> None:
        """So many steps; then time passes until nothing waits any more."""
        for _ in range(3):
            await self._open()
        for key in KEYS:
            await self._commit(self.sessions[0], key)
            if self.strict:
                self._ask(key, SetPolicy(self.sessions[0], Policy(Level.STRICT)))
        acts: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._read, 10), (self._write, 5), (self._delete, 1), (self._acquire, 3), (self._commit_held, 3),
            (self._release, 1), (self._give_up, 1), (self._renew, 1), (self._acknowledge, 6), (self._pass_time, 3),
            (self._sweep, 3), (self._end, 1), (self._policy, 1), (self._lose, 1), (self._keep, 4), (self._repeat, 1),
            (self._hand_over, 2), (self._prefix, 1),
        ]  # fmt: skip
        for _ in range(steps):
            (act,) = self.rng.choices([act for act, _ in acts], [weight for _, weight in acts])
            await act()
            await _turns()
        for _ in range(8):
            await self.site.later(self.site.terms.quiet_ms)
            await self._sweep()
        for future in self.asked:
            future.cancel()
        await asyncio.gather(*self.asked, return_exceptions=True)

    # --- steps ------------------------------------------------------------------------------------------------------

    @property
    def _directory(self) -> Directory:
        return self.rng.choice(self.servers).directory

    def _who(self) -> str:
        return self.rng.choice(self.sessions)

    def _key(self) -> str:
        return self.rng.choice(KEYS)

    def _ask(self, key: str, event: object, request: int = 0) -> asyncio.Future[object]:
        effect = not isinstance(event, GetS | InvAck | Renew)
        number = request or (next(self.requests) if effect else 0)
        future = asyncio.ensure_future(self._answer(key, event, number))
        self.asked.append(future)
        return future

    async def _answer(self, key: str, event: object, request: int) -> object:
        try:
            return (await self._directory.request(PLACE, key, event, request, "d")).answer  # type: ignore[arg-type]
        except DirectoryError as failure:
            return failure

    async def _open(self) -> None:
        with contextlib.suppress(DirectoryError):
            opened = await self._directory.open_session(PLACE, "agent", self.site.terms.lease_ms * 3)
            self.sessions.append(opened.session)

    async def _read(self) -> None:
        self._ask(self._key(), GetS(self._who(), share=self.rng.random() < 0.9))

    async def _content(self) -> Content:
        """A content that is stored. Its hash names nothing: nobody reads it."""
        hash_ = f"h{next(self.site.ids)}"
        server = self.rng.choice(self.servers)
        with contextlib.suppress(StoreError, DirectoryError):
            await server.store.put_blobs(0, [(fields.content_key(hash_), b"x")])
            kept = StoreCommit((), (PutField(fields.references_key(hash_), "refs", "0"),))
            await server.directory.plain(server.directory.slice_at(0), lambda slice_: kept)
        return Content(hash_, 1)

    async def _commit(self, session: str, key: str) -> None:
        self._ask(key, Commit(session, await self._content(), Base.ANY))
        await _turns()

    async def _write(self) -> None:
        await self._commit(self._who(), self._key())

    async def _delete(self) -> None:
        self._ask(self._key(), Commit(self._who(), None, Base.ANY))

    async def _acquire(self) -> None:
        session, key, lease = self._who(), self._key(), f"L{next(self.site.ids)}"
        wait_ms = self.rng.choice((0, self.site.terms.lease_ms))
        asked = self._ask(key, GetM(session, lease, self.site.terms.lease_ms, wait_ms, create=self.rng.random() < 0.7))

        def granted(future: asyncio.Future[object]) -> None:
            if not future.cancelled() and isinstance(answer := future.result(), Grant):
                self.leases[session, key] = lease, answer.fence

        asked.add_done_callback(granted)

    async def _commit_held(self) -> None:
        if not self.leases:
            return
        (session, key), (lease, fence) = self.rng.choice(list(self.leases.items()))
        keep = self.rng.random() < 0.5
        asked = self._ask(key, Commit(session, await self._content(), Base.ANY, lease, fence, keep))

        def done(future: asyncio.Future[object]) -> None:
            self.leases.pop((session, key), None)
            if not future.cancelled() and isinstance(answer := future.result(), Done) and answer.fence:
                self.leases[session, key] = lease, answer.fence

        asked.add_done_callback(done)

    async def _release(self) -> None:
        if self.leases:
            (session, key), (lease, _) = self.leases.popitem()
            self._ask(key, Put(session, lease))

    async def _hand_over(self) -> None:
        if self.leases:
            (session, key), (lease, fence) = self.leases.popitem()
            self._ask(key, Handoff(session, lease, fence, self._who(), self.site.terms.lease_ms))

    async def _give_up(self) -> None:
        self._ask(self._key(), Put(self._who()))

    async def _renew(self) -> None:
        if self.leases:
            (session, key), (lease, _) = self.rng.choice(list(self.leases.items()))
            self._ask(key, Renew(session, lease, self.site.terms.lease_ms))

    async def _acknowledge(self) -> None:
        """Some sessions obey the newest invalidation of an artifact."""
        key = self._key()
        with contextlib.suppress(StoreError):
            items = [item async for item in read_store(self.servers[0].store)]
            invs = [event for item in items for event in _events(item, key) if isinstance(event, Inv)]
            if invs:
                who = [session for session in self.sessions if self.rng.random() < 0.6]
                newest = invs[-1]
                await self._directory.acks(PLACE, [(key, session, newest.version.n, newest.fence) for session in who])

    async def _pass_time(self) -> None:
        await self.site.later(self.rng.randint(1, self.site.terms.lease_ms))

    async def _sweep(self) -> None:
        await self.rng.choice(self.servers).sweeper.sweep()

    async def _end(self) -> None:
        with contextlib.suppress(DirectoryError):
            session = self._who()
            if self.rng.random() < 0.5:
                await self._directory.end_session(PLACE, session)
            await self._open()
            self.sessions.remove(session)  # where it was not ended it falls silent

    async def _policy(self) -> None:
        level = Level.STRICT if self.strict and self.rng.random() < 0.7 else Level.LAZY
        policy = Policy(level, max_age_ms=self.rng.choice((None, 1_000)))
        self._ask(self._key(), SetPolicy(self._who(), policy))

    async def _prefix(self) -> None:
        """A prefix of all artifacts, or of one, gets a policy or loses it; sweepers see to what exists."""
        level = self.rng.choice((Level.STRICT, Level.LAZY) if self.strict else (Level.LAZY,))
        policy = self.rng.choice((None, Policy(level), Policy(level, max_age_ms=1_000)))
        request = Request(self._who(), next(self.requests), "d")
        prefixes, prefix = self.rng.choice(self.servers).prefixes, self.rng.choice(("", "a"))
        with contextlib.suppress(DirectoryError):
            await prefixes.set(PLACE, request, prefix, policy)
            await prefixes.settle(PLACE, prefix, 0)

    async def _keep(self) -> None:
        with contextlib.suppress(DirectoryError):
            for session in self.sessions:
                await self._directory.keep_alive(PLACE, session, self.site.terms.lease_ms * 3)

    async def _lose(self) -> None:
        """A server dies and another one starts; now and then the store comes back as another process, with its data."""
        number = self.rng.randrange(len(self.servers))
        if self.site.restart_store is not None and self.rng.random() < 0.3:
            await self.site.restart_store()
        old, self.servers[number] = self.servers[number], await self.site.server()
        await old.close()

    async def _repeat(self) -> None:
        """The answer to a commit is cut, and the request comes again, elsewhere."""
        session, key, request = self._who(), self._key(), next(self.requests)
        event = Commit(session, await self._content(), Base.ANY)
        self.site.cut(self.rng.choice(self.servers))
        for _ in range(2):
            self._ask(key, event, request)
            await _turns()


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def _events(item: Item, key: str) -> Sequence[object]:
    record = getattr(item, "record", None)
    return record.events if record is not None and record.artifact == fields.artifact_of(PLACE, key) else ()


# --- runs -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def memory_site() -> AsyncIterator[Site]:
    """A memory store on the event loop's clock."""
    loop = asyncio.get_running_loop()
    ids = itertools.count(1)
    memory = Memory(lambda: START_MS + int(loop.time() * 1_000), lambda: f"m{next(ids)}")

    async def open_store() -> Store:
        store = CutStore(memory)
        await store.open()
        return store

    async def restart() -> None:
        memory.restart()

    def cut(server: Server) -> None:
        assert isinstance(server.store, CutStore)
        server.store.cuts = 1

    site = Site(open_store, lambda: loop.time() * 1_000, Terms(tombstone_ms=15_000))
    site.restart_store, site.cut = restart, cut
    yield site


@contextlib.asynccontextmanager
async def store_site(open_store: Callable[[], Awaitable[Store]]) -> AsyncIterator[Site]:
    """A real store on the real clock; its terms are short."""
    yield Site(open_store, monotonic_ms, Terms(tombstone_ms=300, lease_ms=60))


async def driven(site: Site, seed: int, steps: int, *, strict: bool) -> list[Item]:
    """The log of one driven run."""
    servers = [await site.server(), await site.server()]
    driver = Driver(site, servers, random.Random(seed), strict)
    await driver.run(steps)
    items = [item async for item in read_store(servers[0].store)]
    for server in servers:
        await server.close()
    return items


def in_memory(seed: int, *, strict: bool) -> list[Run]:
    """A driven run over a memory store, on virtual time: the same seed gives the same run."""

    async def driven_run() -> list[Item]:
        async with memory_site() as site:
            return await driven(site, seed, STEPS, strict=strict)

    return runs_of(f"{'strict' if strict else 'lazy'}{seed}", run(driven_run()))


def in_store(name: str, open_store: Callable[[], Awaitable[Store]], seed: int) -> list[Run]:
    """A driven run over a real store, in real time."""

    async def driven_run() -> list[Item]:
        async with store_site(open_store) as site:
            return await driven(site, seed, STEPS, strict=True)

    return runs_of(f"{name}{seed}", asyncio.run(driven_run()))


def simulated(seed: int) -> list[Run]:
    """What the store logged in a simulated run."""
    report, _ = simulate(seed)
    return runs_of(f"sim{seed}", report.log)
