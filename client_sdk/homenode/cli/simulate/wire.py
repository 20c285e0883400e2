"""The way between an agent and the directory: answers at once, what is told unasked at the beginning of the next step.

What is told (invalidations, pushed contents, bookmarks) travels between two steps as one frame, and may be lost. Then
frames lack a number, which the session notices by the next one, as it does on a real stream.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from homenode.embedded import EmbeddedStream, EmbeddedTransport
from homenode.errors import HomenodeError
from homenode_api.v1 import directory_pb2 as pb

if TYPE_CHECKING:
    from homenode_directory.api.local import LocalEndpoint

_FRAMES_MAX = 65_536


class SteppedTransport(EmbeddedTransport):
    """`homenode.transport.Transport` to somebody else's directory in this process.

    Attributes:
        holding: whether what is told waits for `deliver`; before a run begins it does not.
        session_id: the agent's session.
        signals: invalidations of others' commits that the directory sent it, lost ones too.
    """

    def __init__(self, endpoint: LocalEndpoint) -> None:
        super().__init__(endpoint)
        self.holding = False
        self.session_id = ""
        self.signals = 0
        self._streams: list[SteppedStream] = []

    def session(self) -> SteppedStream:  # type: ignore[override]
        """See `transport.Transport`."""
        stream = SteppedStream(super().session(), self)
        self._streams = [stream]  # the one before is over
        return stream

    def deliver(self, *, lost: bool) -> None:
        """A step begins: what was told since the last one arrives, or gets lost."""
        for stream in self._streams:
            stream.deliver(lost=lost)


class SteppedStream:
    """See the module."""

    def __init__(self, inner: EmbeddedStream, transport: SteppedTransport) -> None:
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
        for item in frame.items:
            transport = self._transport
            transport.signals += item.HasField("invalidation") and item.invalidation.by != transport.session_id
            if transport.holding and not item.HasField("answer"):
                self._told.append(item)
            else:
                at_once.append(item)
        if at_once:
            self._number += 1
            self._arrived.put_nowait(pb.SessionResponse(items=at_once, number=self._number))
