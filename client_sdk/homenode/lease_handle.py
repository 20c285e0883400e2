"""Leases as callers hold them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from homenode.artifact import Artifact
from homenode.clock import NS_PER_MS
from homenode.core import Core
from homenode.errors import HomenodeError, LeaseLost
from homenode.leases import LeaseRecord
from homenode.values import Meta, Value, encode
from homenode.versions import ABSENT, Version
from homenode.view import View

RELEASE_TIMEOUT_MS = 2_000


class Lease(Protocol):
    """What read and write leases have in common."""

    @property
    def key(self) -> str:
        """The artifact."""

    @property
    def state(self) -> str:
        """ "M" for a write lease, "S" for a read lease, "I" when it is over."""

    @property
    def version(self) -> Version | None:
        """The committed version under the lease; None where the artifact does not exist."""

    @property
    def fence(self) -> int:
        """Counter of the token; 0 for a read lease. Offer (version.incarnation, fence) to outside resources."""

    @property
    def remaining_ms(self) -> float:
        """How long it certainly lives still, by this process's clock; renewals move it."""

    async def release(self) -> None:
        """Give it back. Again, or when it is over, does nothing."""


class WriteLease:
    """The one right to write an artifact. Renewed by itself until released."""

    def __init__(self, core: Core, view: View, record: LeaseRecord, artifact: Artifact | None) -> None:
        self._core = core
        self._view = view
        self.record = record
        self.artifact = artifact

    @property
    def key(self) -> str:
        """See `Lease`."""
        return self.record.key

    @property
    def state(self) -> str:
        """See `Lease`."""
        return "M" if self.record.remaining_ns(self._core.clock()) > 0 else "I"

    @property
    def version(self) -> Version | None:
        """See `Lease`."""
        return self.artifact.version if self.artifact is not None else None

    @property
    def fence(self) -> int:
        """See `Lease`."""
        return self.record.token[1]

    @property
    def token(self) -> tuple[int, int]:
        """(incarnation, fence)."""
        return self.record.token

    @property
    def cause(self) -> str | None:
        """Why it is over; None while it is not known to be."""
        return self.record.cause

    @property
    def remaining_ms(self) -> float:
        """See `Lease`."""
        return self.record.remaining_ns(self._core.clock()) / NS_PER_MS

    async def commit(self, value: Value, *, keep: bool = True, timeout_ms: int | None = None) -> Artifact:
        """Publish a new version under the lease; without `keep` the lease ends with it.

        Raises LeaseLost or StaleFence with the cause where it is over, HomenodeError.
        """
        data, media_type = encode(value)
        old = self.artifact
        kept = Meta(old.metadata, old.tags, old.media_type) if old is not None else Meta()
        meta = Meta(kept.values, kept.tags, media_type or kept.media_type)
        return await self.publish(data, meta, keep=keep, timeout_ms=timeout_ms)

    async def publish(self, data: bytes, meta: Meta, *, keep: bool, timeout_ms: int | None = None) -> Artifact:
        """As `commit`, with bytes and metadata ready."""
        if self.record.cause is not None:
            raise LeaseLost(f"the write lease of {self.key!r} is over", cause=self.record.cause)
        artifact = await self._core.commit(
            self.key, data, self.version or ABSENT, meta, self._view.counters,
            lease=self.record, keep=keep, timeout_ms=timeout_ms,
        )  # fmt: skip
        self.artifact = artifact
        self._view.wrote(artifact)
        return artifact

    async def release(self) -> None:
        """See `Lease`."""
        await self._core.release(self.record, RELEASE_TIMEOUT_MS)

    def release_later(self) -> None:
        """Give it back without waiting."""
        if self.record.cause is None:
            self._core.session.end_lease(self.record.lease_id, "released")
            self._core.session.release_later(self.key, self.record.lease_id)


class ReadLease:
    """The right to serve a copy from here: it is invalidated, or fresh, or over."""

    def __init__(self, core: Core, artifact: Artifact) -> None:
        self._core = core
        self.artifact = artifact

    @property
    def key(self) -> str:
        """See `Lease`."""
        return self.artifact.key

    @property
    def state(self) -> str:
        """See `Lease`."""
        return "S" if self.remaining_ms > 0 else "I"

    @property
    def version(self) -> Version | None:
        """See `Lease`."""
        return self.artifact.version

    @property
    def fence(self) -> int:
        """See `Lease`."""
        return 0

    @property
    def remaining_ms(self) -> float:
        """See `Lease`."""
        return max(0.0, (self.artifact.window.until_ns - self._core.clock()) / NS_PER_MS)

    async def release(self) -> None:
        """Give up the copy, for every agent of the session."""
        if self._core.cache.copy(self.key) is self.artifact:
            self._core.give_up_copy(self.key)


class LeaseContext:
    """What `hn.lease(…)` gives: await it for the lease, or use it in `async with` to release it at the end."""

    def __init__(
        self,
        core: Core,
        view: View,
        key: str,
        mode: str,
        *,
        ttl_ms: int,
        wait_ms: int,
        create: bool,
        timeout_ms: int | None,
    ) -> None:
        self._core = core
        self._view = view
        self._key = key
        self._mode = mode
        self._ttl_ms = ttl_ms
        self._wait_ms = wait_ms
        self._create = create
        self._timeout_ms = timeout_ms
        self._lease: WriteLease | ReadLease | None = None

    async def _take(self) -> WriteLease | ReadLease:
        counters = self._view.counters
        if self._mode == "read":
            artifact = await self._core.fetch(self._key, counters, timeout_ms=self._timeout_ms)
            self._view.show(artifact)
            return ReadLease(self._core, artifact)
        record, found = await self._core.acquire(
            self._key, counters, ttl_ms=self._ttl_ms, wait_ms=self._wait_ms, create=self._create,
            timeout_ms=self._timeout_ms,
        )  # fmt: skip
        return WriteLease(self._core, self._view, record, found)

    def __await__(self) -> Generator[None, None, WriteLease | ReadLease]:
        return self._take().__await__()

    async def __aenter__(self) -> WriteLease | ReadLease:
        self._lease = await self._take()
        return self._lease

    async def __aexit__(self, *_: object) -> None:
        assert self._lease is not None
        try:
            await self._lease.release()
        except HomenodeError:
            pass  # it ends with its term
        except BaseException:
            if isinstance(self._lease, WriteLease):
                self._lease.release_later()
            raise
