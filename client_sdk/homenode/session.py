"""A session: this process's standing with the directory, kept through lost streams, servers and sessions.

Theory of operation
-------------------
A session has an id from OpenSession and a number on the link's stream. Requests carry ids that never repeat in this
object, and stay in `_pending` until they are answered. Then:

  - **the stream breaks**: all windows of the cache close at once. On the next stream the session attaches with the
    position that it has applied and the copies that it holds, and sends every unanswered request again, with the same
    id. The directory answers an effect that it has seen with the stored answer.
  - **the session is lost** (`recovery`): permissions go, bytes stay. What was under way is resolved with the directory
    before anything is sent again under the next session, so that no effect happens twice.
  - **events were lost**: a resync takes every permission; replies older than the resync are never cached.

Permissions rest on `position`: everything in the log up to it has been applied here. An event at sequence s proves only
what is before s, because one log entry may carry several events; bookmarks prove all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

from homenode import recovery
from homenode.cache import Cache
from homenode.clock import NS_PER_MS, NS_PER_US
from homenode.contents import INLINE_BYTES_MAX
from homenode.errors import CAUSES, HomenodeError, SessionLost, Unavailable, from_wire
from homenode.leases import RENEW_AFTER, RENEWALS_MAX, LeaseRecord
from homenode.link import Backoff, Link
from homenode.pending import Pending
from homenode.requests import TRANSIENT, Phase, Requests
from homenode.versions import Position, Version, position_of, version_of
from homenode.watch import Event, Feed
from homenode_api.chunks import CONTENT_MAX_BYTES, PIECE_MAX_BYTES
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t

HOLDINGS_BYTES_MAX = 1 << 20
ACK_KEYS_MAX = 1_024
HELD_US_MAX = 2**32 - 1
REPLACED_MAX = 64
#: A session that was not confirmed for so long on a living stream attaches anew.
UNCONFIRMED_MS_MIN = 10_000
UNCONFIRMED_INTERVALS = 10
#: The same where there are other servers, which may reach the store that this one does not.
ELSEWHERE_MS_MIN = 2_000
ELSEWHERE_INTERVALS = 4


class Bounds(NamedTuple):
    """What the directory said when it opened the session, or what holds where it said nothing."""

    artifact_bytes: int  # most of an artifact
    piece_bytes: int  # most that is sent in one piece
    inline_bytes: int  # most of a body in a frame
    max_age_ms: int  # of a cached read where no policy says otherwise

    @classmethod
    def of(cls, opened: pb.OpenSessionResponse) -> Bounds:
        """From the answer; one without anything gives the defaults."""
        limits = opened.limits
        artifact = limits.artifact_bytes or CONTENT_MAX_BYTES
        inline = limits.inline_bytes or INLINE_BYTES_MAX
        return cls(artifact, min(PIECE_MAX_BYTES, artifact), inline, opened.max_age_ms or 3_000)


class Session(Requests):
    """See the module.

    Args:
        link: carries it; also its clock and randomness.
        cache: what it holds.
        workspace, name: for OpenSession; `ttl_ms` 0: the server's default.
        timeout_ms: for requests that name no other.
    """

    def __init__(
        self, link: Link, cache: Cache, *, workspace: str, name: str, ttl_ms: int = 0, timeout_ms: int = 10_000
    ) -> None:
        super().__init__(link, timeout_ms)
        self.cache = cache
        self.workspace = workspace
        self.name = name
        self.ttl_ms = ttl_ms
        self.position = Position(0, 0)
        self.fill_from = Position(0, 0)
        self.opened = pb.OpenSessionResponse()
        self.bounds = Bounds.of(self.opened)
        self.leases: dict[str, LeaseRecord] = {}
        self.on_pushed: Callable[[pb.Pushed], None] = lambda message: None
        self.watches: dict[int, Feed] = {}
        self.last_failure: HomenodeError | None = None
        self._pinged_ns = 0
        self._attached_ns = 0
        self._connected_ns = 0
        self._attaches = 0  # of this session
        self._doubtful = 0  # the newest request whose outcome stays unknown
        self._settling_us = 0  # send time of the first ping that said that it is settled; 0: none yet
        self._fresh = asyncio.Event()
        self._replaced: list[tuple[str, int, int]] = []  # copies of which no ack was sent: key, fence, when it went
        self.usage: Callable[[int, bool], pb.Usage | None] = lambda now_ns, last: None
        self._acks: dict[str, tuple[Version, int, int]] = {}  # by key: version, fence, when the copy went
        self._backoff = Backoff(link.rng)
        self._recovery: asyncio.Task[None] | None = None
        self._renewing: dict[str, int] = {}

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self, timeout_ms: int) -> None:
        """Open the session and wait until the stream has confirmed it. Raises HomenodeError in time."""
        self.link.start()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await recovery.open_session(self)
                await self._fresh.wait()
        except TimeoutError:
            await self.close()
            raise self.last_failure or Unavailable("the directory does not answer") from None
        except BaseException:
            await self.close()
            raise

    async def close(self, timeout_s: float = 2.0) -> None:
        """End the session: its leases are released, what is under way fails."""
        if self.phase is Phase.CLOSED:
            return
        self.ping(last=True)
        live, self.phase = self.phase is Phase.LIVE, Phase.CLOSED
        self.ready = False
        self._take_permissions()
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        self.link.remove(self)
        for pending in list(self.pending.values()):
            self.finish(pending).fail(
                pending.unknown() if pending.effect and pending.sent_ns else Unavailable("the connection is closed")
            )
        for feed in self.watches.values():
            feed.close()
        if live and self.id:
            with contextlib.suppress(HomenodeError):
                await self.link.transport.call("CloseSession", pb.CloseSessionRequest(session_id=self.id), timeout_s)

    def begin(self, opened: pb.OpenSessionResponse) -> None:
        """The directory has opened a session for us: bring it onto the stream."""
        position = position_of(opened.position)
        self.cache.drop_all(floors=position.incarnation != self.position.incarnation)
        self.cache.doubt = False  # nothing of the former session happens any more
        self.opened, self.id = opened, opened.session_id
        self.bounds = Bounds.of(opened)
        self.cache.freshness.live_ms = opened.ttl_ms
        self._attaches = 0
        self.position = self.fill_from = position
        self.phase = Phase.LIVE
        for feed in self.watches.values():
            feed.resync(position)
        limits = opened.limits
        if limits.in_flight_operations:
            # Pings and acks share the server's bound with requests.
            self.link.in_flight_max = max(16, limits.in_flight_operations * 3 // 4)
        self.link.bookmark_ms = opened.bookmark_ms or 1_000
        self.link.add(self)

    def _take_permissions(self) -> None:
        self.cache.freshness.close()
        self.cache.drop_all()
        for record in self.leases.values():
            record.lost("session_lost")
        self.leases.clear()
        self._renewing.clear()
        self._acks.clear()

    def lost(self) -> None:
        """The directory has ended the session: take permissions now, and get another session."""
        if self.phase is not Phase.LIVE:
            return
        self.phase = Phase.LOST
        self.ready = False
        self._take_permissions()
        self._recovery = self.loop.create_task(recovery.reopen(self))

    # --- the stream comes and goes (link.Endpoint) --------------------------------------------------------------------

    def connected(self) -> None:
        """See `link.Endpoint`."""
        self._connected_ns = self.link.clock()
        if self.phase is Phase.LIVE:
            self._attach()

    def disconnected(self) -> None:
        """See `link.Endpoint`."""
        self.ready = False
        self.cache.freshness.close()

    def tick(self, now_ns: int) -> None:
        """See `link.Endpoint`."""
        if self.ready and now_ns - self._pinged_ns >= self.link.bookmark_ms * NS_PER_MS:
            self.ping()
        if self.phase is Phase.LIVE and self.link.connected:
            self._check_bookmarks(now_ns)
        self._send_acks()
        for pending in [p for p in self.pending.values() if p.deadline_ns <= now_ns]:
            self.expire(pending)
        for record in list(self.leases.values()):
            self._renew_if_due(record, now_ns)

    def _check_bookmarks(self, now_ns: int) -> None:
        """A stream that lives, but confirms nothing for this session, has lost it, or its server has lost the store:
        attach anew, elsewhere if there are other servers."""
        interval_ms = self.link.bookmark_ms
        if self.link.transport.hosts > 1:
            silent_ms = max(ELSEWHERE_MS_MIN, ELSEWHERE_INTERVALS * interval_ms)
        elif self.ready:
            silent_ms = max(UNCONFIRMED_MS_MIN, UNCONFIRMED_INTERVALS * interval_ms)
        else:
            return  # the attach is tried again and again
        heard_ns = max(self.cache.freshness.confirmed_ns, self._attached_ns, self._connected_ns)
        if now_ns - heard_ns > silent_ms * NS_PER_MS:
            self._connected_ns = now_ns
            self.link.restart()

    def ping(self, *, last: bool = False) -> None:
        """Ask for a bookmark now; the `last` time, only to tell what was not told yet."""
        if not self.ready:
            return
        usage = self._with_replaced(self.usage(self.link.clock(), last))
        if last and usage is None:
            return
        self._pinged_ns = self.link.clock()
        ping = pb.Ping(sent_at=self._pinged_ns // NS_PER_US, settled_below=self.settled_below)
        if self.cache.doubt and not self._settling_us and ping.settled_below > self._doubtful:
            self._settling_us = ping.sent_at
        if usage is not None:
            ping.usage.CopyFrom(usage)
        self.link.send(pb.Operation(session=self.number, ping=ping))

    def _with_replaced(self, usage: pb.Usage | None) -> pb.Usage | None:
        if self._replaced:
            usage, now_ns = usage or pb.Usage(), self.link.clock()
            for key, fence, gone_ns in self._replaced:
                usage.replaced.add(key=key, fence=fence, held_us=_held_us(now_ns - gone_ns))
            self._replaced.clear()
        return usage

    def doubt(self, request_id: int = 0) -> None:
        """A request, or (0) some request so far, may still take effect without an answer reaching us.

        Strict copies are not kept until a lease shows that the directory has taken note that it is settled: from then
        on it is refused, and what it did before is in the log that has been applied.
        """
        self._doubtful = max(self._doubtful, request_id or self._request_id)
        self._settling_us = 0
        self.cache.doubt = True

    def _attach(self) -> None:
        self._attaches += 1
        message = pb.Attach(session_id=self.id, number=self._attaches)
        message.resume.incarnation, message.resume.sequence = self.position
        size = 0
        for key, version in list(self.cache.holdings()):
            size += len(key) * 2 + 32
            if size > HOLDINGS_BYTES_MAX:
                self.cache.drop(key)
                continue
            holding = message.holdings.add(key=key)
            holding.version.incarnation, holding.version.n = version
        self.cache.attach()
        self.attach_id = self.next_id()
        self.link.send(pb.Operation(session=self.number, request_id=self.attach_id, attach=message))

    def _attached(self, answer: pb.Answer) -> None:
        if answer.HasField("error"):
            self.last_failure = from_wire(answer.error)
            if isinstance(self.last_failure, SessionLost):
                self.lost()
            else:
                self.loop.call_later(self._backoff.next_s(), self._attach_again, self.attach_id)
            return
        self._backoff.reset()
        position = position_of(answer.attach.position)
        if answer.attach.resync or position != self.position:
            self._resync(position)
        for watch_id, feed in self.watches.items():
            self._watch_again(watch_id, feed)
        self.ready = True
        self._attached_ns = self.link.clock()
        self._send_acks()
        for pending in list(self.pending.values()):
            self.transmit(pending)
        self.ping()

    def _attach_again(self, attach_id: int) -> None:
        if self.attach_id == attach_id and self.phase is Phase.LIVE and not self.ready:
            self._attach()

    # --- what comes ---------------------------------------------------------------------------------------------------

    def item(self, item: pb.Item) -> None:
        """See `link.Endpoint`."""
        what = item.WhichOneof("what")
        if what == "answer":
            self._answer(item.answer)
        elif what == "invalidation":
            self._invalidation(item.invalidation)
        elif what == "bookmark":
            self._bookmark(item.bookmark)
        elif what == "change":
            self._change(item.change)
        elif what == "lease_ended":
            ended = item.lease_ended
            self._advance(Position(self.position.incarnation, ended.sequence - 1))
            self.end_lease(ended.lease_id, CAUSES.get(ended.cause, ""))
        elif what == "pushed":
            self.on_pushed(item.pushed)
        elif what == "lease_offered":
            self._offered(item.lease_offered)
        elif what == "policy_changed":
            self.cache.policy_changed(item.policy_changed.key)
            self._advance(Position(self.position.incarnation, item.policy_changed.sequence - 1))
        elif what == "resync":
            self._resync(position_of(item.resync.position))
        elif what == "session_ended":
            self.lost()

    def _answer(self, answer: pb.Answer) -> None:
        if self.phase is not Phase.LIVE:
            # The session is over. What was sent meanwhile is refused as nobody's, and may have run when it was sent
            # before: recovery finds out.
            return
        pending = self.pending.get(answer.request_id)
        if pending is None:
            if answer.request_id == self.attach_id:
                self._attached(answer)
            elif answer.HasField("acquire"):
                self.release_orphan(answer.request_id)
            return
        what = answer.WhichOneof("what")
        if what == "error":
            reason = answer.error.reason
            if reason == t.ERROR_REASON_SESSION_LOST:
                self.lost()  # the request stays pending: recovery finds out what became of it
                return
            if reason in TRANSIENT and self.try_again(pending, answer.error):
                return
        self.resolve(pending, answer, what)

    def _invalidation(self, event: pb.Invalidation) -> None:
        version = version_of(event.version)
        self.cache.invalidate(event.key, version)
        self._advance(Position(self.position.incarnation, event.sequence - 1))
        if self.spans is not None and event.traceparent and event.by != self.id:
            self.spans.invalidated(event.traceparent, deleted=event.deleted)
        if event.by == self.id and not event.prepared and not event.deleted:
            return  # the directory knows that the committer has the new version
        wanted = self.cache.must_acknowledge(event.key)
        if event.prepared:  # a writer waits for it
            self.loop.call_soon(self._send_acks)
        elif not wanted and event.key not in self._acks:
            return  # else it goes with the next tick: nobody waits for it
        ack = (version, event.fence, self.link.clock())
        self._acks[event.key] = max(ack, self._acks.get(event.key, ack))

    def _send_acks(self) -> None:
        if self._acks and self.ready:  # else they go when the session is attached again
            # Who has read or written a newer version meanwhile is known to have given up the older ones.
            acks: list[tuple[str, tuple[Version, int, int]]] = []
            for key, ack in self._acks.items():
                if not self.cache.has(key, ack[0]):
                    self.cache.unsettle(key)
                    acks.append((key, ack))
                elif len(self._replaced) < REPLACED_MAX:
                    self._replaced.append((key, *ack[1:]))
            self._acks = {}
            now_ns = self.link.clock()
            for start in range(0, len(acks), ACK_KEYS_MAX):
                message = pb.Ack()
                for key, (version, fence, gone_ns) in acks[start : start + ACK_KEYS_MAX]:
                    acked = message.keys.add(key=key, fence=fence, held_us=_held_us(now_ns - gone_ns))
                    acked.version.incarnation, acked.version.n = version
                self.link.send(pb.Operation(session=self.number, ack=message))

    def _bookmark(self, event: pb.Bookmark) -> None:
        position = position_of(event.position)
        if position.incarnation != self.position.incarnation:
            self._resync(position)
        self._advance(position)
        # The echo of a ping from before this stream proves nothing about what happened since.
        if self.ready and self._attached_ns // NS_PER_US <= event.echo <= self._pinged_ns // NS_PER_US:
            if event.lease_ms and 0 < self._settling_us <= event.echo:
                self.cache.doubt, self._doubtful, self._settling_us = False, 0, 0
            self.cache.freshness.aged(self.link.clock())
            self.cache.freshness.confirm(event.echo * NS_PER_US, event.lease_ms)
            self._fresh.set()

    def _advance(self, position: Position) -> None:
        if position > self.position:
            self.position = position
            for record in self.leases.values():
                record.applied(position)

    def _resync(self, position: Position) -> None:
        self.cache.drop_all(floors=position.incarnation != self.position.incarnation)
        self.position = self.fill_from = position
        for record in self.leases.values():
            record.forget_extensions()
            self._renewing[record.lease_id] = 0  # its end may be among what was lost: ask at the next tick
        for feed in self.watches.values():
            feed.resync(position)

    # --- leases -------------------------------------------------------------------------------------------------------

    def new_lease_id(self) -> str:
        """An id that no other lease has: the directory tells by it why a lease is over."""
        return f"{self.id.rpartition('~')[2]}-{self.next_id()}"

    def release_later(self, key: str, lease_id: str) -> None:
        """See `Requests.release_later`; the lease is no longer ours at once."""
        self.leases.pop(lease_id, None)
        self._renewing.pop(lease_id, None)
        super().release_later(key, lease_id)

    def end_lease(self, lease_id: str, cause: str) -> None:
        """A write lease is over."""
        record = self.leases.pop(lease_id, None)
        self._renewing.pop(lease_id, None)
        if record is not None:
            record.lost(cause)

    def _renew_if_due(self, record: LeaseRecord, now_ns: int) -> None:
        asked_ns = self._renewing.get(record.lease_id)
        if asked_ns is None:
            asked_ns = self._renewing[record.lease_id] = now_ns
        if not self.ready or now_ns - asked_ns < record.ttl_ms * NS_PER_MS * RENEW_AFTER:
            return
        if record.renewals < RENEWALS_MAX:
            self.renew(record)

    def renew(self, record: LeaseRecord, on_done: Callable[[], None] | None = None) -> None:
        """Ask for another term. It counts when the log up to the grant has been applied, so a bookmark is asked for."""
        self._renewing[record.lease_id] = self.link.clock()

        def renewed(message: pb.RenewResponse, pending: Pending) -> None:
            record.renewed(pending.sent_ns, message.ttl_ms, position_of(message.as_of))
            record.applied(self.position)
            if record.waits_for_log:
                self.ping()
            if on_done is not None:
                on_done()

        def refused(failure: HomenodeError) -> None:
            cause = getattr(failure, "cause", None)
            if cause is not None:
                self.end_lease(record.lease_id, cause)
            if on_done is not None:
                on_done()

        message = pb.RenewRequest(key=record.key, lease_id=record.lease_id, ttl_ms=record.ttl_ms)
        self.background("renew", message, on_answer=renewed, on_error=refused)

    # --- watches ------------------------------------------------------------------------------------------------------

    async def watch(self, feed: Feed) -> None:
        """Begin to fill `feed`. Raises HomenodeError."""

        def started(message: pb.WatchAck, pending: Pending) -> None:
            feed.watch_id = pending.request_id
            feed.seen = max(feed.seen, position_of(message.position))
            if pending.abandoned:
                self.unwatch(feed)
            else:
                self.watches[pending.request_id] = feed

        try:
            await self.request("watch", pb.WatchRequest(prefix=feed.prefix), on_answer=started)
        except BaseException:
            self.unwatch(feed)
            raise

    def unwatch(self, feed: Feed) -> None:
        """Nobody reads the feed any more."""
        feed.close()
        self.watches.pop(feed.watch_id, None)
        if self.ready and feed.watch_id:
            message = pb.UnwatchRequest(watch_id=feed.watch_id)
            self.link.send(pb.Operation(session=self.number, unwatch=message))

    def _watch_again(self, watch_id: int, feed: Feed) -> None:
        message = pb.WatchRequest(prefix=feed.prefix)
        message.after.incarnation, message.after.sequence = max(feed.seen, self.position)
        self.background("watch", message, on_error=feed.fail, request_id=watch_id)

    def _offered(self, event: pb.LeaseOffered) -> None:
        """Another session has handed its write lease to this one: watches of the artifact say so."""
        position = Position(self.position.incarnation, event.sequence)
        self._advance(Position(position.incarnation, event.sequence - 1))
        for feed in self.watches.values():
            if event.key.startswith(feed.prefix):
                told = Event("handoff", event.key, None, event.by, agent=event.agent, by_name=event.by_name)
                feed.push(told, position)

    def _change(self, event: pb.Change) -> None:
        position = Position(self.position.incarnation, event.sequence)
        self._advance(Position(position.incarnation, event.sequence - 1))
        feed = self.watches.get(event.watch_id)
        if feed is not None:
            kind = "delete" if event.deleted else "change"
            told = Event(kind, event.key, version_of(event.version), event.by, event.size, by_name=event.by_name)  # type: ignore[arg-type]
            feed.push(told, position)


def _held_us(held_ns: int) -> int:
    return min(held_ns // NS_PER_US, HELD_US_MAX)
