"""Which stream or watch call carries which session. A session's events have one way out at a time: the newest."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from homenode_directory.content.bounds import KeyLocks
from homenode_directory.observer import Observer


class Owner(Protocol):
    """Something that carries sessions."""

    def evict(self, session: str) -> None:
        """The session is carried by somebody else from now on."""

    def load(self) -> tuple[int, int, float]:
        """How many events and answers wait to be sent, how many operations are under way, and for how many seconds
        events have waited."""

    def drain(self, within_ms: int) -> None:
        """Tell the client to go; the server stops within that time."""


class Hub:
    """Every open stream and watch call of this server."""

    def __init__(self, observer: Observer, streams_max: int = 4_096) -> None:
        self._observer = observer
        self._streams_max = streams_max
        self._open: set[Owner] = set()
        self._owners: dict[str, Owner] = {}
        self._moving = KeyLocks()
        self.draining = False

    @property
    def full(self) -> bool:
        """Whether no further stream is taken."""
        return len(self._open) >= self._streams_max

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, owner: Owner) -> None:
        """A stream or watch call opens."""
        self._open.add(owner)
        self._observer.gauge("streams", len(self._open))

    def leave(self, owner: Owner) -> None:
        """It is over."""
        self._open.discard(owner)
        self._observer.gauge("streams", len(self._open))

    def owner(self, session: str) -> Owner | None:
        """Who carries the session."""
        return self._owners.get(session)

    def moving(self, session: str) -> AbstractAsyncContextManager[None]:
        """Held while a session's events are moved to another way out, so that the last one to claim it wins."""
        return self._moving.hold(session)

    def claim(self, session: str, owner: Owner) -> None:
        """`owner` carries the session from now on; a former one is told."""
        former = self._owners.get(session)
        self._owners[session] = owner
        if former is not None and former is not owner:
            former.evict(session)

    def release(self, session: str, owner: Owner) -> bool:
        """`owner` carries the session no more. False if somebody else does already."""
        if self._owners.get(session) is not owner:
            return False
        del self._owners[session]
        return True

    def measure(self) -> None:
        """Tell the observer what waits in all streams together."""
        loads = [owner.load() for owner in self._open]
        self._observer.gauge("queued_events", sum(queued for queued, _, _ in loads))
        self._observer.gauge("in_flight", sum(under_way for _, under_way, _ in loads))
        self._observer.gauge("stream_lag_seconds", max((waited for _, _, waited in loads), default=0.0))

    async def drain(self, within_ms: int) -> None:
        """Tell all clients to go, each when it likes. Returns when all have gone or the time is over."""
        self.draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_ms / 1_000
        for owner in list(self._open):
            owner.drain(within_ms)
        while self._open and loop.time() < deadline:
            await asyncio.sleep(0.02)
