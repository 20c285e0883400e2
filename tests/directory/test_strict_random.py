"""Random histories of a strict artifact: no copy that a client may serve ever differs from the published version.

The clients are as bad as they may be: they hear of invalidations late or never, acknowledge or do not, and serve a
copy for as long as their lease lets them, to the millisecond. Servers crash, store calls fail, memory is lost, and
the clock of the store jumps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from homenode_directory.errors import DirectoryError
from homenode_directory.place import Position
from homenode_directory.protocol.effects import Grant, Inv
from homenode_directory.protocol.events import Base, Commit, Event, GetS, InvAck, SetPolicy
from homenode_directory.protocol.model import Level, Policy, Version
from homenode_directory.protocol.transitions import check
from homenode_directory.slice import Limits
from homenode_directory.store import fields
from homenode_directory.sweeper import Rounds
from tests.directory.world import PLACE, STRICT, Process, World

T = TypeVar("T")
TTL_MS = 60_000
HOUR_MS = 3_600_000
names = st.integers(0, 2)
servers = st.integers(0, 1)
seldom = st.integers(0, 5).map(lambda n: n == 5)


@dataclass
class Client:
    """A session, its copy, and until when (real time) it may serve it."""

    session: str
    incarnation: int
    applied: int
    copy: Version | None = None
    until_ms: int = 0
    requests: int = 0
    asked: asyncio.Future[Any] | None = None  # a commit of its own: nothing is kept before its outcome is known


class StrictHistories(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.processes = [self.run(self.start()) for _ in range(2)]
        self.clients: dict[int, Client] = {}
        self.former: list[Client] = []  # may serve copies still
        self.hashes = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something; nothing here may take long."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 10))

    async def start(self) -> Process:
        chosen = replace(STRICT, limits=Limits(retry_for_ms=0))
        return await self.world.process(settings=chosen, rounds=Rounds(idle_every=1))

    def teardown(self) -> None:
        for client in self.clients.values():
            if client.asked is not None:
                client.asked.cancel()
        self.world.later(10_000)  # what is retried is given up
        for process in self.processes:
            self.run(process.close())
        self.loop.close()

    @initialize()
    def calm(self) -> None:
        for name in range(3):
            self.client(name)
        self.calm_down()
        self.commit(0, 0, False)

    def client(self, name: int) -> Client:
        """The named client, with a session that may be over without its knowing."""
        client = self.clients.get(name)
        if client is None:
            opened = None
            while opened is None:
                try:
                    opened = self.run(self.processes[0].directory.open_session(PLACE, "n", TTL_MS, 0))
                except DirectoryError:
                    continue
            at: Position = opened.position
            client = self.clients[name] = Client(opened.session, at.incarnation, at.sequence)
        return client

    def forget(self, name: int) -> None:
        """Its client learns that the session is over, but goes on serving what it may."""
        self.former.append(self.clients.pop(name))

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    def submit(self, server: int, event: Event, request: int = 0) -> asyncio.Future[Any]:
        """Send an event; the future may take its time."""

        async def send() -> asyncio.Future[Any]:
            directory = self.processes[server].directory
            future: asyncio.Future[Any] = directory.submit(PLACE, "k", event, request, "d")
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody need look
            await self.settle()
            return future

        return self.run(send())

    def collect(self) -> None:
        """Commits that are answered: their clients may keep copies again."""
        for client in self.clients.values():
            asked = client.asked
            if asked is not None and asked.done():
                client.asked = None

    # --- rules ------------------------------------------------------------------------------------------------------

    @rule(server=servers, name=names)
    def read(self, server: int, name: int) -> None:
        client = self.client(name)
        try:
            reply = self.run(self.processes[server].directory.request(PLACE, "k", GetS(client.session)))
        except DirectoryError:
            return
        answer = reply.answer
        if not isinstance(answer, Grant) or answer.level is not Level.STRICT:
            return
        assert answer.version == self.world.entry.version, "a read that is not of the published version"
        if answer.cacheable and client.asked is None and client.incarnation == reply.as_of.incarnation:
            client.copy = answer.version

    @rule(server=servers)
    def everybody_shares(self, server: int) -> None:
        """All clients read and are heard of."""
        for name in range(3):
            self.ping(name, server, 0)
            self.read(server, name)

    @rule(server=servers, name=names, delete=seldom)
    def commit(self, server: int, name: int, delete: bool) -> None:
        client = self.client(name)
        if client.asked is not None:
            return
        self.hashes += 1
        content = None if delete else self.world.content(f"h{self.hashes}")
        client.copy = None
        client.requests += 1
        client.asked = self.submit(server, Commit(client.session, content, Base.ANY), client.requests)
        self.collect()

    @rule(server=servers, name=names, level=st.sampled_from([Level.LAZY, Level.STRICT, Level.STRICT]))
    def set_policy(self, server: int, name: int, level: Level) -> None:
        client = self.client(name)
        client.requests += 1
        self.submit(server, SetPolicy(client.session, Policy(level)), client.requests).cancel()

    @rule(name=names, server=servers, ack=st.booleans())
    def hear(self, name: int, server: int, ack: bool) -> None:
        """The client applies the log, and acknowledges or not."""
        client = self.client(name)
        for sequence, fence, version in self.missed(client):
            client.applied = sequence
            if client.copy is not None and client.copy < version:
                client.copy = None
            if ack:
                self.submit(server, InvAck((client.session,), version.n, fence)).cancel()
        self.collect()

    def missed(self, client: Client) -> list[tuple[int, int, Version]]:
        """(sequence, fence, version) of the invalidations that the client has not heard of."""
        data = self.world.data
        if data.incarnation is None or data.incarnation.number != client.incarnation:
            return []
        entries = enumerate(list(data.log), data.first)
        found = [(sequence, fields.decode_log(item)) for sequence, item in entries if sequence > client.applied]
        return [(s, e.fence, e.version) for s, record in found for e in record.events if isinstance(e, Inv)]

    @rule(name=names, server=servers, travels_ms=st.sampled_from([0, 0, 3_000]))
    def ping(self, name: int, server: int, travels_ms: int) -> None:
        """A sign of life, and the bookmark that answers it, behind everything before its head."""
        client, process = self.client(name), self.processes[server]
        sent_ms = self.world.ms
        self.world.later(travels_ms)
        try:
            sign = self.run(process.directory.keep_alive(PLACE, client.session, TTL_MS, 0))
        except DirectoryError:
            return
        if not isinstance(sign, Position):
            self.forget(name)
            return
        lease_ms = process.directory.lease_ms(PLACE, TTL_MS)
        self.hear(name, server, False)
        client.until_ms = max(client.until_ms, sent_ms + lease_ms)

    @rule(name=names, server=servers, really=seldom)
    def end(self, name: int, server: int, really: bool) -> None:
        """A client closes itself: its copy goes first."""
        client = self.clients.pop(name, None) if really else None
        if client is None:
            return
        client.copy = None
        try:
            self.run(self.processes[server].directory.end_session(PLACE, client.session))
        except DirectoryError:
            self.former.append(client)

    @rule(ms=st.sampled_from([1, 300, 2_000, 9_000]), server=servers)
    def time(self, ms: int, server: int) -> None:
        self.world.later(ms)
        self.sweep(server)

    @rule()
    def calm_down(self) -> None:
        """Nothing happens for longer than a quarantine lasts."""
        for _ in range(4):
            for server in range(2):
                self.time(4_000, server)

    @rule(server=servers)
    def sweep(self, server: int) -> None:
        process = self.processes[server]
        process.directory.slice_of(PLACE).used = True
        self.run(process.sweep())
        self.run(self.settle())
        self.collect()

    @rule(ms=st.sampled_from([-HOUR_MS, -3_000, -50, 50, 3_000, HOUR_MS]), really=seldom)
    def jump(self, ms: int, really: bool) -> None:
        if really:
            self.world.jump(ms)

    @rule(server=servers, fault=st.sampled_from(["before", "after"]), really=seldom)
    def next_commit_fails(self, server: int, fault: str, really: bool) -> None:
        if really:
            self.processes[server].store.faults = [fault]

    @rule(server=servers, really=seldom)
    def crash(self, server: int, really: bool) -> None:
        if not really:
            return
        old, self.processes[server] = self.processes[server], self.run(self.start())
        self.run(old.close())
        self.collect()

    @rule(how=st.sampled_from(["wipe", "restart_empty", "restart", "restart"]), really=seldom)
    def adopt(self, how: str, really: bool) -> None:
        if really:
            getattr(self.world.memory, how)()
            self.world.later(1)
            for name in list(self.clients):
                self.forget(name)

    # --- what holds always ------------------------------------------------------------------------------------------

    @invariant()
    def no_servable_copy_is_old(self) -> None:
        entry = self.world.entry
        check(entry)
        for client in [*self.clients.values(), *self.former]:
            if client.copy is None or self.world.ms >= client.until_ms or not entry.version.incarnation:
                continue
            assert client.copy >= entry.version, f"{entry.version} is published over the copy of {client}"

    @invariant()
    def contents_are_counted(self) -> None:
        records, entry = self.world.data.records, self.world.entry
        history = records.get(fields.versions_key(fields.artifact_of(PLACE, "k")), {})
        counted = [fields.decode_version(text).content for text in history.values()]
        if entry.pending is not None:
            counted.append(entry.pending.content)
        hashes = [content.hash for content in counted if content is not None]
        kept = {key: int(record["refs"]) for key, record in records.items() if key.startswith("br/")}
        wanted = {fields.references_key(hash_): hashes.count(hash_) for hash_ in hashes}
        assert {key: n for key, n in kept.items() if n} == wanted


TestStrictHistories = StrictHistories.TestCase
TestStrictHistories.settings = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
