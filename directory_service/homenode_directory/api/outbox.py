"""The outgoing queue of one stream: answers and events in order, bounded.

Answers are bounded by the stream's limit of operations in flight: an operation counts until its answer has left.
Events are bounded per session and per stream. A session that goes over has its queued events replaced by one RESYNC,
which tells the client to drop what it holds; its answers, and the other sessions, are not touched.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from homenode_directory.api import frames
from homenode_directory.observer import Observer
from homenode_directory.place import Position
from homenode_directory.sinks import DeliveryEvent, Pushed, SessionOver
from homenode_directory.sinks import Resync as ResyncEvent

FRAME_ITEMS_MAX = 512
FRAME_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How much may wait for a consumer that does not read."""

    session_events: int = 1024
    session_bytes: int = 1024 * 1024
    stream_events: int = 16 * 1024
    stream_bytes: int = 16 * 1024 * 1024
    answer_bytes: int = 4 * 1024 * 1024


@dataclass(slots=True)
class _Load:
    events: int = 0
    bytes: int = 0
    last: Position = Position(0, 0)


_ANSWER = 0  # kinds of queued pieces
_EVENT = 1
_RESYNC = 2  # stands for discarded events; the next one takes its place
_NOTICE = 3  # never discarded: the end of a session, the stream's own


class Outbox:
    """A queue with one consumer: `next_frame`, or `next_now` whenever it is `ready`. Lives in one event loop."""

    def __init__(self, bounds: QueueBounds, observer: Observer, ready: Callable[[], None] | None = None) -> None:
        self._bounds = bounds
        self._observer = observer
        self._queue: deque[tuple[int, int, bytes]] = deque()  # (session number, kind, piece)
        self._loads: dict[int, _Load] = {}
        self._total = _Load()
        self._wake = asyncio.Event()
        self._ready = ready or self._wake.set
        self._closed = False
        self._frames = 0
        self._room = asyncio.Event()
        self.answers = 0
        self._answer_bytes = 0
        self._clock = asyncio.get_running_loop().time
        self._behind_since = 0.0  # while events wait

    @property
    def behind_s(self) -> float:
        """For how long there have been events that wait; the oldest waits no longer than this."""
        return self._clock() - self._behind_since if self._total.events else 0.0

    def __len__(self) -> int:
        return len(self._queue)

    def answer(self, number: int, piece: bytes) -> None:
        """Queue an answer."""
        if not self._closed:
            self._queue.append((number, _ANSWER, piece))
            self.answers += 1
            self._answer_bytes += len(piece)
            self._ready()

    def notice(self, piece: bytes) -> None:
        """Queue something about the stream itself."""
        if not self._closed:
            self._queue.append((0, _NOTICE, piece))
            self._ready()

    def event(self, number: int, event: DeliveryEvent, place: Position) -> None:
        """Queue an event of a session; `place` is where the log stands with it. Never blocks, never raises."""
        if self._closed:
            return
        load = self._loads.get(number)
        if load is None:
            load = self._loads[number] = _Load()
        if place > load.last:
            load.last = place
        piece = frames.event(number, event)
        kind: type = type(event)
        if kind is Pushed and not self._has_room(load, len(piece)):
            return  # what nobody asked for must not cost anybody his place in the log
        if kind is ResyncEvent:
            self._discard({number})
            self._queue.append((number, _RESYNC, piece))
        elif kind is SessionOver:
            self._queue.append((number, _NOTICE, piece))
        else:
            self._queue.append((number, _EVENT, piece))
            self._count(number, load, len(piece))
        self._ready()

    def _has_room(self, load: _Load, size: int) -> bool:
        """Whether a piece fits into the first half of the queues."""
        bounds = self._bounds
        mine = load.bytes + size <= bounds.session_bytes // 2 and load.events < bounds.session_events // 2
        return mine and self._total.bytes + size <= bounds.stream_bytes // 2

    def _count(self, number: int, load: _Load, size: int) -> None:
        """One more event waits; what is over its bounds is replaced."""
        bounds, total = self._bounds, self._total
        if not total.events:
            self._behind_since = self._clock()
        load.events += 1
        load.bytes += size
        total.events += 1
        total.bytes += size
        if load.events > bounds.session_events or load.bytes > bounds.session_bytes:
            self._resync({number})
        elif total.events > bounds.stream_events or total.bytes > bounds.stream_bytes:
            self._resync({n for n, one in self._loads.items() if one.events})

    def _resync(self, numbers: set[int]) -> None:
        self._discard(numbers)
        for number in sorted(numbers):
            event = ResyncEvent("", self._loads[number].last)
            self._queue.append((number, _RESYNC, frames.event(number, event)))
            self._observer.resync()

    def _discard(self, numbers: set[int]) -> None:
        """Drop queued events of these sessions, an earlier RESYNC among them."""
        stays = (_ANSWER, _NOTICE)
        self._queue = deque(piece for piece in self._queue if piece[1] in stays or piece[0] not in numbers)
        for number in numbers:
            load = self._loads[number]
            self._total.events -= load.events
            self._total.bytes -= load.bytes
            load.events = load.bytes = 0

    def forget(self, number: int) -> None:
        """A session has left the stream: nothing of its events is sent any more."""
        if number in self._loads:
            self._discard({number})
            del self._loads[number]

    def close(self) -> None:
        """Nothing more comes: `next_frame` gives what is queued, then None."""
        self._closed = True
        self._ready()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether so many bytes of answers wait that the client must take some before it asks for more."""
        return self._answer_bytes > self._bounds.answer_bytes

    def has_room(self, answers_max: int) -> bool:
        """Whether at most `answers_max` answers are queued, and they are not too large."""
        return self.answers <= answers_max and not self.full

    async def room(self, answers_max: int) -> None:
        """Wait until at most `answers_max` answers are queued and they are not too large, or the stream is closed."""
        while not (self.has_room(answers_max) or self._closed):
            self._room.clear()
            await self._room.wait()

    async def next_frame(self) -> bytes | None:
        """The next frame, at most 512 items and 1 MiB (or one larger item); None after `close`."""
        while not self._queue:
            if self._closed:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._take()

    def next_now(self) -> bytes | None:
        """The next frame; None where nothing is queued."""
        return self._take() if self._queue else None

    @property
    def ended(self) -> bool:
        """Whether nothing is queued, and nothing will be."""
        return self._closed and not self._queue

    def _take(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while self._queue and len(pieces) < FRAME_ITEMS_MAX:
            number, kind, piece = self._queue[0]
            if pieces and size + len(piece) > FRAME_BYTES_MAX:
                break
            self._queue.popleft()
            pieces.append(piece)
            size += len(piece)
            if kind == _ANSWER:
                self.answers -= 1
                self._answer_bytes -= len(piece)
            elif kind == _EVENT and (load := self._loads.get(number)) is not None:
                for one in (load, self._total):
                    one.events -= 1
                    one.bytes -= len(piece)
        self._room.set()
        self._frames += 1
        return frames.join(pieces, self._frames)
