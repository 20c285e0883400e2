"""A directory, its delivery and its sweeper over a memory store, on a clock that tests turn."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from homenode_directory.delivery import Delivery
from homenode_directory.directory import Directory, Opened, Settings
from homenode_directory.incarnations import Incarnations
from homenode_directory.place import Place, Position
from homenode_directory.prefixes import Prefixes
from homenode_directory.protocol.effects import Denial, Done, Grant, Reason
from homenode_directory.protocol.events import Base, Commit, Event, GetM, GetS, Put
from homenode_directory.protocol.facts import Terms
from homenode_directory.protocol.model import Content, Entry, Level, Policy, Version
from homenode_directory.sinks import Bookmark, DeliveryEvent
from homenode_directory.slice import Limits, Reply
from homenode_directory.store import fields
from homenode_directory.store.base import Commit as StoreCommit
from homenode_directory.store.base import Outcome, StoreError
from homenode_directory.store.memory_store import Memory, MemoryStore
from homenode_directory.sweeper import Collect, Rounds, Sweeper
from homenode_directory.tail import Pace
from homenode_directory.together import Joint

PLACE = Place("default", "main")
START_MS = 1_700_000_000_000
TTL_MS = 30_000
TERMS = Terms(tombstone_ms=60_000)
STRICT = Settings(terms=TERMS, default=Policy(Level.STRICT))


class FaultyStore(MemoryStore):
    """A client of the memory whose next commits fail as told: "before" (nothing applied) or "after" (applied)."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory, slices=2)
        self.faults: list[str] = []
        self.on_commit: Callable[[], None] | None = None  # called once, while the next commit is on its way
        self.commits = 0

    async def commit(
        self,
        slice_: int,
        incarnation: str,
        commits: Sequence[StoreCommit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        self.commits += 1
        fault = self.faults.pop(0) if self.faults else ""
        if self.on_commit is not None:
            on_commit, self.on_commit = self.on_commit, None
            on_commit()
        if fault == "before":
            raise StoreError("cut before")
        outcomes = await super().commit(slice_, incarnation, commits, relief=relief, blobs=blobs)
        if fault == "after":
            raise StoreError("cut after")
        return outcomes

    async def heads(self, slices: Mapping[int, str]) -> Mapping[int, int | None]:
        if self.faults:
            self.faults.pop(0)
            raise StoreError("cut")
        return await super().heads(slices)


@dataclass
class Inbox:
    """A sink that keeps everything."""

    items: list[DeliveryEvent] = field(default_factory=list)

    def push(self, item: DeliveryEvent) -> None:
        self.items.append(item)

    def of(self, kind: type) -> list[DeliveryEvent]:
        """The items of a kind."""
        return [item for item in self.items if isinstance(item, kind)]

    @property
    def bookmark(self) -> Bookmark:
        """The last bookmark."""
        last = self.of(Bookmark)[-1]
        assert isinstance(last, Bookmark)
        return last


class World:
    """What outlives processes: the memory and the clock."""

    def __init__(self, *, log_max: int = 65_536) -> None:
        self.ms = START_MS
        self.jumped_ms = 0  # by how much the store's clock is off
        self._ids = itertools.count(1)
        self._requests = itertools.count(10_001)
        self.memory = Memory(lambda: self.ms + self.jumped_ms, self.new_id, log_max=log_max)

    def new_id(self) -> str:
        return f"id{next(self._ids)}"

    def new_request(self) -> int:
        """A request id that no test names."""
        return next(self._requests)

    def later(self, ms: int) -> None:
        """Turn the clock on."""
        self.ms += ms

    def jump(self, ms: int) -> None:
        """Set the store's clock, and no other."""
        self.jumped_ms += ms

    async def process(self, **options: object) -> Process:
        """Start a directory process."""
        process = Process(self, **options)  # type: ignore[arg-type]
        await process.store.open()
        return process

    @property
    def number(self) -> int:
        """The slice of `PLACE`."""
        return PLACE.slice_of(2)

    @property
    def entry(self) -> Entry:
        """The entry of `k`, as the memory has it."""
        data, artifact = self.data, fields.artifact_of(PLACE, "k")
        return fields.decode_entry(data.records.get(fields.entry_key(artifact)))

    @property
    def data(self):  # type: ignore[no-untyped-def]
        """What the memory holds for `PLACE`."""
        return self.memory.slice(self.number)

    def content(self, hash_: str) -> Content:
        """A content that is stored."""
        self.data.blobs.setdefault(fields.content_key(hash_), b"x")
        self.data.records.setdefault(fields.references_key(hash_), {"refs": "0"})
        return Content(hash_, 1)

    def references(self, hash_: str) -> int:
        """How many versions refer to a content."""
        return int(self.data.field(fields.references_key(hash_), "refs") or 0)


class Process:
    """One directory process. Nothing in it runs by itself but the slices' queues."""

    def __init__(
        self,
        world: World,
        *,
        retry_for_ms: int = 5_000,
        history_look_every: int = 8,
        settings: Settings | None = None,
        rounds: Rounds | None = None,
        collect: Collect | None = None,
    ) -> None:
        self.world = world
        self.store = FaultyStore(world.memory)
        self.incarnations = Incarnations(self.store)
        self.delivery = Delivery(self.store, self.incarnations, pace=Pace(replay_max=1_000))
        self.tail = self.delivery.tail
        self.directory = Directory(
            self.store,
            self.incarnations,
            clock=lambda: float(world.ms),
            ids=world.new_id,
            deliver=self.delivery.committed,
            shared=self.delivery.shared_by,
            follow=self.tail.follow,
            settings=settings
            or Settings(terms=TERMS, limits=Limits(retry_for_ms=retry_for_ms, history_look_every=history_look_every)),
        )
        self.delivery.answered, self.delivery.unheard = self.directory.answered, self.directory.unheard
        self.tail.awaited = self.directory.awaited
        self.joint = Joint(self.directory)
        self.prefixes = Prefixes(self.directory, self.joint)
        rounds = rounds or Rounds(idle_every=1)
        self.sweeper = Sweeper(self.directory, rounds=rounds, collect=collect, inherit=self.prefixes.sweep)

    @contextmanager
    def expecting(self, session: str, key: str) -> Iterator[None]:
        """Around a request that may make the session a sharer."""
        artifact = fields.artifact_of(PLACE, key)
        self.delivery.expect(session, artifact)
        yield
        self.delivery.settle(session, artifact)

    async def close(self) -> None:
        await self.directory.close()

    # --- sessions -----------------------------------------------------------------------------------------------

    async def session(self, name: str = "s", ttl_ms: int = TTL_MS) -> str:
        """A new session's id."""
        return (await self.open(name, ttl_ms)).session

    async def open(self, name: str = "s", ttl_ms: int = TTL_MS) -> Opened:
        return await self.directory.open_session(PLACE, name, ttl_ms)

    async def keep(self, session: str, settled_below: int = 0) -> Position | Denial:
        return await self.directory.keep_alive(PLACE, session, TTL_MS, settled_below)

    async def attach(
        self, session: str, resume: Position | None = None, holdings: Mapping[str, int] | None = None
    ) -> Inbox:
        """Put the session on a sink of its own."""
        inbox = Inbox()
        await self.delivery.attach(PLACE, session, inbox, holdings or {}, resume)
        return inbox

    async def poll(self) -> None:
        """One poll of the log."""
        await self.tail.poll()

    async def bookmark(self) -> None:
        """One bookmark tick."""
        with contextlib.suppress(StoreError):
            await self.delivery.bookmark()

    # --- requests -----------------------------------------------------------------------------------------------

    async def ask(self, key: str, event: Event, request: int = 0, digest: str = "d") -> Reply:
        return await self.directory.request(PLACE, key, event, request, digest)

    async def answer(self, key: str, event: Event, request: int = 0) -> Grant | Done | Denial:
        return (await self.ask(key, event, request)).answer

    async def read(self, session: str, key: str = "k", share: bool = True) -> Grant:
        answer = await self.answer(key, GetS(session, share))
        assert isinstance(answer, Grant), answer
        return answer

    async def commit(
        self, session: str, hash_: str | None, base: Version | Base = Base.ANY, key: str = "k", request: int = 0
    ) -> Version:
        """Commit without a lease, which must be accepted; None deletes."""
        content = None if hash_ is None else self.world.content(hash_)
        answer = await self.answer(key, Commit(session, content, base), request or self.world.new_request())
        assert isinstance(answer, Done), answer
        return answer.version

    async def lease(self, session: str, lease: str = "L", key: str = "k", ttl_ms: int = 10_000) -> Grant:
        """Take a free write lease."""
        answer = await self.answer(key, GetM(session, lease, ttl_ms, create=True), self.world.new_request())
        assert isinstance(answer, Grant), answer
        return answer

    async def release(self, session: str, lease: str = "L", key: str = "k") -> None:
        answer = await self.answer(key, Put(session, lease), self.world.new_request())
        assert isinstance(answer, Done), answer

    async def sweep(self) -> None:
        await self.sweeper.sweep()


def reason(answer: object) -> Reason | None:
    """Why an answer is a refusal; None when it is not."""
    return answer.reason if isinstance(answer, Denial) else None
