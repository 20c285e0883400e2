"""Connections to Redis that know which process they reach.

A connection cannot outlive the Redis process at its other end. So each one asks for the process's `run_id` when it is
made, and a commit that carries this id is safe from running in another process's memory. Nothing is ever sent twice:
redis-py's own retries are off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from homenode_directory.store.base import StoreError

SILENT_S = 5.0  # of a subscription, before it is asked for a sign of life

Command = tuple[str | bytes | int, ...]
Reply = Any


class Link:
    """One connection. `run_id` is the process it reaches."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        self.run_id = ""
        self.version: tuple[int, ...] = ()

    async def connect(self) -> None:
        """Connect, log in, and learn who is there."""
        await self.connection.connect()
        await self.connection.send_command("INFO", "server")
        info = dict(
            line.split(":", 1) for line in (await self.connection.read_response()).decode().splitlines() if ":" in line
        )
        self.run_id = info["run_id"]
        self.version = tuple(int(part) for part in info["redis_version"].split(".")[:2])

    async def usable(self) -> bool:
        """Whether nothing unread and no end of stream has come in."""
        try:
            return self.connection.is_connected and not await self.connection.can_read()
        except (OSError, RedisError):
            return False

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands at once, read all replies; an error reply is returned, not raised."""
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        await self.connection.send_packed_command(packed, check_health=False)
        replies: list[Reply] = []
        for _ in commands:
            try:
                replies.append(await self.connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies

    async def subscribe(self, channel: str) -> AsyncIterator[bytes]:
        """What is published on a channel from now on; the link is of no other use then. Ends with StoreError.

        A silent connection is asked for a sign of life: a process that is gone without a word must not be listened to.
        """
        try:
            await self.exchange([("SUBSCRIBE", channel)])
            asked = False
            while True:
                reply = await self.connection.read_response(timeout=SILENT_S)
                if reply is None:
                    if asked:
                        raise TimeoutError
                    await self.connection.send_command("PING", check_health=False)
                asked = reply is None
                if reply is not None and reply[0] == b"message":
                    yield reply[2]
        except (OSError, RedisError, TimeoutError) as error:
            raise StoreError(f"the Redis subscription ended ({type(error).__name__})") from error

    async def discard(self) -> None:
        """Close without waiting."""
        await self.connection.disconnect(nowait=True)


class Links:
    """A bounded pool of links, the one used last first."""

    def __init__(self, url: str, *, size: int, connect_timeout_ms: int, command_timeout_ms: int) -> None:
        options: dict[str, Any] = dict(parse_url(url))
        self._kind = cast(type[AbstractConnection], options.pop("connection_class", Connection))
        # Timeouts are ours: one for the whole exchange costs less than one for each read.
        self._options = {**options, "protocol": 2, "driver_info": None, "socket_timeout": None}
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
            if await link.usable():
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
        if self._closed:
            await link.discard()
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
        link = Link(self._kind(**self._options))
        try:
            async with asyncio.timeout(self._connect_s):
                await link.connect()
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
