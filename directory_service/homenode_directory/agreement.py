"""What all servers over one store must have alike, compared when a server starts and for as long as it runs.

Copies that one server has granted are waited for by another. For how long, it reckons from its own settings, so
servers that differ would break promises without a sign. The settings lie in the meta record of slice 0, with the time
until which they hold; every server that runs renews it. A server with other settings waits for that time to pass: then
nobody runs any more with the former ones, and no copy is left that they granted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from homenode_directory.errors import ConfigError
from homenode_directory.incarnations import Incarnations
from homenode_directory.protocol.facts import outlasting
from homenode_directory.store.base import META, Commit, Equals, Outcome, Put, Store, StoreChanged, StoreError
from homenode_directory.store.fields import AGREED

LOG = logging.getLogger("homenode.server")

SLICE = 0
RENEW_MS = 3_000
LOOK_S = 0.25
ROUNDS_MAX = 64  # servers that start together write one after the other

_LOOK = Commit((Equals(META, AGREED, "?"),))  # is refused, and shows what is there


class Agreement:
    """See the module.

    Args:
        settings: name of each setting and its value, without spaces.
        longest_ms: how long a copy may be served after it was granted.
    """

    def __init__(
        self, store: Store, incarnations: Incarnations, settings: dict[str, str | int], longest_ms: int
    ) -> None:
        self._store = store
        self._incarnations = incarnations
        self._own = " ".join(f"{name}={value}" for name, value in settings.items())
        self._life_ms = 2 * RENEW_MS + outlasting(longest_ms)
        self._task: asyncio.Task[None] | None = None

    async def reach(self) -> None:
        """Return when these settings hold, and other ones no more.

        Raises ConfigError where a server with other settings runs. Where the store does not answer, nothing is compared
        before it does (`keep`).
        """
        if not self._store.shared:
            return
        first = ""
        try:
            for _ in range(ROUNDS_MAX):
                other = await self._renew()
                if not other:
                    return
                theirs, until_ms, now_ms = other
                if first and f"{theirs} {until_ms}" != first:
                    raise ConfigError(self._differ(theirs))
                if not first:
                    wait_s = max(0, until_ms - now_ms) / 1_000
                    LOG.warning("waiting until other settings hold no more", extra={"theirs": theirs, "wait_s": wait_s})
                first = f"{theirs} {until_ms}"
                await self._until_it_changes(first, until_ms)
        except StoreError as error:
            LOG.warning("settings could not be compared with those of other servers: %s", error)

    async def _until_it_changes(self, text: str, until_ms: int) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            outcome = await self._commit(_LOOK)
            if outcome.found != text or outcome.now_ms >= until_ms:
                return

    def start(self, differs: Callable[[ConfigError], None]) -> None:
        """Renew from now on. `differs` is told when other settings have come to hold meanwhile: this one must stop."""
        if self._store.shared:
            self._task = asyncio.create_task(self._keep(differs))

    async def _keep(self, differs: Callable[[ConfigError], None]) -> None:
        while True:
            await asyncio.sleep(RENEW_MS / 1_000)
            with contextlib.suppress(StoreError):
                other = await self._renew()
                if other:
                    return differs(ConfigError(self._differ(other[0])))

    async def close(self) -> None:
        """Renew no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _renew(self) -> tuple[str, int, int] | None:
        """Write that the own settings hold; or return those of others, until when they do, and what time it is."""
        outcome = await self._commit(_LOOK)
        for _ in range(ROUNDS_MAX):
            seen, now_ms = outcome.found, outcome.now_ms
            theirs, _, until = (seen or "").rpartition(" ")
            if theirs == self._own and int(until) >= now_ms + self._life_ms - RENEW_MS // 2:
                return None  # another server has just written it
            if theirs and theirs != self._own and now_ms < int(until):
                return theirs, int(until), now_ms
            write = Put(META, AGREED, f"{self._own} {now_ms + self._life_ms}")
            outcome = await self._commit(Commit((Equals(META, AGREED, seen),), (write,)))
            if outcome.ok:
                return None
        raise StoreError("other servers write their settings all the time")

    async def _commit(self, commit: Commit) -> Outcome:
        token = (await self._incarnations.current(SLICE)).token
        try:
            return (await self._store.commit(SLICE, token, [commit], relief=True))[0]
        except StoreChanged:
            fresh = await self._incarnations.renew(SLICE, token)
            return (await self._store.commit(SLICE, fresh.token, [commit], relief=True))[0]

    def _differ(self, theirs: str) -> str:
        """Both sides of what differs, as flags."""
        here, there = (
            [f"--{part.replace('_', '-').replace('=', ' ')}" for part in one.split(" ") if part not in other.split(" ")]
            for one, other in ((self._own, theirs), (theirs, self._own))
        )
        return (
            f"another server over this store has {' '.join(there)}, this one {' '.join(here)}; all must have the same. "
            "To change it, stop all servers before the first one is started again"
        )
