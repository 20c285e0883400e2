"""How entries, sessions, results and the log lie in a store's records and ranked sets.

The one place that knows both protocol types and store keys. Per slice:

  meta                          record: floor (of dropped versions and fences), calm and tick (`slicetime`); the store
                                adds fields of its own
  e/<artifact>                  record: rev, body, and for each sharer `s/<session>`: the version number that it got
  v/<artifact>                  record: version number -> what was committed
  i/<tenant>/<workspace>        ranked set: keys that exist
  ir/<tenant>/<workspace>       record: n, how often that set has changed
  p/<tenant>/<workspace>        record: rev, and `p/<prefix>`: the policy of that prefix
  x/<session>                   record: live (incarnation token, empty when over), deadline, ttl, name, settled (mark),
                                and `r/<request id>` for each answer that is kept: digest and answer
  h/<session>                   ranked set: artifacts that its end must reach: copies, leases, places in queues
  due/artifacts, due/sessions   ranked sets: -> when to look again, on the store's clock
  due/policies                  the same, for prefixes (as `<tenant>/<workspace>/<prefix>`) whose policy has changed
  due/histories                 the same, for artifacts with versions that will be too old (retention by age only)
  b/<hash>, br/<hash>, bi       content (`blobs.py`)

An artifact is written `<tenant>/<workspace>/<key>`; tenants and workspaces contain no slash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType

from homenode_directory.place import Place
from homenode_directory.protocol import effects
from homenode_directory.protocol.effects import Decision, LogEvent, Result
from homenode_directory.protocol.model import ABSENT_ENTRY, Content, Entry, Policy, Version
from homenode_directory.store.base import (
    META,
    Add,
    Before,
    Commit,
    Delete,
    Drop,
    Equals,
    Exists,
    Guard,
    Put,
    Rank,
    Unrank,
    Write,
)
from homenode_directory.store.codec import dumps, loads, packer, union_codec, unpacker

DUE_ARTIFACTS = "due/artifacts"
DUE_SESSIONS = "due/sessions"
DUE_HISTORIES = "due/histories"
DUE_POLICIES = "due/policies"
CONTENT_INDEX = "bi"
FLOOR = "floor"
LIVE = "live"
DEADLINE = "deadline"
SETTLED = "settled"
SHARER = "s/"  # before a session
POLICIES = "p/"  # before a workspace, in a key
PREFIX = "p/"  # before a prefix that has a policy
RESULT = "r/"  # before a request id
CALM = "calm"
TICK = "tick"
AGREED = "agreed"

_APART = frozenset({"rev", "sharers"})  # fields of Entry that the body does not hold
_body_of = attrgetter(*(f.name for f in dataclasses.fields(Entry) if f.name not in _APART))
_pack_body = packer(Entry, _APART)
_unpack_body = unpacker(Entry, _APART)
_pack_answer, _unpack_answer = union_codec(
    effects.Grant, effects.Done, effects.DoneMany, effects.Pinned, effects.Denial
)
_pack_event, _unpack_event = union_codec(
    effects.Inv,
    effects.Shared,
    effects.Granted,
    effects.Ended,
    effects.Refused,
    effects.Published,
    effects.Dropped,
    effects.PolicySet,
)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One committed version in an artifact's history; `content` None: the artifact was deleted."""

    version: Version
    content: Content | None
    committed_ms: int
    session: str


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One log entry: what one commit did to one artifact.

    `at_ms` is the store's time as it was known when the commit was judged, `incarnation` the slice's number. `trace` is
    the trace context of whoever asked for it, where that is recorded; what is not recorded has no room for one.
    """

    artifact: str
    rev: int
    events: tuple[LogEvent, ...]
    at_ms: int = 0
    incarnation: int = 0
    trace: str = ""


_pack_policy, _unpack_policy = packer(Policy), unpacker(Policy)
_pack_version = packer(VersionRecord)
_unpack_version = unpacker(VersionRecord)


def artifact_of(place: Place, key: str) -> str:
    """An artifact's name within its slice."""
    return f"{place.tenant}/{place.workspace}/{key}"


def split_artifact(artifact: str) -> tuple[Place, str]:
    """The inverse of `artifact_of`."""
    tenant, workspace, key = artifact.split("/", 2)
    return Place(tenant, workspace), key


def key_of(artifact: str) -> str:
    """An artifact's key, without its workspace."""
    return artifact.split("/", 2)[2]


def entry_key(artifact: str) -> str:
    """Record of the entry."""
    return "e/" + artifact


def versions_key(artifact: str) -> str:
    """Record of the retained versions."""
    return "v/" + artifact


def index_key(place: Place) -> str:
    """Ranked set of the keys that exist in a workspace."""
    return f"i/{place.tenant}/{place.workspace}"


def index_changes_key(place: Place) -> str:
    """Record that counts, in `n`, how often the set of a workspace's keys has changed."""
    return f"ir/{place.tenant}/{place.workspace}"


def session_key(session: str) -> str:
    """Record of a session."""
    return "x/" + session


def session_of(key: str) -> str:
    """The inverse of `session_key`."""
    return key.removeprefix("x/")


def result_field(request: int) -> str:
    """Field of a session's record with a stored answer."""
    return f"{RESULT}{request}"


def held_key(session: str) -> str:
    """Ranked set of the artifacts that a session may have copies of, holds or waits for."""
    return "h/" + session


def policies_key(artifact: str) -> str:
    """Record of the policies of prefixes, of the workspace that an artifact is in."""
    tenant, workspace, _ = artifact.split("/", 2)
    return f"{POLICIES}{tenant}/{workspace}"


def content_key(hash_: str) -> str:
    """Bytes of a content."""
    return "b/" + hash_


def references_key(hash_: str) -> str:
    """Reference record of a content."""
    return "br/" + hash_


def decode_entry(record: Mapping[str, str | int] | None) -> Entry:
    """The entry that a record holds; `ABSENT_ENTRY` where there is none."""
    if not record:
        return ABSENT_ENTRY
    at = len(SHARER)
    held = MappingProxyType({name[at:]: int(n) for name, n in record.items() if name.startswith(SHARER)})
    entry: Entry = _unpack_body(loads(str(record["body"])), rev=int(record["rev"]), sharers=held)
    return entry


def encode_policy(policy: Policy) -> str:
    """The policy of a prefix as text."""
    return dumps(_pack_policy(policy))


def decode_policies(record: Mapping[str, str | int]) -> dict[str, Policy]:
    """The policies that a record of them holds, by prefix."""
    at = len(PREFIX)
    return {name[at:]: _unpack_policy(loads(str(text))) for name, text in record.items() if name.startswith(PREFIX)}


def encode_answer(result: Result) -> str:
    """A stored answer as text."""
    return dumps([result.digest, *_pack_answer(result.answer)])


def decode_answer(session: str, request: int, text: str) -> Result:
    """The inverse of `encode_answer`."""
    digest, *answer = loads(text)
    return Result(session, request, digest, _unpack_answer(answer))


def encode_version(record: VersionRecord) -> str:
    return dumps(_pack_version(record))


def decode_version(text: str) -> VersionRecord:
    """A retained version from its field."""
    record: VersionRecord = _unpack_version(loads(text))
    return record


def encode_log(record: LogRecord) -> bytes:
    """A log entry as bytes."""
    events = [_pack_event(event) for event in record.events]
    row = [record.artifact, record.rev, events, record.at_ms, record.incarnation]
    return dumps([*row, record.trace] if record.trace else row).encode()


def decode_log(data: bytes) -> LogRecord:
    """The inverse of `encode_log`."""
    artifact, rev, events, *since_when = loads(data)
    return LogRecord(artifact, rev, tuple(_unpack_event(event) for event in events), *since_when)


def traced(commit: Commit, trace: str) -> None:
    """Let the log entries of a commit say to which trace they belong."""
    records = [replace(record, trace=trace) for record in commit.said or map(decode_log, commit.log)]
    commit.log, commit.said = tuple(map(encode_log, records)), tuple(records)


@lru_cache(maxsize=256)  # one for each slice, asked for with each commit
def incarnation_of(token: str) -> int:
    """The number of an incarnation, from its token."""
    return int(token.partition("-")[0])


def encode_decision(
    artifact: str,
    old: Entry,
    decision: Decision,
    token: str,
    request: tuple[str, int] | None,
    after: int,
    settled_below: int = 0,
    at_ms: int = 0,
    kept: bool = False,
    calm: str = "",
    policies: str | None = None,
) -> Commit:
    """The generic commit that applies a decision.

    Args:
        artifact: its name in the slice.
        old: the entry that was judged.
        decision: what `step` said.
        token: the slice's incarnation, which live sessions carry.
        request: (session, request id) of an effectful request, whose answer must not be stored yet.
        after: index in the call of the commit that wrote `old`, or -1.
        settled_below: the session's low-water mark that `request` was judged on.
        at_ms: the store's time that it was judged at, for the log.
        kept: the content comes with the call, so it need not be there already.
        calm: the slice's quarantine as it was judged on.
        policies: the number of the workspace's policies of prefixes, likewise.
    """
    entry = entry_key(artifact)
    guards = _guards(entry, old, decision, token, request, settled_below, kept)
    if decision.guards.calm:
        guards.append(Equals(META, CALM, calm))
    writes = _writes(artifact, entry, old, decision)
    show: tuple[str, ...] = (entry,)
    if decision.guards.policies:
        guards.append(Equals(policies_key(artifact), "rev", policies))
        show = (entry, policies_key(artifact))
    if not decision.log:
        return Commit(guards, writes, (), after, show)
    rev = decision.entry.rev if decision.entry is not None else old.rev + 1
    record = LogRecord(artifact, rev, decision.log, at_ms, incarnation_of(token))
    return Commit(guards, writes, (encode_log(record),), after, show, (record,))


def _guards(
    entry: str,
    old: Entry,
    decision: Decision,
    token: str,
    request: tuple[str, int] | None,
    settled_below: int,
    kept: bool,
) -> list[Guard]:
    wanted = decision.guards
    guards: list[Guard] = []
    if request is not None:
        session = session_key(request[0])
        guards.append(Equals(session, result_field(request[1]), None))
        guards.append(Equals(session, SETTLED, str(settled_below) if settled_below else None))
    for session in wanted.live:
        guards.append(Equals(session_key(session), LIVE, token))
    guards.append(Equals(entry, "rev", str(old.rev) if old.rev else None))
    if wanted.before_ms:
        guards.append(Before(wanted.before_ms))
    if wanted.floor is not None:
        guards.append(Equals(META, FLOOR, str(wanted.floor) if wanted.floor else None))
    if wanted.content and not kept:
        guards.append(Exists(content_key(wanted.content)))
        guards.append(Exists(references_key(wanted.content)))
    return guards


def _writes(artifact: str, entry: str, old: Entry, decision: Decision) -> list[Write]:
    new = decision.entry
    writes: list[Write] = [
        Put(session_key(result.session), result_field(result.request), encode_answer(result))
        for result in decision.results
    ]
    if new is None:
        writes += _drop(artifact, old, decision.floor)
        return writes
    if decision.guards.content:
        writes.append(Add(references_key(decision.guards.content), "refs", 1))
    if new is old:
        return writes
    writes.append(Put(entry, "rev", str(new.rev)))
    if old.rev == 0 or _body_of(new) != _body_of(old):
        writes.append(Put(entry, "body", dumps(_pack_body(new))))
    writes += _sharer_writes(entry, old, new, decision.moved)
    writes += _held_writes(artifact, old, new, decision.moved)
    due = due_ms(new)
    if due != due_ms(old):
        writes.append(Rank(DUE_ARTIFACTS, artifact, due) if due else Unrank(DUE_ARTIFACTS, artifact))
    if new.version is not old.version and new.version != old.version and new.committed_ms:
        writes += _version_writes(artifact, new, decision)
    if new.exists != old.exists:
        place, key = split_artifact(artifact)
        writes.append(Rank(index_key(place), key, 0) if new.exists else Unrank(index_key(place), key))
        writes.append(Add(index_changes_key(place), "n", 1))
    return writes


def _version_writes(artifact: str, new: Entry, decision: Decision) -> Iterator[Write]:
    """The versions that became the committed one; two where a prepared one was due and another follows at once."""
    for event in decision.log:
        if isinstance(event, effects.Published) or (isinstance(event, effects.Inv) and not event.prepared):
            record = VersionRecord(event.version, event.content, new.committed_ms, event.session)
            yield Put(versions_key(artifact), str(event.version.n), encode_version(record))


def _drop(artifact: str, old: Entry, floor: int) -> Iterator[Write]:
    for session in sorted(_writers(old).union(old.sharers)):
        yield Unrank(held_key(session), artifact)
    yield Delete(entry_key(artifact))
    yield Unrank(DUE_ARTIFACTS, artifact)
    yield Put(META, FLOOR, str(floor))


def _sharer_writes(key: str, old: Entry, new: Entry, moved: Iterable[str]) -> Iterator[Write]:
    """What changes the sharers in the record. Those that did not move, who may be many, are as they were."""
    for session in moved:
        n = new.sharers.get(session)
        if n != old.sharers.get(session):
            yield Drop(key, SHARER + session) if n is None else Put(key, SHARER + session, str(n))


def _writers(entry: Entry) -> set[str]:
    """Sessions that hold the write lease, wait for it, or have prepared a commit."""
    writers = {waiter.session for waiter in entry.waiters}
    if entry.holder is not None:
        writers.add(entry.holder.session)
    if entry.pending is not None and entry.pending.session:
        writers.add(entry.pending.session)
    return writers


def _held_writes(artifact: str, old: Entry, new: Entry, moved: Iterable[str]) -> Iterator[Write]:
    """What keeps the list of artifacts that the end of a session must reach: its copies and its places as a writer."""
    same = new.holder is old.holder and new.waiters is old.waiters and new.pending is old.pending
    if same and not moved:
        return
    wrote, writes = _writers(old), _writers(new)
    for session in sorted(wrote.union(writes, moved)):
        before = session in old.sharers or session in wrote
        after = session in new.sharers or session in writes
        if after and not before:
            yield Rank(held_key(session), artifact, 0)
        elif before and not after:
            yield Unrank(held_key(session), artifact)


def due_ms(entry: Entry) -> int:
    """When the entry's next deadline passes, on the store's clock; 0: it has none."""
    if entry.holder is None and not entry.waiters and entry.pending is None:
        return entry.tombstone_ms
    due = [waiter.deadline_ms for waiter in entry.waiters]
    if entry.holder is not None:
        due.append(entry.holder.deadline_ms)
    if entry.pending is not None:
        due.append(entry.pending.until_ms)
    if entry.tombstone_ms:
        due.append(entry.tombstone_ms)
    return min(due, default=0)


def touch_contents(hashes: Iterable[str], now_ms: int) -> Commit:
    """Note that contents are written now: collection looks at them later, whatever becomes of the commits."""
    return Commit(writes=tuple(Rank(CONTENT_INDEX, hash_, now_ms) for hash_ in hashes))


def look_at_history(artifact: str, at_ms: int) -> Commit:
    """Have the history looked at again at a time of the store's clock; 0: there is no need to."""
    again = Rank(DUE_HISTORIES, artifact, at_ms) if at_ms else Unrank(DUE_HISTORIES, artifact)
    return Commit(writes=(again,))


def forget_versions(artifact: str, gone: Mapping[str, str]) -> Commit:
    """Drop versions (field -> text) from the history and release their content, unless somebody did already."""
    key = versions_key(artifact)
    guards = tuple(Equals(key, name, text) for name, text in gone.items())
    writes: list[Write] = [Drop(key, name) for name in gone]
    for text in gone.values():
        content = loads(text)[1]  # see VersionRecord and Content
        if content is not None:
            writes.append(Add(references_key(content[0]), "refs", -1))
    return Commit(guards, tuple(writes))
