"""Jobs on several artifacts of one workspace: one cut of them, and commits that all apply or none.

A store commit comes after at most one other of its call. So an effect whose artifacts were changed by several earlier
jobs of the batch waits for the next one, where it is among the first. A mere cut never waits: what the store shows
where the comparison fails is all of one moment too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from homenode_directory.directory import SESSION_OVER, Directory
from homenode_directory.jobs import UNHEARD
from homenode_directory.place import Place, Position
from homenode_directory.protocol.effects import Denial, Done, DoneMany, Pinned, Reason, Result, Stored
from homenode_directory.protocol.events import Commit as CommitEvent
from homenode_directory.protocol.model import Entry
from homenode_directory.protocol.together import Together, commit_many
from homenode_directory.protocol.transitions import SETTLED, repeated
from homenode_directory.slice import Heard, Reply, Slice
from homenode_directory.store import fields
from homenode_directory.store.base import PREDECESSOR, Before, Commit, Equals, Exists, Guard, Outcome, Put, Write


@dataclass(frozen=True, slots=True)
class Cut:
    """Entries of several artifacts, in the order that was asked for, as of one place in the log."""

    entries: tuple[Entry, ...]
    as_of: Position
    now_ms: int


@dataclass(frozen=True, slots=True)
class Request:
    """Names an effect: its answer is stored, and it never runs twice."""

    session: str
    number: int
    digest: str

    def guards(self, settled_below: int) -> tuple[Guard, ...]:
        """It has no answer yet, and the session's low-water mark is the one that it was judged on."""
        return (
            Equals(fields.session_key(self.session), fields.result_field(self.number), None),
            Equals(fields.session_key(self.session), fields.SETTLED, str(settled_below) if settled_below else None),
        )

    def store(self, answer: Done | DoneMany | Pinned | Denial) -> Write:
        """Keep its answer."""
        result = Result(self.session, self.number, self.digest, answer)
        return Put(fields.session_key(self.session), fields.result_field(self.number), fields.encode_answer(result))


def entries_shown(artifacts: Sequence[str]) -> tuple[str, ...]:
    """The keys of entries."""
    return tuple(fields.entry_key(artifact) for artifact in artifacts)


@dataclass(slots=True)
class CutJob:
    """Compare the entries of several artifacts in one step, or see them. `heard` gets a `Cut`, or a Denial.

    `unchanged` are further fields that must have these values for the cut to be of use; where one has not, `heard` gets
    None, and who asked looks again.
    """

    session: str
    artifacts: tuple[str, ...]
    heard: Heard = UNHEARD
    unchanged: tuple[Equals, ...] = ()
    relief: bool = True
    since: float = 0.0
    rounds: int = 0
    trace: str = ""
    body: bytes = b""
    entries: tuple[Entry, ...] = ()

    def build(self, slice_: Slice, index: int) -> Commit:
        """A comparison with what is known; or a look, where the batch's own changes may not be what is there."""
        self.entries = tuple(slice_.entry(artifact) for artifact in self.artifacts)
        guards = self.cut_guards(slice_)
        if any(artifact in slice_.written for artifact in self.artifacts):
            guards = (*guards[: 1 + len(self.unchanged)], Before(0))  # which shows everything, because it fails
        return Commit(guards, show=self.shown)

    @property
    def shown(self) -> tuple[str, ...]:
        """What to show where a guard fails."""
        return entries_shown(self.artifacts)

    def cut_guards(self, slice_: Slice) -> tuple[Guard, ...]:
        """The session is live, and every artifact is as it was judged."""
        live = Equals(fields.session_key(self.session), fields.LIVE, slice_.incarnation.token)
        revs = [
            Equals(fields.entry_key(artifact), "rev", str(entry.rev) if entry.rev else None)
            for artifact, entry in zip(self.artifacts, self.entries, strict=True)
        ]
        return (live, *self.unchanged, *revs)

    def settle(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        """Answer what the store confirmed, or shows."""
        if not outcome.ok:
            self.learn(slice_, outcome)
            guard = commit.guards[outcome.failed]
            if guard in self.unchanged:
                self.resolve(None)
                return True
            if isinstance(guard, Equals) and guard.field == fields.LIVE:
                slice_.bury(self.session)
                self.resolve(SESSION_OVER)
                return True
        self.resolve(Cut(self.entries, Position(slice_.incarnation.number, outcome.head), outcome.now_ms))
        return True

    def learn(self, slice_: Slice, outcome: Outcome) -> None:
        """The entries that a refusal shows, which the slice knows from now on."""
        shown = outcome.shown
        self.entries = tuple(fields.decode_entry(shown.get(fields.entry_key(artifact))) for artifact in self.artifacts)
        for artifact, entry in zip(self.artifacts, self.entries, strict=True):
            slice_.keep(artifact, entry)
        slice_.see(shown)

    def resolve(self, answer: object) -> None:
        """Tell whoever waits."""
        if not self.heard.done():
            self.heard.set_result(answer)

    def fail(self, error: Exception) -> None:
        """End without a confirmed outcome."""
        if not self.heard.done():
            self.heard.set_exception(error)


@dataclass(slots=True)
class EffectJob(CutJob):
    """A job on several artifacts whose one answer is stored. `heard` gets a `Reply`."""

    request: Request = Request("", 0, "")
    relief: bool = False
    postponed: bool = False
    changed: dict[str, Entry | None] = field(default_factory=dict)  # artifact -> what it becomes

    def build(self, slice_: Slice, index: int) -> Commit:
        """Judge on the entries as the slice knows them, behind one earlier job of the batch that changed some."""
        behind = {slice_.written[artifact] for artifact in self.artifacts if artifact in slice_.written}
        self.changed = {}
        self.postponed = len(behind) > 1
        if self.postponed:
            return Commit()
        self.entries = tuple(slice_.entry(artifact) for artifact in self.artifacts)
        commit = self.judge(slice_)
        for artifact, entry in self.changed.items():
            slice_.keep(artifact, entry)
            slice_.written[artifact] = index
        return replace(commit, after=max(behind, default=-1), show=self.shown)

    def judge(self, slice_: Slice) -> Commit:
        """What to commit on `entries`; what becomes of them is noted in `changed`."""
        raise NotImplementedError

    def settle(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        """Answer what the store confirmed; learn from what it refused."""
        if self.postponed:
            return False
        if outcome.failed == PREDECESSOR:
            for artifact in self.changed:
                slice_.keep(artifact, None)  # what it was to become, on top of something that it is not
            return False
        if outcome.ok:
            for artifact, entry in self.changed.items():
                slice_.keep(artifact, entry)
            self.resolve(Reply(self.applied(slice_), Position(slice_.incarnation.number, outcome.head)))
            return True
        self.learn(slice_, outcome)
        return self.refused(slice_, commit.guards[outcome.failed], outcome)

    def applied(self, slice_: Slice) -> Stored:
        """The answer, now that the store has confirmed it."""
        raise NotImplementedError

    def effect_guards(self, slice_: Slice) -> tuple[Guard, ...]:
        """Guards of the request, then of the cut."""
        return (*self.request.guards(slice_.settled_below(self.session)), *self.cut_guards(slice_))

    def settled(self, slice_: Slice) -> bool:
        """Whether the request lies below the session's mark: its answer is forgotten, and it must not run again."""
        return self.request.number < slice_.settled_below(self.session)

    def refused(self, slice_: Slice, guard: Guard, outcome: Outcome) -> bool:
        """Learn what the failed guard tells, or answer with it; False: judge again."""
        request, incarnation = self.request, slice_.incarnation.number
        if isinstance(guard, Equals):
            if guard in self.unchanged:
                self.resolve(None)
                return True
            if guard.field == fields.result_field(request.number):
                result = fields.decode_answer(request.session, request.number, outcome.found or "")
                answer = repeated(result.digest, request.digest, result.answer)
                self.resolve(Reply(answer, Position(incarnation, 0)))
                return True
            slice_.learn(guard, outcome.found)
            if guard.field == fields.LIVE:
                self.resolve(Reply(SESSION_OVER, Position(incarnation, outcome.head)))
                return True
        elif isinstance(guard, Exists):
            missing = Denial(Reason.CONTENT_MISSING, "the content has not been stored, or was collected")
            self.resolve(Reply(missing, Position(incarnation, outcome.head)))
            return True
        return False


@dataclass(slots=True)
class CommitManyJob(EffectJob):
    """Commits of several artifacts as one."""

    events: tuple[CommitEvent, ...] = ()
    together: Together | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """The policies of prefixes too: what comes to be is judged on them."""
        return (*entries_shown(self.artifacts), fields.policies_key(self.artifacts[0]))

    def judge(self, slice_: Slice) -> Commit:
        """All decisions in one commit, or one comparison that confirms the refusal."""
        if self.settled(slice_):
            self.together = Together((), SETTLED)
            return Commit(self.effect_guards(slice_))
        facts = slice_.facts()
        keys = [fields.key_of(artifact) for artifact in self.artifacts]
        self.together = commit_many(list(zip(keys, self.entries, self.events, strict=True)), facts)
        guards, writes = list(self.effect_guards(slice_)), [self.request.store(self.together.answer)]
        log: list[bytes] = []
        policies = slice_.policies.table(fields.policies_key(self.artifacts[0])).rev
        compared = {(guard.key, guard.field) for guard in guards if isinstance(guard, Equals)}
        for artifact, entry, decision in zip(self.artifacts, self.entries, self.together.decisions, strict=False):
            part = fields.encode_decision(
                artifact, entry, decision, slice_.incarnation.token, None, -1, at_ms=facts.now_ms, policies=policies
            )
            for guard in part.guards:
                if not isinstance(guard, Equals):
                    guards.append(guard)
                elif (guard.key, guard.field) not in compared:
                    compared.add((guard.key, guard.field))
                    guards.append(guard)
            writes += part.writes
            log += part.log
            self.changed[artifact] = decision.entry
        return Commit(tuple(guards), tuple(writes), tuple(log))

    def applied(self, slice_: Slice) -> Stored:
        """The joint answer."""
        assert self.together is not None
        for artifact, event in zip(self.artifacts, self.events, strict=True):
            if event.content is not None and self.changed:
                slice_.count_commit(artifact)
        return self.together.answer


def artifacts_of(place: Place, keys: Sequence[str]) -> tuple[str, ...]:
    """The names of several artifacts in their slice."""
    return tuple(fields.artifact_of(place, key) for key in keys)


class Joint:
    """Requests about several artifacts of a workspace, over a directory's slices."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def cut(self, place: Place, session: str, keys: Sequence[str]) -> Cut | Denial:
        """The entries of `keys` as of one place in the log. Raises DirectoryError."""
        future: asyncio.Future[Cut | Denial | None] = asyncio.get_running_loop().create_future()
        self._directory.slice_of(place).submit(CutJob(session, artifacts_of(place, keys), future))
        found = await future
        assert found is not None, "nothing but the entries is compared"
        return found

    async def commit_many(self, place: Place, commits: Sequence[tuple[str, CommitEvent]], request: Request) -> Reply:
        """Apply commits of different artifacts, (key, event) each, as one. Raises DirectoryError."""
        artifacts = artifacts_of(place, [key for key, _ in commits])
        events = tuple(event for _, event in commits)
        reply = await self.effect(place, CommitManyJob(request.session, artifacts, request=request, events=events))
        assert reply is not None, "nothing but the entries is compared"
        return reply

    async def effect(self, place: Place, job: EffectJob) -> Reply | None:
        """Queue an effect on several artifacts and wait for its answer; None: see `CutJob`. Raises DirectoryError."""
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        job.heard = future
        self._directory.post_effect(self._directory.slice_of(place), job, job.session, job.request.number)
        return await future
