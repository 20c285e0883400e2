"""Room for so many at a time; the others wait in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from homenode.errors import Overloaded

WAITING_MAX = 65_536


class Places:
    """Places for what is under way.

    Args:
        limit: how many there are, asked anew each time.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a place if there is one."""
        if self._taken >= self._limit():
            return False
        self._taken += 1
        return True

    async def enter(self) -> None:
        """Wait for a place and take it. Raises Overloaded when too many wait already."""
        if self.take():
            return
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded("too many operations wait in this process", retry_after=0.1)
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(room)
        try:
            await room
        except asyncio.CancelledError:
            if room.done() and not room.cancelled():
                self.leave()  # it was given room in the same tick
            raise

    def leave(self) -> None:
        """Give a place back."""
        while self._waiting:
            room = self._waiting.popleft()
            if not room.done():
                room.set_result(None)  # the place passes on
                return
        self._taken -= 1
