"""Sessions that were live a moment ago, so that not every call that only reads memory asks the store."""

from __future__ import annotations

from collections import OrderedDict

from homenode_directory.api import wire
from homenode_directory.clock import Clock
from homenode_directory.directory import Directory
from homenode_directory.place import Place

WITHIN_MS = 5_000.0
REMEMBERED_MAX = 16_384


class Confirmed:
    """See the module."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()  # session -> when it was asked for

    async def alive(self, place: Place, session: str) -> None:
        """Raises Rejected where the session is over, and what the store's failures raise."""
        now = self._clock()
        if now - self._seen.get(session, -WITHIN_MS) < WITHIN_MS:
            return
        self._seen.pop(session, None)
        wire.alive(await self._directory.confirm_session(place, session))
        self._seen[session] = now
        while len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)
