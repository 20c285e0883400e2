"""Several artifacts judged as one: commits that all take effect or none, and whether what was read still holds.

Each artifact is judged by the rule book as if it were alone; what is decided here is what their answers make together.
Entries must come from one cut: the commit that applies the decisions, or confirms the answer, compares all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from homenode_directory.protocol.effects import Decision, Denial, Done, DoneMany, KeyDone, KeyRefusal, Reason, Waiting
from homenode_directory.protocol.events import Commit
from homenode_directory.protocol.facts import Facts, level_of
from homenode_directory.protocol.model import Cause, Entry, Level, Version, why_ended
from homenode_directory.protocol.transitions import step

_FIRST = (
    Reason.SESSION_LOST,
    Reason.UNSUPPORTED,
    Reason.STALE_FENCE,
    Reason.VERSION_CONFLICT,
    Reason.ALREADY_EXISTS,
    Reason.NOT_FOUND,
    Reason.HELD,
)
"""Which refusal speaks for all: what waiting cannot cure comes first, and a version mismatch before the holder."""


@dataclass(frozen=True, slots=True)
class Together:
    """Decisions to apply as one, in the order of the request; none when the answer is a denial."""

    decisions: tuple[Decision, ...]
    answer: DoneMany | Denial


def commit_many(items: Sequence[tuple[str, Entry, Commit]], facts: Facts) -> Together:
    """Judge commits of different artifacts, (key, entry, event) each, as one.

    `facts.request` must be 0: the answer is one, and stored once. A strict artifact is refused: its copies would have
    to be waited for.
    """
    assert facts.request == 0, "the parts of a joint commit have no answers of their own"
    decisions: list[Decision] = []
    done: list[KeyDone] = []
    refusals: list[KeyRefusal] = []
    for key, entry, event in items:
        decision = step(entry, event, facts)
        answer = decision.answer
        if isinstance(answer, Denial) and answer.reason is Reason.SESSION_LOST:
            return Together((), answer)
        strict = level_of(entry.nearest, facts.default) is Level.STRICT
        if strict or entry.pending is not None or isinstance(answer, Waiting):
            text = "a strict artifact cannot be committed together with others"
            refusals.append(KeyRefusal(key, Reason.UNSUPPORTED, text, entry.version if entry.version.n else None))
        elif isinstance(answer, Denial):
            refusals.append(
                KeyRefusal(
                    key,
                    answer.reason,
                    answer.message,
                    answer.current,
                    answer.holder,
                    answer.retry_after_ms,
                    answer.cause,
                )
            )
        else:
            assert isinstance(answer, Done), "a commit is done, denied or prepared"
            decisions.append(decision)
            done.append(KeyDone(key, answer.version, answer.fence, answer.committed_ms))
    if not refusals:
        return Together(tuple(decisions), DoneMany(tuple(done)))
    first = min(refusals, key=lambda refusal: _FIRST.index(refusal.reason) if refusal.reason in _FIRST else len(_FIRST))
    denial = Denial(
        first.reason, first.message, first.current, first.holder, first.retry_after_ms, first.cause, tuple(refusals)
    )
    return Together((), denial)


class Verdict(StrEnum):
    """Whether something that was read still holds."""

    HOLDS = "holds"
    MOVED = "moved"
    DELETED = "deleted"
    LEASE_LOST = "lease_lost"


@dataclass(frozen=True, slots=True)
class Read:
    """What somebody acts on: a version, or None where there was no artifact; and a write lease's token, if any."""

    key: str
    version: Version | None
    lease: str = ""
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one read. For information: who else may write, and whether a strict commit is prepared."""

    key: str
    verdict: Verdict
    current: Version | None
    cause: Cause | None = None
    writer: str = ""
    prepared: bool = False


def check_read(read: Read, entry: Entry, session: str, now_ms: int) -> Finding:
    """Judge one read of `session` on the entry as it is at store time `now_ms`."""
    holder = entry.holder if entry.holder is not None and entry.holder.deadline_ms > now_ms else None
    ours = holder is not None and bool(read.lease) and (holder.session, holder.lease) == (session, read.lease)
    current = entry.version if entry.version.incarnation else None
    writer = holder.session if holder is not None and not ours else ""
    verdict, cause = Verdict.HOLDS, None
    if read.lease and not (ours and holder is not None and holder.fence == read.fence):
        verdict = Verdict.LEASE_LOST
        late = entry.holder if holder is None else None
        expired = late is not None and (late.session, late.lease) == (session, read.lease)
        cause = Cause.EXPIRED if expired else why_ended(entry.ended, session, read.lease)
    elif not entry.exists:
        if read.version is not None:
            verdict = Verdict.DELETED
    elif read.version != entry.version:
        verdict = Verdict.MOVED
    return Finding(read.key, verdict, current, cause, writer, entry.pending is not None)
