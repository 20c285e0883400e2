"""What delivery hands to the sessions on this server's streams, and where it hands it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from homenode_directory.place import Position
from homenode_directory.protocol.effects import Denial
from homenode_directory.protocol.model import Cause, Version


@dataclass(slots=True)
class Invalidation:
    """Copies of `key` below `version` are obsolete; `prepared`: that version is not published yet. `trace` is the trace
    context of the commit, where that is recorded.

    One object goes to many sessions; only `body` is ever set.
    """

    key: str
    version: Version
    fence: int
    sequence: int
    by: str
    deleted: bool
    prepared: bool = False
    trace: str = ""
    body: bytes = b""  # its encoded form, once somebody has made it


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """Copies of `key` were given under a policy that holds no more. One object goes to many sessions."""

    key: str
    sequence: int


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The session's write lease ended without its doing."""

    session: str
    key: str
    lease: str
    cause: Cause
    sequence: int


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything up to `position` has been sent; it was the head after the ping `echo` had arrived.

    `lease_ms`: how long after that ping was sent strict copies may be served; 0: the session was not renewed.
    """

    session: str
    position: Position
    echo: int
    lease_ms: int = 0


@dataclass(frozen=True, slots=True)
class Resync:
    """Events were lost: drop everything held, go on from `position`."""

    session: str
    position: Position


@dataclass(frozen=True, slots=True)
class Change:
    """A change under a watched prefix."""

    session: str
    watch: int
    key: str
    version: Version
    deleted: bool
    by: str
    sequence: int
    size: int
    by_name: str = ""


@dataclass(frozen=True, slots=True)
class Pushed:
    """Content that nobody asked for: a `Pushed` message, encoded. The session is among the sharers."""

    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class LeaseOffered:
    """The session `by` has handed its write lease to this one, which may acquire it for so long."""

    session: str
    key: str
    by: str
    agent: str
    ttl_ms: int
    sequence: int
    by_name: str = ""


@dataclass(frozen=True, slots=True)
class SessionOver:
    """The session is over."""

    session: str
    denial: Denial


@dataclass(frozen=True, slots=True)
class Crowded:
    """The session may hold more copies than are kept track of: its client must attach anew, and say which it holds."""

    session: str


DeliveryEvent = (
    Invalidation
    | PolicyChanged
    | LeaseLost
    | Bookmark
    | Resync
    | Change
    | Pushed
    | LeaseOffered
    | SessionOver
    | Crowded
)


class Sink(Protocol):
    """Where a session's events go. It bounds itself: when it overflows it leaves one Resync in their place."""

    def push(self, item: DeliveryEvent) -> None:
        """Take an event; never blocks, never raises."""
