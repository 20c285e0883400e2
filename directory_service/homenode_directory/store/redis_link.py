"""Connections to Redis that know which process they reach.

A connection cannot outlive the Redis process at its other end. So each one asks for the process's `run_id` when it is
made, and a commit that carries this id is safe from running in another process's memory. Nothing is ever sent twice:
redis-py's own retries are off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from homenode_directory.store.base import StoreError
from homenode_directory.store.redis_where import where

SILENT_S = 5.0  # of a subscription, before it is asked for a sign of life
PUSHED_MAX = 4_096  # messages of a subscription that wait to be taken

Command = tuple[str | bytes | int, ...]
Reply = Any

_ERRORS: dict[str, type[RedisError]] = {
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
}


class Pipe(asyncio.Protocol):
    """Commands and replies over a transport, without a coroutine for each read and write."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        """Takes the transport over from whoever read it. Nothing may be on its way on it."""
        self._transport = transport
        self._reader = hiredis.Reader(replyError=_error_of)
        self._replies: list[Reply] = []
        self._wanted = 0
        self._waiting: asyncio.Future[list[Reply]] | None = None
        self._pushed: asyncio.Queue[Reply] | None = None
        self.lost = False
        transport.set_protocol(self)

    def exchange(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]]:
        """Send commands at once; the future gets all replies, or OSError."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._replies, self._wanted = [], len(commands)
        if self.lost:
            self._waiting.set_exception(ConnectionResetError())
        else:
            self._transport.write(b"".join([hiredis.pack_command(command) for command in commands]))  # type: ignore[arg-type]
        return self._waiting

    def listen(self, command: Command) -> asyncio.Queue[Reply]:
        """Send a command after which replies come by themselves; what does not fit the queue is dropped. None: lost."""
        self._pushed = asyncio.Queue(PUSHED_MAX)
        self.send(command)
        return self._pushed

    def send(self, command: Command) -> None:
        """Send a command whose reply goes to the queue of `listen`."""
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError:
            self._transport.abort()

    def _take(self, reply: Reply) -> None:
        if self._pushed is not None:
            if not self._pushed.full():
                self._pushed.put_nowait(reply)
        elif not self._wanted:
            self._transport.abort()  # nobody asked
        else:
            self._replies.append(reply)
            self._wanted -= 1
            if not self._wanted and self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(self._replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc if isinstance(exc, OSError) else ConnectionResetError())
        if self._pushed is not None and not self._pushed.full():
            self._pushed.put_nowait(None)

    def close(self) -> None:
        """Close without waiting."""
        self._transport.abort()


def _error_of(message: str) -> RedisError:
    return _ERRORS.get(message.partition(" ")[0], ResponseError)(message)


class Link:
    """One connection. `run_id` is the process it reaches."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._pipe: Pipe | None = None
        self.run_id = ""
        self.version: tuple[int, ...] = ()

    async def connect(self, *, ask_role: bool) -> None:
        """Connect, log in, and learn who is there. The library does this; from then on the transport is ours.

        `ask_role`: raise RedisConnectionError unless it is a primary.
        """
        await self._connection.connect()
        writer = self._connection._writer
        if writer is None:
            raise RedisConnectionError("the connection was lost at once")
        self._pipe = Pipe(writer.transport)
        questions: list[Command] = [("INFO", "server"), ("ROLE",)] if ask_role else [("INFO", "server")]
        reply, *role = await self._pipe.exchange(questions)
        for answer in (reply, *role):
            if isinstance(answer, RedisError):
                raise answer
        if role and role[0][0] != b"master":
            raise RedisConnectionError("it is not the primary, or not yet")
        info = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
        self.run_id = info["run_id"]
        self.version = tuple(int(part) for part in info["redis_version"].split(".")[:2])

    @property
    def usable(self) -> bool:
        """Whether the connection is open, as far as is known here."""
        return self._pipe is not None and not self._pipe.lost

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands at once, read all replies; an error reply is returned, not raised. Raises OSError."""
        assert self._pipe is not None
        return await self._pipe.exchange(commands)

    async def subscribe(self, channel: str) -> AsyncIterator[bytes | None]:
        """None, then what is published on a channel from now on; the link is of no other use. Ends with StoreError.

        A silent connection is asked for a sign of life: a process that is gone without a word must not be listened to.
        """
        assert self._pipe is not None
        pushed, asked = self._pipe.listen(("SUBSCRIBE", channel)), False
        while not self._pipe.lost:
            try:
                async with asyncio.timeout(SILENT_S):
                    reply = await pushed.get()
            except TimeoutError:
                if asked:
                    break
                asked = True
                self._pipe.send(("PING",))
                continue
            asked = False
            if reply is None:
                break
            if isinstance(reply, RedisError):
                raise StoreError(f"Redis refused a subscription: {reply}") from reply
            if reply[0] == b"subscribe":
                yield None
            elif reply[0] == b"message":
                yield reply[2]
        raise StoreError("the Redis subscription ended")

    async def discard(self) -> None:
        """Close without waiting."""
        if self._pipe is not None:
            self._pipe.close()
        await self._connection.disconnect(nowait=True)


class Links:
    """A bounded pool of links, the one used last first."""

    def __init__(self, url: str, *, size: int, connect_timeout_ms: int, command_timeout_ms: int) -> None:
        self._where = where(url)
        self._connect_s = connect_timeout_ms / 1000
        self._command_s = command_timeout_ms / 1000
        self._free = asyncio.Semaphore(size)
        self._idle: list[Link] = []
        self._closed = False

    async def call(self, *commands: Command) -> list[Reply]:
        """Run commands on one link; error replies raise. Raises StoreError where the outcome is unknown."""
        link = await self.take()
        return raise_errors(await self.run(link, commands))

    async def take(self) -> Link:
        """A connected link; `run` gives it back."""
        if self._closed:
            raise StoreError("the store is closed")
        if self._free.locked():
            try:
                async with asyncio.timeout(self._connect_s + self._command_s):
                    await self._free.acquire()
            except TimeoutError:
                raise StoreError("every Redis connection is busy; nothing was sent") from None
        else:
            await self._free.acquire()
        while self._idle:
            link = self._idle.pop()
            if link.usable:
                return link
            await link.discard()
        try:
            return await self._connect()
        except BaseException:
            self._free.release()
            raise

    async def run(self, link: Link, commands: Sequence[Command]) -> list[Reply]:
        """Exchange over a link from `take` and give it back, or close it if anything went wrong."""
        try:
            async with asyncio.timeout(self._command_s):
                replies = await link.exchange(commands)
        except (OSError, RedisError, TimeoutError) as error:
            await self.drop(link)
            raise StoreError(f"Redis did not answer ({type(error).__name__}); the outcome is unknown") from error
        except BaseException:
            await self.drop(link)
            raise
        if self._closed or any(isinstance(reply, ReadOnlyError) for reply in replies):
            await link.discard()  # a primary that is none any more must not be asked again
        else:
            self._idle.append(link)
        self._free.release()
        return replies

    async def close(self) -> None:
        """Close idle links now and busy ones when they are given back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().discard()

    async def _connect(self) -> Link:
        found = await self._where.find()
        # Timeouts are ours: one for the whole exchange costs less than one for each read.
        link = Link(self._where.kind(**{**found, "protocol": 2, "driver_info": None, "socket_timeout": None}))
        try:
            async with asyncio.timeout(self._connect_s):
                await link.connect(ask_role=self._where.moves)
        except (OSError, RedisError, TimeoutError) as error:
            await link.discard()
            detail = str(error) if isinstance(error, RedisConnectionError) else type(error).__name__
            raise StoreError(f"Redis is not reachable, nothing was sent: {detail}") from error
        except BaseException:
            await link.discard()
            raise
        return link

    async def drop(self, link: Link) -> None:
        """Close a link from `take` instead of giving it back."""
        self._free.release()
        await link.discard()


def raise_errors(replies: list[Reply]) -> list[Reply]:
    """The replies, unless one is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise StoreError(f"Redis refused: {reply}") from reply
    return replies
