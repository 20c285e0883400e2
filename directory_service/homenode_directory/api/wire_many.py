"""Translation of requests about several artifacts, and of handoffs: the other half of `wire`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import validate, wire
from homenode_directory.api.errors import invalid
from homenode_directory.pins import Snapshot
from homenode_directory.place import Position
from homenode_directory.protocol.effects import DoneMany
from homenode_directory.protocol.events import Commit, Handoff
from homenode_directory.protocol.model import Content
from homenode_directory.protocol.together import Finding, Read, Verdict, check_read
from homenode_directory.slice import Reply
from homenode_directory.together import Cut

VERDICTS = {verdict: pb.GateVerdict.Value(f"GATE_VERDICT_{verdict.name}") for verdict in Verdict}


def distinct(keys: Sequence[str], limit: int, what: str) -> tuple[str, ...]:
    """Keys of a request, each once, at least one. Raises Rejected."""
    if not keys:
        raise invalid(f"{what} is empty")
    if len(keys) > limit:
        raise invalid(f"{what}: at most {limit}, not {len(keys)}")
    found = tuple(validate.key(key) for key in keys)
    if len(set(found)) < len(found):
        raise invalid(f"{what} names an artifact twice")
    return found


# --- snapshots ----------------------------------------------------------------------------------------------------


def snapshot_digest(m: pb.SnapshotRequest) -> str:
    """Names the effect of a snapshot request."""
    return wire.digest("snapshot", tuple(m.keys), m.prefix, m.ttl_ms)


def snapshot_response(snapshot: Snapshot, ttl_ms: int) -> pb.SnapshotResponse:
    """A pinned cut; contents are read one by one."""
    m = pb.SnapshotResponse(snapshot=snapshot.pin, as_of=wire.position(snapshot.as_of), ttl_ms=ttl_ms)
    for key, record in snapshot.records.items():
        entry = m.entries.add(key=key, committed_at_ms=record.committed_ms)
        entry.version.CopyFrom(wire.version(record.version))
        if record.content is not None:
            entry.hash, entry.size = bytes.fromhex(record.content.hash), record.content.size
            if record.content.metadata:
                entry.metadata.CopyFrom(wire.metadata(record.content.metadata))
    return m


# --- commits ------------------------------------------------------------------------------------------------------


def commits(session: str, m: pb.CommitManyRequest, bounds: validate.Bounds) -> tuple[list[tuple[str, Commit]], str]:
    """(key, event) of each commit, and the digest of all."""
    keys = distinct([item.key for item in m.items], validate.COMMIT_MANY_MAX, "items")
    events, digests = [], []
    for item in m.items:
        one = pb.CommitRequest(key=item.key, keep=item.HasField("token"))
        for name in ("content", "metadata", "token"):
            if item.HasField(name):
                getattr(one, name).CopyFrom(getattr(item, name))
        base = item.WhichOneof("base")
        if base == "version":
            one.version.CopyFrom(item.version)
        elif base is not None:
            setattr(one, base, getattr(item, base))
        event, digest = wire.commit_event(session, one, bounds)
        events.append(event)
        digests.append(digest)
    return list(zip(keys, events, strict=True)), wire.digest("commit_many", *digests)


def contents(events: Iterable[tuple[str, Commit]], m: pb.CommitManyRequest) -> list[tuple[Content, t.Content]]:
    """Each content that is committed, and how its bytes come."""
    return [
        (event.content, item.content)
        for (_, event), item in zip(events, m.items, strict=True)
        if event.content is not None
    ]


def done_many(reply: Reply) -> DoneMany:
    """The effect in a reply. Raises Rejected for a denial."""
    answer = wire.accept(reply.answer)
    assert isinstance(answer, DoneMany), "a joint commit is done or denied"
    return answer


def commit_many_response(reply: Reply, events: Sequence[tuple[str, Commit]]) -> pb.CommitManyResponse:
    """The versions of a joint commit. Raises Rejected for a denial."""
    leases = {key: event.lease for key, event in events}
    return done_many_response(done_many(reply), reply.as_of, lambda key: leases.get(key, ""))


def done_many_response(done: DoneMany, as_of: Position, lease_of: Callable[[str], str]) -> pb.CommitManyResponse:
    """As `commit_many_response`."""
    m = pb.CommitManyResponse(as_of=wire.position(as_of), level=t.CONSISTENCY_LAZY)
    for one in done.items:
        item = m.items.add(key=one.key, committed_at_ms=one.committed_ms)
        item.version.CopyFrom(wire.version(one.version))
        if one.fence:
            item.token.CopyFrom(wire.t_token(lease_of(one.key), one.version.incarnation, one.fence))
    return m


# --- handoffs -----------------------------------------------------------------------------------------------------


def handoff_event(session: str, m: pb.HandoffRequest, bounds: validate.Bounds) -> tuple[Handoff, str]:
    """A write lease for a named successor, and the digest."""
    lease = validate.lease_id(m.token.lease_id)
    fence = validate.exact(m.token.fence, "token.fence")
    agent = validate.text(m.agent, "agent", validate.NAME_MAX, empty=True)
    ttl_ms = validate.within(m.ttl_ms, "ttl_ms", *validate.LEASE_MS, default=bounds.term_ms)
    event = Handoff(session, lease, fence, validate.successor(session, m.to), ttl_ms, agent)
    return event, wire.digest("handoff", m.key, lease, fence, event.to, ttl_ms, agent)


# --- gates --------------------------------------------------------------------------------------------------------


def reads(m: pb.GateRequest) -> list[Read]:
    """What a gate is asked about."""
    keys = distinct([item.key for item in m.items], validate.GATE_MAX, "items")
    found = []
    for key, item in zip(keys, m.items, strict=True):
        version = wire.version_in(item.version) if item.HasField("version") and item.version.n else None
        lease, fence = "", 0
        if item.HasField("token"):
            lease = validate.lease_id(item.token.lease_id)
            fence = validate.exact(item.token.fence, "token.fence")
        found.append(Read(key, version, lease, fence))
    return found


def findings(session: str, read: Sequence[Read], cut: Cut) -> list[Finding]:
    """What became of what was read."""
    return [check_read(one, entry, session, cut.now_ms) for one, entry in zip(read, cut.entries, strict=True)]


def gate_response(found: Iterable[Finding], as_of: Position) -> pb.GateResponse:
    """The verdicts."""
    m = pb.GateResponse(as_of=wire.position(as_of))
    for finding in found:
        one = m.findings.add(
            key=finding.key,
            verdict=VERDICTS[finding.verdict],
            cause=wire.CAUSES[finding.cause] if finding.cause else t.LEASE_END_UNSPECIFIED,
            writer=finding.writer,
            prepared=finding.prepared,
        )
        if finding.current is not None:
            one.current.CopyFrom(wire.version(finding.current))
    return m
