"""Reads and writes of one session, for all its agents: what goes to the directory, and what the cache learns of it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeGuard

from homenode import pushed
from homenode.artifact import LAZY, STRICT, Artifact
from homenode.cache import HAVE_MAX, Cache, CopyPolicy
from homenode.chunking import BytesSource, LargeBody, Source, prepare
from homenode.clock import NS_PER_MS
from homenode.contents import (
    BodyGone,
    BodyMissing,
    Encoded,
    decode,
    download,
    encode,
    upload,
)
from homenode.errors import (
    Contended,
    ContentMissing,
    HomenodeError,
    InternalError,
    LeaseLost,
    NotFound,
    Stale,
    TooLarge,
    Unknown,
    Unsupported,
    VersionConflict,
)
from homenode.large import Large, Progress
from homenode.leases import LeaseRecord
from homenode.pending import OnAnswer, Pending
from homenode.requests import Phase
from homenode.session import Session
from homenode.values import LEVELS, NO_META, Meta, name, strategy_of
from homenode.versions import ABSENT, Base, Position, Version, position_of, version_of
from homenode.view import Counters
from homenode_api.chunks import PIECE_MAX_BYTES
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t

if TYPE_CHECKING:
    from homenode.workers import Workers

#: A commit of this session that is answered while a read is under way makes the read's answer an old one.
FETCHES_MAX = 16
NO_BYTES: Mapping[bytes, bytes] = MappingProxyType({})


class Core:
    """See the module.

    Args:
        session: open, or about to be.
        cache: the session's.
    """

    def __init__(self, session: Session, cache: Cache) -> None:
        self.session = session
        self.cache = cache
        self.clock = session.link.clock
        self._default_policy = CopyPolicy(0)
        self.large = Large(session)
        self.pushed_bytes = 0  # of contents that came by themselves
        session.on_pushed = partial(pushed.keep, self)
        self._flights: dict[str, asyncio.Future[Artifact | None]] = {}
        self.link_key: tuple[int, object, int] | None = None
        self.credentials: ssl.SSLContext | None = None
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        """Ways to KV workers, where prompts are sent to any."""
        if self._workers is None:
            from homenode.workers import Workers

            self._workers = Workers(self, self.credentials)
        return self._workers

    async def close_workers(self) -> None:
        """Let go of them."""
        workers, self._workers = self._workers, None
        if workers is not None:
            await workers.close()

    # --- reads --------------------------------------------------------------------------------------------------------

    async def fetch_together(self, key: str, counters: Counters) -> Artifact:
        """As `fetch`, but agents that miss the same artifact at the same time ask once.

        Who joins gets an answer that was asked for before; it must not be older than a cached copy may be. A strict one
        must be such a copy.
        """
        flight = self._flights.get(key)
        if flight is not None:
            artifact = await asyncio.shield(flight)
            if artifact is not None and self._serves_late(artifact):
                counters.misses += 1
                return artifact
            return await self.fetch(key, counters)
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        artifact = None
        try:
            artifact = await self.fetch(key, counters)
            return artifact
        finally:
            del self._flights[key]
            flight.set_result(artifact)  # None: whoever joined asks for himself

    def _serves_late(self, artifact: Artifact) -> bool:
        """Whether an answer may be given to somebody who asked after it was asked for."""
        now_ns = self.clock()
        if artifact.level == STRICT:
            return now_ns < artifact.window.until_ns
        assert artifact.version is not None
        policy = self.cache.policy(artifact.key)
        if policy is not None and policy.max_reads is not None:  # each read counts
            return self.cache.serve(artifact.key, now_ns) is artifact
        max_age_ms = self.max_age_ms if policy is None else policy.max_age_ms
        young = now_ns - artifact.fetched_ns < max_age_ms * NS_PER_MS
        return young and self.cache.may_show(artifact.key, artifact.version)

    async def fetch(
        self,
        key: str,
        counters: Counters,
        *,
        version: Version | None = None,
        level: t.Consistency = t.CONSISTENCY_UNSPECIFIED,
        snapshot: str = "",
        timeout_ms: int | None = None,
        at_hand: Mapping[bytes, bytes] = NO_BYTES,
    ) -> Artifact:
        """Ask the directory; `snapshot` names the one that keeps `version`, `at_hand` are bytes that the caller has, by
        their hash.

        Raises NotFound, Stale (only older versions came than were shown), Unsupported (a strict read was asked for and
        the directory gives none), HomenodeError.
        """
        counters.misses += 1
        name_held = True
        failure: HomenodeError | None = None
        for _ in range(FETCHES_MAX):
            self.cache.begin_fill(key)
            try:
                held = self._held(key, at_hand) if name_held else {}
                artifact = await self._fetch(key, counters, version, level, snapshot, timeout_ms, held)
            except BodyMissing:
                name_held = False
                failure = InternalError("the content that came does not match its hash")
                continue
            except BodyGone as gone:
                if version is not None:
                    raise gone.failure from None
                failure = Contended("new versions came faster than one of them could be read")
                continue
            except NotFound:
                if version is None:
                    self.cache.drop(key)
                raise
            finally:
                self.cache.end_fill(key)
            assert artifact.version is not None
            if version is not None:
                return artifact
            if self.cache.may_show(key, artifact.version):
                self.cache.saw(key, artifact.version)
                return artifact
        counters.stale += failure is None
        raise failure or Stale("the directory gave an older version than this session has seen")

    def _held(self, key: str, at_hand: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        held = self.cache.held(key)
        return dict(list({**at_hand, **held}.items())[:HAVE_MAX]) if at_hand else held

    async def _fetch(
        self,
        key: str,
        counters: Counters,
        version: Version | None,
        level: t.Consistency,
        snapshot: str,
        timeout_ms: int | None,
        held: dict[bytes, bytes],
    ) -> Artifact:
        # A strict read of a lazy artifact is a load that nobody keeps; one of a strict artifact brings a copy.
        share = version is None and (level != t.CONSISTENCY_STRICT or self.cache.is_strict(key) is not False)
        request = pb.ReadRequest(key=name(key), have=held, share=share, consistency=level, snapshot=snapshot)
        if version is not None:
            request.version.incarnation, request.version.n = version
        response, pending = await self.session.request("read", request, timeout_ms=timeout_ms)
        if version is None:
            self._judge_level(key, level, response)
        if share and response.content.held and self._may_keep(response, pending):
            copy = self.cache.renew(
                key,
                version_of(response.version),
                LEVELS.get(response.level, LAZY),
                self._copy_policy(response),
                pending.sent_ns,
            )
            if copy is not None:
                counters.revalidated += 1
                return copy
        artifact = await self._artifact(key, response, held, pending, counters, timeout_ms, snapshot)
        policy = self._copy_policy(response)
        artifact.max_steps = policy.max_steps  # whether it is kept or not: others may be waiting for it
        if share and self._may_keep(response, pending):
            self._install(artifact, policy)
        return artifact

    def _judge_level(self, key: str, asked: t.Consistency, response: pb.ReadResponse) -> None:
        """Learn whether the artifact is strict; the directory lets nobody keep what is strict only because it was asked
        for so. Raises Unsupported."""
        strict = response.level == t.CONSISTENCY_STRICT
        if asked == t.CONSISTENCY_STRICT:
            if not strict:
                raise Unsupported(f"this directory gives no strict read of {key!r}")
            policy = response.policy.consistency
            if policy == t.CONSISTENCY_UNSPECIFIED and not response.cacheable:
                return  # a lazy artifact, or a strict one of which a version is about to be published
            strict = response.cacheable or policy == t.CONSISTENCY_STRICT
        self.cache.told(key, strict=strict)

    async def _artifact(
        self,
        key: str,
        response: pb.ReadResponse | pb.AcquireResponse,
        held: dict[bytes, bytes],
        pending: Pending,
        counters: Counters,
        timeout_ms: int | None,
        snapshot: str = "",
    ) -> Artifact:
        """The artifact that an answer carries; its bytes are remembered.

        Raises BodyMissing, BodyGone, HomenodeError.
        """
        version, content = version_of(response.version), response.content
        found = decode(content, held)
        timeout_s = self.timeout_s(timeout_ms)
        if found is None and content.size > PIECE_MAX_BYTES:
            data, came = await self.large.fetch(key, version, content.hash, content.size, held, timeout_s, snapshot)
            found = data, came, came < content.size // 2
        elif found is None:
            request = pb.ReadContentRequest(session_id=self.session.id, key=key, have=list(held), snapshot=snapshot)
            request.version.incarnation, request.version.n = version
            link = self.session.link

            def load(left_s: float) -> Awaitable[tuple[bytes, int, bool]]:
                request.session_id = self.session.id
                return download(link.transport, request, content.hash, held, left_s)

            found = await link.again(load, timeout_s)
        data, came, patched = found
        counters.fetched_bytes += came
        counters.patch_bytes += came if patched else 0
        counters.revalidated += came == 0
        self._remember(key, version, content.hash, data)
        meta = Meta.of(response.metadata) if response.HasField("metadata") else NO_META
        return self.make(
            key,
            version,
            data,
            content.hash,
            meta,
            committed_at_ms=response.committed_at_ms,
            level=LEVELS.get(response.level, LAZY),
            fetched_ns=pending.sent_ns,
        )

    def make(self, key: str, version: Version | None, data: bytes, hash: bytes, meta: Meta, **facts: Any) -> Artifact:
        """An artifact with this session's clock."""
        return Artifact(
            key,
            version,
            data,
            hash=hash,
            clock=self.clock,
            metadata=meta.values if type(meta.values) is MappingProxyType else MappingProxyType(dict(meta.values)),
            tags=meta.tags,
            media_type=meta.media_type,
            **facts,
        )

    def _may_keep(self, response: pb.ReadResponse, pending: Pending) -> bool:
        return response.cacheable and self._still_ours(pending, position_of(response.as_of))

    def _remember(self, key: str, version: Version, hash: bytes, data: bytes) -> None:
        if self.cache.keeps(len(data)):
            self.cache.remember(key, version, hash, data)

    def keep(self, artifact: Artifact, response: pb.ReadResponse) -> None:
        """Remember the bytes of an answer, and keep it as a copy; something newer that is known forbids the latter."""
        assert artifact.version is not None
        self._remember(artifact.key, artifact.version, artifact.hash, artifact.bytes)
        self._install(artifact, self._copy_policy(response))

    def _install(self, artifact: Artifact, policy: CopyPolicy) -> None:
        if self.cache.keeps(len(artifact.bytes)):
            self.cache.install(artifact, policy)

    def timeout_s(self, timeout_ms: int | None) -> float:
        """A time limit in seconds; None: the connection's."""
        return (timeout_ms or self.session.timeout_ms) / 1000

    @property
    def artifact_max(self) -> int:
        """Most bytes of an artifact, as the directory says."""
        return self.session.bounds.artifact_bytes

    def _still_ours(self, pending: Pending, as_of: Position) -> bool:
        """Whether invalidations come for what an answer carries.

        It came under this session and on the stream to which the session is attached now: an attach declares the copies
        that are held, and the directory tells of no others. And it is not from before the last resync.
        """
        session = self.session
        here = pending.attach_id == session.attach_id and pending.session_id == session.id
        return here and session.phase is Phase.LIVE and as_of >= session.fill_from

    def _copy_policy(self, response: pb.ReadResponse) -> CopyPolicy:
        if not response.HasField("policy"):
            strategy = LEVELS.get(response.level, LAZY)
            if self._default_policy.max_age_ms != self.max_age_ms or self._default_policy.strategy != strategy:
                self._default_policy = CopyPolicy(self.max_age_ms, strategy=strategy)
            return self._default_policy
        policy = response.policy
        return CopyPolicy(
            policy.max_age_ms if policy.HasField("max_age_ms") else self.max_age_ms,
            policy.max_reads if policy.HasField("max_reads") else None,
            policy.max_steps if policy.HasField("max_steps") else None,
            strategy_of(response.level, policy),
        )

    @property
    def max_age_ms(self) -> int:
        """Greatest age of a cached read where no policy says otherwise."""
        return self.session.bounds.max_age_ms

    # --- writes -------------------------------------------------------------------------------------------------------

    async def commit(
        self,
        key: str,
        data: bytes | Source | None,
        base: Version | Base,
        meta: Meta,
        counters: Counters,
        *,
        lease: LeaseRecord | None = None,
        keep: bool = False,
        timeout_ms: int | None = None,
        progress: Progress | None = None,
    ) -> Artifact:
        """Publish `data`, or with None delete. Returns what is committed now.

        Its bytes are empty after a delete, and where `data` is a source that does not have them in memory.

        Raises VersionConflict, AlreadyExists, LeaseDenied, LeaseLost, StaleFence, TooLarge, Unknown, HomenodeError.
        """
        patched = True
        body = data if data is None or self._in_one_piece(data) else await self.body(key, data, base, timeout_ms)
        while True:
            try:
                if isinstance(body, LargeBody):
                    counters.sent_bytes += await self.large.upload(body, self.timeout_s(timeout_ms), progress)
                return await self._commit(key, body, base, meta, counters, lease, keep, timeout_ms, patched)
            except ContentMissing:
                if not patched or data is None:
                    raise
                patched = False  # the directory no longer has the base of the patch, or what was sent long ago
            except VersionConflict as refusal:
                refusal.base = base if isinstance(base, Version) else None
                if refusal.current is not None:
                    self.cache.invalidate(key, refusal.current)
                counters.refused(refusal)
                raise
            except HomenodeError as refusal:
                if isinstance(refusal, LeaseLost) and lease is not None:
                    self.session.end_lease(lease.lease_id, refusal.cause)
                counters.refused(refusal)
                raise

    def _in_one_piece(self, data: bytes | Source) -> TypeGuard[bytes]:
        return isinstance(data, bytes) and len(data) <= self.session.bounds.piece_bytes

    async def body(
        self, key: str, data: bytes | Source, base: Version | Base, timeout_ms: int | None
    ) -> bytes | LargeBody:
        """What to send: bytes in one piece, or a large content cut like the version that it replaces."""
        if self._in_one_piece(data):
            return data
        source = BytesSource(data) if isinstance(data, bytes) else data
        if source.size > self.artifact_max:
            raise TooLarge(f"an artifact may have {self.artifact_max} bytes, not {source.size}")
        if source.size <= PIECE_MAX_BYTES:
            return await asyncio.to_thread(source.read, 0, source.size)
        replaced = await self.large.list_at(key, base, self.timeout_s(timeout_ms)) if isinstance(base, Version) else ()
        body = await asyncio.to_thread(prepare, source, replaced)
        hash = self.cache.hash_at(key, base) if isinstance(base, Version) and replaced else None
        old = self.cache.content(hash) if hash is not None else None
        return body if old is None else body.patched_from(replaced, old)

    async def _commit(
        self,
        key: str,
        data: bytes | LargeBody | None,
        base: Version | Base,
        meta: Meta,
        counters: Counters,
        lease: LeaseRecord | None,
        keep: bool,
        timeout_ms: int | None,
        patched: bool,
    ) -> Artifact:
        session = self.session
        request = pb.CommitRequest(key=name(key), keep=keep)
        if isinstance(base, Version):
            request.version.incarnation, request.version.n = base
        elif base is ABSENT:
            request.absent = True
        else:
            request.any = True
        hash = b""
        if data is not None:
            sending = self.put_content(request.content, key, data, base if patched else ABSENT, counters, timeout_ms)
            if sending is not None:
                await sending
            hash = request.content.hash
            if meta.said:
                request.metadata.CopyFrom(meta.to_wire())
        if lease is not None:
            request.token.lease_id = lease.lease_id
            request.token.incarnation, request.token.fence = lease.token
        done: list[Artifact] = []

        def committed(message: pb.CommitResponse, pending: Pending) -> None:
            keep_copy = self.cache.end_write(key)
            done.append(self.committed(key, data, hash, meta, message, pending, keep_copy=keep_copy))
            if lease is not None:
                if keep and message.HasField("token"):
                    lease.token = (message.token.incarnation, message.token.fence)
                    lease.version = version_of(message.version)
                else:
                    session.end_lease(lease.lease_id, "released")

        if timeout_ms is None and self.cache.is_strict(key):
            timeout_ms = self._until_quiet_ms
        await self._effect("commit", key, request, timeout_ms, committed)
        return done[0]

    @property
    def _until_quiet_ms(self) -> int:
        """How long an effect may take that has to wait until the last copy has run out."""
        return self.session.timeout_ms + self.session.opened.term_ms

    def put_content(
        self,
        content: t.Content,
        key: str,
        data: bytes | LargeBody,
        base: Version | Base,
        counters: Counters,
        timeout_ms: int | None,
    ) -> Awaitable[None] | None:
        """Fill in the content of a commit on `base`. A body that is too large for a frame is to be awaited first."""
        session = self.session
        if isinstance(data, LargeBody):
            content.hash, content.size = data.hash, data.size
            return None
        encoded = self._encode(key, data, base)
        counters.sent_bytes += len(encoded.body)
        inline = len(encoded.body) <= session.bounds.inline_bytes
        encoded.write_to(content, inline=inline)
        if inline:
            return None
        return session.link.again(
            lambda left_s: upload(session.link.transport, session.id, encoded, left_s), self.timeout_s(timeout_ms)
        )

    def _effect(
        self, kind: str, key: str, message: Any, timeout_ms: int | None, on_answer: OnAnswer
    ) -> Awaitable[tuple[Any, Pending]]:
        """Send an effect on `key`. No strict copy is kept until its end; `on_answer` calls `Cache.end_write`.

        The directory makes nobody wait for the copy of the session whose effect it is.
        """

        def failed(failure: HomenodeError) -> None:
            self.cache.end_write(key)
            if isinstance(failure, Unknown):
                self.session.doubt(failure.request_id)

        self.cache.begin_write(key)
        return self.session.request(
            kind, message, effect=True, timeout_ms=timeout_ms, on_answer=on_answer, on_error=failed
        )

    def _encode(self, key: str, data: bytes, base: Version | Base) -> Encoded:
        """As a patch from the content that is replaced, which the directory surely has too, or as a snapshot."""
        if base is ABSENT:
            hash = None
        elif isinstance(base, Version):
            hash = self.cache.hash_at(key, base)
        else:
            hash = next(iter(self.cache.have(key)), None)
        old = self.cache.content(hash) if hash is not None else None
        known = (hash, old) if hash is not None and old is not None else None
        return encode(data, known)

    def committed(
        self,
        key: str,
        body: bytes | LargeBody | None,
        hash: bytes,
        meta: Meta,
        message: pb.CommitResponse,
        pending: Pending,
        *,
        keep_copy: bool,
    ) -> Artifact:
        """Runs in stream order: the own commit raises the floor before anything later is looked at."""
        version = version_of(message.version)
        self.cache.saw(key, version)
        level = LEVELS.get(message.level, LAZY)
        data = body.data if isinstance(body, LargeBody) else body
        times = {"committed_at_ms": message.committed_at_ms, "fetched_ns": pending.sent_ns}
        artifact = self.make(key, version, data or b"", hash, meta, level=level, **times)
        if body is None:
            self.cache.drop(key)
        if data is not None:
            self._remember(key, version, hash, data)
            policy = self.cache.policy(key)
            ours = self._still_ours(pending, position_of(message.as_of)) and not pending.resent
            if policy is not None and keep_copy and ours and (level == STRICT) == self.cache.is_strict(key):
                self._install(artifact, policy)
        return artifact

    # --- leases -------------------------------------------------------------------------------------------------------

    async def acquire(
        self, key: str, counters: Counters, *, ttl_ms: int, wait_ms: int, create: bool, timeout_ms: int | None = None
    ) -> tuple[LeaseRecord, Artifact | None]:
        """Take the write lease: its record, and what it starts from (None: the artifact does not exist).

        Raises LeaseDenied, NotFound, HomenodeError. Cancelled or out of time, a lease that is granted all the same is
        given back.
        """
        session = self.session
        held = self.cache.held(key)
        lease_id = session.new_lease_id()
        request = pb.AcquireRequest(
            key=name(key), lease_id=lease_id, ttl_ms=ttl_ms, wait_ms=wait_ms, create=create, have=list(held)
        )
        granted: list[LeaseRecord] = []

        def on_grant(message: pb.AcquireResponse, pending: Pending) -> None:
            if pending.abandoned:
                session.release_later(key, lease_id)
                return
            version = version_of(message.version)
            self.cache.saw(key, version)
            record = LeaseRecord(
                key,
                lease_id,
                (message.token.incarnation, message.token.fence),
                message.ttl_ms,
                pending.sent_ns,
                version,
            )
            session.leases[lease_id] = record
            granted.append(record)

        total_ms = (timeout_ms or session.timeout_ms) + wait_ms
        if wait_ms:
            await session.link.queueing.enter()
        try:
            response, pending = await session.request(
                "acquire", request, effect=True, timeout_ms=total_ms, on_answer=on_grant
            )
            artifact = None
            if response.HasField("content"):
                artifact = await self._leased(key, response, held, pending, counters, timeout_ms)
            await self._assure(granted[0])
        except BaseException as failure:
            if granted:
                session.release_later(key, lease_id)
            if isinstance(failure, HomenodeError):
                counters.refused(failure)
            raise
        finally:
            if wait_ms:
                session.link.queueing.leave()
        return granted[0], artifact

    async def _leased(
        self,
        key: str,
        response: pb.AcquireResponse,
        held: dict[bytes, bytes],
        pending: Pending,
        counters: Counters,
        timeout_ms: int | None,
    ) -> Artifact:
        version = version_of(response.version)
        try:
            return await self._artifact(key, response, held, pending, counters, timeout_ms)
        except BodyMissing:
            return await self.fetch(key, counters, version=version, timeout_ms=timeout_ms)
        except BodyGone:  # only with the lease
            raise LeaseLost("the write lease was lost before its content could be read") from None

    async def _assure(self, record: LeaseRecord) -> None:
        """A lease that was long waited for is nearly over by our count, which begins at the request: renew it now."""
        if record.remaining_ns(self.clock()) > record.ttl_ms * NS_PER_MS // 2:
            return
        asked = asyncio.Event()
        self.session.renew(record, asked.set)
        try:
            async with asyncio.timeout(record.ttl_ms / 1000):
                await asked.wait()
                while record.waits_for_log and record.cause is None:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise LeaseLost("the write lease could not be confirmed in time") from None
        if record.cause is not None:
            raise LeaseLost("the write lease was lost", cause=record.cause)

    async def release(self, record: LeaseRecord, timeout_ms: int | None = None) -> None:
        """Give a write lease back. A lease that is over already is no error."""
        if record.cause is not None:
            return
        self.session.end_lease(record.lease_id, "released")
        request = pb.ReleaseRequest(key=record.key, lease_id=record.lease_id)
        with contextlib.suppress(LeaseLost):
            await self.session.request("release", request, effect=True, timeout_ms=timeout_ms)

    async def handoff(self, record: LeaseRecord, to: str, agent: str, ttl_ms: int, timeout_ms: int | None) -> None:
        """Give a write lease to the session `to`. Raises LeaseLost, StaleFence, SuccessorLost, HomenodeError."""
        if record.cause is not None:
            raise LeaseLost(f"the write lease of {record.key!r} is over", cause=record.cause)
        request = pb.HandoffRequest(key=record.key, to=to, agent=agent, ttl_ms=ttl_ms)
        request.token.lease_id = record.lease_id
        request.token.incarnation, request.token.fence = record.token

        def handed(*_: object) -> None:
            self.session.end_lease(record.lease_id, "handed_off")

        try:
            await self.session.request("handoff", request, effect=True, timeout_ms=timeout_ms, on_answer=handed)
        except LeaseLost as refusal:
            self.session.end_lease(record.lease_id, refusal.cause)
            raise

    def give_up_copy(self, key: str) -> None:
        """Give up the shared copy. Once the directory has heard of it, it tells of no invalidation any more, so nothing
        that it sent before may be kept then, and no strict copy meanwhile."""

        def gone(*_: object) -> None:
            self.cache.end_write(key)
            self.cache.forfeit(key)

        def lost(_: HomenodeError) -> None:
            gone()
            self.session.doubt()

        self.cache.drop(key)
        self.cache.begin_write(key)
        self.session.background("release", pb.ReleaseRequest(key=key), effect=True, on_answer=gone, on_error=lost)

    async def set_policy(self, key: str, policy: t.Policy | None, timeout_ms: int | None) -> None:
        """Set the artifact's policy, or (None) take it away. Raises NotFound, Unsupported, HomenodeError."""
        if policy is not None:
            self._check_strict(policy)

        def done(*_: object) -> None:
            self.cache.end_write(key)
            self.cache.forfeit(key)

        request = pb.SetPolicyRequest(key=name(key), policy=policy)
        self.cache.drop(key)
        await self._effect("set_policy", key, request, timeout_ms or self._until_quiet_ms, done)

    async def set_prefix_policy(self, prefix: str, policy: t.Policy | None, timeout_ms: int | None) -> int:
        """The same for all artifacts under a prefix: how many have not taken it over yet."""
        if policy is not None:
            self._check_strict(policy)
        request = pb.SetPolicyRequest(prefix=name(prefix), policy=policy)
        answer = await self.ask("set_policy", request, effect=True, timeout_ms=timeout_ms or self._until_quiet_ms)
        for key in [key for key, _ in self.cache.holdings() if key.startswith(prefix)]:
            self.cache.drop(key)
        return int(answer.remaining)

    def _check_strict(self, policy: t.Policy) -> None:
        strict = policy.consistency == t.CONSISTENCY_STRICT
        if strict and self.session.opened.strongest == t.CONSISTENCY_LAZY:
            raise Unsupported("this directory cannot keep artifacts strict over its store")

    # --- questions ----------------------------------------------------------------------------------------------------

    async def savings(self, timeout_ms: int | None) -> pb.SavingsResponse:
        """What the servers have been told of the workspace. Raises HomenodeError."""
        link = self.session.link

        def load(left_s: float) -> Awaitable[pb.SavingsResponse]:
            return link.transport.call("Savings", pb.SavingsRequest(session_id=self.session.id), left_s)

        return await link.again(load, self.timeout_s(timeout_ms))

    async def ask(self, kind: str, message: Any, *, effect: bool = False, timeout_ms: int | None = None) -> Any:
        """Any other request: its answer's message. Raises HomenodeError."""
        response, _ = await self.session.request(kind, message, effect=effect, timeout_ms=timeout_ms)
        return response
