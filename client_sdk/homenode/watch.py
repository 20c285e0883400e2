"""Changes under a prefix, as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from homenode.errors import HomenodeError
from homenode.values import name
from homenode.versions import Position, Version

if TYPE_CHECKING:
    from homenode.core import Core

QUEUE_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Event:
    """What a watch tells.

    Attributes:
        kind: "change": a version was committed; "delete": the artifact was deleted in `version`; "resync": changes may
            have been missed, list again; "handoff": the session `by` has handed its write lease to this session, where
            `agent` is meant, and who acquires it here now gets it.
        key, version, by, by_name, size: of which artifact, which version, by which session and what it is called, how
            many bytes.
    """

    kind: Literal["change", "delete", "handoff", "resync"]
    key: str = ""
    version: Version | None = None
    by: str = ""
    size: int = 0
    agent: str = ""
    by_name: str = ""


RESYNC = Event("resync")


class Feed:
    """The queue of one watch. Bounded: a reader that falls behind gets one resync in place of what it missed."""

    def __init__(self, prefix: str, queue_max: int = QUEUE_MAX) -> None:
        self.prefix = prefix
        self.watch_id = 0
        self.seen = Position(0, 0)
        self._queue: deque[Event] = deque()
        self._queue_max = queue_max
        self._wake = asyncio.Event()
        self._failure: HomenodeError | None = None
        self._closed = False

    def push(self, event: Event, position: Position) -> None:
        """Something changed at `position`; what was told already is not told again."""
        if position <= self.seen:
            return
        self.seen = position
        if len(self._queue) >= self._queue_max:
            self._queue.clear()
            event = RESYNC
        self._queue.append(event)
        self._wake.set()

    def resync(self, position: Position) -> None:
        """Changes up to `position` may have been missed."""
        self.seen = position
        self._queue.clear()
        self._queue.append(RESYNC)
        self._wake.set()

    def fail(self, failure: HomenodeError) -> None:
        """The watch is over."""
        self._failure = failure
        self._wake.set()

    def close(self) -> None:
        """Nobody reads any more, or the session is closed: the iteration ends."""
        self._closed = True
        self._wake.set()

    async def next(self) -> Event | None:
        """The next event; None when the watch is closed. Raises what ended the watch."""
        while True:
            if self._queue:
                return self._queue.popleft()
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return None
            self._wake.clear()
            await self._wake.wait()


class Watch:
    """See `Homenode.watch`."""

    _started = False

    def __init__(self, core: Core, prefix: str) -> None:
        self._core = core
        self._feed = Feed(name(prefix))

    async def __aenter__(self) -> Self:
        if not self._started:
            self._started = True
            await self._core.session.watch(self._feed)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the watch."""
        self._core.session.unwatch(self._feed)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await self.__aenter__()
        event = await self._feed.next()
        if event is None:
            raise StopAsyncIteration
        return event

    def __del__(self) -> None:
        if not self._started:
            return
        session = self._core.session
        if self._feed.watch_id in session.watches:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and the session with it
                session.loop.call_soon_threadsafe(session.unwatch, self._feed)
