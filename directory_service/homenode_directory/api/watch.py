"""Watch as a server stream: the changes under one prefix, for clients without a Session stream."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import frames, validate, wire
from homenode_directory.api.errors import Rejected, rejected
from homenode_directory.api.parts import Parts
from homenode_directory.place import Position
from homenode_directory.sinks import Bookmark, Change, DeliveryEvent, Resync, SessionOver

WATCH_ID = 1


class Watch:
    """One Watch call. It carries its session like a stream does, with nothing held and one watch."""

    def __init__(self, parts: Parts, m: pb.WatchRequest) -> None:
        self._parts = parts
        self._session = m.session_id
        self._place = validate.session(parts.tenant, m.session_id)
        self._prefix = validate.prefix(m.prefix)
        self._after = wire.position_in(m.after, "after") if m.HasField("after") else None
        self._events: deque[Change | Resync] = deque()
        self._position = Position(0, 0)
        self._end: Rejected | None = None
        self._wake = asyncio.Event()
        self._behind_since = 0.0  # while changes wait

    def push(self, item: DeliveryEvent) -> None:
        """See `sinks.Sink`: at most as many changes wait as a stream's session may have."""
        if isinstance(item, SessionOver):
            self._stop(Rejected(wire.error(item.denial)))
        elif isinstance(item, Bookmark):
            self._position = item.position
        elif isinstance(item, Resync):
            self._position = item.position
            self._events.clear()
            self._events.append(item)
        elif isinstance(item, Change):
            if not self._events:
                self._behind_since = asyncio.get_running_loop().time()
            self._position = max(self._position, Position(self._position.incarnation, item.sequence))
            if len(self._events) >= self._parts.queues.session_events:
                self._events.clear()
                self._events.append(Resync(self._session, self._position))
                self._parts.observer.resync()
            else:
                self._events.append(item)
        self._wake.set()

    def _stop(self, end: Rejected) -> None:
        self._end = self._end or end
        self._wake.set()

    def load(self) -> tuple[int, int, float]:
        """See `hub.Owner`."""
        waited_s = asyncio.get_running_loop().time() - self._behind_since if self._events else 0.0
        return len(self._events), 0, waited_s

    def evict(self, session: str) -> None:
        """See `hub.Owner`."""
        self._stop(rejected(t.ERROR_REASON_UNAVAILABLE, "the session was attached to a stream; watch there"))

    def drain(self, within_ms: int) -> None:
        """See `hub.Owner`. The call can tell of nothing, so it ends, at a random moment of half the time."""
        over = rejected(t.ERROR_REASON_UNAVAILABLE, "the server is about to stop")
        asyncio.get_running_loop().call_later(random.random() * within_ms / 2_000, self._stop, over)

    async def responses(self) -> AsyncIterator[pb.WatchResponse]:
        """The call's answers; ends by raising Rejected."""
        parts = self._parts
        if parts.hub.owner(self._session) is not None:
            raise rejected(
                t.ERROR_REASON_UNSUPPORTED, "the session has a stream or another Watch call already; watch there"
            )
        parts.hub.enter(self)
        parts.hub.claim(self._session, self)
        try:
            wire.alive(await parts.liveness.keep_alive(self._place, self._session, 0))
            async with parts.hub.moving(self._session):
                attached = await parts.delivery.attach(self._place, self._session, self, {}, None)
            self._position = attached.position
            started = await parts.watch(self._session, WATCH_ID, self._prefix, self._after, self)
            yield pb.WatchResponse(started=pb.WatchAck(position=wire.position(started)))
            while True:
                while self._events:
                    yield self._response(self._events.popleft())
                if self._end is not None:
                    raise self._end
                self._wake.clear()
                await self._wake.wait()
        finally:
            if parts.hub.release(self._session, self):
                parts.delivery.detach(self._session)
            parts.hub.leave(self)

    def _response(self, event: Change | Resync) -> pb.WatchResponse:
        if isinstance(event, Resync):
            return pb.WatchResponse(resync=pb.Resync(position=wire.position(event.position)))
        return pb.WatchResponse(change=frames.change(event))
