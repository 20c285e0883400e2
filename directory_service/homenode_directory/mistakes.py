"""Mistakes in what must go on: told to the log and counted, not too often, and never the end of the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from homenode_directory.errors import DirectoryError
from homenode_directory.observer import SILENT, Observer
from homenode_directory.store.base import StoreError

LOG = logging.getLogger("homenode.server")

QUIET_S = 10.0


class Mistakes:
    """Counts every unexpected exception, and logs one of a place and kind in QUIET_S seconds."""

    def __init__(self, observer: Observer = SILENT, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._clock = clock
        self._told: dict[tuple[str, type[BaseException]], float] = {}

    async def guard(self, where: str, call: Awaitable[object]) -> None:
        """Await `call`. Failures of the store and refusals are expected; anything else is told."""
        try:
            await call
        except (StoreError, DirectoryError):
            pass  # the store's failures are logged where they happen; the next round tries again
        except Exception as mistake:
            self.tell(where, mistake)

    def tell(self, where: str, mistake: Exception) -> None:
        """An exception that nobody expected in `where`, a name from a small set."""
        self._observer.mistake(where)
        named, now = (where, type(mistake)), self._clock()
        if now - self._told.get(named, -QUIET_S) >= QUIET_S:
            self._told[named] = now
            LOG.error("unexpected in %s; it goes on", where, exc_info=mistake)
