"""Which memory each slice has: shared by everything in the process that talks to the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from homenode_directory.store.base import Incarnation, Store

LOG = logging.getLogger("homenode.store")

ECHO_AHEAD_MS = 86_400_000
"""Incarnations are never far ahead of the clock (they start from it), so an echo beyond this is no incarnation."""

Listener = Callable[[int, Incarnation], None]

Unused = Callable[[Incarnation], Awaitable[bool]]
"""Whether no session of the slice lives under an incarnation."""


class Incarnations:
    """The adopted incarnation per slice. `listeners` hear of every later change of a slice's incarnation."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, Incarnation] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self.listeners: list[Listener] = []

    def known(self, slice_: int) -> Incarnation | None:
        """What was adopted last, without asking the store."""
        return self._known.get(slice_)

    async def current(self, slice_: int) -> Incarnation:
        """The slice's incarnation, adopted on first use. Raises StoreError."""
        known = self._known.get(slice_)
        return known if known is not None else await self.renew(slice_, "")

    async def renew(self, slice_: int, seen: str, *, at_least: int = 0) -> Incarnation:
        """Adopt again after the store refused the token `seen`; one adoption serves all who ask at once.

        What this process has adopted before is never followed by a lower number, whatever the store's clock says now.
        """
        async with self._locks.setdefault(slice_, asyncio.Lock()):
            known = self._known.get(slice_)
            if known is not None and known.token != seen:
                return known
            fresh = await self._store.adopt(slice_, max(at_least, known.number + 1 if known is not None else 0))
            self._known[slice_] = fresh
            if known is not None and known.token != fresh.token:
                LOG.warning("the store may have lost something", extra={"slice": slice_, "incarnation": fresh.number})
                for listener in self.listeners:
                    listener(slice_, fresh)
            return fresh

    async def echo(self, slice_: int, number: int, unused: Unused) -> None:
        """A client says that it has seen incarnation `number`.

        If it is higher than the slice's, the store was lost and its clock has gone back since: the number is raised
        above it, so that versions and fences go on rising. Nobody can prove what a lost store said, so that is done
        only where no session lives under the lower number yet: a false echo ends nobody's session.
        """
        known = await self.current(slice_)
        if known.number < number <= await self._store.now_ms() + ECHO_AHEAD_MS and await unused(known):
            await self.renew(slice_, known.token, at_least=number + 1)
