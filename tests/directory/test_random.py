"""Long random histories over two processes, with store failures, crashes, deletes, lost memory and time.

What clients saw is held against the promises: one effect per request, versions that only rise, no commit on another
base, no lost update, no write past a fence, queues in order and answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from homenode_directory.audit.live import read_store
from homenode_directory.audit.rules import Auditor
from homenode_directory.content.retention import RetentionPolicy
from homenode_directory.directory import Opened
from homenode_directory.errors import DirectoryError
from homenode_directory.protocol.effects import Denial, Done, Grant, Reason
from homenode_directory.protocol.events import Base, Commit, Event, GetM, GetS, Put
from homenode_directory.protocol.model import Version
from homenode_directory.protocol.transitions import check
from homenode_directory.store import fields
from homenode_directory.sweeper import Rounds
from tests.directory.world import PLACE, Process, World, reason

T = TypeVar("T")
KEYS = ("a", "b")
TTL_MS = 20_000
ROUNDS = Rounds(idle_every=1, retention=RetentionPolicy(keep=3, slack=1))
keys = st.sampled_from(KEYS)
names = st.integers(0, 2)
seldom = st.integers(0, 4).map(lambda n: n == 4)
servers = st.integers(0, 1)


@dataclass
class Client:
    """A session as its client sees it."""

    session: str
    incarnation: int
    requests: int = 0
    seen: dict[str, Version] = field(default_factory=dict)
    tokens: dict[str, tuple[str, int]] = field(default_factory=dict)  # key -> lease, fence
    sent: list[tuple[str, Event, int]] = field(default_factory=list)
    answers: dict[int, Grant | Done | Denial] = field(default_factory=dict)
    queued: dict[int, tuple[str, str, asyncio.Future[Any]]] = field(default_factory=dict)
    over: bool = False


class Histories(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.processes: list[Process] = [self.run(self.start()) for _ in range(2)]
        self.clients: dict[int, Client] = {}
        self.published: dict[str, dict[Version, str]] = {key: {} for key in KEYS}  # version -> hash, "" for deleted
        self.newest: dict[str, Version] = {}
        self.hashes = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something; nothing here may take long."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 10))

    async def start(self) -> Process:
        return await self.world.process(rounds=ROUNDS, retry_for_ms=0, history_look_every=1)

    def teardown(self) -> None:
        for client in self.clients.values():
            for _, _, future in client.queued.values():
                future.cancel()
        self.run(asyncio.sleep(0))
        self.run(self.audit())
        for process in self.processes:
            self.run(process.close())
        self.loop.close()

    async def audit(self) -> None:
        """The log shows nothing that must not be."""
        auditor = Auditor()
        async for item in read_store(self.processes[0].store):
            auditor.see(item)
        assert not auditor.violations, auditor.violations

    # --- clients ----------------------------------------------------------------------------------------------------

    def client(self, name: int, server: int) -> Client:
        """The named client, with a live session as far as it knows."""
        client = self.clients.get(name)
        if client is None or client.over:
            opened = self.open(server)
            client = self.clients[name] = Client(opened.session, opened.position.incarnation)
        return client

    def open(self, server: int, seen_incarnation: int = 0) -> Opened:
        """A new session, after as many attempts as it takes."""
        directory = self.processes[server].directory
        for _ in range(4):
            try:
                return self.run(directory.open_session(PLACE, "n", TTL_MS, seen_incarnation))
            except DirectoryError:
                continue
        raise AssertionError("no session can be opened")

    def ask(
        self, server: int, client: Client, key: str, event: Event, request: int = 0
    ) -> Grant | Done | Denial | None:
        """Send a request; None: the outcome is unknown to the client."""
        try:
            reply = self.run(self.processes[server].directory.request(PLACE, key, event, request, repr(event)))
        except DirectoryError:
            return None
        answer = reply.answer
        if reason(answer) is Reason.SESSION_LOST:
            client.over = True
            return answer
        if request:
            assert client.answers.setdefault(request, answer) == answer, "two answers to one request"
        return answer

    def effect(self, server: int, client: Client, key: str, event: Event) -> Grant | Done | Denial | None:
        """Send a new effect."""
        client.requests += 1
        client.sent.append((key, event, client.requests))
        answer = self.ask(server, client, key, event, client.requests)
        self.learn(client, key, event, answer)
        return answer

    def learn(self, client: Client, key: str, event: Event, answer: object) -> None:
        """What a first or repeated answer tells."""
        if isinstance(event, Commit) and isinstance(answer, Done):
            hash_ = event.content.hash if event.content else ""
            known = self.published[key].setdefault(answer.version, hash_)
            assert known == hash_, "one version, two contents"
            if event.lease and answer.fence:
                client.tokens[key] = (event.lease, answer.fence)
            elif event.lease:
                client.tokens.pop(key, None)
        if isinstance(event, GetM) and isinstance(answer, Grant):
            client.tokens[key] = (event.lease, answer.fence)
            client.seen[key] = answer.version

    # --- rules ------------------------------------------------------------------------------------------------------

    @rule(server=servers, name=names, key=keys)
    def read(self, server: int, name: int, key: str) -> None:
        client = self.client(name, server)
        answer = self.ask(server, client, key, GetS(client.session))
        if isinstance(answer, Grant):
            assert answer.content is not None
            known = self.published[key].setdefault(answer.version, answer.content.hash)
            assert known == answer.content.hash, "one version, two contents"
            newest = self.newest.get(key)
            assert newest is None or answer.version >= newest, "an older version after a newer one"
            client.seen[key] = self.newest[key] = answer.version

    @rule(server=servers, name=names, key=keys, delete=seldom, create=seldom)
    def commit(self, server: int, name: int, key: str, delete: bool, create: bool) -> None:
        client = self.client(name, server)
        self.hashes += 1
        base = Base.ABSENT if create else client.seen.get(key, Base.ABSENT)
        content = None if delete else self.world.content(f"h{self.hashes}")
        before = self.newest.get(key)
        answer = self.effect(server, client, key, Commit(client.session, content, base))
        if isinstance(answer, Done):
            assert before is None or answer.version > before, "a version that is not new"
            if isinstance(base, Version) and before is not None:
                assert base >= before, "a commit on a base that was replaced"
            client.seen[key] = self.newest[key] = answer.version

    @rule(server=servers, name=names, key=keys, wait=st.booleans())
    def acquire(self, server: int, name: int, key: str, wait: bool) -> None:
        client = self.client(name, server)
        client.requests += 1
        request, lease = client.requests, f"L{client.requests}"
        event = GetM(client.session, lease, 8_000, 15_000 if wait else 0, create=True)
        client.sent.append((key, event, request))
        process = self.processes[server]

        async def start() -> asyncio.Future[Any]:
            future = process.directory.submit(PLACE, key, event, request, repr(event))
            for _ in range(20):
                if future.done():
                    break
                await asyncio.sleep(0)
            return future

        future = self.run(start())
        client.queued[request] = (key, lease, future)
        self.collect()

    def collect(self) -> None:
        """Take the answers of queued requests that have come."""
        for client in self.clients.values():
            for request, (key, _, future) in list(client.queued.items()):
                if not future.done():
                    continue
                del client.queued[request]
                if future.cancelled() or future.exception() is not None:
                    continue
                answer = future.result().answer
                if reason(answer) is Reason.SESSION_LOST:
                    client.over = True
                    continue
                assert client.answers.setdefault(request, answer) == answer, "two answers to one request"
                event = next(event for _, event, sent in client.sent if sent == request)
                self.learn(client, key, event, answer)

    @rule(server=servers, name=names, key=keys, keep=st.booleans(), stale=seldom)
    def commit_with_lease(self, server: int, name: int, key: str, keep: bool, stale: bool) -> None:
        client = self.client(name, server)
        if key not in client.tokens:
            return
        lease, fence = client.tokens[key]
        self.hashes += 1
        content = self.world.content(f"h{self.hashes}")
        event = Commit(client.session, content, Base.ANY, lease, fence - stale, keep)
        before = self.newest.get(key)
        answer = self.effect(server, client, key, event)
        if isinstance(answer, Done):
            assert not stale, "a stale token was accepted"
            assert before is None or answer.version > before
            self.newest[key] = answer.version

    @rule(server=servers, name=names, key=keys)
    def release(self, server: int, name: int, key: str) -> None:
        client = self.client(name, server)
        if key in client.tokens:
            lease, _ = client.tokens.pop(key)
            self.effect(server, client, key, Put(client.session, lease))

    @rule(server=servers, name=names, which=st.integers(0, 5))
    def repeat(self, server: int, name: int, which: int) -> None:
        """Send a request again that was sent before, to whichever server."""
        client = self.clients.get(name)
        if client is None or client.over or not client.sent:
            return
        key, event, request = client.sent[-1 - which % len(client.sent)]
        if request in client.queued or (isinstance(event, GetM) and request not in client.answers):
            return
        answer = self.ask(server, client, key, event, request)
        if isinstance(event, Commit) and isinstance(answer, Done):
            hash_ = event.content.hash if event.content else ""
            known = self.published[key].setdefault(answer.version, hash_)
            assert known == hash_, "one version, two contents"
            self.newest[key] = max(answer.version, self.newest.get(key, answer.version))

    @rule(server=servers, name=names, key=keys)
    def misuse(self, server: int, name: int, key: str) -> None:
        """Another request under a used id is refused and changes nothing."""
        client = self.clients.get(name)
        if client is None or client.over or not client.answers:
            return
        request = max(client.answers)
        event = Commit(client.session, self.world.content("misuse"), Base.ANY)
        try:
            reply = self.run(self.processes[server].directory.request(PLACE, key, event, request, "misuse"))
        except DirectoryError:
            return
        assert reason(reply.answer) in (Reason.INVALID_ARGUMENT, Reason.SESSION_LOST)

    @rule(server=servers, fault=st.sampled_from(["before", "after"]))
    def next_commit_fails(self, server: int, fault: str) -> None:
        self.processes[server].store.faults = [fault]

    @rule(server=servers)
    def crash(self, server: int) -> None:
        """A process dies; another one takes its place, knowing nothing."""
        old, self.processes[server] = self.processes[server], self.run(self.start())
        self.run(old.close())
        self.collect()

    @rule(ms=st.sampled_from([1, 500, 4_000, 9_000, 19_000, 61_000]), server=servers, alive=st.booleans())
    def time(self, ms: int, server: int, alive: bool) -> None:
        """Time passes, and is noticed; `alive`: clients give signs of life as it does."""
        if alive:
            for _ in range(ms // 10_000):
                self.world.later(10_000)
                for name in self.clients:
                    self.keep_alive(server, name, False)
        self.world.later(ms % 10_000 if alive else ms)
        self.run(self.processes[server].sweep())
        self.collect()

    @rule(server=servers, name=names, settle=st.booleans())
    def keep_alive(self, server: int, name: int, settle: bool) -> None:
        client = self.clients.get(name)
        if client is None or client.over:
            return
        below = 0
        if settle and not client.queued:
            below = client.requests + 1
            client.sent.clear()
            client.answers.clear()
        try:
            sign = self.run(self.processes[server].directory.keep_alive(PLACE, client.session, TTL_MS, below))
        except DirectoryError:
            return
        client.over = client.over or isinstance(sign, Denial)

    @rule(server=servers, name=names, really=seldom)
    def end(self, server: int, name: int, really: bool) -> None:
        client = self.clients.get(name)
        if client is None or not really:
            return
        try:
            told = self.run(self.processes[server].directory.resolve(PLACE, client.session, sorted(client.answers)))
        except DirectoryError:
            return
        client.over = True
        for request, answer in told:
            assert answer == client.answers[request] or not isinstance(answer, Grant | Done | Denial)
        self.collect()

    @rule(server=servers, how=st.sampled_from(["wipe", "empty", "restart"]), really=seldom)
    def lose_memory(self, server: int, how: str, really: bool) -> None:
        if not really:
            return
        incarnation = max(process.directory.slice_of(PLACE).incarnation.number for process in self.processes)
        {
            "wipe": self.world.memory.wipe,
            "empty": self.world.memory.restart_empty,
            "restart": self.world.memory.restart,
        }[how]()
        self.world.later(1)
        assert self.open(server, incarnation).position.incarnation > incarnation
        for client in self.clients.values():
            while not client.over:
                answer = self.ask(server, client, "a", GetS(client.session))
                assert answer is None or reason(answer) is Reason.SESSION_LOST
        if how != "restart":
            self.newest.clear()
        self.collect()

    # --- what holds always ------------------------------------------------------------------------------------------

    @invariant()
    def entries_are_sound(self) -> None:
        data = self.world.data
        for key in KEYS:
            artifact = fields.artifact_of(PLACE, key)
            entry = fields.decode_entry(data.records.get(fields.entry_key(artifact)))
            check(entry)
            listed = key in data.ranks.get(fields.index_key(PLACE), {})
            assert listed == entry.exists
            assert (artifact in data.ranks.get(fields.DUE_ARTIFACTS, {})) == bool(fields.due_ms(entry))
            concerned = {*entry.sharers, *(waiter.session for waiter in entry.waiters)}
            concerned |= {entry.holder.session} if entry.holder else set()
            for session in concerned:
                assert artifact in data.ranks.get(fields.held_key(session), {}), "a session's end would miss this"

    @invariant()
    def contents_are_counted(self) -> None:
        records = self.world.data.records
        counted: dict[str, int] = {}
        for key in KEYS:
            for text in records.get(fields.versions_key(fields.artifact_of(PLACE, key)), {}).values():
                content = fields.decode_version(text).content
                if content is not None:
                    counted[content.hash] = counted.get(content.hash, 0) + 1
        kept = {key: int(record["refs"]) for key, record in records.items() if key.startswith("br/")}
        assert {hash_: n for hash_, n in kept.items() if n} == {
            fields.references_key(hash_): n for hash_, n in counted.items()
        }


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=80,
    stateful_step_count=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
