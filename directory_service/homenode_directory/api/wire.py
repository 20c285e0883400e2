"""Translation between protobuf and the protocol: requests to events, answers to messages.

The only module that sees both. It decides nothing: `validate` says what may come in, the rules what happens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TypeVar

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import validate
from homenode_directory.api.errors import Rejected, invalid
from homenode_directory.directory import Gone, Reply, Stat, VersionRecord
from homenode_directory.place import Position
from homenode_directory.policies import Table
from homenode_directory.protocol.effects import Denial, Done, DoneMany, Grant, Pinned, Reason, Stored
from homenode_directory.protocol.events import Base, Commit, GetM, GetS, Put, Renew, SetPolicy
from homenode_directory.protocol.model import Cause, Content, Level, Policy, Push, State, Version
from homenode_directory.sinks import SessionOver

T = TypeVar("T")
Sign = Position | Denial
"""The answer to a sign of life: the head of the log, or why the session is over."""

REASONS = {reason: t.ErrorReason.Value(f"ERROR_REASON_{reason.name}") for reason in Reason}
CAUSES = {cause: t.LeaseEnd.Value(f"LEASE_END_{cause.name}") for cause in Cause}
STATES = {
    State.I: t.STATE_INVALID,
    State.S: t.STATE_SHARED,
    State.E: t.STATE_EXCLUSIVE,
    State.M: t.STATE_MODIFIED,
    State.P: t.STATE_PREPARED,
}
LEVELS = {Level.LAZY: t.CONSISTENCY_LAZY, Level.STRICT: t.CONSISTENCY_STRICT}
_LEVELS_IN: dict[int, Level] = {number: level for level, number in LEVELS.items()}
_PUSHES_IN = {t.PUSH_NONE: Push.NONE, t.PUSH_SHARERS: Push.SHARERS, t.PUSH_ALL: Push.ALL}
PUSHES = {Push.NONE: t.PUSH_NONE, Push.SHARERS: t.PUSH_SHARERS, Push.ALL: t.PUSH_ALL}

UINT32_MAX = 2**32 - 1


def level(name: str) -> t.Consistency:
    """The level that a setting names."""
    return LEVELS[Level(name)]


# --- requests -----------------------------------------------------------------------------------------------------


def digest(kind: str, *fields: object) -> str:
    """Names a request's effect, so that the same id with another effect is noticed.

    Over what the effect depends on and nothing else: content by hash and size, not by how it was encoded, so that a
    retry may send a snapshot where the first attempt sent a patch.
    """
    return hashlib.blake2b(repr((kind, *fields)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def read_event(session: str, m: pb.ReadRequest) -> GetS:
    """A read of the committed version."""
    return GetS(session, m.share, validate.consistency(m.consistency) == t.CONSISTENCY_STRICT)


def share_event(session: str) -> GetS:
    """A read that the server makes for a session, to send it what it has not asked for."""
    return GetS(session)


def commit_event(session: str, m: pb.CommitRequest, bounds: validate.Bounds) -> tuple[Commit, str]:
    """A commit or delete, and its digest."""
    content = None
    if m.HasField("content"):
        named = m.content
        size = validate.content_size(named.size, bounds)
        content = Content(validate.hash_hex(named.hash), size, validate.metadata(m))
    elif m.HasField("metadata"):
        raise invalid("metadata without content: a delete carries none")
    base = _base(m)
    lease, fence, incarnation = "", 0, 0
    if m.HasField("token"):
        lease = validate.lease_id(m.token.lease_id)
        fence = validate.exact(m.token.fence, "token.fence")
        incarnation = validate.exact(m.token.incarnation, "token.incarnation")
    elif m.keep:
        raise invalid("keep needs a token")
    event = Commit(session, content, base, lease, fence, m.keep)
    what = (content.hash, content.size, content.metadata) if content else None
    of = (base.incarnation, base.n) if isinstance(base, Version) else base.value
    return event, digest("commit", m.key, what, of, lease, incarnation, fence, m.keep)


def _base(m: pb.CommitRequest) -> Version | Base:
    which = m.WhichOneof("base")
    if which == "version":
        return version_in(m.version, "base")
    if which == "absent" and m.absent:
        return Base.ABSENT
    if which == "any" and m.any:
        return Base.ANY
    raise invalid("base is missing: a version, absent or any")


def acquire_event(session: str, m: pb.AcquireRequest, bounds: validate.Bounds) -> tuple[GetM, str]:
    """A request for the write lease, and its digest, which leaves out how long to wait."""
    lease = validate.lease_id(m.lease_id)
    ttl_ms = validate.within(m.ttl_ms, "ttl_ms", *validate.LEASE_MS, default=bounds.term_ms)
    wait_ms = validate.within(m.wait_ms, "wait_ms", 0, validate.WAIT_MS_MAX)
    return GetM(session, lease, ttl_ms, wait_ms, m.create), digest("acquire", m.key, lease, ttl_ms, m.create)


def renew_event(session: str, m: pb.RenewRequest, bounds: validate.Bounds) -> tuple[Renew, str]:
    """An extension of a write lease."""
    lease = validate.lease_id(m.lease_id)
    ttl_ms = validate.within(m.ttl_ms, "ttl_ms", *validate.LEASE_MS, default=bounds.term_ms)
    return Renew(session, lease, ttl_ms), digest("renew", m.key, lease, ttl_ms)


def release_event(session: str, m: pb.ReleaseRequest) -> tuple[Put, str]:
    """The end of a write lease, or of a shared copy."""
    lease = validate.lease_id(m.lease_id, empty=True)
    return Put(session, lease), digest("release", m.key, lease)


def policy_event(session: str, m: pb.SetPolicyRequest) -> tuple[SetPolicy, str]:
    """A new policy of an artifact, or none of its own."""
    policy = _policy_in(validate.policy(m.policy)) if m.HasField("policy") else None
    fields = (
        (policy.level and policy.level.value, policy.max_age_ms, policy.max_reads, policy.max_steps, policy.push.value)
        if policy
        else None
    )
    return SetPolicy(session, policy), digest("set_policy", m.key, fields)


def prefix_policy(m: pb.SetPolicyRequest) -> tuple[Policy | None, str]:
    """A new policy of a prefix, or none, and the request's digest."""
    event, said = policy_event("", m)
    return event.policy, digest("set_prefix_policy", m.prefix, said)


def list_policies_response(table: Table) -> pb.ListPoliciesResponse:
    """The policies of a workspace's prefixes, by prefix."""
    found = sorted(table.by_prefix.items())
    return pb.ListPoliciesResponse(policies=[pb.PrefixPolicy(prefix=p, policy=policy(one)) for p, one in found])


def _policy_in(m: t.Policy) -> Policy:
    return Policy(
        level=_LEVELS_IN.get(m.consistency),
        push=_PUSHES_IN.get(m.push, Push.NONE),
        max_age_ms=m.max_age_ms if m.HasField("max_age_ms") else None,
        max_reads=m.max_reads if m.HasField("max_reads") else None,
        max_steps=m.max_steps if m.HasField("max_steps") else None,
    )


def version_in(m: t.Version, what: str = "version") -> Version:
    """A version that a client names."""
    incarnation, n = m.incarnation, m.n
    if incarnation >= validate.EXACT_MAX or n >= validate.EXACT_MAX:
        validate.version(m, what)  # says which
    return Version(incarnation, n)


def position_in(m: t.Position, what: str) -> Position:
    """A place in the log that a client names."""
    return Position(
        validate.exact(m.incarnation, f"{what}.incarnation"), validate.exact(m.sequence, f"{what}.sequence")
    )


# --- answers ------------------------------------------------------------------------------------------------------


def error(denial: Denial) -> t.Error:
    """A denial as the wire says it."""
    m = t.Error(
        reason=REASONS[denial.reason],
        message=denial.message or denial.reason.value.replace("_", " "),
        holder=denial.holder,
        retry_after_ms=min(denial.retry_after_ms, UINT32_MAX),
        cause=CAUSES[denial.cause] if denial.cause else t.LEASE_END_UNSPECIFIED,
    )
    if denial.current is not None and denial.current.n:
        m.current.CopyFrom(version(denial.current))
    for refused in denial.keys:
        one = Denial(
            refused.reason, refused.message, refused.current, refused.holder, refused.retry_after_ms, refused.cause
        )
        m.keys.add(key=refused.key, error=error(one))
    return m


def accept(answer: T | Denial) -> T:
    """The answer itself; a denial is raised as `Rejected`."""
    if isinstance(answer, Denial):
        raise Rejected(error(answer))
    return answer


def refused(reply: Reply) -> bool:
    """Whether the answer is a denial."""
    return isinstance(reply.answer, Denial)


def granted(reply: Reply) -> Grant:
    """The grant in a reply. Raises Rejected for a denial."""
    answer = accept(reply.answer)
    assert isinstance(answer, Grant), "a read or acquire is granted or denied"
    return answer


def done(reply: Reply) -> Done:
    """The effect in a reply. Raises Rejected for a denial."""
    answer = accept(reply.answer)
    assert isinstance(answer, Done), "an effect is done or denied"
    return answer


def alive(answer: Sign) -> Position:
    """The position in the answer to a sign of life. Raises Rejected where the session is over."""
    return accept(answer)


def session_over(session: str, answer: Sign) -> SessionOver | None:
    """The event for a session whose sign of life was refused, or None."""
    return SessionOver(session, answer) if isinstance(answer, Denial) else None


def version(v: Version) -> t.Version:
    """A version."""
    return t.Version(incarnation=v.incarnation, n=v.n)


def position(p: Position) -> t.Position:
    """A place in the log."""
    return t.Position(incarnation=p.incarnation, sequence=p.sequence)


def set_version(m: t.Version, v: Version) -> None:
    """Write a version into a message's field, which costs a third of making one for it."""
    m.incarnation = v.incarnation
    m.n = v.n


def set_position(m: t.Position, p: Position) -> None:
    """Write a place in the log into a message's field."""
    m.incarnation = p.incarnation
    m.sequence = p.sequence


def policy(p: Policy) -> t.Policy:
    """A policy."""
    m = t.Policy(consistency=LEVELS[p.level] if p.level else t.CONSISTENCY_UNSPECIFIED, push=PUSHES[p.push])
    for name in ("max_age_ms", "max_reads", "max_steps"):
        value = getattr(p, name)
        if value is not None:
            setattr(m, name, value)
    return m


def metadata(text: str) -> t.Metadata | None:
    """The metadata in its JSON text."""
    if not text:
        return None
    value = json.loads(text)
    return t.Metadata(values=value["values"], tags=value["tags"], media_type=value["media_type"])


def content_of(grant: Grant) -> Content:
    """The content of a read's grant, which always has one."""
    assert grant.content is not None
    return grant.content


def read_response(grant: Grant, as_of: Position, content: t.Content, *, share: bool) -> pb.ReadResponse:
    """A read's answer; `content` says how to get the bytes."""
    return pb.ReadResponse(
        version=version(grant.version),
        content=content,
        metadata=metadata(content_of(grant).metadata),
        committed_at_ms=grant.committed_ms,
        level=LEVELS[grant.level],
        cacheable=grant.cacheable and share,
        policy=policy(grant.policy) if grant.policy else None,
        as_of=position(as_of),
    )


def retained(record: VersionRecord, wanted: Version) -> Content:
    """The content of an earlier version. Raises Rejected where that version was a delete."""
    if record.content is None:
        raise Rejected(t.Error(reason=t.ERROR_REASON_NOT_FOUND, message=f"version {wanted.n} is a delete"))
    return record.content


def version_response(record: VersionRecord, content: t.Content) -> pb.ReadResponse:
    """The answer to a read of an earlier version, which nobody may cache as the current one."""
    assert record.content is not None
    return pb.ReadResponse(
        version=version(record.version),
        content=content,
        metadata=metadata(record.content.metadata),
        committed_at_ms=record.committed_ms,
        level=t.CONSISTENCY_LAZY,
    )


def acquire_response(grant: Grant, as_of: Position, lease: str, content: t.Content | None) -> pb.AcquireResponse:
    """A write lease's token and what it starts from."""
    return pb.AcquireResponse(
        token=t_token(lease, as_of.incarnation, grant.fence),
        ttl_ms=grant.ttl_ms,
        version=version(grant.version),
        content=content,
        metadata=metadata(grant.content.metadata) if grant.content else None,
        committed_at_ms=grant.committed_ms,
        as_of=position(as_of),
        level=LEVELS[grant.level],
    )


def t_token(lease: str, incarnation: int, fence: int) -> pb.Token:
    """Proof of a write lease."""
    return pb.Token(lease_id=lease, incarnation=incarnation, fence=fence)


def commit_response(effect: Done, as_of: Position, lease: str) -> pb.CommitResponse:
    """A commit's version, and the token to go on with where the lease was kept."""
    m = pb.CommitResponse(level=LEVELS[effect.level], committed_at_ms=effect.committed_ms)
    set_version(m.version, effect.version)
    set_position(m.as_of, as_of)
    if effect.fence:
        m.token.CopyFrom(t_token(lease, as_of.incarnation, effect.fence))
    return m


def stat_response(stat: Stat) -> pb.StatResponse:
    """What the directory knows of an artifact."""
    entry = stat.entry
    m = pb.StatResponse(
        key=stat.key,
        state=STATES[entry.state],
        version=version(entry.version),
        committed_at_ms=entry.committed_ms,
        sharers=len(entry.sharers),
        waiters=len(entry.waiters),
        fence=entry.fence,
        policy=policy(entry.policy) if entry.policy else None,
        inherited=policy(entry.inherited) if entry.inherited else None,
        as_of=position(stat.as_of),
    )
    if entry.content is not None:
        m.size, m.hash = entry.content.size, bytes.fromhex(entry.content.hash)
        if entry.content.metadata:
            m.metadata.CopyFrom(metadata(entry.content.metadata))
    if entry.holder is not None:
        m.holder = entry.holder.session
        m.holder_remaining_ms = min(max(0, entry.holder.deadline_ms - stat.now_ms), UINT32_MAX)
    return m


def resolve_response(found: Iterable[tuple[int, Stored | Gone]]) -> pb.ResolveResponse:
    """What became of requests. The answers carry versions and tokens, not contents."""
    m = pb.ResolveResponse()
    for request, answer in found:
        outcome = m.outcomes.add(request_id=request)
        if isinstance(answer, Gone):
            setattr(outcome, answer.value, True)
        else:
            outcome.answer.CopyFrom(_resolved(request, answer))
    return m


def _resolved(request: int, answer: Stored) -> pb.Answer:
    m = pb.Answer(request_id=request)
    if isinstance(answer, Denial):
        m.error.CopyFrom(error(answer))
    elif isinstance(answer, Grant):
        m.acquire.version.CopyFrom(version(answer.version))
        m.acquire.token.fence, m.acquire.ttl_ms = answer.fence, answer.ttl_ms
    elif isinstance(answer, DoneMany):
        m.commit_many.level = t.CONSISTENCY_LAZY
        for one in answer.items:
            m.commit_many.items.add(key=one.key, version=version(one.version), committed_at_ms=one.committed_ms)
    elif isinstance(answer, Pinned):
        m.snapshot.snapshot = answer.pin
    else:
        m.commit.version.CopyFrom(version(answer.version))
        m.commit.level, m.commit.committed_at_ms = LEVELS[answer.level], answer.committed_ms
    return m
