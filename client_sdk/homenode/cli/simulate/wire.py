"""The way between an agent and the directory: answers at once, what is told unasked at the beginning of the next step.

What is told (invalidations, pushed contents, bookmarks) arrives as one frame for each step, and may be lost. Then a
number is missing among the frames, which the session notices by the next one, as it does on a real stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from homenode.errors import HomenodeError
from homenode.transport import Incoming, Outgoing, Stream, Transport
from homenode_api.v1 import directory_pb2 as pb

_FRAMES_MAX = 65_536


class SteppedTransport:
    """`homenode.transport.Transport`, by way of another one.

    Attributes:
        holding: whether what is told waits for `deliver`; before a run begins it does not.
        session_id: the agent's session.
        signals: invalidations of others' commits that the directory sent it, lost ones too.
        echo_us: the newest ping, by its send time, whose bookmark has come, though it may be waiting for `deliver`.
    """

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.holding = False
        self.session_id = ""
        self.signals = 0
        self.echo_us = 0
        self._stream: SteppedStream | None = None

    @property
    def hosts(self) -> int:
        """See `transport.Transport`."""
        return self._inner.hosts

    def session(self) -> SteppedStream:
        """See `transport.Transport`."""
        self._stream = SteppedStream(self._inner.session(), self)  # the one before is over
        return self._stream

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """See `transport.Transport`."""
        return await self._inner.call(method, request, timeout_s)

    def read_content(self, request: pb.ReadContentRequest, timeout_s: float) -> AsyncGenerator[Incoming, None]:
        """See `transport.Transport`."""
        return self._inner.read_content(request, timeout_s)

    async def write_content(self, requests: AsyncIterator[Outgoing], timeout_s: float) -> pb.WriteContentResponse:
        """See `transport.Transport`."""
        return await self._inner.write_content(requests, timeout_s)

    async def next_server(self) -> None:
        """See `transport.Transport`."""
        await self._inner.next_server()

    async def close(self) -> None:
        """See `transport.Transport`."""
        await self._inner.close()

    def deliver(self, *, lost: bool) -> None:
        """A step begins: what was told since the last one arrives, or gets lost."""
        if self._stream is not None:
            self._stream.deliver(lost=lost)


class SteppedStream:
    """See the module."""

    def __init__(self, inner: Stream, transport: SteppedTransport) -> None:
        self._inner = inner
        self._transport = transport
        self._told: list[pb.Item] = []
        self._number = 0
        self._arrived: asyncio.Queue[pb.SessionResponse | HomenodeError | None] = asyncio.Queue(_FRAMES_MAX)
        self._pump = asyncio.ensure_future(self._take())

    async def write(self, frame: pb.SessionRequest) -> None:
        """See `transport.Stream`."""
        await self._inner.write(frame)

    async def read(self) -> pb.SessionResponse | None:
        """See `transport.Stream`."""
        arrived = await self._arrived.get()
        if isinstance(arrived, HomenodeError):
            raise arrived
        return arrived

    def cancel(self) -> None:
        """See `transport.Stream`."""
        self._inner.cancel()
        self._pump.cancel()
        self._arrived.put_nowait(None)

    def deliver(self, *, lost: bool) -> None:
        """See `SteppedTransport`."""
        if self._told:
            self._number += 1
            if not lost:
                self._arrived.put_nowait(pb.SessionResponse(items=self._told, number=self._number))
            self._told = []

    async def _take(self) -> None:
        try:
            while (frame := await self._inner.read()) is not None:
                self._sort(frame)
            self._arrived.put_nowait(None)
        except HomenodeError as failure:
            self._arrived.put_nowait(failure)

    def _sort(self, frame: pb.SessionResponse) -> None:
        at_once = []
        transport = self._transport
        for item in frame.items:
            what = item.WhichOneof("what")
            if what == "invalidation":
                transport.signals += item.invalidation.by != transport.session_id
            elif what == "bookmark":
                transport.echo_us = item.bookmark.echo
            if transport.holding and what != "answer":
                self._told.append(item)
            else:
                at_once.append(item)
        if at_once:
            self._number += 1
            self._arrived.put_nowait(pb.SessionResponse(items=at_once, number=self._number))
