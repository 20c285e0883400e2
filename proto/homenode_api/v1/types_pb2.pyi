from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_UNSPECIFIED: _ClassVar[Consistency]
    CONSISTENCY_LAZY: _ClassVar[Consistency]
    CONSISTENCY_STRICT: _ClassVar[Consistency]

class Push(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUSH_UNSPECIFIED: _ClassVar[Push]
    PUSH_NONE: _ClassVar[Push]
    PUSH_SHARERS: _ClassVar[Push]
    PUSH_ALL: _ClassVar[Push]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_INVALID: _ClassVar[State]
    STATE_SHARED: _ClassVar[State]
    STATE_EXCLUSIVE: _ClassVar[State]
    STATE_MODIFIED: _ClassVar[State]
    STATE_PREPARED: _ClassVar[State]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_VERSION_CONFLICT: _ClassVar[ErrorReason]
    ERROR_REASON_HELD: _ClassVar[ErrorReason]
    ERROR_REASON_WAIT_TIMEOUT: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_STALE_FENCE: _ClassVar[ErrorReason]
    ERROR_REASON_LEASE_LOST: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_LOST: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_ARGUMENT: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_QUOTA_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_CONTENT_MISSING: _ClassVar[ErrorReason]
    ERROR_REASON_CONTENDED: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_SUCCESSOR_LOST: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_NO_WORKER: _ClassVar[ErrorReason]

class LeaseEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_END_UNSPECIFIED: _ClassVar[LeaseEnd]
    LEASE_END_RELEASED: _ClassVar[LeaseEnd]
    LEASE_END_EXPIRED: _ClassVar[LeaseEnd]
    LEASE_END_REVOKED: _ClassVar[LeaseEnd]
    LEASE_END_SESSION_LOST: _ClassVar[LeaseEnd]
    LEASE_END_HANDED_OFF: _ClassVar[LeaseEnd]
CONSISTENCY_UNSPECIFIED: Consistency
CONSISTENCY_LAZY: Consistency
CONSISTENCY_STRICT: Consistency
PUSH_UNSPECIFIED: Push
PUSH_NONE: Push
PUSH_SHARERS: Push
PUSH_ALL: Push
STATE_UNSPECIFIED: State
STATE_INVALID: State
STATE_SHARED: State
STATE_EXCLUSIVE: State
STATE_MODIFIED: State
STATE_PREPARED: State
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_NOT_FOUND: ErrorReason
ERROR_REASON_ALREADY_EXISTS: ErrorReason
ERROR_REASON_VERSION_CONFLICT: ErrorReason
ERROR_REASON_HELD: ErrorReason
ERROR_REASON_WAIT_TIMEOUT: ErrorReason
ERROR_REASON_QUEUE_FULL: ErrorReason
ERROR_REASON_STALE_FENCE: ErrorReason
ERROR_REASON_LEASE_LOST: ErrorReason
ERROR_REASON_SESSION_LOST: ErrorReason
ERROR_REASON_INVALID_ARGUMENT: ErrorReason
ERROR_REASON_TOO_LARGE: ErrorReason
ERROR_REASON_QUOTA_EXCEEDED: ErrorReason
ERROR_REASON_CONTENT_MISSING: ErrorReason
ERROR_REASON_CONTENDED: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_UNSUPPORTED: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_UNAVAILABLE: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_UNKNOWN: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_SUCCESSOR_LOST: ErrorReason
ERROR_REASON_MODEL_MISMATCH: ErrorReason
ERROR_REASON_NO_WORKER: ErrorReason
LEASE_END_UNSPECIFIED: LeaseEnd
LEASE_END_RELEASED: LeaseEnd
LEASE_END_EXPIRED: LeaseEnd
LEASE_END_REVOKED: LeaseEnd
LEASE_END_SESSION_LOST: LeaseEnd
LEASE_END_HANDED_OFF: LeaseEnd

class Version(_message.Message):
    __slots__ = ("incarnation", "n")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    n: int
    def __init__(self, incarnation: _Optional[int] = ..., n: _Optional[int] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("incarnation", "sequence")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    sequence: int
    def __init__(self, incarnation: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("consistency", "push", "max_age_ms", "max_reads", "max_steps")
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_READS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    consistency: Consistency
    push: Push
    max_age_ms: int
    max_reads: int
    max_steps: int
    def __init__(self, consistency: _Optional[_Union[Consistency, str]] = ..., push: _Optional[_Union[Push, str]] = ..., max_age_ms: _Optional[int] = ..., max_reads: _Optional[int] = ..., max_steps: _Optional[int] = ...) -> None: ...

class Content(_message.Message):
    __slots__ = ("hash", "size", "snapshot", "patches", "held")
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    size: int
    snapshot: bytes
    patches: PatchChain
    held: bool
    def __init__(self, hash: _Optional[bytes] = ..., size: _Optional[int] = ..., snapshot: _Optional[bytes] = ..., patches: _Optional[_Union[PatchChain, _Mapping]] = ..., held: bool = ...) -> None: ...

class PatchChain(_message.Message):
    __slots__ = ("base_hash", "patches")
    BASE_HASH_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    base_hash: bytes
    patches: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, base_hash: _Optional[bytes] = ..., patches: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Metadata(_message.Message):
    __slots__ = ("values", "tags", "media_type")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, str]
    tags: _containers.RepeatedScalarFieldContainer[str]
    media_type: str
    def __init__(self, values: _Optional[_Mapping[str, str]] = ..., tags: _Optional[_Iterable[str]] = ..., media_type: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("reason", "message", "current", "holder", "retry_after_ms", "cause", "holder_name", "keys", "workers")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    HOLDER_NAME_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    reason: ErrorReason
    message: str
    current: Version
    holder: str
    retry_after_ms: int
    cause: LeaseEnd
    holder_name: str
    keys: _containers.RepeatedCompositeFieldContainer[KeyRefusal]
    workers: WorkersFound
    def __init__(self, reason: _Optional[_Union[ErrorReason, str]] = ..., message: _Optional[str] = ..., current: _Optional[_Union[Version, _Mapping]] = ..., holder: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., cause: _Optional[_Union[LeaseEnd, str]] = ..., holder_name: _Optional[str] = ..., keys: _Optional[_Iterable[_Union[KeyRefusal, _Mapping]]] = ..., workers: _Optional[_Union[WorkersFound, _Mapping]] = ...) -> None: ...

class WorkersFound(_message.Message):
    __slots__ = ("known", "other_model", "excluded", "draining", "silent")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    OTHER_MODEL_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    known: int
    other_model: int
    excluded: int
    draining: int
    silent: int
    def __init__(self, known: _Optional[int] = ..., other_model: _Optional[int] = ..., excluded: _Optional[int] = ..., draining: _Optional[int] = ..., silent: _Optional[int] = ...) -> None: ...

class KeyRefusal(_message.Message):
    __slots__ = ("key", "error")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    key: str
    error: Error
    def __init__(self, key: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...
