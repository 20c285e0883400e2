"""What `step` decides: a new entry, an answer, log events, results to store, and the guards that must still hold."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum

from homenode_directory.protocol.model import Cause, Content, Entry, Level, Policy, Push, Version
from homenode_directory.protocol.values import value


class Reason(StrEnum):
    """The closed set of refusals."""

    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    VERSION_CONFLICT = "version_conflict"
    HELD = "held"
    WAIT_TIMEOUT = "wait_timeout"
    QUEUE_FULL = "queue_full"
    STALE_FENCE = "stale_fence"
    LEASE_LOST = "lease_lost"
    SESSION_LOST = "session_lost"
    INVALID_ARGUMENT = "invalid_argument"
    TOO_LARGE = "too_large"
    QUOTA_EXCEEDED = "quota_exceeded"
    CONTENT_MISSING = "content_missing"
    CONTENDED = "contended"
    OVERLOADED = "overloaded"
    UNSUPPORTED = "unsupported"
    SUCCESSOR_LOST = "successor_lost"


@value
class Grant:
    """Permission to hold a copy (`fence` 0) or to write (`fence` is the token, `ttl_ms` its term)."""

    version: Version
    content: Content | None
    committed_ms: int
    level: Level
    cacheable: bool
    policy: Policy | None = None
    fence: int = 0
    ttl_ms: int = 0


@value
class Done:
    """A commit, delete, release, renewal or policy change took effect.

    `fence` is the token to go on with when a lease is kept; `version` the artifact's committed version now, and `level`
    what its reads and commits are; `committed_ms`: when that version was committed.
    """

    version: Version
    fence: int = 0
    ttl_ms: int = 0
    level: Level = Level.LAZY
    committed_ms: int = 0


@value
class KeyDone:
    """One of several artifacts that were committed together; `fence` and `committed_ms` as in Done."""

    key: str
    version: Version
    fence: int = 0
    committed_ms: int = 0


@value
class DoneMany:
    """Several artifacts were committed as one."""

    items: tuple[KeyDone, ...]


@value
class Pinned:
    """A cut was taken and is kept as the pin `pin`."""

    pin: str


@value
class KeyRefusal:
    """Why one of several artifacts is refused; fields as in Denial."""

    key: str
    reason: Reason
    message: str = ""
    current: Version | None = None
    holder: str = ""
    retry_after_ms: int = 0
    cause: Cause | None = None


@value
class Denial:
    """A typed refusal; fields that do not apply keep their defaults.

    `keys`, where the request was about several artifacts, are those that are refused.
    """

    reason: Reason
    message: str = ""
    current: Version | None = None
    holder: str = ""
    retry_after_ms: int = 0
    cause: Cause | None = None
    keys: tuple[KeyRefusal, ...] = ()


@value
class Waiting:
    """No answer yet: the request is queued or prepared, and its answer will be a stored result."""


Answer = Grant | Done | DoneMany | Pinned | Denial | Waiting
Stored = Grant | Done | DoneMany | Pinned | Denial
"""An answer that is kept under its request."""


@value
class Inv:
    """Copies older than `version` are obsolete; `fence` names the round. Watchers take it as the change event.

    `lease` names the write lease that it was committed under, "" for a compare-and-set without one. `waits` is the
    wait-set of a prepared commit, and at `until_ms`, store time, all their copies are dead. `push` says whether content
    follows by itself, and `base` then names the content that was replaced, so that a patch will do.
    """

    version: Version
    fence: int
    content: Content | None  # None: deleted
    session: str  # the committer
    prepared: bool = False  # strict: this version is not published yet
    lease: str = ""
    waits: tuple[str, ...] = ()
    until_ms: int = 0
    push: Push | None = None
    base: str = ""


@value
class Shared:
    """A session joined the sharers at version number `n`."""

    session: str
    n: int


@value
class Granted:
    """The write lease went to `session`. `request` is the waiting request that this answers, or 0.

    Where it was handed over, `by` is who held it, `agent` whom of the session they meant, and `ttl_ms` how long the
    lease is reserved, if it is.
    """

    session: str
    lease: str
    fence: int
    request: int = 0
    by: str = ""
    agent: str = ""
    ttl_ms: int = 0


@value
class Ended:
    """The write lease of `session` ended."""

    session: str
    lease: str
    fence: int
    cause: Cause


@value
class Refused:
    """A waiting request was refused; its answer is stored, unless its session is over."""

    session: str
    request: int


@value
class Published:
    """A prepared version is the committed one now; `request` is answered. Watchers take it as the change.

    `push` and `base` as in Inv.
    """

    version: Version
    content: Content | None
    session: str
    request: int
    push: Push | None = None
    base: str = ""


@value
class Dropped:
    """Sessions left the sharer set."""

    sessions: tuple[str, ...]


@value
class PolicySet:
    """Another policy holds for the artifact from now on; None: the default. `inherited`: it is a prefix's."""

    policy: Policy | None
    inherited: bool = False


LogEvent = Inv | Shared | Granted | Ended | Refused | Published | Dropped | PolicySet


@value
class Result:
    """The stored answer of an effectful request."""

    session: str
    request: int
    digest: str
    answer: Stored


@value
class Guards:
    """What must still hold at the commit, beside the entry's `rev` and the slice's incarnation."""

    live: tuple[str, ...] = ()  # sessions whose record must be live
    before_ms: int = 0  # the store's clock must be below this; 0: no such guard
    floor: int | None = None  # the slice's version floor must equal this (creation)
    content: str = ""  # this content must be stored; the commit adds a reference to it
    calm: bool = False  # the slice's quarantine must still be the one that was judged on
    policies: bool = False  # the workspace's policies of prefixes must still be those that were judged on


@value
class Decision:
    """`entry` None drops the record and raises the slice floor to `floor`; an unchanged entry is compare-only.

    `answer` None: nobody asked (deadlines, acks, ended sessions). `moved`: sessions whose place among the sharers may
    be another one than before; of all others it is the same, so that nobody has to compare the sets, however large.
    """

    entry: Entry | None
    answer: Answer | None = None
    log: tuple[LogEvent, ...] = ()
    results: tuple[Result, ...] = ()
    guards: Guards = field(default_factory=Guards)
    floor: int = 0
    moved: tuple[str, ...] = ()
