"""What a slice commits: judged events, and plain commits for sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from homenode_directory.place import Position
from homenode_directory.protocol.effects import Answer, Decision, Denial, Grant, Reason, Waiting
from homenode_directory.protocol.events import Commit as CommitEvent
from homenode_directory.protocol.events import (
    EndSession,
    Event,
    Expire,
    GetM,
    GetS,
    Handoff,
    InvAck,
    Put,
    Renew,
    SetPolicy,
)
from homenode_directory.protocol.model import ABSENT_ENTRY, Entry
from homenode_directory.protocol.transitions import repeated, step
from homenode_directory.slice import Heard, Reply, Slice
from homenode_directory.store import fields
from homenode_directory.store.base import PREDECESSOR, Commit, Equals, Exists, Outcome


class _Unheard:
    """Nobody waits."""

    def done(self) -> bool:
        """See `Heard`."""
        return True

    def set_result(self, result: Any, /) -> None:
        """See `Heard`."""

    def set_exception(self, error: Exception, /) -> None:
        """See `Heard`."""


UNHEARD: Heard = _Unheard()


class _Awaited:
    """What jobs share: somebody hears of their end."""

    __slots__ = ("rounds", "since", "trace")
    heard: Heard

    body = b""
    artifacts: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.since = 0.0
        self.rounds = 0
        self.trace = ""

    def fail(self, error: Exception) -> None:
        """End without a confirmed outcome."""
        if not self.heard.done():
            self.heard.set_exception(error)


def _learn(slice_: Slice, artifact: str, outcome: Outcome) -> Entry:
    """The entry that a refusal shows, which the slice knows from now on."""
    entry = fields.decode_entry(outcome.shown.get(fields.entry_key(artifact)))
    slice_.keep(artifact, entry)
    slice_.see(outcome.shown)
    return entry


_EFFECTS = frozenset({GetM, CommitEvent, SetPolicy, Put, Handoff})  # their answers are stored
_FREEING = frozenset({GetS, Put, Renew, Expire, EndSession, InvAck})


_UNDECIDED = Decision(None)


class EventJob(_Awaited):
    """Judge one event of one artifact and commit the decision.

    `heard` gets a `Reply`, or None where nobody asked (deadlines, acks, ended sessions).
    """

    __slots__ = (
        "_effect",
        "artifact",
        "artifacts",
        "body",
        "decision",
        "digest",
        "entry",
        "event",
        "heard",
        "request",
        "uncached",
    )

    def __init__(
        self, artifact: str, event: Event, heard: Heard, request: int = 0, digest: str = "", body: bytes = b""
    ) -> None:
        """`body`: the content of a commit, verified, where its transaction has to keep it."""
        self.since = 0.0
        self.rounds = 0
        self.artifact = artifact
        self.artifacts = (artifact,)
        self.event = event
        self.heard = heard
        self.request = request
        self.digest = digest
        self.body = body
        self.uncached = False
        self.entry: Entry = ABSENT_ENTRY
        self.decision = _UNDECIDED
        # (session, request id) of an event whose answer is stored
        self._effect: tuple[str, int] | None = None
        if request and type(event) in _EFFECTS:
            self._effect = event.session, request  # type: ignore[union-attr]

    @property
    def relief(self) -> bool:
        """Whether it frees room or takes none: such events go through when the store is full."""
        return type(self.event) in _FREEING

    def build(self, slice_: Slice, index: int) -> Commit:
        """Judge on the entry as the slice knows it."""
        artifact, effect = self.artifact, self._effect
        entry = slice_.entry(artifact)
        settled_below = slice_.settled_below(effect[0]) if effect is not None else 0
        facts = slice_.facts(self.request, self.digest, settled_below)
        event = self.event
        self.uncached = False
        if slice_.full and isinstance(event, GetS) and event.share:
            self.uncached = True  # no room for another sharer: the reader gets the content, and may not keep it
            event = replace(event, share=False)
        decision = step(entry, event, facts)
        self.entry, self.decision = entry, decision
        if decision.entry is None:
            slice_.raise_floor(decision.floor)
        guards = decision.guards
        commit = fields.encode_decision(
            artifact,
            entry,
            decision,
            slice_.incarnation.token,
            effect,
            slice_.written.get(artifact, -1),
            settled_below,
            facts.now_ms,
            bool(self.body),
            slice_.time.calm.text if guards.calm else "",
            slice_.policies.table(fields.policies_key(artifact)).rev if guards.policies else None,
        )
        if self.body and guards.content:
            slice_.bodies[guards.content] = self.body
        if decision.entry is not entry:
            slice_.keep(artifact, decision.entry)
            slice_.written[artifact] = index
        return commit

    def settle(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        """Answer what the store confirmed; learn from what it refused."""
        if outcome.ok:
            decision = self.decision
            if decision.entry is not self.entry:
                slice_.keep(self.artifact, decision.entry)
            if isinstance(decision.answer, Waiting) and self._effect and slice_.announced(*self._effect):
                return False  # another process has answered it meanwhile: the next round meets the stored answer
            if decision.guards.content:
                slice_.count_commit(self.artifact)
            if slice_.waiting:
                for result in decision.results:
                    slice_.answer_waiting(result.session, result.request, result.answer, outcome.head)
            self._answer(slice_, decision.answer, outcome.head)
            return True
        if outcome.failed == PREDECESSOR:
            return False
        _learn(slice_, self.artifact, outcome)
        return self._refused(slice_, commit, outcome)

    def _refused(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        guard = commit.guards[outcome.failed]
        if isinstance(guard, Exists):
            missing = Denial(Reason.CONTENT_MISSING, "the content has not been stored, or was collected")
            self._answer(slice_, missing, outcome.head)
            return True
        if isinstance(guard, Equals):
            effect = self._effect
            if effect is not None and guard.field == fields.result_field(effect[1]):
                result = fields.decode_answer(*effect, outcome.found or "")
                # It was true when it was stored, which may be long ago: position 0 lets nobody cache what it says.
                self._answer(slice_, repeated(result.digest, self.digest, result.answer), 0)
                return True
            slice_.learn(guard, outcome.found)
        return False

    def _answer(self, slice_: Slice, answer: Answer | None, head: int) -> None:
        if self.heard.done():
            return
        if answer is None:
            self.heard.set_result(None)
        elif isinstance(answer, Waiting):
            slice_.on_wait(slice_.incarnation.number, head)
            prepared = type(self.event) is not GetM
            slice_.await_result(self.event.session, self.request, self.heard, prepared=prepared)  # type: ignore[union-attr]
        else:
            if self.uncached and isinstance(answer, Grant):
                answer = replace(answer, cacheable=False)
            self.heard.set_result(Reply(answer, slice_.place(head)))


class DropJob(EventJob):
    """A session's copy goes, if a field of its record still says what it said then. Nobody waits for it."""

    __slots__ = ("_unchanged",)

    def __init__(self, artifact: str, session: str, unchanged: Equals) -> None:
        super().__init__(artifact, Put(session), UNHEARD)
        self._unchanged = unchanged

    def build(self, slice_: Slice, index: int) -> Commit:
        """See `EventJob`."""
        commit = super().build(slice_, index)
        commit.guards = (*commit.guards, self._unchanged)
        return commit

    def _refused(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        return commit.guards[outcome.failed] is self._unchanged or super()._refused(slice_, commit, outcome)


class StatJob(_Awaited):
    """Confirm the entry as known here, or learn it; changes nothing. `heard` gets (entry, head)."""

    __slots__ = ("artifact", "artifacts", "entry", "heard")
    relief = True

    def __init__(self, artifact: str, heard: Heard) -> None:
        super().__init__()
        self.artifact = artifact
        self.artifacts = (artifact,)
        self.heard = heard
        self.entry: Entry = ABSENT_ENTRY

    def build(self, slice_: Slice, index: int) -> Commit:
        """A comparison with what is known, behind the batch's own changes."""
        self.entry = slice_.entry(self.artifact)
        key = fields.entry_key(self.artifact)
        rev = str(self.entry.rev) if self.entry.rev else None
        after = slice_.written.get(self.artifact, -1)
        return Commit((Equals(key, "rev", rev),), after=after, show=(key,))

    def settle(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        """What the store shows is as good as a confirmation."""
        if outcome.failed == PREDECESSOR:
            return False
        if not outcome.ok:
            self.entry = _learn(slice_, self.artifact, outcome)
        if not self.heard.done():
            self.heard.set_result((self.entry, outcome.head))
        return True


class CommitJob(_Awaited):
    """A plain commit, made anew each round.

    `heard` gets the store's outcome, applied or refused, and the place in the log that it speaks of.
    """

    __slots__ = ("heard", "make", "relief")

    def __init__(self, make: Callable[[Slice], Commit], heard: Heard, relief: bool = False) -> None:
        super().__init__()
        self.make = make
        self.heard = heard
        self.relief = relief

    def build(self, slice_: Slice, index: int) -> Commit:
        """The commit, from what the slice knows now."""
        return self.make(slice_)

    def settle(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        """One round is enough: the caller judges a refusal."""
        if not self.heard.done():
            self.heard.set_result((outcome, Position(slice_.incarnation.number, outcome.head)))
        return True


class TickJob(_Awaited):
    """Vouch for the slice's time. Nobody waits."""

    __slots__ = ("heard",)
    relief = True

    def __init__(self) -> None:
        super().__init__()
        self.heard = UNHEARD

    def build(self, slice_: Slice, index: int) -> Commit:
        """See `SliceTime.tick`."""
        return slice_.time.tick()

    def settle(self, slice_: Slice, commit: Commit, outcome: Outcome) -> bool:
        """Refused, another server has rewritten the quarantine."""
        if not outcome.ok:
            slice_.time.doubt()
        return True
