"""Which memory each slice has: shared by everything in the process that talks to the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from homenode_directory.store.base import Incarnation, Store

LOG = logging.getLogger("homenode.store")

ECHO_AHEAD_MS = 86_400_000
"""Incarnations are never far ahead of the clock (they start from it), so an echo beyond this is no incarnation."""

Listener = Callable[[int, Incarnation], None]


class Incarnations:
    """The adopted incarnation per slice. `listeners` hear of every later change of a slice's incarnation."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, Incarnation] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._at_least: dict[int, int] = {}
        self.listeners: list[Listener] = []

    def known(self, slice_: int) -> Incarnation | None:
        """What was adopted last, without asking the store."""
        return self._known.get(slice_)

    async def current(self, slice_: int) -> Incarnation:
        """The slice's incarnation, adopted on first use. Raises StoreError."""
        known = self._known.get(slice_)
        return known if known is not None else await self.renew(slice_, "")

    async def renew(self, slice_: int, seen: str) -> Incarnation:
        """Adopt again after the store refused the token `seen`; one adoption serves all who ask at once."""
        async with self._locks.setdefault(slice_, asyncio.Lock()):
            known = self._known.get(slice_)
            if known is not None and known.token != seen:
                return known
            fresh = await self._store.adopt(slice_, self._at_least.get(slice_, 0))
            self._known[slice_] = fresh
            if known is not None and known.token != fresh.token:
                LOG.warning("the store may have lost something", extra={"slice": slice_, "incarnation": fresh.number})
                for listener in self.listeners:
                    listener(slice_, fresh)
            return fresh

    async def echo(self, slice_: int, number: int) -> None:
        """A client has seen incarnation `number`: the slice's must not be lower, or versions would come back."""
        known = await self.current(slice_)
        if known.number < number <= await self._store.now_ms() + ECHO_AHEAD_MS:
            self._at_least[slice_] = number + 1
            await self.renew(slice_, known.token)
