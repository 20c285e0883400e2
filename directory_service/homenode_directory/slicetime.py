"""A slice's logical time, which goes on when the store's clock jumps, and its quarantine.

Logical time is the store's clock plus an offset that lies in the slice's meta record. This process holds an anchor: a
logical time, and when it was seen on the process's own clock. A time that does not fit the anchor is not believed;
everything is judged by believed times. Who notices that the store's clock has jumped rewrites the offset, so
that logical time goes on from the anchor. Three fields of the meta record:

  offset  milliseconds that logical time is ahead of the store's clock (the store's own field)
  tick    until when logical time is vouched for: servers that use the slice move it on every 250 ms
  calm    `token until lease`: in incarnation `token` strict versions are published from logical time `until` on, and
          `lease` is the lease on strict copies that every server grants

`calm` is rewritten, with a new `until`, together with the offset; when another incarnation is adopted; and by a server
that has no anchor and finds a tick that has run out: nobody knows then what the clock did meanwhile (a cold start).
It is compared with what was there before, so of several servers one writes it and the others follow.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from homenode_directory.clock import DRIFT, Clock
from homenode_directory.observer import Observer
from homenode_directory.protocol.facts import SLACK_MS, Terms, outlasting
from homenode_directory.store.base import META, OFFSET, Commit, Equals, Outcome, Put, Store, StoreError, Write
from homenode_directory.store.fields import CALM, TICK

LOG = logging.getLogger("homenode.store")

TICK_LIFE_MS = 1_000
STEP_MS = 100  # a step of the store's clock that is put up with
ANCHOR_LIFE_MS = 10_000
ROUNDS_MAX = 8

_LOOK = Commit((Equals(META, CALM, "?"),), show=(META,))  # is refused, and shows what is there


@dataclass(frozen=True, slots=True)
class Calm:
    """See the module."""

    token: str
    until_ms: int
    lease_ms: int

    @property
    def text(self) -> str:
        """As it is stored."""
        return f"{self.token} {self.until_ms} {self.lease_ms}"

    @staticmethod
    def of(text: str | None) -> Calm:
        """The inverse of `text`; before anything was stored: one of no incarnation."""
        if not text:
            return Calm("", 0, 0)
        token, until_ms, lease_ms = text.split(" ")
        return Calm(token, int(until_ms), int(lease_ms))


@dataclass(frozen=True, slots=True)
class _Anchor:
    """A logical time, and the local times between which it was read."""

    ms: int
    asked_at: float
    heard_at: float

    def earliest_ms(self, at: float) -> float:
        """A lower bound of the logical time at a later local time."""
        return self.ms + (at - self.heard_at) * (1 - DRIFT)

    def latest_ms(self, at: float) -> float:
        """An upper bound."""
        return self.ms + (at - self.asked_at) * (1 + DRIFT)


class SliceTime:
    """What this process knows of a slice's logical time. `now_ms` is a lower bound, believed and rising."""

    def __init__(self, number: int, store: Store, clock: Clock, terms: Terms, observer: Observer) -> None:
        self.now_ms = 0
        self.clock = clock
        self.calm = Calm.of(None)
        self._number = number
        self._store = store
        self._terms = terms
        self._observer = observer
        self._anchor = _Anchor(0, 0.0, 0.0)
        self._seen_ms, self._asked_at = 0, 0.0  # the latest time seen, and when it was asked for
        self._doubtful = False

    @property
    def latest_ms(self) -> int:
        """An upper bound of the logical time now, as long as clocks drift at most DRIFT."""
        return self._seen_ms + int((self.clock() - self._asked_at) * (1 + DRIFT)) + 1

    @property
    def believed_ms(self) -> float:
        """The logical time now, for measurements: late by no more than a call to the store takes; 0: not known."""
        return self._seen_ms + self.clock() - self._asked_at if self._seen_ms else 0.0

    def saw(self, now_ms: int, asked_at: float) -> None:
        """An answer to a call made at local time `asked_at` said that the slice's time was `now_ms`."""
        heard_at = self.clock()
        if not self._fits(now_ms, asked_at, heard_at):
            self._doubtful = True
            return
        anchor = self._anchor
        if now_ms >= self._seen_ms:
            self._seen_ms, self._asked_at = now_ms, asked_at
        surely_ms = int(anchor.ms + (heard_at - anchor.heard_at) * (1 + DRIFT)) + STEP_MS
        self.now_ms = max(self.now_ms, min(now_ms, surely_ms))
        precise = heard_at - asked_at <= max(STEP_MS, anchor.heard_at - anchor.asked_at)
        if precise and heard_at - anchor.heard_at > ANCHOR_LIFE_MS:
            self._anchor = _Anchor(now_ms, asked_at, heard_at)

    @property
    def settled(self) -> bool:
        """Whether the time is known and nothing speaks against it."""
        return bool(self.calm.token) and not self._doubtful

    def doubt(self) -> None:
        """Another server has rewritten the quarantine: look at it before the next judgement."""
        self._doubtful = True

    def tick(self) -> Commit:
        """Vouch for the time for another second."""
        until = str(self.latest_ms + TICK_LIFE_MS)
        return Commit((Equals(META, CALM, self.calm.text),), (Put(META, TICK, until),))

    async def ready(self, token: str) -> None:
        """Make sure that the time is known and right, in the incarnation `token`. Raises StoreError."""
        if self.calm.token == token and not self._doubtful:
            self.now_ms = max(self.now_ms, int(self._anchor.earliest_ms(self.clock())))
            return
        for _ in range(ROUNDS_MAX):
            asked_at = self.clock()
            outcome = await self._commit(token, _LOOK)
            if await self._agree(token, outcome, asked_at, self.clock()):
                self._doubtful = False
                return
        raise StoreError("the slice's time could not be agreed on with other servers")

    async def _agree(self, token: str, outcome: Outcome, asked_at: float, heard_at: float) -> bool:
        """Believe the time that a look has shown, or correct it; False: look again."""
        meta, now_ms = outcome.shown.get(META, {}), outcome.now_ms
        stored = str(meta[CALM]) if CALM in meta else None
        calm, tick_ms = Calm.of(stored), int(meta.get(TICK, 0))
        anchored = self.calm.token == token
        if calm.token == token:
            if anchored and self._fits(now_ms, asked_at, heard_at):
                self.calm = calm
                return True
            vouched = tick_ms - TICK_LIFE_MS - SLACK_MS <= now_ms < tick_ms
            if vouched and calm != self.calm:
                self.calm = calm
                self._drop_anchor(now_ms, asked_at, heard_at)
                return True
        jumped = anchored and calm == self.calm
        if jumped:
            lease_ms, to_ms = (
                calm.lease_ms,
                int(self._anchor.earliest_ms(asked_at) + self._anchor.latest_ms(heard_at)) // 2,
            )
            LOG.warning("the store's clock jumped", extra={"slice": self._number, "by_ms": now_ms - to_ms})
        else:
            lease_ms, to_ms = self._terms.lease_ms, max(now_ms, tick_ms - TICK_LIFE_MS)
        quiet_ms = 0 if self._terms.alone and not jumped else outlasting(max(lease_ms, calm.lease_ms))
        until_ms = max(to_ms + quiet_ms, calm.until_ms + 1)
        fresh = Calm(token, until_ms, lease_ms)
        writes: list[Write] = [Put(META, CALM, fresh.text), Put(META, TICK, str(to_ms + TICK_LIFE_MS))]
        if to_ms != now_ms:
            writes.append(Put(META, OFFSET, str(int(meta.get(OFFSET, 0)) + to_ms - now_ms)))
        if not (await self._commit(token, Commit((Equals(META, CALM, stored),), tuple(writes)))).ok:
            return False
        self.calm = fresh
        if jumped:
            self._observer.clock_jumped()
        else:
            self._drop_anchor(to_ms, asked_at, heard_at)
        return True

    async def _commit(self, token: str, commit: Commit) -> Outcome:
        (outcome,) = await self._store.commit(self._number, token, [commit], relief=True)
        return outcome

    def _fits(self, now_ms: int, asked_at: float, heard_at: float) -> bool:
        anchor = self._anchor
        return anchor.earliest_ms(asked_at) - STEP_MS <= now_ms <= anchor.latest_ms(heard_at) + STEP_MS

    def _drop_anchor(self, now_ms: int, asked_at: float, heard_at: float) -> None:
        self._anchor = _Anchor(now_ms, asked_at, heard_at)
        self.now_ms = self._seen_ms = now_ms
        self._asked_at = asked_at
