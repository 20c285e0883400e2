"""What agents need beyond reading and writing one artifact: snapshots, joint commits, gates, handoffs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from homenode import joint
from homenode.artifact import Artifact
from homenode.draft import Draft
from homenode.errors import HomenodeError, InvalidArgument
from homenode.joint import DELETE, Change, Gate, Read
from homenode.lease_handle import WriteLease
from homenode.snapshot import SnapshotContext
from homenode.values import Meta, Value, duration, encode
from homenode.versions import ABSENT, Base, Version

if TYPE_CHECKING:
    from homenode.client import Homenode
    from homenode.core import Core
    from homenode.joint import _Delete
    from homenode.view import View


class Tools:
    """The part of `homenode.Homenode` that is about several artifacts, or several agents."""

    _core: Core
    _view: View

    def snapshot(
        self,
        keys: Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        load: bool = True,
        ttl_ms: int = 0,
        timeout_ms: int | None = None,
    ) -> SnapshotContext:
        """Several artifacts as of one moment: `async with hn.snapshot(["a", "b"]) as snap: snap["a"].text`.

        What was there then stays readable, whatever is committed, deleted or forgotten meanwhile, until the block ends,
        the session ends, or `ttl_ms` is over.

        Args:
            keys: which artifacts; or
            prefix: all whose name begins with it.
            load: fetch all contents now; else `await snap.read(key)` fetches one.
            ttl_ms: how long the directory keeps it at most; 0: the server's default, 10 minutes.

        Raises (when it is awaited or entered) TooLarge for too many artifacts or bytes, QuotaExceeded for too many
        snapshots, Contended when the artifacts change too often to be caught together, HomenodeError.
        """
        return SnapshotContext(
            self._core, self._view, keys, prefix=prefix, load=load, ttl_ms=duration(ttl_ms, "ttl_ms"),
            timeout_ms=timeout_ms,
        )  # fmt: skip

    async def commit_many(
        self,
        values: Mapping[str, Value | _Delete],
        *,
        base: Mapping[str, Version | Base] | Base | None = None,
        leases: Iterable[WriteLease | Draft] = (),
        timeout_ms: int | None = None,
    ) -> dict[str, Artifact]:
        """Write several artifacts at once, all of them or none: `await hn.commit_many({"a": "…", "b": "…"})`.

        Args:
            values: by name: text, bytes, a JSON value, or `homenode.DELETE`.
            base: what each replaces, as for `put`: by name, or one of `homenode.ABSENT` and `homenode.ANY` for all.
                Without it: the version that this agent saw last, or ABSENT if it saw none.
            leases: write leases of this connection under which some are written; they are kept.

        Metadata is kept from the versions that this agent saw last. Returns the artifacts as committed, by name. Raises
        VersionConflict, AlreadyExists, LeaseDenied, StaleFence, Unsupported (a strict artifact), with `refusals`: why,
        for each artifact that is refused; Unknown, HomenodeError.
        """
        under = {lease.key: lease for lease in map(joint.lease_of, leases)}
        for key in under.keys() - values.keys():
            raise InvalidArgument(f"there is a lease of {key!r}, and nothing to write")
        changes: list[Change] = []
        for key, value in values.items():
            seen = self._view.shown.get(key)
            old = seen.artifact if seen is not None else None
            kept = Meta(old.metadata, old.tags, old.media_type) if old is not None else Meta()
            data, own_type = (None, "") if value is DELETE else encode(value)  # type: ignore[arg-type]
            meta = Meta(kept.values, kept.tags, own_type or kept.media_type)
            lease = under.get(key)
            wanted = (lease.version or ABSENT) if lease is not None else self._base_of(key, base)
            if data is None and wanted is ABSENT:
                raise InvalidArgument(f"this agent has not read {key!r}: read it first, or say its base")
            changes.append(Change(key, data, wanted, meta, lease.record if lease is not None else None))
        if not changes:
            raise InvalidArgument("there is nothing to commit")
        done = await self._commit_changes(changes, timeout_ms)
        for change in changes:
            if change.data is None:
                self._view.forget(change.key)
            else:
                self._view.wrote(done[change.key])
            if change.key in under:
                under[change.key].artifact = done[change.key]
        return done

    async def _commit_changes(self, changes: Sequence[Change], timeout_ms: int | None) -> dict[str, Artifact]:
        try:
            return await joint.commit_many(self._core, changes, self._view.counters, timeout_ms)
        except HomenodeError as failure:
            self._view.counters.refused(failure)
            raise

    def _base_of(self, key: str, base: Mapping[str, Version | Base] | Base | None) -> Version | Base:
        wanted = base.get(key) if isinstance(base, Mapping) else base
        if wanted is None:
            return self._view.version(key) or ABSENT
        if not isinstance(wanted, Version | Base):
            raise InvalidArgument(f"base is a Version, homenode.ABSENT or homenode.ANY, not {wanted!r}")
        return wanted

    async def handoff(
        self,
        lease: WriteLease | Draft,
        to: str | Homenode,
        *,
        agent: str = "",
        ttl_ms: int = 0,
        timeout_ms: int | None = None,
    ) -> None:
        """Give a write lease to a named successor, past everybody who waits for it: `await hn.handoff(draft, critic)`.

        What was written to a draft is committed before. The successor acquires the lease as always, with `hn.write` or
        `hn.lease`: if it waits already, its wait is over; else the lease is kept for it for `ttl_ms`, and its watches
        of the artifact tell it with an event of kind "handoff". The former holder's token is dead from then on.

        Args:
            to: a session id (`other.session_id`), or another agent of this connection.
            agent: which agent of that session is meant, for people; any agent of the session may acquire it.
            ttl_ms: how long the successor may take, 1,000 to 60,000; 0: the server's default term.

        Raises SuccessorLost (that session is not live; the lease stays here), StaleFence or LeaseLost with the cause
        where the lease is over, HomenodeError.
        """
        session, agent = (to, agent) if isinstance(to, str) else (to.session_id, agent or to.name)
        held = joint.lease_of(lease)
        if isinstance(lease, Draft):
            await lease.save(timeout_ms)
        await self._core.handoff(held.record, session, agent, duration(ttl_ms, "ttl_ms"), timeout_ms)

    async def gate(self, reads: Iterable[Read], *, timeout_ms: int | None = None) -> Gate:
        """May this agent still act on what it read? `await hn.gate([plan, budget])` before an effect outside.

        Asks the directory, whatever is cached. When it returns, all of what was read was the committed version, and all
        of the leases were held, at one moment after the call began. It cannot promise that they still are when the
        effect takes place: between the answer and the effect somebody may commit. Where that must not be, hold the
        write leases of what was read (and offer their tokens to the resource outside).

        Args:
            reads: artifacts that it read, leases and drafts that it holds, names (the version that it was shown last),
                or pairs of name and version (None: there was none).

        Raises GateClosed with typed `reasons` by name; HomenodeError when nobody could be asked.
        """
        try:
            return await joint.gate(self._core, self._view, reads, timeout_ms)
        except HomenodeError as failure:
            self._view.counters.refused(failure)
            raise
