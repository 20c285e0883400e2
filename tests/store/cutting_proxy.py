"""A TCP proxy before a server that cuts connections at chosen moments."""

from __future__ import annotations

import asyncio
import contextlib

from tests.support.ports import HOST


class CuttingProxy:
    """Forwards bytes both ways. While `swallow_replies`, what the server answers is lost and the connection cut."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.swallow_replies = False
        self.cuts = 0

    async def start(self) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Cut everything and stop listening."""
        self.cut()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in list(self._writers):
            self.cuts += 1
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            writer.close()
            return
        pair = (writer, upstream_writer)
        self._writers.add(writer)
        for source, target, replies in ((reader, upstream_writer, False), (upstream_reader, writer, True)):
            task = asyncio.create_task(self._pump(source, target, pair, replies))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        replies: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if replies and self.swallow_replies:
                    self.cuts += 1
                    break
                target.write(data)
                await target.drain()
        self._writers.discard(pair[0])
        for writer in pair:
            writer.transport.abort()
