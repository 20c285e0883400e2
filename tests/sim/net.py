"""The network between an SDK and the directory: delays, drops, doubles, swaps, cuts, black holes.

A stream promises less here than gRPC does: frames may be lost, doubled or swapped without the stream's end. Both ends
must notice by the frames' numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from homenode.errors import DeadlineExceeded, HomenodeError, Unavailable
from homenode_api.v1 import directory_pb2 as pb
from tests.sim.faults import Faults
from tests.sim.server import SimServer

DELAY_S = (0.0002, 0.003)
LATE_S = (0.05, 2.5)
CALL_LATE_S = (0.02, 0.6)
BUFFERED_MAX = 4_096


class Pipe:
    """One direction of a stream: frames come out in order, except where a fault says otherwise."""

    def __init__(self, net: SimTransport, *, down: bool) -> None:
        self._faults = net.faults
        self._net = net
        self._down = down
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(BUFFERED_MAX)
        self._loop = asyncio.get_running_loop()
        self._last_at = 0.0
        self.cut = False

    def send(self, frame: bytes) -> None:
        """Put a frame on its way."""
        faults = self._faults
        net = self._net
        if self.cut or (net.deaf if self._down else net.mute) or faults.hit("frame_drop"):
            return
        sent_at = max(self._loop.time(), net.down_held_until_s if self._down else net.up_held_until_s)
        at = max(sent_at + net.lag_s + faults.rng.uniform(*DELAY_S), self._last_at)
        if faults.hit("frame_late"):
            at += faults.rng.uniform(*LATE_S)
        if faults.hit("frame_swap"):  # overtaken by what is sent in the next moments
            self._loop.call_at(at + 0.01, self._arrive, frame)
            return
        self._last_at = at
        self._loop.call_at(at, self._arrive, frame)
        if faults.hit("frame_double"):
            self._loop.call_at(at + faults.rng.uniform(*DELAY_S), self._arrive, frame)

    def _arrive(self, frame: bytes | None) -> None:
        if not self.cut and not self._queue.full():
            self._queue.put_nowait(frame)

    def finish(self) -> None:
        """Nothing more will be sent."""
        self._loop.call_at(max(self._loop.time(), self._last_at), self._arrive, None)

    def close(self) -> None:
        """Broken: whoever reads finds the end."""
        self.cut = True
        while self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def receive(self) -> bytes | None:
        """The next frame; None at the end."""
        return await self._queue.get()


class SimStream:
    """The client's end of a stream."""

    def __init__(self, net: SimTransport) -> None:
        self._faults = net.faults
        self._up = Pipe(net, down=False)
        self._down = Pipe(net, down=True)
        self._connected = net.server.serve(self._up, self._down)

    async def write(self, frame: pb.SessionRequest) -> None:
        """See `homenode.transport.Stream`."""
        if self._faults.hit("stream_cut"):
            self.cancel()
        if self._up.cut:
            raise Unavailable("the stream is broken")
        self._up.send(frame.SerializeToString())
        await asyncio.sleep(0)

    async def read(self) -> pb.SessionResponse | None:
        """See `homenode.transport.Stream`."""
        if not self._connected:
            await asyncio.sleep(0.01)
            raise Unavailable("nobody listens")
        frame = await self._down.receive()
        if frame is None:
            raise Unavailable("the stream is broken")
        return pb.SessionResponse.FromString(frame)

    def cancel(self) -> None:
        """See `homenode.transport.Stream`."""
        self._up.close()
        self._down.close()


class SimTransport:
    """`homenode.transport.Transport` over the simulated network.

    Attributes:
        mute, deaf: what this end sends on streams, and what it is sent, is swallowed; unary calls still work.
        lag_s: added to everything that travels on streams; up_held_until_s, down_held_until_s: nothing arrives before.
    """

    hosts = 1

    def __init__(self, server: Callable[[], SimServer], faults: Faults) -> None:
        self._server = server
        self.faults = faults
        self.dead = False
        self.heal()

    def heal(self) -> None:
        """Streams work again."""
        self.mute = self.deaf = False
        self.lag_s = self.up_held_until_s = self.down_held_until_s = 0.0

    @property
    def server(self) -> SimServer:
        """Whoever listens at the address now."""
        return self._server()

    def session(self) -> SimStream:
        """See `homenode.transport.Transport`."""
        return SimStream(self)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """See `homenode.transport.Transport`."""
        return await self._within(self._call(method, request), timeout_s)

    async def _call(self, method: str, request: Any) -> Any:
        await self._travel("call_lost")
        copy = type(request).FromString(request.SerializeToString())
        answer = await self.server.call(method, copy)
        if self.faults.hit("call_double"):
            again = type(request).FromString(request.SerializeToString())
            answer = await self.server.call(method, again)
        await self._travel("reply_lost")
        return type(answer).FromString(answer.SerializeToString())

    async def read_content(
        self, request: pb.ReadContentRequest, timeout_s: float
    ) -> AsyncIterator[pb.ReadContentResponse]:
        """See `homenode.transport.Transport`."""
        await self._within(self._travel("call_lost"), timeout_s)
        async for chunk in self.server.read_content(request):
            await self._within(self._travel("reply_lost"), timeout_s)
            yield chunk

    async def write_content(
        self, requests: AsyncIterator[pb.WriteContentRequest], timeout_s: float
    ) -> pb.WriteContentResponse:
        """See `homenode.transport.Transport`."""

        async def call() -> pb.WriteContentResponse:
            await self._travel("call_lost")
            answer = await self.server.write_content(requests)
            await self._travel("reply_lost")
            return answer

        return await self._within(call(), timeout_s)

    async def die(self) -> None:
        """The process of this transport is gone."""
        self.mute = self.deaf = self.dead = True

    async def next_server(self) -> None:
        """See `homenode.transport.Transport`."""

    async def close(self) -> None:
        """See `homenode.transport.Transport`."""

    async def _travel(self, fault: str) -> None:
        await asyncio.sleep(self.faults.rng.uniform(*(CALL_LATE_S if self.faults.hit("call_late") else DELAY_S)))
        if self.dead or self.faults.hit(fault):
            await asyncio.sleep(3_600)  # lost: the caller's deadline ends it

    @staticmethod
    async def _within(call: Any, timeout_s: float) -> Any:
        try:
            return await asyncio.wait_for(call, timeout_s)
        except TimeoutError:
            raise DeadlineExceeded("no answer in time") from None
        except HomenodeError:
            raise
