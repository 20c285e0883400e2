"""What may come in. Every function returns its argument in the form used inside, or raises `Rejected`.

Bounds that a client should know are told in `Limits` of OpenSessionResponse.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from homenode_api.chunks import CONTENT_MAX_BYTES
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api.errors import Rejected, invalid, rejected
from homenode_directory.observer import STRATEGIES, Saved, Usage
from homenode_directory.place import Place, session_place

KEY_BYTES_MAX = 512
LEASE_ID_MAX = 64
NAME_MAX = 128
METADATA_BYTES_MAX = 16 * 1024
WAIT_MS_MAX = 600_000
LEASE_MS = (1_000, 60_000)
SESSION_MS = (5_000, 300_000)
HASH_BYTES = 32
HAVE_MAX = 8
HAVE_CHUNKS_MAX = 1_024
LIST_MAX = 1_000
HOLDINGS_MAX = 16_384
RESOLVE_MAX = 1_024
COMMIT_MANY_MAX = 64
GATE_MAX = 256
USAGE_READS_MAX = 10**9  # in one report
USAGE_TOKENS_MAX = 10**12
USAGE_BYTES_MAX = 10**15
USAGE_REPLACED_MAX = 64
USAGE_SAVINGS_MAX = 64
USAGE_AGE_MS_MAX = 86_400_000
EXACT_MAX = 2**53  # numbers at and above this lose digits in a Lua number

_WORKSPACE = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SESSION = re.compile(r"[A-Za-z0-9._-]{1,128}~[A-Za-z0-9_-]{1,64}")
_SNAPSHOT = re.compile(r"([A-Za-z0-9._-]{1,128}~[A-Za-z0-9_-]{1,64})/[0-9]{1,16}")
# Characters that reorder what is shown beside them.
_BIDI = frozenset(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
_PLAIN = re.compile(r"[ -~]+")  # printable ASCII is always NFC and has no control characters


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits and defaults that the operator may set; times in milliseconds."""

    term_ms: int = 10_000
    session_ttl_ms: int = 30_000
    artifact_bytes: int = CONTENT_MAX_BYTES
    inline_bytes: int = 32 * 1024


def text(value: str, what: str, limit: int, *, empty: bool = False) -> str:
    """An id: UTF-8, NFC, 1 to `limit` bytes, no control characters."""
    if not value:
        if empty:
            return value
        raise invalid(f"{what} is missing")
    if _PLAIN.fullmatch(value):
        if len(value) <= limit:
            return value
        raise invalid(f"{what} is longer than {limit} bytes")
    if len(value.encode("utf-8", "surrogatepass")) > limit:
        raise invalid(f"{what} is longer than {limit} bytes")
    if not unicodedata.is_normalized("NFC", value):
        raise invalid(f"{what} is not in Unicode normal form C")
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _BIDI for c in value):
        raise invalid(f"{what} contains a control character")
    return value


def usage(m: pb.Usage) -> Usage:
    """What an SDK says that its agents have read, each number cut to what is possible."""
    return Usage(
        reads={
            "hit": min(m.hits, USAGE_READS_MAX),
            "miss": min(m.misses, USAGE_READS_MAX),
            "stale": min(m.stale, USAGE_READS_MAX),
        },
        saved=[_saved(one) for one in m.savings[:USAGE_SAVINGS_MAX]] if m.savings else _saved_in_sum(m),
        age_ms=min(m.age_ms, USAGE_AGE_MS_MAX) if m.HasField("age_ms") and m.hits else None,
    )


def _saved(m: pb.Saving) -> Saved:
    """Names only where they could be ones; they are for people to look at."""
    try:
        agent, named = text(m.agent, "agent", NAME_MAX, empty=True), text(m.key, "key", KEY_BYTES_MAX, empty=True)
    except Rejected:
        agent = named = ""
    return Saved(agent, named, m.strategy if m.strategy in STRATEGIES else "unknown", _sums(m))


def _saved_in_sum(m: pb.Usage) -> list[Saved]:
    """Of an SDK that does not tell artifacts apart."""
    sums = _sums(m)
    return [Saved("", "", "unknown", sums)] if any(sums) else []


def _sums(m: pb.Usage | pb.Saving) -> tuple[int, int, int, int]:
    hit, delta, same = (min(n, USAGE_TOKENS_MAX) for n in (m.tokens_hit, m.tokens_delta, m.tokens_unchanged))
    return hit, delta, same, min(m.bytes_hit, USAGE_BYTES_MAX)


def key(value: str) -> str:
    """An artifact's name."""
    return text(value, "key", KEY_BYTES_MAX)


def prefix(value: str) -> str:
    """The beginning of artifacts' names; may be empty."""
    return text(value, "prefix", KEY_BYTES_MAX, empty=True)


def workspace(value: str) -> str:
    """1-128 characters of [A-Za-z0-9._-]."""
    if not _WORKSPACE.fullmatch(value):
        raise invalid("workspace must be 1-128 characters of A-Z a-z 0-9 . _ -")
    return value


def session(tenant: str, value: str) -> Place:
    """The place that a session id names."""
    if not _SESSION.fullmatch(value):
        raise invalid("session_id is missing" if not value else "session_id is not one that OpenSession gives")
    return session_place(tenant, value)


def successor(session_id: str, value: str) -> str:
    """A session of the same workspace."""
    if not _SESSION.fullmatch(value):
        said = "to is not a session id that OpenSession gives; an agent's name is none"
        raise invalid("to is missing" if not value else said)
    if value.partition("~")[0] != session_id.partition("~")[0]:
        raise invalid("to is a session of another workspace")
    return value


def snapshot(session_id: str, value: str, *, foreign: bool = False) -> str:
    """The name of a snapshot: one of the session's own, or with `foreign` of any session of its workspace."""
    found = _SNAPSHOT.fullmatch(value)
    if not found:
        raise invalid("snapshot is missing" if not value else "snapshot is not one that Snapshot gives")
    owner: str = found[1]
    if owner != session_id and not (foreign and owner.partition("~")[0] == session_id.partition("~")[0]):
        raise invalid("snapshot belongs to another session" if not foreign else "snapshot is of another workspace")
    return value


def lease_id(value: str, *, empty: bool = False) -> str:
    """The client's id of a write lease."""
    return text(value, "lease_id", LEASE_ID_MAX, empty=empty)


def within(value: int, what: str, low: int, high: int, default: int | None = None) -> int:
    """A number in [low, high]; 0 becomes `default` where there is one."""
    if value == 0 and default is not None:
        return default
    if not low <= value <= high:
        raise invalid(f"{what} must be {low} to {high}, not {value}")
    return value


def exact(value: int, what: str) -> int:
    """A number that survives a Lua number."""
    if value >= EXACT_MAX:
        raise invalid(f"{what} must be below 2^53")
    return value


def request_id(value: int) -> int:
    """The number of an effectful request: 1 and up."""
    if value == 0:
        raise invalid("request_id is missing: effects are named by (session, request id), from 1 up")
    return exact(value, "request_id")


def version(value: t.Version, what: str = "version") -> t.Version:
    """A version as the directory may have given it."""
    exact(value.incarnation, f"{what}.incarnation")
    exact(value.n, f"{what}.n")
    return value


def hash_hex(value: bytes, what: str = "content.hash") -> str:
    """A SHA-256."""
    if len(value) != HASH_BYTES:
        raise invalid(f"{what} must be {HASH_BYTES} bytes (SHA-256), not {len(value)}")
    return value.hex()


def have(values: Sequence[bytes]) -> tuple[str, ...]:
    """Hashes that the reader holds."""
    if len(values) > HAVE_MAX:
        raise invalid(f"have names {len(values)} hashes; at most {HAVE_MAX}")
    return tuple([hash_hex(value, "have") for value in values])


def have_chunks(values: Iterable[bytes]) -> tuple[bytes, ...]:
    """Hashes of chunks."""
    hashes = tuple(values)
    if len(hashes) > HAVE_CHUNKS_MAX:
        raise invalid(f"{len(hashes)} hashes of chunks; at most {HAVE_CHUNKS_MAX}")
    if any(len(hash_) != HASH_BYTES for hash_ in hashes):
        raise invalid(f"the hash of a chunk must be {HASH_BYTES} bytes (SHA-256)")
    return hashes


def holdings(values: Iterable[pb.Holding]) -> dict[str, int]:
    """What an attaching session holds: key -> number of the version."""
    held: dict[str, int] = {}
    for value in values:
        if len(held) >= HOLDINGS_MAX:
            raise invalid(f"holdings: at most {HOLDINGS_MAX}; copies beyond must be dropped")
        version(value.version, "holdings.version")
        held[key(value.key)] = value.version.n
    return held


def content_size(value: int, bounds: Bounds) -> int:
    """A content's size in bytes."""
    if value > bounds.artifact_bytes:
        raise rejected(t.ERROR_REASON_TOO_LARGE, f"an artifact may have {bounds.artifact_bytes} bytes, not {value}")
    return value


def consistency(value: int, what: str = "consistency") -> int:
    """A level, or none."""
    if value not in (t.CONSISTENCY_UNSPECIFIED, t.CONSISTENCY_LAZY, t.CONSISTENCY_STRICT):
        raise invalid(f"{what} has the unknown value {value}")
    return value


def policy(value: t.Policy) -> t.Policy:
    """An artifact's policy that this server can keep."""
    consistency(value.consistency, "policy.consistency")
    if value.push not in (t.PUSH_UNSPECIFIED, t.PUSH_NONE, t.PUSH_SHARERS, t.PUSH_ALL):
        raise invalid(f"policy.push has the unknown value {value.push}")
    return value


def metadata(message: pb.CommitRequest) -> str:
    """Metadata as the JSON text that is kept with a version; "" for none."""
    if not message.HasField("metadata"):
        return ""
    data = message.metadata
    if data.ByteSize() > METADATA_BYTES_MAX:
        raise rejected(t.ERROR_REASON_TOO_LARGE, f"metadata is larger than {METADATA_BYTES_MAX} bytes")
    if not (data.values or data.tags or data.media_type):
        return ""
    value = {"values": dict(data.values), "tags": list(data.tags), "media_type": data.media_type}
    encoded = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    if len(encoded.encode()) > METADATA_BYTES_MAX:
        raise rejected(t.ERROR_REASON_TOO_LARGE, f"metadata is larger than {METADATA_BYTES_MAX} bytes")
    return encoded
