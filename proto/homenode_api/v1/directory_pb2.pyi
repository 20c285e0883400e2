from homenode_api.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GateVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATE_VERDICT_UNSPECIFIED: _ClassVar[GateVerdict]
    GATE_VERDICT_HOLDS: _ClassVar[GateVerdict]
    GATE_VERDICT_MOVED: _ClassVar[GateVerdict]
    GATE_VERDICT_DELETED: _ClassVar[GateVerdict]
    GATE_VERDICT_LEASE_LOST: _ClassVar[GateVerdict]

class ContentEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTENT_ENCODING_UNSPECIFIED: _ClassVar[ContentEncoding]
    CONTENT_ENCODING_SNAPSHOT: _ClassVar[ContentEncoding]
    CONTENT_ENCODING_PATCH: _ClassVar[ContentEncoding]
    CONTENT_ENCODING_CHUNKS: _ClassVar[ContentEncoding]
GATE_VERDICT_UNSPECIFIED: GateVerdict
GATE_VERDICT_HOLDS: GateVerdict
GATE_VERDICT_MOVED: GateVerdict
GATE_VERDICT_DELETED: GateVerdict
GATE_VERDICT_LEASE_LOST: GateVerdict
CONTENT_ENCODING_UNSPECIFIED: ContentEncoding
CONTENT_ENCODING_SNAPSHOT: ContentEncoding
CONTENT_ENCODING_PATCH: ContentEncoding
CONTENT_ENCODING_CHUNKS: ContentEncoding

class OpenSessionRequest(_message.Message):
    __slots__ = ("workspace", "name", "ttl_ms", "seen_incarnation")
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    SEEN_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    workspace: str
    name: str
    ttl_ms: int
    seen_incarnation: int
    def __init__(self, workspace: _Optional[str] = ..., name: _Optional[str] = ..., ttl_ms: _Optional[int] = ..., seen_incarnation: _Optional[int] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session_id", "position", "ttl_ms", "term_ms", "max_age_ms", "bookmark_ms", "limits", "server_version", "strongest", "consistency")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    TERM_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_MS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    STRONGEST_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: _types_pb2.Position
    ttl_ms: int
    term_ms: int
    max_age_ms: int
    bookmark_ms: int
    limits: Limits
    server_version: str
    strongest: _types_pb2.Consistency
    consistency: _types_pb2.Consistency
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., ttl_ms: _Optional[int] = ..., term_ms: _Optional[int] = ..., max_age_ms: _Optional[int] = ..., bookmark_ms: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., server_version: _Optional[str] = ..., strongest: _Optional[_Union[_types_pb2.Consistency, str]] = ..., consistency: _Optional[_Union[_types_pb2.Consistency, str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("artifact_bytes", "inline_bytes", "key_bytes", "frame_operations", "in_flight_operations")
    ARTIFACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    INLINE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FRAME_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    artifact_bytes: int
    inline_bytes: int
    key_bytes: int
    frame_operations: int
    in_flight_operations: int
    def __init__(self, artifact_bytes: _Optional[int] = ..., inline_bytes: _Optional[int] = ..., key_bytes: _Optional[int] = ..., frame_operations: _Optional[int] = ..., in_flight_operations: _Optional[int] = ...) -> None: ...

class KeepAliveRequest(_message.Message):
    __slots__ = ("session_id", "settled_below")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SETTLED_BELOW_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    settled_below: int
    def __init__(self, session_id: _Optional[str] = ..., settled_below: _Optional[int] = ...) -> None: ...

class KeepAliveResponse(_message.Message):
    __slots__ = ("position", "ttl_ms")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    position: _types_pb2.Position
    ttl_ms: int
    def __init__(self, position: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("session_id", "request_ids")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session_id: _Optional[str] = ..., request_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ResolveResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("request_id", "answer", "never", "unknown")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    NEVER_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    answer: Answer
    never: bool
    unknown: bool
    def __init__(self, request_id: _Optional[int] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., never: bool = ..., unknown: bool = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("operations", "number")
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    number: int
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., number: _Optional[int] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("items", "number")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    number: int
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., number: _Optional[int] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("session", "request_id", "attach", "detach", "ping", "ack", "read", "commit", "acquire", "renew", "release", "set_policy", "stat", "list", "history", "watch", "unwatch", "snapshot", "release_snapshot", "commit_many", "gate", "handoff", "list_policies", "traceparent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ACQUIRE_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SET_POLICY_FIELD_NUMBER: _ClassVar[int]
    STAT_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    UNWATCH_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_MANY_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_FIELD_NUMBER: _ClassVar[int]
    LIST_POLICIES_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    session: int
    request_id: int
    attach: Attach
    detach: Detach
    ping: Ping
    ack: Ack
    read: ReadRequest
    commit: CommitRequest
    acquire: AcquireRequest
    renew: RenewRequest
    release: ReleaseRequest
    set_policy: SetPolicyRequest
    stat: StatRequest
    list: ListRequest
    history: HistoryRequest
    watch: WatchRequest
    unwatch: UnwatchRequest
    snapshot: SnapshotRequest
    release_snapshot: ReleaseSnapshotRequest
    commit_many: CommitManyRequest
    gate: GateRequest
    handoff: HandoffRequest
    list_policies: ListPoliciesRequest
    traceparent: str
    def __init__(self, session: _Optional[int] = ..., request_id: _Optional[int] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., detach: _Optional[_Union[Detach, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., read: _Optional[_Union[ReadRequest, _Mapping]] = ..., commit: _Optional[_Union[CommitRequest, _Mapping]] = ..., acquire: _Optional[_Union[AcquireRequest, _Mapping]] = ..., renew: _Optional[_Union[RenewRequest, _Mapping]] = ..., release: _Optional[_Union[ReleaseRequest, _Mapping]] = ..., set_policy: _Optional[_Union[SetPolicyRequest, _Mapping]] = ..., stat: _Optional[_Union[StatRequest, _Mapping]] = ..., list: _Optional[_Union[ListRequest, _Mapping]] = ..., history: _Optional[_Union[HistoryRequest, _Mapping]] = ..., watch: _Optional[_Union[WatchRequest, _Mapping]] = ..., unwatch: _Optional[_Union[UnwatchRequest, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotRequest, _Mapping]] = ..., release_snapshot: _Optional[_Union[ReleaseSnapshotRequest, _Mapping]] = ..., commit_many: _Optional[_Union[CommitManyRequest, _Mapping]] = ..., gate: _Optional[_Union[GateRequest, _Mapping]] = ..., handoff: _Optional[_Union[HandoffRequest, _Mapping]] = ..., list_policies: _Optional[_Union[ListPoliciesRequest, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("session_id", "resume", "holdings", "number")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    resume: _types_pb2.Position
    holdings: _containers.RepeatedCompositeFieldContainer[Holding]
    number: int
    def __init__(self, session_id: _Optional[str] = ..., resume: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., holdings: _Optional[_Iterable[_Union[Holding, _Mapping]]] = ..., number: _Optional[int] = ...) -> None: ...

class Holding(_message.Message):
    __slots__ = ("key", "version")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ...) -> None: ...

class Detach(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ping(_message.Message):
    __slots__ = ("sent_at", "settled_below", "usage")
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_BELOW_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    sent_at: int
    settled_below: int
    usage: Usage
    def __init__(self, sent_at: _Optional[int] = ..., settled_below: _Optional[int] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("hits", "misses", "stale", "age_ms", "tokens_hit", "tokens_delta", "tokens_unchanged", "bytes_hit", "replaced", "savings")
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_HIT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOKENS_UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    BYTES_HIT_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    SAVINGS_FIELD_NUMBER: _ClassVar[int]
    hits: int
    misses: int
    stale: int
    age_ms: int
    tokens_hit: int
    tokens_delta: int
    tokens_unchanged: int
    bytes_hit: int
    replaced: _containers.RepeatedCompositeFieldContainer[AckedKey]
    savings: _containers.RepeatedCompositeFieldContainer[Saving]
    def __init__(self, hits: _Optional[int] = ..., misses: _Optional[int] = ..., stale: _Optional[int] = ..., age_ms: _Optional[int] = ..., tokens_hit: _Optional[int] = ..., tokens_delta: _Optional[int] = ..., tokens_unchanged: _Optional[int] = ..., bytes_hit: _Optional[int] = ..., replaced: _Optional[_Iterable[_Union[AckedKey, _Mapping]]] = ..., savings: _Optional[_Iterable[_Union[Saving, _Mapping]]] = ...) -> None: ...

class Saving(_message.Message):
    __slots__ = ("agent", "key", "strategy", "tokens_hit", "tokens_delta", "tokens_unchanged", "bytes_hit")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    TOKENS_HIT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOKENS_UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    BYTES_HIT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    key: str
    strategy: str
    tokens_hit: int
    tokens_delta: int
    tokens_unchanged: int
    bytes_hit: int
    def __init__(self, agent: _Optional[str] = ..., key: _Optional[str] = ..., strategy: _Optional[str] = ..., tokens_hit: _Optional[int] = ..., tokens_delta: _Optional[int] = ..., tokens_unchanged: _Optional[int] = ..., bytes_hit: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[AckedKey]
    def __init__(self, keys: _Optional[_Iterable[_Union[AckedKey, _Mapping]]] = ...) -> None: ...

class AckedKey(_message.Message):
    __slots__ = ("key", "version", "fence", "held_us")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    HELD_US_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    fence: int
    held_us: int
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., fence: _Optional[int] = ..., held_us: _Optional[int] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("session", "answer", "invalidation", "bookmark", "lease_ended", "resync", "change", "session_ended", "draining", "pushed", "lease_offered", "policy_changed")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    INVALIDATION_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    LEASE_ENDED_FIELD_NUMBER: _ClassVar[int]
    RESYNC_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ENDED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    PUSHED_FIELD_NUMBER: _ClassVar[int]
    LEASE_OFFERED_FIELD_NUMBER: _ClassVar[int]
    POLICY_CHANGED_FIELD_NUMBER: _ClassVar[int]
    session: int
    answer: Answer
    invalidation: Invalidation
    bookmark: Bookmark
    lease_ended: LeaseEnded
    resync: Resync
    change: Change
    session_ended: SessionEnded
    draining: Draining
    pushed: Pushed
    lease_offered: LeaseOffered
    policy_changed: PolicyChanged
    def __init__(self, session: _Optional[int] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., invalidation: _Optional[_Union[Invalidation, _Mapping]] = ..., bookmark: _Optional[_Union[Bookmark, _Mapping]] = ..., lease_ended: _Optional[_Union[LeaseEnded, _Mapping]] = ..., resync: _Optional[_Union[Resync, _Mapping]] = ..., change: _Optional[_Union[Change, _Mapping]] = ..., session_ended: _Optional[_Union[SessionEnded, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ..., pushed: _Optional[_Union[Pushed, _Mapping]] = ..., lease_offered: _Optional[_Union[LeaseOffered, _Mapping]] = ..., policy_changed: _Optional[_Union[PolicyChanged, _Mapping]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("request_id", "error", "attach", "read", "commit", "acquire", "renew", "release", "set_policy", "stat", "list", "history", "watch", "snapshot", "release_snapshot", "commit_many", "gate", "handoff", "list_policies")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ACQUIRE_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SET_POLICY_FIELD_NUMBER: _ClassVar[int]
    STAT_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_MANY_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_FIELD_NUMBER: _ClassVar[int]
    LIST_POLICIES_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    error: _types_pb2.Error
    attach: AttachResponse
    read: ReadResponse
    commit: CommitResponse
    acquire: AcquireResponse
    renew: RenewResponse
    release: ReleaseResponse
    set_policy: SetPolicyResponse
    stat: StatResponse
    list: ListResponse
    history: HistoryResponse
    watch: WatchAck
    snapshot: SnapshotResponse
    release_snapshot: ReleaseSnapshotResponse
    commit_many: CommitManyResponse
    gate: GateResponse
    handoff: HandoffResponse
    list_policies: ListPoliciesResponse
    def __init__(self, request_id: _Optional[int] = ..., error: _Optional[_Union[_types_pb2.Error, _Mapping]] = ..., attach: _Optional[_Union[AttachResponse, _Mapping]] = ..., read: _Optional[_Union[ReadResponse, _Mapping]] = ..., commit: _Optional[_Union[CommitResponse, _Mapping]] = ..., acquire: _Optional[_Union[AcquireResponse, _Mapping]] = ..., renew: _Optional[_Union[RenewResponse, _Mapping]] = ..., release: _Optional[_Union[ReleaseResponse, _Mapping]] = ..., set_policy: _Optional[_Union[SetPolicyResponse, _Mapping]] = ..., stat: _Optional[_Union[StatResponse, _Mapping]] = ..., list: _Optional[_Union[ListResponse, _Mapping]] = ..., history: _Optional[_Union[HistoryResponse, _Mapping]] = ..., watch: _Optional[_Union[WatchAck, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotResponse, _Mapping]] = ..., release_snapshot: _Optional[_Union[ReleaseSnapshotResponse, _Mapping]] = ..., commit_many: _Optional[_Union[CommitManyResponse, _Mapping]] = ..., gate: _Optional[_Union[GateResponse, _Mapping]] = ..., handoff: _Optional[_Union[HandoffResponse, _Mapping]] = ..., list_policies: _Optional[_Union[ListPoliciesResponse, _Mapping]] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("position", "resync")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RESYNC_FIELD_NUMBER: _ClassVar[int]
    position: _types_pb2.Position
    resync: bool
    def __init__(self, position: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., resync: bool = ...) -> None: ...

class Invalidation(_message.Message):
    __slots__ = ("key", "version", "fence", "sequence", "by", "deleted", "prepared", "traceparent")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    fence: int
    sequence: int
    by: str
    deleted: bool
    prepared: bool
    traceparent: str
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., fence: _Optional[int] = ..., sequence: _Optional[int] = ..., by: _Optional[str] = ..., deleted: bool = ..., prepared: bool = ..., traceparent: _Optional[str] = ...) -> None: ...

class Bookmark(_message.Message):
    __slots__ = ("position", "echo", "lease_ms")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    position: _types_pb2.Position
    echo: int
    lease_ms: int
    def __init__(self, position: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., echo: _Optional[int] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class LeaseEnded(_message.Message):
    __slots__ = ("key", "lease_id", "cause", "sequence")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    key: str
    lease_id: str
    cause: _types_pb2.LeaseEnd
    sequence: int
    def __init__(self, key: _Optional[str] = ..., lease_id: _Optional[str] = ..., cause: _Optional[_Union[_types_pb2.LeaseEnd, str]] = ..., sequence: _Optional[int] = ...) -> None: ...

class Resync(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: _types_pb2.Position
    def __init__(self, position: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("watch_id", "key", "version", "deleted", "by", "sequence", "size", "by_name")
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    BY_NAME_FIELD_NUMBER: _ClassVar[int]
    watch_id: int
    key: str
    version: _types_pb2.Version
    deleted: bool
    by: str
    sequence: int
    size: int
    by_name: str
    def __init__(self, watch_id: _Optional[int] = ..., key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., deleted: bool = ..., by: _Optional[str] = ..., sequence: _Optional[int] = ..., size: _Optional[int] = ..., by_name: _Optional[str] = ...) -> None: ...

class Pushed(_message.Message):
    __slots__ = ("key", "read")
    KEY_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    key: str
    read: ReadResponse
    def __init__(self, key: _Optional[str] = ..., read: _Optional[_Union[ReadResponse, _Mapping]] = ...) -> None: ...

class LeaseOffered(_message.Message):
    __slots__ = ("key", "by", "by_name", "agent", "remaining_ms", "sequence")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    BY_NAME_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    key: str
    by: str
    by_name: str
    agent: str
    remaining_ms: int
    sequence: int
    def __init__(self, key: _Optional[str] = ..., by: _Optional[str] = ..., by_name: _Optional[str] = ..., agent: _Optional[str] = ..., remaining_ms: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class PolicyChanged(_message.Message):
    __slots__ = ("key", "sequence")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    key: str
    sequence: int
    def __init__(self, key: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class SessionEnded(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: _types_pb2.Error
    def __init__(self, error: _Optional[_Union[_types_pb2.Error, _Mapping]] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("within_ms",)
    WITHIN_MS_FIELD_NUMBER: _ClassVar[int]
    within_ms: int
    def __init__(self, within_ms: _Optional[int] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "key", "version", "have", "share", "consistency", "snapshot")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    key: str
    version: _types_pb2.Version
    have: _containers.RepeatedScalarFieldContainer[bytes]
    share: bool
    consistency: _types_pb2.Consistency
    snapshot: str
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., have: _Optional[_Iterable[bytes]] = ..., share: bool = ..., consistency: _Optional[_Union[_types_pb2.Consistency, str]] = ..., snapshot: _Optional[str] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("version", "content", "metadata", "committed_at_ms", "level", "cacheable", "policy", "as_of")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    CACHEABLE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    version: _types_pb2.Version
    content: _types_pb2.Content
    metadata: _types_pb2.Metadata
    committed_at_ms: int
    level: _types_pb2.Consistency
    cacheable: bool
    policy: _types_pb2.Policy
    as_of: _types_pb2.Position
    def __init__(self, version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., content: _Optional[_Union[_types_pb2.Content, _Mapping]] = ..., metadata: _Optional[_Union[_types_pb2.Metadata, _Mapping]] = ..., committed_at_ms: _Optional[int] = ..., level: _Optional[_Union[_types_pb2.Consistency, str]] = ..., cacheable: bool = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "key", "version", "absent", "any", "content", "metadata", "token", "keep")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    ANY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    key: str
    version: _types_pb2.Version
    absent: bool
    any: bool
    content: _types_pb2.Content
    metadata: _types_pb2.Metadata
    token: Token
    keep: bool
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., absent: bool = ..., any: bool = ..., content: _Optional[_Union[_types_pb2.Content, _Mapping]] = ..., metadata: _Optional[_Union[_types_pb2.Metadata, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., keep: bool = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("lease_id", "incarnation", "fence")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    incarnation: int
    fence: int
    def __init__(self, lease_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., fence: _Optional[int] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("version", "as_of", "token", "level", "committed_at_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    version: _types_pb2.Version
    as_of: _types_pb2.Position
    token: Token
    level: _types_pb2.Consistency
    committed_at_ms: int
    def __init__(self, version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., level: _Optional[_Union[_types_pb2.Consistency, str]] = ..., committed_at_ms: _Optional[int] = ...) -> None: ...

class AcquireRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "key", "lease_id", "ttl_ms", "wait_ms", "create", "have")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    key: str
    lease_id: str
    ttl_ms: int
    wait_ms: int
    create: bool
    have: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., key: _Optional[str] = ..., lease_id: _Optional[str] = ..., ttl_ms: _Optional[int] = ..., wait_ms: _Optional[int] = ..., create: bool = ..., have: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AcquireResponse(_message.Message):
    __slots__ = ("token", "ttl_ms", "version", "content", "metadata", "committed_at_ms", "as_of", "level")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    token: Token
    ttl_ms: int
    version: _types_pb2.Version
    content: _types_pb2.Content
    metadata: _types_pb2.Metadata
    committed_at_ms: int
    as_of: _types_pb2.Position
    level: _types_pb2.Consistency
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., ttl_ms: _Optional[int] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., content: _Optional[_Union[_types_pb2.Content, _Mapping]] = ..., metadata: _Optional[_Union[_types_pb2.Metadata, _Mapping]] = ..., committed_at_ms: _Optional[int] = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., level: _Optional[_Union[_types_pb2.Consistency, str]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "key", "lease_id", "ttl_ms")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    key: str
    lease_id: str
    ttl_ms: int
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., key: _Optional[str] = ..., lease_id: _Optional[str] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("ttl_ms", "as_of")
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    ttl_ms: int
    as_of: _types_pb2.Position
    def __init__(self, ttl_ms: _Optional[int] = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "key", "lease_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    key: str
    lease_id: str
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., key: _Optional[str] = ..., lease_id: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("as_of",)
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    as_of: _types_pb2.Position
    def __init__(self, as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "key", "policy", "prefix")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    key: str
    policy: _types_pb2.Policy
    prefix: str
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., key: _Optional[str] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., prefix: _Optional[str] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("as_of", "remaining")
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    as_of: _types_pb2.Position
    remaining: int
    def __init__(self, as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., remaining: _Optional[int] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PrefixPolicy]
    def __init__(self, policies: _Optional[_Iterable[_Union[PrefixPolicy, _Mapping]]] = ...) -> None: ...

class PrefixPolicy(_message.Message):
    __slots__ = ("prefix", "policy")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    policy: _types_pb2.Policy
    def __init__(self, prefix: _Optional[str] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("session_id", "key")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    key: str
    def __init__(self, session_id: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class StatResponse(_message.Message):
    __slots__ = ("key", "state", "version", "size", "hash", "committed_at_ms", "sharers", "holder", "holder_remaining_ms", "waiters", "fence", "policy", "metadata", "as_of", "holder_name", "inherited")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    SHARERS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    HOLDER_REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    WAITERS_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    HOLDER_NAME_FIELD_NUMBER: _ClassVar[int]
    INHERITED_FIELD_NUMBER: _ClassVar[int]
    key: str
    state: _types_pb2.State
    version: _types_pb2.Version
    size: int
    hash: bytes
    committed_at_ms: int
    sharers: int
    holder: str
    holder_remaining_ms: int
    waiters: int
    fence: int
    policy: _types_pb2.Policy
    metadata: _types_pb2.Metadata
    as_of: _types_pb2.Position
    holder_name: str
    inherited: _types_pb2.Policy
    def __init__(self, key: _Optional[str] = ..., state: _Optional[_Union[_types_pb2.State, str]] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., size: _Optional[int] = ..., hash: _Optional[bytes] = ..., committed_at_ms: _Optional[int] = ..., sharers: _Optional[int] = ..., holder: _Optional[str] = ..., holder_remaining_ms: _Optional[int] = ..., waiters: _Optional[int] = ..., fence: _Optional[int] = ..., policy: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ..., metadata: _Optional[_Union[_types_pb2.Metadata, _Mapping]] = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., holder_name: _Optional[str] = ..., inherited: _Optional[_Union[_types_pb2.Policy, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("session_id", "prefix", "after", "limit")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    prefix: str
    after: str
    limit: int
    def __init__(self, session_id: _Optional[str] = ..., prefix: _Optional[str] = ..., after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("artifacts", "more", "as_of")
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    artifacts: _containers.RepeatedCompositeFieldContainer[StatResponse]
    more: bool
    as_of: _types_pb2.Position
    def __init__(self, artifacts: _Optional[_Iterable[_Union[StatResponse, _Mapping]]] = ..., more: bool = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("session_id", "key")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    key: str
    def __init__(self, session_id: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    def __init__(self, versions: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("version", "hash", "size", "committed_at_ms", "by", "deleted", "metadata", "by_name")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    BY_NAME_FIELD_NUMBER: _ClassVar[int]
    version: _types_pb2.Version
    hash: bytes
    size: int
    committed_at_ms: int
    by: str
    deleted: bool
    metadata: _types_pb2.Metadata
    by_name: str
    def __init__(self, version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., hash: _Optional[bytes] = ..., size: _Optional[int] = ..., committed_at_ms: _Optional[int] = ..., by: _Optional[str] = ..., deleted: bool = ..., metadata: _Optional[_Union[_types_pb2.Metadata, _Mapping]] = ..., by_name: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("session_id", "prefix", "after")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    prefix: str
    after: _types_pb2.Position
    def __init__(self, session_id: _Optional[str] = ..., prefix: _Optional[str] = ..., after: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class WatchAck(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: _types_pb2.Position
    def __init__(self, position: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class UnwatchRequest(_message.Message):
    __slots__ = ("watch_id",)
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    watch_id: int
    def __init__(self, watch_id: _Optional[int] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("change", "resync", "started")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    RESYNC_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    change: Change
    resync: Resync
    started: WatchAck
    def __init__(self, change: _Optional[_Union[Change, _Mapping]] = ..., resync: _Optional[_Union[Resync, _Mapping]] = ..., started: _Optional[_Union[WatchAck, _Mapping]] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "keys", "prefix", "ttl_ms")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    keys: _containers.RepeatedScalarFieldContainer[str]
    prefix: str
    ttl_ms: int
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., keys: _Optional[_Iterable[str]] = ..., prefix: _Optional[str] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("snapshot", "entries", "as_of", "ttl_ms")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    snapshot: str
    entries: _containers.RepeatedCompositeFieldContainer[SnapshotEntry]
    as_of: _types_pb2.Position
    ttl_ms: int
    def __init__(self, snapshot: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[SnapshotEntry, _Mapping]]] = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class SnapshotEntry(_message.Message):
    __slots__ = ("key", "version", "hash", "size", "committed_at_ms", "metadata")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    hash: bytes
    size: int
    committed_at_ms: int
    metadata: _types_pb2.Metadata
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., hash: _Optional[bytes] = ..., size: _Optional[int] = ..., committed_at_ms: _Optional[int] = ..., metadata: _Optional[_Union[_types_pb2.Metadata, _Mapping]] = ...) -> None: ...

class ReleaseSnapshotRequest(_message.Message):
    __slots__ = ("session_id", "snapshot")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    snapshot: str
    def __init__(self, session_id: _Optional[str] = ..., snapshot: _Optional[str] = ...) -> None: ...

class ReleaseSnapshotResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CommitManyRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "items")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    items: _containers.RepeatedCompositeFieldContainer[CommitItem]
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., items: _Optional[_Iterable[_Union[CommitItem, _Mapping]]] = ...) -> None: ...

class CommitItem(_message.Message):
    __slots__ = ("key", "version", "absent", "any", "content", "metadata", "token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    ANY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    absent: bool
    any: bool
    content: _types_pb2.Content
    metadata: _types_pb2.Metadata
    token: Token
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., absent: bool = ..., any: bool = ..., content: _Optional[_Union[_types_pb2.Content, _Mapping]] = ..., metadata: _Optional[_Union[_types_pb2.Metadata, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class CommitManyResponse(_message.Message):
    __slots__ = ("items", "as_of", "level")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[CommittedItem]
    as_of: _types_pb2.Position
    level: _types_pb2.Consistency
    def __init__(self, items: _Optional[_Iterable[_Union[CommittedItem, _Mapping]]] = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ..., level: _Optional[_Union[_types_pb2.Consistency, str]] = ...) -> None: ...

class CommittedItem(_message.Message):
    __slots__ = ("key", "version", "token", "committed_at_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    token: Token
    committed_at_ms: int
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., committed_at_ms: _Optional[int] = ...) -> None: ...

class GateRequest(_message.Message):
    __slots__ = ("session_id", "items")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    items: _containers.RepeatedCompositeFieldContainer[GateItem]
    def __init__(self, session_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[GateItem, _Mapping]]] = ...) -> None: ...

class GateItem(_message.Message):
    __slots__ = ("key", "version", "token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    token: Token
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class GateResponse(_message.Message):
    __slots__ = ("findings", "as_of")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[GateFinding]
    as_of: _types_pb2.Position
    def __init__(self, findings: _Optional[_Iterable[_Union[GateFinding, _Mapping]]] = ..., as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class GateFinding(_message.Message):
    __slots__ = ("key", "verdict", "current", "cause", "writer", "writer_name", "prepared")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    WRITER_NAME_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    key: str
    verdict: GateVerdict
    current: _types_pb2.Version
    cause: _types_pb2.LeaseEnd
    writer: str
    writer_name: str
    prepared: bool
    def __init__(self, key: _Optional[str] = ..., verdict: _Optional[_Union[GateVerdict, str]] = ..., current: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., cause: _Optional[_Union[_types_pb2.LeaseEnd, str]] = ..., writer: _Optional[str] = ..., writer_name: _Optional[str] = ..., prepared: bool = ...) -> None: ...

class HandoffRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "key", "token", "to", "agent", "ttl_ms")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    key: str
    token: Token
    to: str
    agent: str
    ttl_ms: int
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., key: _Optional[str] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., to: _Optional[str] = ..., agent: _Optional[str] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class HandoffResponse(_message.Message):
    __slots__ = ("as_of",)
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    as_of: _types_pb2.Position
    def __init__(self, as_of: _Optional[_Union[_types_pb2.Position, _Mapping]] = ...) -> None: ...

class ReadContentRequest(_message.Message):
    __slots__ = ("session_id", "key", "version", "have", "have_chunks", "header_only", "first_chunk", "snapshot")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    HAVE_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    HEADER_ONLY_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    key: str
    version: _types_pb2.Version
    have: _containers.RepeatedScalarFieldContainer[bytes]
    have_chunks: _containers.RepeatedScalarFieldContainer[bytes]
    header_only: bool
    first_chunk: int
    snapshot: str
    def __init__(self, session_id: _Optional[str] = ..., key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., have: _Optional[_Iterable[bytes]] = ..., have_chunks: _Optional[_Iterable[bytes]] = ..., header_only: bool = ..., first_chunk: _Optional[int] = ..., snapshot: _Optional[str] = ...) -> None: ...

class ReadContentResponse(_message.Message):
    __slots__ = ("header", "data", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: ContentHeader
    data: bytes
    chunk: ChunkBody
    def __init__(self, header: _Optional[_Union[ContentHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., chunk: _Optional[_Union[ChunkBody, _Mapping]] = ...) -> None: ...

class ContentHeader(_message.Message):
    __slots__ = ("hash", "size", "encoding", "base_hash", "encoded_size", "chunks")
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    BASE_HASH_FIELD_NUMBER: _ClassVar[int]
    ENCODED_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    size: int
    encoding: ContentEncoding
    base_hash: bytes
    encoded_size: int
    chunks: _containers.RepeatedCompositeFieldContainer[Chunk]
    def __init__(self, hash: _Optional[bytes] = ..., size: _Optional[int] = ..., encoding: _Optional[_Union[ContentEncoding, str]] = ..., base_hash: _Optional[bytes] = ..., encoded_size: _Optional[int] = ..., chunks: _Optional[_Iterable[_Union[Chunk, _Mapping]]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("hash", "size")
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    size: int
    def __init__(self, hash: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class ChunkBody(_message.Message):
    __slots__ = ("index", "raw", "zstd", "patch", "base")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    ZSTD_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    index: int
    raw: bytes
    zstd: bytes
    patch: bytes
    base: bytes
    def __init__(self, index: _Optional[int] = ..., raw: _Optional[bytes] = ..., zstd: _Optional[bytes] = ..., patch: _Optional[bytes] = ..., base: _Optional[bytes] = ...) -> None: ...

class WriteContentRequest(_message.Message):
    __slots__ = ("header", "data", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: WriteContentHeader
    data: bytes
    chunk: ChunkBody
    def __init__(self, header: _Optional[_Union[WriteContentHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., chunk: _Optional[_Union[ChunkBody, _Mapping]] = ...) -> None: ...

class WriteContentHeader(_message.Message):
    __slots__ = ("session_id", "content")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    content: ContentHeader
    def __init__(self, session_id: _Optional[str] = ..., content: _Optional[_Union[ContentHeader, _Mapping]] = ...) -> None: ...

class WriteContentResponse(_message.Message):
    __slots__ = ("hash",)
    HASH_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    def __init__(self, hash: _Optional[bytes] = ...) -> None: ...

class MissingChunksRequest(_message.Message):
    __slots__ = ("session_id", "hashes")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, session_id: _Optional[str] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class MissingChunksResponse(_message.Message):
    __slots__ = ("missing", "patches")
    MISSING_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    patches: bool
    def __init__(self, missing: _Optional[_Iterable[int]] = ..., patches: bool = ...) -> None: ...

class SavingsRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class SavingsResponse(_message.Message):
    __slots__ = ("hour", "day", "counted_ms")
    HOUR_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    COUNTED_MS_FIELD_NUMBER: _ClassVar[int]
    hour: _containers.RepeatedCompositeFieldContainer[Saving]
    day: _containers.RepeatedCompositeFieldContainer[Saving]
    counted_ms: int
    def __init__(self, hour: _Optional[_Iterable[_Union[Saving, _Mapping]]] = ..., day: _Optional[_Iterable[_Union[Saving, _Mapping]]] = ..., counted_ms: _Optional[int] = ...) -> None: ...
