"""What the directory knows of one artifact.

An `Entry` is the whole directory record of an artifact: who may write it, who may hold copies, and what is
committed. Everything here is immutable; `transitions.step` answers with a new entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from homenode_directory.protocol.values import value


class State(StrEnum):
    """Coherence state as the directory sees it."""

    I = "I"  # noqa: E741 - the field's own name: no copies
    S = "S"  # sharers
    E = "E"  # one sharer, no writer
    M = "M"  # somebody holds the write lease; readers keep copies of the last committed version
    P = "P"  # prepared: a strict commit between prepare and publish


class Level(StrEnum):
    """Consistency of an artifact's reads."""

    LAZY = "lazy"
    STRICT = "strict"


class Push(StrEnum):
    """Whether content rides with an invalidation."""

    NONE = "none"
    SHARERS = "sharers"
    ALL = "all"


class Cause(StrEnum):
    """Why a write lease ended."""

    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"
    SESSION_LOST = "session_lost"
    HANDED_OFF = "handed_off"  # its holder gave it to a named successor


RESERVED = ""
"""Lease id of a write lease that was handed to a session which has not acquired it yet."""


class Version(NamedTuple):
    """A committed content: ordered, never reused. `n` counts per artifact; `incarnation` names the store's memory.

    A tuple, because every judgement makes and compares some of them.
    """

    incarnation: int
    n: int


NO_VERSION = Version(0, 0)


@value
class Policy:
    """How an artifact is kept coherent. `None` means: the workspace's or the server's default."""

    level: Level | None = None
    push: Push = Push.NONE
    max_age_ms: int | None = None
    max_reads: int | None = None
    max_steps: int | None = None


@value
class Content:
    """Names the bytes of a version: SHA-256 (hex) and size in bytes; `metadata` is the committer's, as JSON text."""

    hash: str
    size: int
    metadata: str = ""


@value
class Holder:
    """Who has the write lease. `fence` is the token's counter; `deadline_ms` is on the store's clock."""

    session: str
    lease: str
    fence: int
    deadline_ms: int
    ttl_ms: int


@value
class Waiter:
    """A queued GetM. Its answer is stored under (session, request) when it is granted or its deadline passes."""

    session: str
    request: int
    digest: str
    lease: str
    ttl_ms: int
    deadline_ms: int
    create: bool = False


@value
class Pending:
    """A strict commit that is prepared: it is always published, never aborted.

    `waits` names the sessions that may hold an older copy and have not said that it is gone. At `until_ms`, store time,
    all their copies are certainly dead. `shares`: the committer will hold the version. `sets_policy`: with the version
    `policy` becomes the artifact's own; `inherits`: the one that it inherits.
    """

    session: str
    request: int
    digest: str
    content: Content | None
    version: Version
    fence: int
    keep: bool
    waits: tuple[str, ...]
    until_ms: int = 0
    shares: bool = True
    sets_policy: bool = False
    policy: Policy | None = None
    inherits: bool = False


@value
class Over:
    """A write lease that ended. Of one that ended before sessions were noted, `session` is empty."""

    lease: str
    cause: Cause
    session: str = ""


def why_ended(ended: tuple[Over, ...], session: str, lease: str) -> Cause | None:
    """Of the leases that `Entry.ended` remembers, why this one is over.

    Two sessions may use the same lease id, so only the session's own counts. But whose session was lost comes back with
    another one, and asks for a lease of the former.
    """
    named = [over for over in reversed(ended) if over.lease == lease]
    ours = (over.cause for over in named if over.session in (session, ""))
    lost = (over.cause for over in named if over.cause is Cause.SESSION_LOST)
    return next(ours, None) or next(lost, None)


def state_of(pending: Pending | None, holder: Holder | None, sharers: Mapping[str, int]) -> State:
    """The coherence state that these fields make."""
    if pending is not None:
        return State.P
    if holder is not None:
        return State.M
    if not sharers:
        return State.I
    return State.E if len(sharers) == 1 else State.S


@value
class Entry:
    """The directory's record of one artifact.

    Invariants (`transitions.check`):
      - the holder's fence and a pending fence never exceed `fence`
      - `sharers` is a superset of the sessions that may hold a copy: session -> version number it was given
      - no sharer was given a version above the committed one
      - waiters only behind a holder or a pending commit; at most one waiter per (session, request)
      - `version` and `fence` never fall (between entries)

    `policy` is the artifact's own, `inherited` that of the longest prefix which has one. What an artifact without
    content inherits is not looked at: the commit that gives it content compares it with what holds then.
    """

    rev: int = 0
    version: Version = NO_VERSION
    fence: int = 0
    content: Content | None = None
    committed_ms: int = 0
    holder: Holder | None = None
    waiters: tuple[Waiter, ...] = ()
    pending: Pending | None = None
    sharers: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    policy: Policy | None = None
    tombstone_ms: int = 0  # when a deleted artifact's record may be dropped; 0: not deleted
    ended: tuple[Over, ...] = ()  # the last few leases that ended, so that a zombie learns why
    outlast_ms: int = 0  # the greatest age of copies that were given under an earlier policy
    inherited: Policy | None = None

    @property
    def nearest(self) -> Policy | None:
        """The policy that holds, if not the server's default: its own comes before any that is inherited."""
        return self.policy or self.inherited

    @property
    def state(self) -> State:
        """The coherence state, derived so that it cannot disagree with the fields."""
        return state_of(self.pending, self.holder, self.sharers)

    @property
    def exists(self) -> bool:
        """Whether there is committed content to read."""
        return self.content is not None


ABSENT_ENTRY = Entry()
