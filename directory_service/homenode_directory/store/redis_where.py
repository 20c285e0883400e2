"""Where the Redis that holds the store is: at a fixed address, or where Sentinel says that the primary is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import RedisError

from homenode_directory.store.base import StoreError

SENTINEL = "+sentinel"
SENTINEL_PORT = 26_379
ASK_S = 1.0

Options = Mapping[str, Any]
"""Of a connection: `host`, `port`, ..."""


class Where(Protocol):
    """Finds the primary."""

    options: Options
    kind: type[AbstractConnection]
    moves: bool
    """Whether it may be elsewhere next time, so that whoever answers must be asked whether it is the primary."""

    async def find(self) -> Options:
        """Options of the next connection. Raises StoreError."""


class Fixed:
    """One address."""

    moves = False

    def __init__(self, url: str) -> None:
        """Raises ValueError."""
        self.kind, self.options = _parsed(url)

    async def find(self) -> Options:
        """See `Where.find`."""
        return self.options


class Sentinels:
    """`redis+sentinel://[user:password@]host[:port][,host…]/NAME[/DB][?sentinel_password=…]`: the primary NAME.

    Sentinels are asked in turn, beginning with the one that answered last.
    """

    moves = True

    def __init__(self, url: str) -> None:
        """Raises ValueError."""
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        self.name, _, database = parts.path.strip("/").partition("/")
        if not self.name or not hosts:
            raise ValueError("say redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB")
        query = dict(parse_qsl(parts.query))
        login = {key: query.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in query}
        plain = parts._replace(
            scheme=parts.scheme.removesuffix(SENTINEL),
            netloc=f"{user}{at}localhost:{SENTINEL_PORT}",
            path=f"/{database or 0}",
            query=urlencode(query),
        )
        self.kind, self.options = _parsed(urlunsplit(plain))
        apart = {"username": None, "password": None, "db": 0, **login}
        self._sentinels = [{**self.options, **apart, **_address(host)} for host in hosts.split(",")]

    async def find(self) -> Options:
        """See `Where.find`."""
        for sentinel in list(self._sentinels):
            try:
                async with asyncio.timeout(ASK_S):
                    found = await self._ask(sentinel)
            except (OSError, RedisError, TimeoutError):
                continue
            if found:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return {**self.options, "host": found[0].decode(), "port": int(found[1])}
        raise StoreError(f"no Sentinel says where the primary {self.name!r} is; nothing was sent")

    async def _ask(self, sentinel: Options) -> Sequence[bytes] | None:
        connection = self.kind(**sentinel, protocol=2, driver_info=None)
        try:
            await connection.connect()
            await connection.send_command("SENTINEL", "get-master-addr-by-name", self.name)
            answer: Sequence[bytes] | None = await connection.read_response()
            return answer
        finally:
            await connection.disconnect(nowait=True)


def where(url: str) -> Where:
    """Raises ValueError: not an address of a Redis."""
    return Sentinels(url) if urlsplit(url).scheme.endswith(SENTINEL) else Fixed(url)


def _parsed(url: str) -> tuple[type[AbstractConnection], Options]:
    options: dict[str, Any] = dict(parse_url(url))
    return options.pop("connection_class", Connection), options


def _address(host: str) -> Options:
    name, separator, port = host.rpartition(":")
    if not separator or not port.isdecimal():
        name, port = host, str(SENTINEL_PORT)
    return {"host": name.strip("[]"), "port": int(port)}
