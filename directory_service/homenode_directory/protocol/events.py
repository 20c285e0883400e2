"""What can happen to an entry. Names are the spec's action names (`tla/Directory.tla`)."""

from __future__ import annotations

from enum import StrEnum

from homenode_directory.protocol.model import Cause, Content, Policy, Version
from homenode_directory.protocol.values import value


class Base(StrEnum):
    """Bases of a compare-and-set that are not versions."""

    ABSENT = "absent"  # the artifact must not exist
    ANY = "any"  # overwrite whatever is there


@value
class GetS:
    """A read miss: content of the last committed version, and a place among the sharers when `share`.

    `strict`: the answer must be linearizable, whatever the artifact's policy.
    """

    session: str
    share: bool = True
    strict: bool = False


@value
class GetM:
    """Ask for the write lease. `lease` is the client's id for it; `wait_ms` 0 means: do not queue."""

    session: str
    lease: str
    ttl_ms: int
    wait_ms: int = 0
    create: bool = False


@value
class Commit:
    """Publish content. With `lease` and `fence`: under the write lease; else compare-and-set on `base`.

    `base` is checked on both paths. `keep` keeps the lease. A delete is a commit without content.
    """

    session: str
    content: Content | None
    base: Version | Base
    lease: str = ""
    fence: int = 0
    keep: bool = False


@value
class Put:
    """Give up the write lease `lease`, or, when it is empty, the shared copy."""

    session: str
    lease: str = ""


@value
class InvAck:
    """Sessions have dropped every copy older than version number `n`, which round `fence` announced."""

    sessions: tuple[str, ...]
    n: int
    fence: int


@value
class Renew:
    """Extend the write lease."""

    session: str
    lease: str
    ttl_ms: int


@value
class Expire:
    """Deadlines may have passed: the holder's, waiters', a pending commit's wait-set, a tombstone's."""


@value
class EndSession:
    """A session is over: its lease, its places in the queue and its copies go."""

    session: str
    cause: Cause = Cause.SESSION_LOST


@value
class SetPolicy:
    """Set or clear (None) the artifact's own policy."""

    session: str
    policy: Policy | None


@value
class Inherit:
    """This is the policy of the longest prefix which has one. Nobody's request: the directory goes through artifacts
    when a prefix's policy has changed."""

    policy: Policy | None


@value
class Handoff:
    """The holder gives its write lease to the session `to`, past the queue.

    Where that session waits for it, its wait is over; else the lease is reserved for `ttl_ms`, and the session's next
    GetM gets it. `agent` says to people which agent of the session is meant.
    """

    session: str
    lease: str
    fence: int
    to: str
    ttl_ms: int
    agent: str = ""


Event = GetS | GetM | Commit | Put | InvAck | Renew | Expire | EndSession | SetPolicy | Inherit | Handoff
