"""Several artifacts as one request: commits that all apply or none, and the gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from homenode.artifact import Artifact
from homenode.chunking import LargeBody
from homenode.core import Core
from homenode.draft import Draft
from homenode.errors import (
    CAUSES,
    ContentMissing,
    GateClosed,
    HomenodeError,
    InvalidArgument,
    LeaseLost,
    Unknown,
    VersionConflict,
)
from homenode.lease_handle import ReadLease, WriteLease
from homenode.leases import LeaseRecord
from homenode.pending import Pending
from homenode.values import Meta, name
from homenode.versions import ABSENT, Base, Position, Version, position_of, version_of
from homenode.view import Counters, View
from homenode_api.v1 import directory_pb2 as pb


class _Delete:
    def __repr__(self) -> str:
        return "homenode.DELETE"


#: As a value in `commit_many`: delete the artifact.
DELETE: Final = _Delete()


@dataclass(frozen=True, slots=True)
class Change:
    """One commit of several; `data` None deletes."""

    key: str
    data: bytes | None
    base: Version | Base
    meta: Meta
    lease: LeaseRecord | None = None


Bodies = Mapping[str, bytes | LargeBody | None]
"""What is sent for each artifact."""


async def commit_many(
    core: Core, changes: Sequence[Change], counters: Counters, timeout_ms: int | None
) -> dict[str, Artifact]:
    """Publish all of `changes` or none. Returns what is committed now, by key.

    Raises as `Core.commit`, with `refusals` by key.
    """
    patched = True
    bodies: Bodies = {
        change.key: None if change.data is None else await core.body(change.key, change.data, change.base, timeout_ms)
        for change in changes
    }
    while True:
        try:
            for body in bodies.values():
                if isinstance(body, LargeBody):
                    counters.sent_bytes += await core.large.upload(body, core.timeout_s(timeout_ms), None)
            return await _commit_many(core, changes, bodies, counters, timeout_ms, patched)
        except ContentMissing:
            if not patched:
                raise
            patched = False  # the directory no longer has the base of some patch
        except HomenodeError as failure:
            _learn(core, changes, failure)
            raise


def _learn(core: Core, changes: Sequence[Change], failure: HomenodeError) -> None:
    """What refusals tell of versions and leases."""
    for change in changes:
        refusal = failure.refusals.get(change.key)
        if isinstance(refusal, VersionConflict):
            refusal.base = change.base if isinstance(change.base, Version) else None
            if refusal.current is not None:
                core.cache.invalidate(change.key, refusal.current)
        elif isinstance(refusal, LeaseLost) and change.lease is not None:
            core.session.end_lease(change.lease.lease_id, refusal.cause)


async def _commit_many(
    core: Core, changes: Sequence[Change], bodies: Bodies, counters: Counters, timeout_ms: int | None, patched: bool
) -> dict[str, Artifact]:
    request = pb.CommitManyRequest()
    for change in changes:
        request.items.append(await _item(core, change, bodies[change.key], counters, timeout_ms, patched))
    done: dict[str, Artifact] = {}

    def committed(message: pb.CommitManyResponse, pending: Pending) -> None:
        answers = {item.key: item for item in message.items}
        for change, sent in zip(changes, request.items, strict=True):
            answer = answers[change.key]
            one = pb.CommitResponse(
                version=answer.version,
                as_of=message.as_of,
                level=message.level,
                committed_at_ms=answer.committed_at_ms,
            )
            done[change.key] = core.committed(
                change.key, bodies[change.key], sent.content.hash, change.meta, one, pending,
                keep_copy=core.cache.end_write(change.key),
            )  # fmt: skip
            if change.lease is not None and answer.HasField("token"):
                change.lease.token = (answer.token.incarnation, answer.token.fence)
                change.lease.version = version_of(answer.version)

    def failed(failure: HomenodeError) -> None:
        for change in changes:
            core.cache.end_write(change.key)
        if isinstance(failure, Unknown):
            core.session.doubt(failure.request_id)

    for change in changes:
        core.cache.begin_write(change.key)
    await core.session.request(
        "commit_many", request, effect=True, timeout_ms=timeout_ms, on_answer=committed, on_error=failed
    )
    return done


async def _item(
    core: Core,
    change: Change,
    body: bytes | LargeBody | None,
    counters: Counters,
    timeout_ms: int | None,
    patched: bool,
) -> pb.CommitItem:
    item = pb.CommitItem(key=name(change.key))
    if isinstance(change.base, Version):
        item.version.incarnation, item.version.n = change.base
    elif change.base is ABSENT:
        item.absent = True
    else:
        item.any = True
    if body is not None:
        base = change.base if patched else ABSENT
        sending = core.put_content(item.content, change.key, body, base, counters, timeout_ms)
        if sending is not None:
            await sending
        if change.meta.said:
            item.metadata.CopyFrom(change.meta.to_wire())
    if change.lease is not None:
        item.token.lease_id = change.lease.lease_id
        item.token.incarnation, item.token.fence = change.lease.token
    return item


# --- the gate -----------------------------------------------------------------------------------------------------

Read = Artifact | Draft | WriteLease | ReadLease | str | tuple[str, Version | None]
"""What an agent acts on: an artifact that it read, a lease or draft that it holds, a name (the version that it was
shown last), or a name and a version (None: it read that there was none)."""


@dataclass(frozen=True, slots=True)
class GateReason:
    """Why what was read does not hold.

    Attributes:
        kind: "moved": another version is committed; "deleted"; "lease_lost": the write lease is over.
        read: the version that was read; None: that the artifact did not exist.
        current: the committed version; None where there has never been one.
        cause: why the lease is over: "expired", "released", "handed_off", …, or "".
    """

    kind: Literal["moved", "deleted", "lease_lost"]
    read: Version | None
    current: Version | None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """What was read held, all of it at one moment after it was asked.

    Attributes:
        as_of: that moment, as a place in the workspace's log.
        writers: artifacts of which somebody else holds the write lease, and who (a name, or else a session): they are
            about to change.
        tokens: tokens (incarnation, fence) of the write leases that were asked about, for resources outside that check
            them.
    """

    as_of: Position
    writers: Mapping[str, str]
    tokens: Mapping[str, tuple[int, int]]


_KINDS: dict[int, Literal["moved", "deleted", "lease_lost"]] = {
    pb.GATE_VERDICT_MOVED: "moved",
    pb.GATE_VERDICT_DELETED: "deleted",
    pb.GATE_VERDICT_LEASE_LOST: "lease_lost",
}


async def gate(core: Core, view: View, reads: Iterable[Read], timeout_ms: int | None) -> Gate:
    """See `Homenode.gate`."""
    request = pb.GateRequest()
    read: dict[str, Version | None] = {}
    tokens: dict[str, tuple[int, int]] = {}
    for one in reads:
        key, version, lease = _what(view, one)
        if key in read:
            raise InvalidArgument(f"the gate is asked about {key!r} twice")
        read[key] = version
        item = request.items.add(key=name(key))
        if version is not None:
            item.version.incarnation, item.version.n = version
        if lease is not None:
            tokens[key] = lease.token
            item.token.lease_id = lease.lease_id
            item.token.incarnation, item.token.fence = lease.token
    answer, _ = await core.session.request("gate", request, timeout_ms=timeout_ms)
    as_of = position_of(answer.as_of)
    reasons: dict[str, GateReason] = {}
    for finding in answer.findings:
        current = version_of(finding.current) if finding.current.n else None
        kind = _KINDS.get(finding.verdict)
        if current is not None:
            core.cache.invalidate(finding.key, current)
        if kind is not None:
            cause = CAUSES.get(finding.cause, "")
            reasons[finding.key] = GateReason(kind, read[finding.key], current, cause)
    if reasons:
        raise GateClosed(_in_words(reasons), reasons=reasons, as_of=as_of)
    writers = {f.key: f.writer_name or f.writer for f in answer.findings if f.writer}
    return Gate(as_of, writers, tokens)


def _what(view: View, one: Read) -> tuple[str, Version | None, LeaseRecord | None]:
    """Key, version and write lease of something that was read."""
    if isinstance(one, Draft):
        one = one.lease
    if isinstance(one, WriteLease):
        return one.key, one.version, one.record
    if isinstance(one, Artifact | ReadLease):
        return one.key, one.version, None
    if isinstance(one, str):
        version = view.version(one)
        if version is None:
            raise InvalidArgument(f"this agent has not read {one!r}")
        return one, version, None
    if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str):
        if one[1] is None or isinstance(one[1], Version):
            return one[0], one[1], None
    raise InvalidArgument(f"not something that was read: {one!r}")


def _in_words(reasons: Mapping[str, GateReason]) -> str:
    words: list[str] = []
    for key, reason in reasons.items():
        if reason.kind == "moved":
            words.append(f"{key!r} moved from {reason.read or 'nothing'} to {reason.current}")
        elif reason.kind == "deleted":
            words.append(f"{key!r} was deleted since {reason.read}")
        else:
            words.append(f"the write lease of {key!r} is over" + (f" ({reason.cause})" if reason.cause else ""))
    return "; ".join(words)


def lease_of(one: Any) -> WriteLease:
    """The write lease of a draft, or the lease itself."""
    lease = one.lease if isinstance(one, Draft) else one
    if not isinstance(lease, WriteLease):
        raise InvalidArgument(f"not a write lease or a draft: {one!r}")
    return lease
