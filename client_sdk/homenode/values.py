"""Values that callers give, and facts that the directory tells, as plain Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from homenode.artifact import LAZY, STRICT
from homenode.errors import InvalidArgument
from homenode.versions import Version, version_of
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t

#: What may be written: text, bytes, or anything that JSON can say.
Value = str | bytes | bytearray | memoryview | dict[str, Any] | list[Any] | int | float | bool | None

JSON_TYPE = "application/json"

LEVELS = {t.CONSISTENCY_LAZY: LAZY, t.CONSISTENCY_STRICT: STRICT}
_CONSISTENCIES = {LAZY: t.CONSISTENCY_LAZY, STRICT: t.CONSISTENCY_STRICT}
_PUSHES = {"none": t.PUSH_NONE, "sharers": t.PUSH_SHARERS, "all": t.PUSH_ALL}
_STATES = {
    t.STATE_INVALID: "I",
    t.STATE_SHARED: "S",
    t.STATE_EXCLUSIVE: "E",
    t.STATE_MODIFIED: "M",
    t.STATE_PREPARED: "P",
}


class Meta(NamedTuple):
    """What a version carries beside its bytes."""

    values: Mapping[str, str] = MappingProxyType({})
    tags: tuple[str, ...] = ()
    media_type: str = ""

    @property
    def said(self) -> bool:
        """Whether there is anything to carry."""
        return bool(self.values or self.tags or self.media_type)

    def to_wire(self) -> t.Metadata:
        """For a commit."""
        return t.Metadata(values=dict(self.values), tags=list(self.tags), media_type=self.media_type)

    @classmethod
    def of(cls, message: t.Metadata) -> Meta:
        """From an answer."""
        return cls(dict(message.values), tuple(message.tags), message.media_type)


#: Nothing beside the bytes.
NO_META = Meta()


def encode(value: Value) -> tuple[bytes, str]:
    """(bytes, media type or "") of a value. Raises InvalidArgument for what is none of the kinds."""
    if isinstance(value, str):
        try:
            return value.encode(), ""
        except UnicodeEncodeError:
            raise InvalidArgument("the text has lone surrogates, which UTF-8 cannot say") from None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), ""
    return encode_json(value), JSON_TYPE


def encode_json(value: Any) -> bytes:
    """A JSON value as bytes. Raises InvalidArgument for what JSON cannot say, NaN included."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as failure:
        raise InvalidArgument(f"neither text, nor bytes, nor JSON: {type(value).__name__} ({failure})") from None


def meta(metadata: Mapping[str, str] | None, tags: Sequence[str] | None, media_type: str | None, *, kept: Meta) -> Meta:
    """The metadata of a new version: what is not said is kept from the version that it replaces."""
    if metadata is None and tags is None and media_type is None:
        return kept
    if isinstance(tags, str):
        raise InvalidArgument("tags are a list of strings, not one string")
    for text in [*(metadata or {}).items(), *[(tag, "") for tag in tags or ()]]:
        if not all(isinstance(part, str) for part in text):
            raise InvalidArgument("metadata maps strings to strings, and tags are strings")
    try:
        "".join([*(metadata or {}), *(metadata or {}).values(), *(tags or ()), media_type or ""]).encode()
    except UnicodeEncodeError:
        raise InvalidArgument("metadata, a tag or the media type has lone surrogates, which UTF-8 cannot say") from None
    return Meta(
        kept.values if metadata is None else dict(metadata),
        kept.tags if tags is None else tuple(tags),
        kept.media_type if media_type is None else media_type,
    )


def name(key: str) -> str:
    """A key or prefix as it can be sent; the directory judges the rest. Raises InvalidArgument."""
    if not isinstance(key, str):
        raise InvalidArgument(f"the name of an artifact is a string, not {type(key).__name__}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("the name of an artifact has lone surrogates, which UTF-8 cannot say") from None
    return key


def duration(value: int, what: str) -> int:
    """Milliseconds as they can be sent; the directory judges the rest. Raises InvalidArgument."""
    if not isinstance(value, int) or not 0 <= value < 2**32:
        raise InvalidArgument(f"{what} is a whole number of milliseconds from 0, not {value!r}")
    return value


def consistency(value: str | None) -> t.Consistency:
    """The wire's word for "lazy" or "strict". Raises InvalidArgument."""
    if value is None:
        return t.CONSISTENCY_UNSPECIFIED
    if value not in _CONSISTENCIES:
        raise InvalidArgument(f"consistency is lazy or strict, not {value!r}")
    return _CONSISTENCIES[value]


#: The strategies of the paper "Token Coherence", as policies: what follows a commit, and how long a copy may serve.
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "broadcast": {"push": "all"},  # each new version goes to every session of the workspace
    "eager": {"push": "sharers"},  # to every session that had a copy
    "lazy": {"push": "none"},  # copies are invalidated, and fetched when they are read again
    "lease": {"push": "none", "max_age_ms": 10_000},  # and not confirmed for so long, a copy is asked for
    "access_count": {"push": "none", "max_reads": 8},  # and after so many reads
}


def with_strategy(strategy: str | None, said: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a policy: those of a named strategy, where nothing else is said. Raises InvalidArgument."""
    if strategy is not None and strategy not in STRATEGIES:
        raise InvalidArgument(f"strategy is one of {', '.join(STRATEGIES)}, not {strategy!r}")
    preset = STRATEGIES[strategy] if strategy is not None else {}
    return {name: preset.get(name) if value is None else value for name, value in said.items()}


def policy(
    level: str | None, push: str | None, max_age_ms: int | None, max_reads: int | None, max_steps: int | None
) -> t.Policy | None:
    """A policy for the wire; None when nothing is said. Raises InvalidArgument."""
    if all(part is None for part in (level, push, max_age_ms, max_reads, max_steps)):
        return None
    if push is not None and push not in _PUSHES:
        raise InvalidArgument(f"push is none, sharers or all, not {push!r}")
    for name, value in (("max_age_ms", max_age_ms), ("max_reads", max_reads), ("max_steps", max_steps)):
        if value is not None and not (isinstance(value, int) and 0 <= value < 2**32):
            raise InvalidArgument(f"{name} must be 0 to 2^32 - 1, not {value!r}")
    return t.Policy(
        consistency=consistency(level),
        push=_PUSHES[push] if push is not None else t.PUSH_UNSPECIFIED,
        max_age_ms=max_age_ms,
        max_reads=max_reads,
        max_steps=max_steps,
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """How an artifact is kept coherent; None means the default of the workspace or server."""

    consistency: str | None = None
    push: str | None = None
    max_age_ms: int | None = None
    max_reads: int | None = None
    max_steps: int | None = None

    @classmethod
    def of(cls, message: t.Policy) -> Policy:
        """From an answer."""
        pushes = {number: name for name, number in _PUSHES.items()}
        return cls(
            LEVELS.get(message.consistency),
            pushes.get(message.push),
            message.max_age_ms if message.HasField("max_age_ms") else None,
            message.max_reads if message.HasField("max_reads") else None,
            message.max_steps if message.HasField("max_steps") else None,
        )


@dataclass(frozen=True, slots=True)
class Stat:
    """What the directory says of an artifact, now.

    `policy` is the artifact's own, `inherited` what it has of its prefix or workspace (None: nothing), `nearest` the
    one that holds. `state` is I, S, E, M or P; `holder` the session with the write lease, or "", and `holder_name` its
    name; times in milliseconds, `committed_at_ms` in Unix time on the store's clock.
    """

    key: str
    state: str
    version: Version
    size: int
    hash: bytes
    committed_at_ms: int
    sharers: int
    holder: str
    holder_remaining_ms: int
    waiters: int
    fence: int
    policy: Policy
    metadata: Mapping[str, str]
    tags: tuple[str, ...]
    media_type: str
    holder_name: str = ""
    inherited: Policy | None = None

    @property
    def nearest(self) -> Policy:
        """The policy that holds: the artifact's own, else its prefix's, else (nothing said) the server's default."""
        return self.policy if self.policy != Policy() or self.inherited is None else self.inherited

    @classmethod
    def of(cls, m: pb.StatResponse) -> Stat:
        """From an answer."""
        return cls(
            m.key, _STATES.get(m.state, "I"), version_of(m.version), m.size, m.hash, m.committed_at_ms, m.sharers,
            m.holder, m.holder_remaining_ms, m.waiters, m.fence, Policy.of(m.policy), dict(m.metadata.values),
            tuple(m.metadata.tags), m.metadata.media_type, m.holder_name,
            Policy.of(m.inherited) if m.HasField("inherited") else None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One retained version of an artifact; `by` is the session that committed it, `by_name` its name."""

    version: Version
    hash: bytes
    size: int
    committed_at_ms: int
    by: str
    deleted: bool
    metadata: Mapping[str, str]
    tags: tuple[str, ...]
    media_type: str
    by_name: str = ""

    @classmethod
    def of(cls, m: pb.HistoryEntry) -> VersionInfo:
        """From an answer."""
        return cls(
            version_of(m.version), m.hash, m.size, m.committed_at_ms, m.by, m.deleted, dict(m.metadata.values),
            tuple(m.metadata.tags), m.metadata.media_type, m.by_name,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Saving:
    """What an agent was not shown again, and not sent again, of an artifact that was kept by a strategy.

    Tokens are of hits of the cache, of changes shown instead of whole texts, and of versions that had not changed;
    bytes are those of hits. Where there was no room to tell more apart, `agent` and `key` are "".
    """

    agent: str
    key: str
    strategy: str
    tokens_hit: int
    tokens_delta: int
    tokens_unchanged: int
    bytes_hit: int

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.tokens_hit + self.tokens_delta + self.tokens_unchanged

    @classmethod
    def of(cls, m: pb.Saving) -> Saving:
        """From an answer."""
        return cls(m.agent, m.key, m.strategy, m.tokens_hit, m.tokens_delta, m.tokens_unchanged, m.bytes_hit)


@dataclass(frozen=True, slots=True)
class Savings:
    """Those of the last hour, in steps of a quarter of it, and of the last day, in steps of an hour; the largest first.

    `counted_ms`: how long ago the first of the day's steps began in which something was saved.
    """

    hour: tuple[Saving, ...]
    day: tuple[Saving, ...]
    counted_ms: int

    @classmethod
    def of(cls, m: pb.SavingsResponse) -> Savings:
        """From an answer."""
        return cls(tuple(map(Saving.of, m.hour)), tuple(map(Saving.of, m.day)), m.counted_ms)


def strategy_of(level: t.Consistency, policy: t.Policy) -> str:
    """What a policy is called where savings are told apart: "strict", or the preset that it is nearest to."""
    if level == t.CONSISTENCY_STRICT:
        return STRICT
    if policy.push in (t.PUSH_ALL, t.PUSH_SHARERS):
        return "broadcast" if policy.push == t.PUSH_ALL else "eager"
    if policy.HasField("max_reads"):
        return "access_count"
    return "lease" if policy.HasField("max_age_ms") else LAZY
