"""One slice at work: a queue of jobs, judged and committed in batches.

The mailbox of every artifact in the slice. The jobs of a batch are judged in order on the entries as this process
knows them, packed into one store call, and confirmed or refused by the store one by one. A refused job is judged again
with what the store returned. So nothing is answered that the store has not confirmed after the request arrived, and
however many jobs wait, a batch costs one round trip. A second batch, of other artifacts, is judged while the first is
with the store.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any, Protocol

from homenode_directory.clock import Clock
from homenode_directory.errors import Contended, Full, OutcomeUnknown, Overloaded, Unavailable
from homenode_directory.incarnations import Incarnations
from homenode_directory.observer import Observer
from homenode_directory.place import Position
from homenode_directory.policies import Policies
from homenode_directory.protocol.effects import Denial, Stored
from homenode_directory.protocol.facts import DEFAULT, Facts, Terms
from homenode_directory.protocol.model import ABSENT_ENTRY, Entry, Policy
from homenode_directory.slicetime import SliceTime
from homenode_directory.store import fields
from homenode_directory.store.base import (
    META,
    PREDECESSOR,
    Commit,
    Equals,
    Incarnation,
    Outcome,
    Store,
    StoreChanged,
    StoreError,
    StoreFull,
)
from homenode_directory.store.fields import LogRecord
from homenode_directory.tracing import CURRENT, Span, Tracer

ROUNDS_MAX = 8
RETRY_PAUSE_S = 0.05
WORKERS = 2  # batches under way at once
BATCH_MAX = 512
BATCH_MIN = 16
PASSED_MAX = 1_024  # jobs looked at that have to wait for a batch under way
BATCH_BYTES_MAX = 1 << 20  # of contents; the last job may go over it
ANNOUNCED_MAX = 4_096


class Heard(Protocol):
    """Who is told what came of a job: a future, or what is cheaper than one where nobody awaits it."""

    def done(self) -> bool:
        """Whether nothing more is to be told."""

    def set_result(self, result: Any, /) -> None:
        """The answer."""

    def set_exception(self, error: Exception, /) -> None:
        """There will be no answer."""


class Job(Protocol):
    """One thing to commit. `build` judges, `settle` hears what the store said, `fail` ends it.

    The slice notes in it since when it waits (local milliseconds), how often it was refused and, with a tracer, for
    which recorded operation it works. `body` is content that the call is to keep, if the job comes to it; `artifacts`
    are those that it looks at or changes.
    """

    since: float
    rounds: int
    trace: str
    body: bytes
    artifacts: tuple[str, ...]

    @property
    def relief(self) -> bool:
        """Whether it frees room and so must go through when the store is full."""

    def build(self, slice_: Slice, index: int) -> Commit:
        """The commit to try, from what the slice knows now; it will be number `index` of the call."""

    def settle(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        """Take the outcome; False asks for another round."""

    def fail(self, error: Exception) -> None:
        """End without a confirmed outcome."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a slice's memory and patience."""

    queue_max: int = 16_384
    queue_bytes_max: int = 32 << 20
    cached_entries_max: int = 65_536
    dead_sessions_max: int = 65_536
    waiting_max: int = 65_536
    retry_for_ms: int = 5_000
    history_look_every: int = 8  # commits of an artifact


Deliver = Callable[[int, int, list[tuple[int, LogRecord]]], None]
"""Takes (slice, incarnation number, [(sequence, log entry)]) of what this process has just committed, in order."""


@dataclass(slots=True)
class Reply:
    """An answer and the place in the log as of which it holds. Never changed once made."""

    answer: Stored
    as_of: Position


def _unfollowed(incarnation: int, head: int) -> None:
    """Nobody hears that a request begins to wait, as of that place in the log."""


class Slice:
    """State that judging needs, and the loop that commits."""

    def __init__(
        self,
        number: int,
        store: Store,
        incarnations: Incarnations,
        clock: Clock,
        terms: Terms,
        limits: Limits,
        observer: Observer,
        deliver: Deliver,
        default: Policy = DEFAULT,
        tracer: Tracer | None = None,
    ) -> None:
        self.number = number
        self.terms = terms
        self.limits = limits
        self.default = default  # policy of artifacts that have none of their own
        self.weakness = ""  # why strict cannot be kept over the store; empty: it can
        self.time = SliceTime(number, store, clock, terms, observer)
        self.incarnation = Incarnation(0, "")
        self.floor = 0
        self.policies = Policies()
        self._facts: Facts | None = None  # within a batch: what all its judgements rest on
        self._place = Position(0, 0)  # the last one that was told
        self.written: dict[str, int] = {}  # within a batch: artifact -> index of the commit that changed it last
        self.bodies: dict[str, bytes] = {}  # within a batch: hash -> content to keep before the commits
        self.used = False  # since the last sweep
        self.ticks = 0  # sweeps in which its time is still vouched for
        self.full = False  # within a batch: the store has no room, so nothing may be judged that takes some
        self.due_ms = 0  # the earliest deadline of an artifact that the last sweep saw; 0: none
        self.swept_token = ""  # incarnation whose predecessors' sessions have been ended
        self.grown: dict[str, None] = {}  # artifacts whose history may be long enough to be cut
        self._commits: OrderedDict[str, int] = OrderedDict()  # artifact -> commits since its history was looked at
        self.dead: OrderedDict[str, None] = OrderedDict()
        self.buried = 0  # how many sessions were found to be over
        self.on_wait: Callable[[int, int], None] = _unfollowed
        self.waiting: dict[tuple[str, int], list[Heard]] = {}
        self._prepared: set[tuple[str, int]] = set()  # of these, the ones that are answered whatever their session does
        self._announced: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._settled: OrderedDict[str, int] = OrderedDict()  # session -> low-water mark of its request ids
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._store = store
        self._incarnations = incarnations
        self._clock = clock
        self._observer = observer
        self._deliver = deliver
        self._tracer = tracer
        self._queue: deque[Job] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._busy: set[str] = set()  # artifacts of the batches under way
        self._flying = 0  # batches under way
        self._workers: list[asyncio.Task[None]] = []
        self._closing = False

    def submit(self, job: Job, *, use: bool = True) -> None:
        """Queue a job for the next batch; housekeeping is no `use`. Raises Overloaded, Unavailable."""
        if self._closing:
            raise Unavailable("the directory is stopping")
        if len(self._queue) >= self.limits.queue_max:
            raise Overloaded("the slice's queue is full")
        if job.body:
            if self._queued_bytes + len(job.body) > self.limits.queue_bytes_max:
                raise Overloaded("the contents in the slice's queue are too large")
            self._queued_bytes += len(job.body)
        job.since = self._clock()
        if self._tracer is not None:
            job.trace = CURRENT.get()
        self._queue.append(job)
        self.used |= use
        self._wake.set()
        if not self._workers:
            # In no context of whoever asks first: they work for all.
            make = asyncio.get_running_loop().create_task
            self._workers = [make(self._run(), context=Context()) for _ in range(WORKERS)]

    async def close(self) -> None:
        """Finish what is queued, then stop."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(*self._workers)
        self._abandon_waiting("the directory is stopping")

    # --- what jobs use while they judge -------------------------------------------------------------------------

    def entry(self, artifact: str) -> Entry:
        """The entry as known here; the store's refusal corrects a wrong guess."""
        entry = self._entries.get(artifact, ABSENT_ENTRY)
        if entry.content is None and (self.policies or entry.inherited is not None):
            # What it inherits is decided when it gets content, by what holds then.
            inherited = self.policies.nearest(artifact)
            return entry if inherited == entry.inherited else replace(entry, inherited=inherited)
        return entry

    def facts(self, request: int = 0, digest: str = "", settled_below: int = 0) -> Facts:
        """What a judgement rests on beyond the entry. A batch is judged as of one time: its jobs were there before."""
        facts = self._facts
        if facts is None:
            facts = self._facts = Facts(
                now_ms=self.time.now_ms,
                now_max_ms=self.time.latest_ms,
                incarnation=self.incarnation.number,
                floor=self.floor,
                dead=self.dead,
                quarantine_ms=self.time.calm.until_ms,
                weakness=self.weakness,
                default=self.default,
                terms=self.terms,
            )
        if not request:
            return facts
        return Facts(
            facts.now_ms, facts.incarnation, facts.now_max_ms, request, digest, None, settled_below, facts.floor,
            facts.dead, facts.quarantine_ms, facts.weakness, facts.default, facts.terms,
        )  # fmt: skip

    def raise_floor(self, floor: int) -> None:
        """A record was dropped: what the batch's later creations and drops will meet."""
        self.floor = floor
        self._facts = None

    def place(self, head: int) -> Position:
        """A place in the log. Answers of a batch that appended nothing in between share it."""
        if self._place.sequence != head or self._place.incarnation != self.incarnation.number:
            self._place = Position(self.incarnation.number, head)
        return self._place

    def learn(self, guard: Equals, found: str | None) -> None:
        """What a failed guard met, where it compared what this process only assumed of sessions and of the slice."""
        if guard.field == fields.SETTLED:
            self.settle_below(fields.session_of(guard.key), int(found or 0))
        elif guard.field == fields.LIVE:
            self.bury(fields.session_of(guard.key))
        elif guard.field == fields.CALM:
            self.time.doubt()
        elif guard.key == META and guard.field == fields.FLOOR:
            self.floor = int(found or 0)
        elif guard.key.startswith(fields.POLICIES) and found is None:  # else the refusal shows them
            self.policies.learn(guard.key, None)

    def see(self, shown: Mapping[str, Mapping[str, str | int]]) -> None:
        """What a refusal has shown beside entries."""
        for key, record in shown.items():
            if key.startswith(fields.POLICIES):
                self.policies.learn(key, record)

    def leases(self) -> int:
        """How many artifacts have a holder, among those that this process knows."""
        return sum(entry.holder is not None for entry in self._entries.values())

    def __contains__(self, artifact: str) -> bool:
        return artifact in self._entries

    def keep(self, artifact: str, entry: Entry | None) -> None:
        """Remember an entry; None or absent: there is no record."""
        if entry is None or entry.rev == 0:
            self._entries.pop(artifact, None)
            return
        self._entries[artifact] = entry
        self._entries.move_to_end(artifact)
        while len(self._entries) > self.limits.cached_entries_max:
            self._entries.popitem(last=False)

    def bury(self, session: str) -> None:
        """Remember that a session is over."""
        self.buried += session not in self.dead
        self.dead[session] = None
        while len(self.dead) > self.limits.dead_sessions_max:
            self.dead.popitem(last=False)

    def count_commit(self, artifact: str) -> None:
        """A version was added to the artifact's history, which is looked at now and then, the first time at once."""
        commits = self._commits.pop(artifact, self.limits.history_look_every) + 1
        if commits >= self.limits.history_look_every:
            commits = 0
            self.grown[artifact] = None
        self._commits[artifact] = commits
        while len(self._commits) > self.limits.cached_entries_max:
            self._commits.popitem(last=False)

    def looked_at(self, artifact: str, room: int) -> None:
        """The artifact's history was looked at, and has room for so many commits before it is to be cut."""
        if self.limits.history_look_every > 1:
            self._commits[artifact] = self.limits.history_look_every - room

    def settled_below(self, session: str) -> int:
        """The session's low-water mark as known here; the store's refusal corrects a wrong guess."""
        return self._settled.get(session, 0)

    def settle_below(self, session: str, mark: int) -> None:
        """Remember a session's low-water mark."""
        self._settled[session] = mark
        self._settled.move_to_end(session)
        while len(self._settled) > self.limits.dead_sessions_max:
            self._settled.popitem(last=False)

    def await_result(self, session: str, request: int, heard: Heard, *, prepared: bool = False) -> None:
        """`heard` gets the answer of a queued or prepared request when a later transition stores it."""
        if len(self.waiting) >= self.limits.waiting_max:
            heard.set_exception(Overloaded("too many requests wait", retry_after_ms=1_000))
            return
        self.waiting.setdefault((session, request), []).append(heard)
        if prepared:
            self._prepared.add((session, request))

    def announce(self, session: str, request: int) -> None:
        """The log says that a queued request is answered, but nobody waits for it here, or not yet."""
        self._announced[session, request] = None
        if len(self._announced) > ANNOUNCED_MAX:
            self._announced.popitem(last=False)

    def announced(self, session: str, request: int) -> bool:
        """Whether `announce` was called, with which the log has overtaken the answer that the request is queued."""
        return self._announced.pop((session, request), 0) is None

    def answer_waiting(self, session: str, request: int, answer: Stored, sequence: int) -> None:
        """A stored answer exists now, as of a place in the log; whoever waits for it gets it."""
        self._prepared.discard((session, request))
        for heard in self.waiting.pop((session, request), ()):
            if not heard.done():
                heard.set_result(Reply(answer, Position(self.incarnation.number, sequence)))

    def refuse_waiting(self, session: str, denial: Denial) -> None:
        """A session is over: none of its queued requests gets another answer. What is prepared does."""
        for named in [named for named in self.waiting if named[0] == session and named not in self._prepared]:
            self.answer_waiting(*named, denial, 0)

    def _abandon_waiting(self, why: str) -> None:
        waiting, self.waiting = self.waiting, {}
        self._prepared.clear()
        for some in waiting.values():
            for heard in some:
                if not heard.done():
                    heard.set_exception(Unavailable(why))

    # --- the loop -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """One of the workers."""
        while not (self._closing and not self._queue):
            batch, artifacts = self._take()
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._busy |= artifacts
            self._flying += 1
            try:
                again = await self._commit(batch)
            except Exception as error:  # a mistake in one batch must not stop the slice for good
                self._forget()
                for job in batch:
                    job.fail(error)
                again = []
            self._busy -= artifacts
            self._flying -= 1
            self._queue.extendleft(reversed(again))
            self._queued_bytes += sum(len(job.body) for job in again)
            self._wake.set()

    def _take(self) -> tuple[list[Job], set[str]]:
        """The jobs of the next batch, and their artifacts: those first in line that no batch under way looks at.

        What waits is shared among the workers that are free, so that one batch is judged while the store is busy with
        another; jobs of one artifact stay together, and in order.
        """
        enough = max(BATCH_MIN, len(self._queue) // (WORKERS - self._flying))
        batch: list[Job] = []
        passed: list[Job] = []
        taken: set[str] = set()
        others = 0  # jobs that are not about artifacts
        held = set(self._busy)
        size = 0
        queue = self._queue
        while queue and len(batch) < BATCH_MAX and size < BATCH_BYTES_MAX and len(passed) < PASSED_MAX:
            job = queue.popleft()
            artifacts = job.artifacts
            full = len(taken) + others >= enough
            if (held and not held.isdisjoint(artifacts)) or (full and not taken.issuperset(artifacts)):
                passed.append(job)
                held.update(artifacts)
                continue
            batch.append(job)
            if artifacts:
                taken.update(artifacts)
            else:
                others += 1
            size += len(job.body)
        queue.extendleft(reversed(passed))
        self._queued_bytes -= size
        return batch, taken

    async def _commit(self, batch: list[Job]) -> list[Job]:
        """One store call; returns the jobs to judge again."""
        try:
            await self._prepare()
            return await self._try(batch, relief=False)
        except StoreFull as full:
            self._forget()
            return await self._relieve(batch, full)
        except StoreChanged as changed:
            self._forget()
            self.incarnation = await self._renew()
            self._abandon_waiting("the slice's memory changed")  # its queues are those of sessions that are over
            return self._retriable(batch, changed)
        except StoreError as error:
            self._forget()
            await asyncio.sleep(RETRY_PAUSE_S)
            return self._retriable(batch, error)

    async def _prepare(self) -> None:
        if not self.incarnation.token:
            self.incarnation = await self._incarnations.current(self.number)
        await self.time.ready(self.incarnation.token)
        if self.terms.lease_ms != self.time.calm.lease_ms:
            self.terms = replace(self.terms, lease_ms=self.time.calm.lease_ms)

    async def _renew(self) -> Incarnation:
        try:
            return await self._incarnations.renew(self.number, self.incarnation.token)
        except StoreError:
            await asyncio.sleep(RETRY_PAUSE_S)
            return self.incarnation

    def _forget(self) -> None:
        """What was assumed about the store may be wrong."""
        self._entries.clear()
        self.policies.clear()
        self.floor = 0

    async def _try(self, batch: list[Job], *, relief: bool) -> list[Job]:
        self.written.clear()
        self.bodies.clear()
        self._facts = None
        commits: list[Commit] = []
        for job in batch:
            commits.append(job.build(self, len(commits)))
        blobs: list[tuple[str, bytes]] = []
        if self.bodies:
            blobs = [(fields.content_key(hash_), body) for hash_, body in self.bodies.items()]
            commits.append(fields.touch_contents(self.bodies, self.time.now_ms))
        span = self._traced(batch, commits) if self._tracer is not None else None
        asked = self._clock()
        try:
            call = self._store.commit(self.number, self.incarnation.token, commits, relief=relief, blobs=blobs)
            outcomes = await call
        except BaseException:
            if span is not None:
                span.end("failed")
            raise
        if span is not None:
            span.end()
        trace = span.trace_id if span is not None else ""
        self._observer.batch(len(batch), (self._clock() - asked) / 1_000, trace)
        self.time.saw(outcomes[-1].now_ms, asked)
        again: list[Job] = []
        logged: list[tuple[int, LogRecord]] = []
        for job, commit, outcome in zip(
            batch, commits, outcomes, strict=False
        ):  # beside them, one that touches contents
            if outcome.ok and commit.log:
                records = commit.said or [fields.decode_log(data) for data in commit.log]
                logged.extend(enumerate(records, outcome.head - len(records) + 1))
            buried = self.buried
            if not job.settle(self, commit, outcome):
                # No contention: behind a refused job of its artifact it was not compared with what is there (and each
                # round takes at least the first of them away), or a dead session was found (each is found once).
                job.rounds += outcome.failed != PREDECESSOR and self.buried == buried
                again.append(job)
        if logged:
            self._deliver(self.number, self.incarnation.number, logged)
        return [job for job in again if self._patient(job)]

    def _traced(self, batch: list[Job], commits: list[Commit]) -> Span | None:
        """Say in the log for which recorded operations it is, and begin their span."""
        assert self._tracer is not None
        waiting = []
        for job, commit in zip(batch, commits, strict=False):
            if job.trace:
                waiting.append(job.trace)
                if commit.log:
                    fields.traced(commit, job.trace)
        return self._tracer.batch(waiting, self.number, len(batch)) if waiting else None

    def _patient(self, job: Job) -> bool:
        if job.rounds >= ROUNDS_MAX:
            job.fail(Contended(f"refused in {job.rounds} rounds"))
            return False
        if self._clock() - job.since >= self.limits.retry_for_ms:
            # Never compared, it may be the repetition of a request that took effect long ago.
            job.fail(OutcomeUnknown("not judged in time"))
            return False
        return True

    def _retriable(self, batch: list[Job], error: StoreError) -> list[Job]:
        """Jobs that may be tried again after the store failed: a stored result keeps them from running twice."""
        again = []
        for job in batch:
            if self._clock() - job.since < self.limits.retry_for_ms and not self._closing:
                again.append(job)
            else:
                changed = isinstance(error, StoreChanged)
                job.fail(Unavailable(str(error)) if changed else OutcomeUnknown(str(error)))
        return again

    async def _relieve(self, batch: list[Job], error: StoreFull) -> list[Job]:
        """The store is full: what frees room, or takes none, goes alone; the rest is refused whole."""
        freeing = [job for job in batch if job.relief]
        for job in batch:
            if not job.relief:
                job.fail(Full(str(error)))
        self.full = True
        try:
            for _ in range(ROUNDS_MAX):  # here, because what a round learns is forgotten when the store is full again
                if not freeing:
                    break
                freeing = await self._try(freeing, relief=True)
            return freeing
        except StoreError as failure:
            self._forget()
            return self._retriable(freeing, failure)
        finally:
            self.full = False
