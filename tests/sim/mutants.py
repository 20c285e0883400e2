"""Rules of strict consistency, broken one at a time in the running code. Drills of the simulation must find each.

`python -m tests.sim --mutant NAME --seeds N`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from homenode.artifact import STRICT
from homenode.cache import Cache
from homenode.clock import NS_PER_US
from homenode.errors import HomenodeError
from homenode.leases import deadline_ns
from homenode.session import Session
from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.protocol.draft import Draft
from homenode_directory.slicetime import SliceTime

Patch = tuple[type, str, Any]


def _extend(session: Session, sent_ns: int, lease_ms: int) -> None:
    window = session.cache.freshness.strict
    if session.cache.freshness.is_open:
        window.until_ns = max(window.until_ns, deadline_ns(sent_ns, lease_ms))


def extend_at_receipt() -> Patch:
    """The lease is counted from the arrival of its bookmark, not from the send of its ping."""
    honest = Session._bookmark

    def bookmark(self: Session, event: pb.Bookmark) -> None:
        honest(self, event)
        if event.lease_ms:
            _extend(self, self.link.clock(), event.lease_ms)

    return Session, "_bookmark", bookmark


def extend_before_the_log() -> Patch:
    """A renewal counts at once, whatever of the log has come: here a unary call brings it past the stream."""
    honest = Session.ping

    def ping(self: Session, *, last: bool = False) -> None:
        honest(self, last=last)
        sent_ns = self.link.clock() // NS_PER_US * NS_PER_US

        async def renew() -> None:
            try:
                await self.link.transport.call("KeepAlive", pb.KeepAliveRequest(session_id=self.id), 2.0)
            except HomenodeError:
                return
            _extend(self, sent_ns, self.opened.term_ms)

        task = asyncio.ensure_future(renew())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    return Session, "ping", ping


def keep_the_copy_at_an_own_commit() -> Patch:
    """Nobody waits for the committer's copies, and they go on being served until the answer is there."""

    def begin_write(self: Cache, key: str) -> None:
        self._line(key).writes += 1

    return Cache, "begin_write", begin_write


def fill_during_an_own_commit() -> Patch:
    """A strict copy is kept although an own commit of its artifact is under way."""
    honest = Cache.begin_write

    def begin_write(self: Cache, key: str) -> None:
        honest(self, key)
        self._line(key).writes = 0

    return Cache, "begin_write", begin_write


def ack_without_dropping() -> Patch:
    """An invalidation is acknowledged, and the strict copy stays."""
    honest = Cache.invalidate

    def invalidate(self: Cache, key: str, version: Any) -> None:
        copy = self.copy(key)
        if copy is None or copy.level != STRICT:
            honest(self, key, version)

    return Cache, "invalidate", invalidate


def publish_without_waiting() -> Patch:
    """The directory publishes a version at once, whoever holds copies of the one before it."""
    return Draft, "copies", lambda self: ()


def believe_the_stores_clock() -> Patch:
    """Deadlines are judged by whatever the store's clock says, even when it has just been set an hour on."""

    def saw(self: SliceTime, now_ms: int, asked_at: float) -> None:
        self.now_ms = self._seen_ms = max(self.now_ms, now_ms)
        self._asked_at = asked_at

    return SliceTime, "saw", saw


MUTANTS: dict[str, Callable[[], Patch]] = {
    make.__name__: make
    for make in (
        extend_at_receipt,
        extend_before_the_log,
        keep_the_copy_at_an_own_commit,
        fill_during_an_own_commit,
        ack_without_dropping,
        publish_without_waiting,
        believe_the_stores_clock,
    )
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The code with that rule broken."""
    owner, attribute, broken = MUTANTS[name]()
    honest = getattr(owner, attribute)
    setattr(owner, attribute, broken)
    try:
        yield
    finally:
        setattr(owner, attribute, honest)
