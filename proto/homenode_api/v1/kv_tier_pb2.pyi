from homenode_api.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KvKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KV_KIND_UNSPECIFIED: _ClassVar[KvKind]
    KV_KIND_EXACT: _ClassVar[KvKind]
    KV_KIND_EXACT_BY_MASK: _ClassVar[KvKind]
    KV_KIND_APPROXIMATE: _ClassVar[KvKind]

class KvTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KV_TIER_UNSPECIFIED: _ClassVar[KvTier]
    KV_TIER_DEVICE: _ClassVar[KvTier]
    KV_TIER_HOST: _ClassVar[KvTier]
    KV_TIER_DISK: _ClassVar[KvTier]

class GenerateEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATE_END_UNSPECIFIED: _ClassVar[GenerateEnd]
    GENERATE_END_STOP: _ClassVar[GenerateEnd]
    GENERATE_END_LENGTH: _ClassVar[GenerateEnd]
    GENERATE_END_CONTEXT: _ClassVar[GenerateEnd]

class Admission(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADMISSION_UNSPECIFIED: _ClassVar[Admission]
    ADMISSION_GRANTED: _ClassVar[Admission]
    ADMISSION_SESSION_OVER: _ClassVar[Admission]
    ADMISSION_OTHER_WORKSPACE: _ClassVar[Admission]
KV_KIND_UNSPECIFIED: KvKind
KV_KIND_EXACT: KvKind
KV_KIND_EXACT_BY_MASK: KvKind
KV_KIND_APPROXIMATE: KvKind
KV_TIER_UNSPECIFIED: KvTier
KV_TIER_DEVICE: KvTier
KV_TIER_HOST: KvTier
KV_TIER_DISK: KvTier
GENERATE_END_UNSPECIFIED: GenerateEnd
GENERATE_END_STOP: GenerateEnd
GENERATE_END_LENGTH: GenerateEnd
GENERATE_END_CONTEXT: GenerateEnd
ADMISSION_UNSPECIFIED: Admission
ADMISSION_GRANTED: Admission
ADMISSION_SESSION_OVER: Admission
ADMISSION_OTHER_WORKSPACE: Admission

class KvProvenance(_message.Message):
    __slots__ = ("kind", "error", "own_decode")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OWN_DECODE_FIELD_NUMBER: _ClassVar[int]
    kind: KvKind
    error: float
    own_decode: bool
    def __init__(self, kind: _Optional[_Union[KvKind, str]] = ..., error: _Optional[float] = ..., own_decode: bool = ...) -> None: ...

class PromptPart(_message.Message):
    __slots__ = ("text", "tokens", "artifact")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: TokenIds
    artifact: ArtifactPart
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Union[TokenIds, _Mapping]] = ..., artifact: _Optional[_Union[ArtifactPart, _Mapping]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ArtifactPart(_message.Message):
    __slots__ = ("key", "version", "text")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    text: str
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class KvDemand(_message.Message):
    __slots__ = ("exact", "judge", "error_max")
    EXACT_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MAX_FIELD_NUMBER: _ClassVar[int]
    exact: bool
    judge: bool
    error_max: float
    def __init__(self, exact: bool = ..., judge: bool = ..., error_max: _Optional[float] = ...) -> None: ...

class PrefillRequest(_message.Message):
    __slots__ = ("model", "epoch", "artifacts", "session_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    epoch: int
    artifacts: _containers.RepeatedCompositeFieldContainer[ArtifactPart]
    session_id: str
    def __init__(self, model: _Optional[str] = ..., epoch: _Optional[int] = ..., artifacts: _Optional[_Iterable[_Union[ArtifactPart, _Mapping]]] = ..., session_id: _Optional[str] = ...) -> None: ...

class PrefillResponse(_message.Message):
    __slots__ = ("parts", "worker", "total_ms")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[PrefilledPart]
    worker: KvWorkerId
    total_ms: float
    def __init__(self, parts: _Optional[_Iterable[_Union[PrefilledPart, _Mapping]]] = ..., worker: _Optional[_Union[KvWorkerId, _Mapping]] = ..., total_ms: _Optional[float] = ...) -> None: ...

class PrefilledPart(_message.Message):
    __slots__ = ("key", "version", "tokens", "computed_tokens", "provenance", "kept")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    key: str
    version: _types_pb2.Version
    tokens: int
    computed_tokens: int
    provenance: KvProvenance
    kept: bool
    def __init__(self, key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ..., provenance: _Optional[_Union[KvProvenance, _Mapping]] = ..., kept: bool = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "epoch", "parts", "tokens_max", "temperature", "seed", "demand", "consumer", "round_id", "member", "keep_output", "session_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    KEEP_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    epoch: int
    parts: _containers.RepeatedCompositeFieldContainer[PromptPart]
    tokens_max: int
    temperature: float
    seed: int
    demand: KvDemand
    consumer: str
    round_id: str
    member: str
    keep_output: bool
    session_id: str
    def __init__(self, model: _Optional[str] = ..., epoch: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[PromptPart, _Mapping]]] = ..., tokens_max: _Optional[int] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ..., demand: _Optional[_Union[KvDemand, _Mapping]] = ..., consumer: _Optional[str] = ..., round_id: _Optional[str] = ..., member: _Optional[str] = ..., keep_output: bool = ..., session_id: _Optional[str] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("started", "piece", "report")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    started: GenerateStarted
    piece: GeneratePiece
    report: GenerateReport
    def __init__(self, started: _Optional[_Union[GenerateStarted, _Mapping]] = ..., piece: _Optional[_Union[GeneratePiece, _Mapping]] = ..., report: _Optional[_Union[GenerateReport, _Mapping]] = ...) -> None: ...

class GenerateStarted(_message.Message):
    __slots__ = ("worker", "prompt_tokens", "queue_ms")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    worker: KvWorkerId
    prompt_tokens: int
    queue_ms: float
    def __init__(self, worker: _Optional[_Union[KvWorkerId, _Mapping]] = ..., prompt_tokens: _Optional[int] = ..., queue_ms: _Optional[float] = ...) -> None: ...

class GeneratePiece(_message.Message):
    __slots__ = ("text", "tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class GenerateReport(_message.Message):
    __slots__ = ("worker", "end", "output_tokens", "prompt", "parts", "provenance", "predicted_error", "measured_error", "queue_ms", "ttft_ms", "total_ms", "flops_saved", "output_id", "round_members")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_ERROR_FIELD_NUMBER: _ClassVar[int]
    MEASURED_ERROR_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_SAVED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    worker: KvWorkerId
    end: GenerateEnd
    output_tokens: int
    prompt: KvUse
    parts: _containers.RepeatedCompositeFieldContainer[KvUse]
    provenance: KvProvenance
    predicted_error: float
    measured_error: float
    queue_ms: float
    ttft_ms: float
    total_ms: float
    flops_saved: int
    output_id: str
    round_members: int
    def __init__(self, worker: _Optional[_Union[KvWorkerId, _Mapping]] = ..., end: _Optional[_Union[GenerateEnd, str]] = ..., output_tokens: _Optional[int] = ..., prompt: _Optional[_Union[KvUse, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[KvUse, _Mapping]]] = ..., provenance: _Optional[_Union[KvProvenance, _Mapping]] = ..., predicted_error: _Optional[float] = ..., measured_error: _Optional[float] = ..., queue_ms: _Optional[float] = ..., ttft_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., flops_saved: _Optional[int] = ..., output_id: _Optional[str] = ..., round_members: _Optional[int] = ...) -> None: ...

class KvUse(_message.Message):
    __slots__ = ("tokens", "exact_tokens", "exact_by_mask_tokens", "approximate_tokens", "refreshed_tokens", "dense_tokens", "restored_tokens")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXACT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXACT_BY_MASK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REFRESHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DENSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESTORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    exact_tokens: int
    exact_by_mask_tokens: int
    approximate_tokens: int
    refreshed_tokens: int
    dense_tokens: int
    restored_tokens: int
    def __init__(self, tokens: _Optional[int] = ..., exact_tokens: _Optional[int] = ..., exact_by_mask_tokens: _Optional[int] = ..., approximate_tokens: _Optional[int] = ..., refreshed_tokens: _Optional[int] = ..., dense_tokens: _Optional[int] = ..., restored_tokens: _Optional[int] = ...) -> None: ...

class AdoptOutputRequest(_message.Message):
    __slots__ = ("epoch", "output_id", "key", "version", "session_id")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    output_id: str
    key: str
    version: _types_pb2.Version
    session_id: str
    def __init__(self, epoch: _Optional[int] = ..., output_id: _Optional[str] = ..., key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., session_id: _Optional[str] = ...) -> None: ...

class AdoptOutputResponse(_message.Message):
    __slots__ = ("adopted", "tokens")
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    adopted: bool
    tokens: int
    def __init__(self, adopted: bool = ..., tokens: _Optional[int] = ...) -> None: ...

class BeginRoundRequest(_message.Message):
    __slots__ = ("epoch", "round_id", "members", "deadline_ms", "session_id")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    round_id: str
    members: _containers.RepeatedScalarFieldContainer[str]
    deadline_ms: int
    session_id: str
    def __init__(self, epoch: _Optional[int] = ..., round_id: _Optional[str] = ..., members: _Optional[_Iterable[str]] = ..., deadline_ms: _Optional[int] = ..., session_id: _Optional[str] = ...) -> None: ...

class BeginRoundResponse(_message.Message):
    __slots__ = ("worker", "deadline_ms")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    worker: KvWorkerId
    deadline_ms: int
    def __init__(self, worker: _Optional[_Union[KvWorkerId, _Mapping]] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class CommitRoundRequest(_message.Message):
    __slots__ = ("epoch", "round_id", "session_id")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    round_id: str
    session_id: str
    def __init__(self, epoch: _Optional[int] = ..., round_id: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class CommitRoundResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: RoundReport
    def __init__(self, report: _Optional[_Union[RoundReport, _Mapping]] = ...) -> None: ...

class RoundReport(_message.Message):
    __slots__ = ("groups", "counts")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[RoundGroup]
    counts: RoundCounts
    def __init__(self, groups: _Optional[_Iterable[_Union[RoundGroup, _Mapping]]] = ..., counts: _Optional[_Union[RoundCounts, _Mapping]] = ...) -> None: ...

class RoundGroup(_message.Message):
    __slots__ = ("members", "master", "deviation", "blocks", "refreshed_blocks", "bytes", "dense_bytes")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    MASTER_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    REFRESHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DENSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedScalarFieldContainer[str]
    master: str
    deviation: _containers.RepeatedScalarFieldContainer[float]
    blocks: int
    refreshed_blocks: int
    bytes: int
    dense_bytes: int
    def __init__(self, members: _Optional[_Iterable[str]] = ..., master: _Optional[str] = ..., deviation: _Optional[_Iterable[float]] = ..., blocks: _Optional[int] = ..., refreshed_blocks: _Optional[int] = ..., bytes: _Optional[int] = ..., dense_bytes: _Optional[int] = ...) -> None: ...

class RoundCounts(_message.Message):
    __slots__ = ("lookups", "loads", "rotations", "selections", "passes", "rotated_bytes", "refreshed_tokens")
    LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    ROTATIONS_FIELD_NUMBER: _ClassVar[int]
    SELECTIONS_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    ROTATED_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFRESHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    lookups: int
    loads: int
    rotations: int
    selections: int
    passes: int
    rotated_bytes: int
    refreshed_tokens: int
    def __init__(self, lookups: _Optional[int] = ..., loads: _Optional[int] = ..., rotations: _Optional[int] = ..., selections: _Optional[int] = ..., passes: _Optional[int] = ..., rotated_bytes: _Optional[int] = ..., refreshed_tokens: _Optional[int] = ...) -> None: ...

class MaterializeRequest(_message.Message):
    __slots__ = ("epoch", "round_id", "member", "session_id")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    round_id: str
    member: str
    session_id: str
    def __init__(self, epoch: _Optional[int] = ..., round_id: _Optional[str] = ..., member: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class MaterializeResponse(_message.Message):
    __slots__ = ("tokens", "bytes")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    bytes: int
    def __init__(self, tokens: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class LeaveRoundRequest(_message.Message):
    __slots__ = ("epoch", "round_id", "member", "session_id")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    round_id: str
    member: str
    session_id: str
    def __init__(self, epoch: _Optional[int] = ..., round_id: _Optional[str] = ..., member: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class LeaveRoundResponse(_message.Message):
    __slots__ = ("kept", "master")
    KEPT_FIELD_NUMBER: _ClassVar[int]
    MASTER_FIELD_NUMBER: _ClassVar[int]
    kept: bool
    master: str
    def __init__(self, kept: bool = ..., master: _Optional[str] = ...) -> None: ...

class KvWorkerId(_message.Message):
    __slots__ = ("worker", "epoch")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    worker: str
    epoch: int
    def __init__(self, worker: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class KvTierServiceStatRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KvTierServiceStatResponse(_message.Message):
    __slots__ = ("worker", "model", "load", "entries", "server_version", "restored_members", "elections")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESTORED_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    ELECTIONS_FIELD_NUMBER: _ClassVar[int]
    worker: KvWorkerId
    model: KvModel
    load: WorkerLoad
    entries: int
    server_version: str
    restored_members: int
    elections: int
    def __init__(self, worker: _Optional[_Union[KvWorkerId, _Mapping]] = ..., model: _Optional[_Union[KvModel, _Mapping]] = ..., load: _Optional[_Union[WorkerLoad, _Mapping]] = ..., entries: _Optional[int] = ..., server_version: _Optional[str] = ..., restored_members: _Optional[int] = ..., elections: _Optional[int] = ...) -> None: ...

class KvModel(_message.Message):
    __slots__ = ("name", "fingerprint", "tokens_max", "block_tokens", "token_bytes", "token_flops", "device")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FLOPS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    tokens_max: int
    block_tokens: int
    token_bytes: int
    token_flops: int
    device: str
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., tokens_max: _Optional[int] = ..., block_tokens: _Optional[int] = ..., token_bytes: _Optional[int] = ..., token_flops: _Optional[int] = ..., device: _Optional[str] = ...) -> None: ...

class PlacementRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[PlacementEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[PlacementEvent, _Mapping]]] = ...) -> None: ...

class PlacementEvent(_message.Message):
    __slots__ = ("worker", "epoch", "sequence", "hello", "stored", "removed", "tier_changed", "master_changed", "anchor_added", "anchor_evicted", "load", "snapshot")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    TIER_CHANGED_FIELD_NUMBER: _ClassVar[int]
    MASTER_CHANGED_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_ADDED_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_EVICTED_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    worker: str
    epoch: int
    sequence: int
    hello: WorkerHello
    stored: KvStored
    removed: KvRemoved
    tier_changed: KvTierChanged
    master_changed: KvMasterChanged
    anchor_added: KvAnchorAdded
    anchor_evicted: KvAnchorEvicted
    load: WorkerLoad
    snapshot: PlacementSnapshot
    def __init__(self, worker: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., hello: _Optional[_Union[WorkerHello, _Mapping]] = ..., stored: _Optional[_Union[KvStored, _Mapping]] = ..., removed: _Optional[_Union[KvRemoved, _Mapping]] = ..., tier_changed: _Optional[_Union[KvTierChanged, _Mapping]] = ..., master_changed: _Optional[_Union[KvMasterChanged, _Mapping]] = ..., anchor_added: _Optional[_Union[KvAnchorAdded, _Mapping]] = ..., anchor_evicted: _Optional[_Union[KvAnchorEvicted, _Mapping]] = ..., load: _Optional[_Union[WorkerLoad, _Mapping]] = ..., snapshot: _Optional[_Union[PlacementSnapshot, _Mapping]] = ...) -> None: ...

class WorkerHello(_message.Message):
    __slots__ = ("session_id", "address", "model")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    address: str
    model: KvModel
    def __init__(self, session_id: _Optional[str] = ..., address: _Optional[str] = ..., model: _Optional[_Union[KvModel, _Mapping]] = ...) -> None: ...

class KvStored(_message.Message):
    __slots__ = ("digest", "key", "version", "tokens", "tier", "provenance")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    key: str
    version: _types_pb2.Version
    tokens: int
    tier: KvTier
    provenance: KvProvenance
    def __init__(self, digest: _Optional[str] = ..., key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ..., tokens: _Optional[int] = ..., tier: _Optional[_Union[KvTier, str]] = ..., provenance: _Optional[_Union[KvProvenance, _Mapping]] = ...) -> None: ...

class KvRemoved(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class KvTierChanged(_message.Message):
    __slots__ = ("digest", "tier")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    digest: str
    tier: KvTier
    def __init__(self, digest: _Optional[str] = ..., tier: _Optional[_Union[KvTier, str]] = ...) -> None: ...

class KvMasterChanged(_message.Message):
    __slots__ = ("round_id", "member", "mirrors")
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    MIRRORS_FIELD_NUMBER: _ClassVar[int]
    round_id: str
    member: str
    mirrors: int
    def __init__(self, round_id: _Optional[str] = ..., member: _Optional[str] = ..., mirrors: _Optional[int] = ...) -> None: ...

class KvAnchorAdded(_message.Message):
    __slots__ = ("slot", "digest", "tokens")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    slot: str
    digest: str
    tokens: int
    def __init__(self, slot: _Optional[str] = ..., digest: _Optional[str] = ..., tokens: _Optional[int] = ...) -> None: ...

class KvAnchorEvicted(_message.Message):
    __slots__ = ("slot", "digest")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    slot: str
    digest: str
    def __init__(self, slot: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class WorkerLoad(_message.Message):
    __slots__ = ("queued", "running", "queue_max", "queued_tokens", "prefill_tokens_per_s", "decode_tokens_per_s", "host_bytes_per_s", "disk_bytes_per_s", "tiers", "masters", "mirrors", "anchors", "draining")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MAX_FIELD_NUMBER: _ClassVar[int]
    QUEUED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    HOST_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    MASTERS_FIELD_NUMBER: _ClassVar[int]
    MIRRORS_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    queued: int
    running: int
    queue_max: int
    queued_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    host_bytes_per_s: float
    disk_bytes_per_s: float
    tiers: _containers.RepeatedCompositeFieldContainer[TierBytes]
    masters: int
    mirrors: int
    anchors: int
    draining: bool
    def __init__(self, queued: _Optional[int] = ..., running: _Optional[int] = ..., queue_max: _Optional[int] = ..., queued_tokens: _Optional[int] = ..., prefill_tokens_per_s: _Optional[float] = ..., decode_tokens_per_s: _Optional[float] = ..., host_bytes_per_s: _Optional[float] = ..., disk_bytes_per_s: _Optional[float] = ..., tiers: _Optional[_Iterable[_Union[TierBytes, _Mapping]]] = ..., masters: _Optional[int] = ..., mirrors: _Optional[int] = ..., anchors: _Optional[int] = ..., draining: bool = ...) -> None: ...

class TierBytes(_message.Message):
    __slots__ = ("tier", "bytes", "bytes_max")
    TIER_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    tier: KvTier
    bytes: int
    bytes_max: int
    def __init__(self, tier: _Optional[_Union[KvTier, str]] = ..., bytes: _Optional[int] = ..., bytes_max: _Optional[int] = ...) -> None: ...

class PlacementSnapshot(_message.Message):
    __slots__ = ("stored", "first", "last")
    STORED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    stored: _containers.RepeatedCompositeFieldContainer[KvStored]
    first: bool
    last: bool
    def __init__(self, stored: _Optional[_Iterable[_Union[KvStored, _Mapping]]] = ..., first: bool = ..., last: bool = ...) -> None: ...

class PlacementResponse(_message.Message):
    __slots__ = ("applied", "snapshot_wanted", "refused")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_WANTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    applied: int
    snapshot_wanted: bool
    refused: _types_pb2.Error
    def __init__(self, applied: _Optional[int] = ..., snapshot_wanted: bool = ..., refused: _Optional[_Union[_types_pb2.Error, _Mapping]] = ...) -> None: ...

class RouteRequest(_message.Message):
    __slots__ = ("session_id", "model", "parts", "round_id", "demand", "exclude", "tokens_max")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    parts: _containers.RepeatedCompositeFieldContainer[RoutePart]
    round_id: str
    demand: KvDemand
    exclude: _containers.RepeatedScalarFieldContainer[str]
    tokens_max: int
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[RoutePart, _Mapping]]] = ..., round_id: _Optional[str] = ..., demand: _Optional[_Union[KvDemand, _Mapping]] = ..., exclude: _Optional[_Iterable[str]] = ..., tokens_max: _Optional[int] = ...) -> None: ...

class RoutePart(_message.Message):
    __slots__ = ("tokens", "key", "version")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    key: str
    version: _types_pb2.Version
    def __init__(self, tokens: _Optional[int] = ..., key: _Optional[str] = ..., version: _Optional[_Union[_types_pb2.Version, _Mapping]] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("choice", "alternatives", "dead_parts")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    DEAD_PARTS_FIELD_NUMBER: _ClassVar[int]
    choice: RouteCandidate
    alternatives: _containers.RepeatedCompositeFieldContainer[RouteCandidate]
    dead_parts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, choice: _Optional[_Union[RouteCandidate, _Mapping]] = ..., alternatives: _Optional[_Iterable[_Union[RouteCandidate, _Mapping]]] = ..., dead_parts: _Optional[_Iterable[int]] = ...) -> None: ...

class RouteCandidate(_message.Message):
    __slots__ = ("worker", "address", "model", "predicted_ms", "exact_tokens", "approximate_tokens")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_MS_FIELD_NUMBER: _ClassVar[int]
    EXACT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    worker: KvWorkerId
    address: str
    model: KvModel
    predicted_ms: float
    exact_tokens: int
    approximate_tokens: int
    def __init__(self, worker: _Optional[_Union[KvWorkerId, _Mapping]] = ..., address: _Optional[str] = ..., model: _Optional[_Union[KvModel, _Mapping]] = ..., predicted_ms: _Optional[float] = ..., exact_tokens: _Optional[int] = ..., approximate_tokens: _Optional[int] = ...) -> None: ...

class AdmitRequest(_message.Message):
    __slots__ = ("session_id", "caller")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    caller: str
    def __init__(self, session_id: _Optional[str] = ..., caller: _Optional[str] = ...) -> None: ...

class AdmitResponse(_message.Message):
    __slots__ = ("admission",)
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    admission: Admission
    def __init__(self, admission: _Optional[_Union[Admission, str]] = ...) -> None: ...
