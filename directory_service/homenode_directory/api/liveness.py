"""Signs of life. A session's time to live is in its record; this server remembers it between signs."""

from __future__ import annotations

from collections import OrderedDict

from homenode_directory.api import wire
from homenode_directory.directory import Directory
from homenode_directory.errors import Unavailable
from homenode_directory.place import Place
from homenode_directory.sessions import TTL
from homenode_directory.store import fields
from homenode_directory.store.base import StoreError

REMEMBERED_MAX = 65_536


class Liveness:
    """Keeps sessions alive for as long as each was opened for."""

    def __init__(self, directory: Directory, default_ms: int) -> None:
        self._directory = directory
        self._default_ms = default_ms
        self._ttls: OrderedDict[str, int] = OrderedDict()

    def opened(self, session: str, ttl_ms: int) -> None:
        """A session was opened here."""
        self._ttls[session] = ttl_ms
        while len(self._ttls) > REMEMBERED_MAX:
            self._ttls.popitem(last=False)

    async def ttl_ms(self, place: Place, session: str) -> int:
        """How long the session outlives its last sign of life. Raises Unavailable."""
        ttl_ms = self._ttls.get(session)
        if ttl_ms is None:
            slice_ = self._directory.slice_of(place)
            try:
                (record,) = await self._directory.store.load(slice_.number, [fields.session_key(session)], (TTL,))
            except StoreError as error:
                raise Unavailable(str(error)) from error
            if TTL not in record:
                return self._default_ms  # there is no such session, and no sign of life will be taken
            ttl_ms = int(record[TTL])
            self.opened(session, ttl_ms)
        return ttl_ms

    async def lease_ms(self, place: Place, session: str) -> int:
        """How long a sign of life lets the session serve strict copies. Raises Unavailable."""
        return self._directory.lease_ms(place, await self.ttl_ms(place, session))

    async def keep_alive(self, place: Place, session: str, settled_below: int) -> wire.Sign:
        """The head of the log, or the denial of a session that is over."""
        ttl_ms = await self.ttl_ms(place, session)
        return await self._directory.keep_alive(place, session, ttl_ms, settled_below)
