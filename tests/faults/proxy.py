"""A TCP proxy that does to a connection what networks do: delay, hold, cut, reset.

It never loses bytes in the middle of a connection, because TCP does not: what is held goes on when the hold ends, as
after a partition, or is lost with the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from tests.support.ports import HOST

READ_BYTES = 65_536


@dataclass(slots=True)
class Direction:
    """What happens to bytes of one direction.

    Attributes:
        delay_s: added to the way of each piece; order is kept.
        open: cleared while nothing passes (a black hole).
        cut_after: bytes that pass still before the connection is cut; None: no limit.
        passed: bytes that passed, of all connections.
        connection_max: bytes that a connection may carry before it is cut; None: no limit.
    """

    delay_s: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    cut_after: int | None = None
    passed: int = 0
    connection_max: int | None = None

    def __post_init__(self) -> None:
        self.open.set()

    def heal(self) -> None:
        """Let everything pass at once again."""
        self.delay_s, self.cut_after, self.connection_max = 0.0, None, None
        self.open.set()


class Proxy:
    """Forwards to a port of this machine. `up` is the way to the server, `down` the way back."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.up = Direction()
        self.down = Direction()
        self.refusing = False
        self.connections = 0
        self.cuts = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The directory's address, through the proxy."""
        return f"homenode://{HOST}:{self.port}/main"

    def cut(self) -> None:
        """Reset every connection now; what was held is lost."""
        for writer in list(self._writers):
            self.cuts += 1
            writer.transport.abort()

    def heal(self) -> None:
        """Behave again."""
        self.refusing = False
        self.up.heal()
        self.down.heal()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.refusing:
                raise OSError("refusing")
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            writer.transport.abort()
            return
        for source, target, way in ((reader, far_writer, self.up), (far_reader, writer, self.down)):
            task = asyncio.create_task(self._pump(source, target, way, (writer, far_writer)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        way: Direction,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := await source.read(READ_BYTES):
                carried += len(data)
                if way.connection_max is not None and carried > way.connection_max:
                    self.cuts += 1
                    break
                if way.delay_s:
                    await asyncio.sleep(way.delay_s)
                await way.open.wait()
                if way.cut_after is not None:
                    if len(data) >= way.cut_after:
                        target.write(data[: way.cut_after])
                        await target.drain()
                        self.cuts += 1
                        break
                    way.cut_after -= len(data)
                way.passed += len(data)
                target.write(data)
                await target.drain()
        self._writers.discard(both[0])
        for writer in both:
            writer.transport.abort()
