"""One Session stream, shared by all sessions of this event loop that go to the same directory.

Operations of all sessions leave in frames, many a frame: everything that is queued in one tick of the event loop goes
together. The link keeps the stream up: it connects, notices silence, backs off and goes round the servers. What a
session must do when the stream comes or goes is the session's own affair (`Endpoint`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from homenode.clock import NS_PER_MS, Clock
from homenode.errors import HomenodeError, Unavailable
from homenode.places import Places
from homenode.transport import Stream, Transport
from homenode_api.v1 import directory_pb2 as pb

LOG = logging.getLogger("homenode")

T = TypeVar("T")

FRAME_OPERATIONS_MAX = 512
FRAME_BYTES_MAX = 1 << 20
_LARGE = ("attach", "ack", "commit", "commit_many", "snapshot", "gate")  # operations that may have many bytes
TICK_S = 0.25
#: So many sessions keep their times at once: the pings of thousands would leave no room on the stream.
TICK_SESSIONS = 64
BACKOFF_MS = (20, 2_000)
#: A stream on which nothing comes for this long is given up, in intervals between bookmarks.
SILENT_INTERVALS = 5
SILENT_MS_MIN = 2_000
#: A server that is about to stop is left at a random moment of this part of the time that it gives.
LEAVE_PART = 0.75


class Endpoint(Protocol):
    """A session, as its link sees it. No method blocks."""

    number: int

    def connected(self) -> None:
        """A new stream is up; nothing of the former one will come."""

    def disconnected(self) -> None:
        """The stream is gone."""

    def item(self, item: pb.Item) -> None:
        """Something came for this session."""

    def tick(self, now_ns: int) -> None:
        """About four times a second."""


class Backoff:
    """Waits that double from BACKOFF_MS[0] to BACKOFF_MS[1], each between half and the whole of that."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ms = BACKOFF_MS[0]

    def reset(self) -> None:
        """Begin again with the shortest."""
        self._ms = BACKOFF_MS[0]

    def next_s(self) -> float:
        """The next wait in seconds."""
        ms, self._ms = self._ms, min(self._ms * 2, BACKOFF_MS[1])
        return ms * (0.5 + self._rng.random() / 2) / 1000


class Link:
    """See the module.

    Args:
        transport: the way to the directory; the link closes it.
        clock: nanoseconds; see `clock`.
        rng: for jitter.

    Attributes:
        in_flight_max: most operations under way, of all sessions; bookmark_ms: how often each session pings.
        places: one for each operation under way.
        queueing: places for those that wait until somebody else is done. They take at most half of the room, so that
            whoever they wait for has some.
        heard: whether anything has come on the current stream.
        users: connections that share it; the last one closes it.
    """

    def __init__(self, transport: Transport, *, clock: Clock, rng: random.Random) -> None:
        self.transport = transport
        self.clock = clock
        self.rng = rng
        self.in_flight_max = FRAME_OPERATIONS_MAX
        self.bookmark_ms = 1_000
        self._endpoints: dict[int, Endpoint] = {}
        self._number = 0
        self._out: deque[pb.Operation] = deque()
        self._wake = asyncio.Event()
        self._stream: Stream | None = None
        self._heard_ns = 0
        self.heard = False
        self._sent = 0  # frames on the current stream
        self._backoff = Backoff(rng)
        self._leaving: asyncio.TimerHandle | None = None
        self.places = Places(lambda: self.in_flight_max)
        self.queueing = Places(lambda: self.in_flight_max // 2)
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = False
        self.users = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect; again calls do nothing."""
        if not self._tasks and not self.closed:
            self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._ticks())]

    async def close(self) -> None:
        """End the stream and the transport. Sessions must be gone."""
        if self.closed:
            return
        self.closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(HomenodeError):
            await self.transport.close()

    @property
    def connected(self) -> bool:
        """Whether a stream is open; it may still fail."""
        return self._stream is not None

    @property
    def empty(self) -> bool:
        """Whether no session uses this link."""
        return not self._endpoints

    # --- sessions -----------------------------------------------------------------------------------------------------

    def add(self, endpoint: Endpoint) -> None:
        """Give the session a number that the stream has not seen, and tell it if the stream is up."""
        self.remove(endpoint)
        self._number += 1
        endpoint.number = self._number
        self._endpoints[self._number] = endpoint
        if self._stream is not None:
            endpoint.connected()

    def remove(self, endpoint: Endpoint) -> None:
        """Forget the session; what still comes for it is dropped."""
        if self._endpoints.pop(endpoint.number, None) is not None and self._stream is not None:
            self.send(pb.Operation(session=endpoint.number, detach=pb.Detach()))

    def send(self, operation: pb.Operation) -> None:
        """Queue an operation for the current stream. Without one it is dropped: sessions send again when it comes."""
        if self._stream is not None:
            if not self._out:
                self._wake.set()
            self._out.append(operation)

    def restart(self) -> None:
        """Give up the current stream and connect again."""
        if self._stream is not None:
            self._stream.cancel()

    async def again(self, call: Callable[[float], Awaitable[T]], timeout_s: float) -> T:
        """The outcome of a call beside the stream that may be made twice, while servers come and go.

        `call` gets the seconds that are left. Raises HomenodeError.
        """
        ends_ns, backoff = self.clock() + int(timeout_s * 1e9), Backoff(self.rng)
        while True:
            try:
                return await call((ends_ns - self.clock()) / 1e9)
            except Unavailable:
                pause_s = backoff.next_s()
                if self.closed or self.clock() + pause_s * 1e9 >= ends_ns:
                    raise
                await asyncio.sleep(pause_s)

    # --- the stream ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._serve(self.transport.session())
            except HomenodeError as failure:
                LOG.debug("session stream ended: %s", failure)
            except Exception:
                LOG.exception("session stream failed; connecting again")
            try:
                await self.transport.next_server()
            except Exception:
                LOG.exception("no change to the next server")
            await asyncio.sleep(self._backoff.next_s())

    async def _serve(self, stream: Stream) -> None:
        self._stream = stream
        self._heard_ns = self.clock()
        self.heard = False
        self._out.clear()
        self._sent = 0
        writer = asyncio.create_task(self._write(stream))
        try:
            for endpoint in list(self._endpoints.values()):
                endpoint.connected()
            await self._read(stream)
        finally:
            self._stream = None
            if self._leaving is not None:
                self._leaving.cancel()
                self._leaving = None
            stream.cancel()
            writer.cancel()
            self._out.clear()
            for endpoint in list(self._endpoints.values()):
                endpoint.disconnected()
            await asyncio.gather(writer, return_exceptions=True)

    async def _read(self, stream: Stream) -> None:
        received = 0
        while True:
            frame = await stream.read()
            if frame is None:
                raise Unavailable("the server has ended the stream")
            received += 1
            if frame.number not in (0, received):
                raise Unavailable("a frame of the session stream is missing")
            self._heard_ns = self.clock()
            self.heard = True
            self._backoff.reset()
            endpoints = self._endpoints
            for item in frame.items:
                endpoint = endpoints.get(item.session)
                if endpoint is not None:
                    endpoint.item(item)
                elif item.HasField("draining") and self.transport.hosts > 1:
                    self._leave_within(item.draining.within_ms)

    def _leave_within(self, within_ms: int) -> None:
        """Go to another server before the time is over, and not when all others do; until then go on as before."""
        if self._leaving is None:
            delay_s = self.rng.random() * LEAVE_PART * within_ms / 1_000
            self._leaving = asyncio.get_running_loop().call_later(delay_s, self._leave)

    def _leave(self) -> None:
        LOG.debug("the server is about to stop; going to another one")
        self.restart()

    async def _write(self, stream: Stream) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._out:
                    await stream.write(self._frame())
        except HomenodeError as failure:
            LOG.debug("session stream broke: %s", failure)
            stream.cancel()  # the reader sees it and starts over
        except Exception:
            LOG.exception("session stream cannot be written to")
            stream.cancel()

    def _frame(self) -> pb.SessionRequest:
        self._sent += 1
        operations: list[pb.Operation] = []
        out, size = self._out, 0
        while out and len(operations) < FRAME_OPERATIONS_MAX and size < FRAME_BYTES_MAX:
            operation = out.popleft()
            if operation.WhichOneof("what") in _LARGE:
                size += operation.ByteSize()
            operations.append(operation)
        return pb.SessionRequest(operations=operations, number=self._sent)

    def _tick(self, endpoint: Endpoint, now_ns: int) -> None:
        try:
            if self._endpoints.get(endpoint.number) is endpoint:
                endpoint.tick(now_ns)
        except Exception:
            LOG.exception("a session failed to keep its times")

    async def _ticks(self) -> None:
        while True:
            endpoints = list(self._endpoints.values())
            parts = range(0, max(1, len(endpoints)), TICK_SESSIONS)
            for start in parts:
                await asyncio.sleep(TICK_S / len(parts))
                now_ns = self.clock()
                for endpoint in endpoints[start : start + TICK_SESSIONS]:
                    self._tick(endpoint, now_ns)
            silent_ms = max(SILENT_MS_MIN, SILENT_INTERVALS * self.bookmark_ms)
            if self._stream is not None and self._endpoints and now_ns - self._heard_ns > silent_ms * NS_PER_MS:
                LOG.debug("session stream is silent; connecting again")
                self._heard_ns = now_ns
                self.restart()
