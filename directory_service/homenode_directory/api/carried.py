"""A session on a stream, and where delivery pushes its events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api.calls import Caller
from homenode_directory.api.outbox import Outbox
from homenode_directory.place import Position
from homenode_directory.sinks import (
    Bookmark,
    Change,
    Crowded,
    DeliveryEvent,
    Invalidation,
    LeaseOffered,
    Pushed,
    Resync,
    SessionOver,
)

EARLY_MAX = 4_096


class SessionSink:
    """Puts a session's events into its stream's outbox; see `sinks.Sink`.

    What comes while the session is being attached waits for the answer to that, so that the client knows where the
    events go on from before it gets them.
    """

    def __init__(
        self, outbox: Outbox, number: int, over: Callable[[int], None], name_of: Callable[[str], str] = lambda _: ""
    ) -> None:
        self._name_of = name_of
        self._outbox = outbox
        self._over = over
        self._early: list[DeliveryEvent] | None = []
        self.number = number
        self.position = Position(0, 0)

    def push(self, item: DeliveryEvent) -> None:
        """Queue an event."""
        if (
            type(item) is not Invalidation or self._early is not None
        ):  # nearly all of them are, and many sessions get it
            self._push_other(item)
            return
        if item.sequence > self.position.sequence:
            self.position = Position(self.position.incarnation, item.sequence)
        self._outbox.event(self.number, item, self.position)

    def _push_other(self, item: DeliveryEvent) -> None:
        if isinstance(item, Pushed):
            if self._early is None:
                self._outbox.event(self.number, item, self.position)
            return
        if self._early is not None:
            self._keep_early(self._early, item)
            return
        if isinstance(item, Crowded):
            self._outbox.close()  # the client comes back on another stream
            return
        if isinstance(item, Bookmark | Resync):
            self.position = item.position
        elif not isinstance(item, SessionOver) and item.sequence > self.position.sequence:
            self.position = Position(self.position.incarnation, item.sequence)
        if isinstance(item, Change | LeaseOffered):
            item = replace(item, by_name=self._name_of(item.by))
        self._outbox.event(self.number, item, self.position)
        if isinstance(item, SessionOver):
            self._over(self.number)

    def _keep_early(self, early: list[DeliveryEvent], item: DeliveryEvent) -> None:
        """Keep an event until `begin`: EARLY_MAX of them, then one RESYNC in their place."""
        if len(early) >= EARLY_MAX and not isinstance(item, SessionOver | Crowded):
            early.clear()
            at = item.position if isinstance(item, Bookmark | Resync) else None
            item = Resync("", at or Position(self.position.incarnation, item.sequence))  # type: ignore[union-attr]
        early.append(item)

    def begin(self) -> None:
        """The session is attached, and its client told."""
        early, self._early = self._early or [], None
        for item in early:
            self.push(item)


@dataclass(slots=True)
class Carried:
    """A session on a stream. `backlog` holds operations that came before the session was attached; then None."""

    caller: Caller
    sink: SessionSink
    backlog: list[pb.Operation] | None = field(default_factory=list)
    ping: tuple[int, int] | None = None  # (when it was sent, settled_below) of the last one that waits to be kept
    keeping_alive: bool = False
    watches: set[int] = field(default_factory=set)
