"""The tree of errors that the SDK raises, and how refusals on the wire become them.

Every error is a `HomenodeError`. Fields that do not apply keep their defaults. Texts carry no content of artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homenode.versions import Position, Version
from homenode_api.http2.grpc import Status, StatusCode
from homenode_api.v1 import types_pb2 as t
from homenode_api.varints import varint_at

#: Most characters of an artifact's name in a message.
NAME_SHOWN = 80


class HomenodeError(Exception):
    """Anything that went wrong with the directory.

    Attributes:
        message: for people.
        refusals: where several artifacts were asked about together: why each of those that are refused is, by key.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.refusals: Mapping[str, HomenodeError] = {}

    def about(self, key: str) -> None:
        """Put the artifact's name before a message that leaves it out: the directory's own do."""
        shown = repr(key if len(key) <= NAME_SHOWN else f"{key[:NAME_SHOWN]}…")
        if key and self.message and shown not in self.message:
            self.message = f"{shown}: {self.message}"
            self.args = (self.message,)


class VersionConflict(HomenodeError):
    """The artifact is not at the version that this write replaces.

    Attributes:
        current: the committed version, or None where there is none (or it is not known).
        base: what the write was to replace; None for "absent".
    """

    def __init__(self, message: str = "", *, current: Version | None = None, base: Version | None = None) -> None:
        super().__init__(message)
        self.current = current
        self.base = base


class AlreadyExists(VersionConflict):
    """The write was to create the artifact, and it exists; or this agent has not read it yet. `current` is there."""


class LeaseLost(HomenodeError):
    """The write lease is over.

    Attributes:
        cause: "released", "expired", "revoked", "session_lost", "handed_off", or "" where nobody knows.
        current: the committed version, where known.
    """

    def __init__(self, message: str = "", *, cause: str = "", current: Version | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.current = current


class StaleFence(LeaseLost):
    """A commit came with a token of a lease that is over; nothing was written."""


class LeaseDenied(HomenodeError):
    """Another writer is active.

    Attributes:
        reason: "held", "wait_timeout" or "queue_full".
        holder: session of the writer; "" where not known. holder_name: what it is called, where that is known.
        retry_after: seconds after which asking again may help.
    """

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "held",
        holder: str = "",
        holder_name: str = "",
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.holder = holder
        self.holder_name = holder_name
        self.retry_after = retry_after


class SuccessorLost(HomenodeError):
    """The session that was to get the write lease is not live; the lease stays where it is."""


class GateClosed(HomenodeError):
    """Something that was read does not hold any more, so what rests on it should not be done.

    Attributes:
        reasons: why, by key: each a `homenode.GateReason`.
        as_of: the place in the workspace's log at which all of it was looked at.
    """

    def __init__(
        self, message: str = "", *, reasons: Mapping[str, Any] | None = None, as_of: Position | None = None
    ) -> None:
        super().__init__(message)
        self.reasons: Mapping[str, Any] = reasons or {}
        self.as_of = as_of


class Stale(HomenodeError):
    """A copy is at hand but older than allowed, and the directory cannot be asked: the read fails closed.

    Attributes:
        age_ms: how old the copy may be by this process's own clock.
        max_age_ms: how old it was allowed to be.
    """

    def __init__(self, message: str = "", *, age_ms: int = 0, max_age_ms: int = 0) -> None:
        super().__init__(message)
        self.age_ms = age_ms
        self.max_age_ms = max_age_ms


class NotFound(HomenodeError):
    """There is no such artifact, or not in that version.

    Attributes:
        current: the version of its deletion, where that is remembered; of what is there, where a version was asked for.
    """

    def __init__(self, message: str = "", *, current: Version | None = None) -> None:
        super().__init__(message)
        self.current = current


class InvalidArgument(HomenodeError):
    """The request makes no sense; the message says which part."""


class Unsupported(HomenodeError):
    """This server does not do that; it never does less than asked in silence."""


class ModelMismatch(HomenodeError):
    """The worker has another model than the one that was named: other weights, settings or tokenizer."""


class QuotaExceeded(HomenodeError):
    """A quota of the tenant, or the store's memory, is used up."""


class TooLarge(HomenodeError):
    """A content or a request is larger than the server takes."""


class ContentMissing(HomenodeError):
    """The server no longer has bytes that the request rests on."""


class Unauthenticated(HomenodeError):
    """The server does not know who calls."""


class PermissionDenied(HomenodeError):
    """The caller may not do that."""


class Overloaded(HomenodeError):
    """Too much at once; nothing was done.

    Attributes:
        retry_after: seconds after which trying again may help.
    """

    def __init__(self, message: str = "", *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Contended(Overloaded):
    """The artifact changed too often while the request was judged; nothing was done."""


class DeadlineExceeded(HomenodeError):
    """No answer in time to a request without effect."""


class Unavailable(HomenodeError):
    """The directory cannot be reached, or its store is away. Nothing was done."""


class NoWorker(Unavailable):
    """No KV worker can serve the prompt: none is there, none has the model, or all are silent or draining.

    Attributes:
        known: KV workers of the workspace. Each of them counts once in what follows, by the first reason that holds:
        other_model: they have another model; excluded: they failed this call before; draining: they take no new work;
        silent: the directory has not heard of them for some seconds.
    """

    def __init__(self, message: str = "", *, found: t.WorkersFound | None = None) -> None:
        super().__init__(message)
        found = found or t.WorkersFound()
        self.known, self.other_model, self.excluded = found.known, found.other_model, found.excluded
        self.draining, self.silent = found.draining, found.silent


class SessionLost(Unavailable):
    """The directory ended this session. The SDK opens a new one by itself; callers rarely see this."""


class Unknown(HomenodeError):
    """The outcome of an effect is not known: it may have happened or not. Read the artifact to see.

    Attributes:
        session_id, request_id: name the effect; the same pair resolves it for as long as the directory keeps results.
    """

    def __init__(self, message: str = "", *, session_id: str = "", request_id: int = 0) -> None:
        super().__init__(message)
        self.session_id = session_id
        self.request_id = request_id


class InternalError(HomenodeError):
    """A fault of the server; the message names the incident in its log."""


CAUSES = {
    t.LEASE_END_RELEASED: "released",
    t.LEASE_END_EXPIRED: "expired",
    t.LEASE_END_REVOKED: "revoked",
    t.LEASE_END_SESSION_LOST: "session_lost",
    t.LEASE_END_HANDED_OFF: "handed_off",
}

_LEASE_DENIED = {
    t.ERROR_REASON_HELD: "held",
    t.ERROR_REASON_WAIT_TIMEOUT: "wait_timeout",
    t.ERROR_REASON_QUEUE_FULL: "queue_full",
}

_PLAIN: dict[int, type[HomenodeError]] = {
    t.ERROR_REASON_SESSION_LOST: SessionLost,
    t.ERROR_REASON_INVALID_ARGUMENT: InvalidArgument,
    t.ERROR_REASON_TOO_LARGE: TooLarge,
    t.ERROR_REASON_QUOTA_EXCEEDED: QuotaExceeded,
    t.ERROR_REASON_CONTENT_MISSING: ContentMissing,
    t.ERROR_REASON_UNSUPPORTED: Unsupported,
    t.ERROR_REASON_UNAUTHENTICATED: Unauthenticated,
    t.ERROR_REASON_PERMISSION_DENIED: PermissionDenied,
    t.ERROR_REASON_UNAVAILABLE: Unavailable,
    t.ERROR_REASON_DEADLINE_EXCEEDED: DeadlineExceeded,
    t.ERROR_REASON_UNKNOWN: Unknown,
    t.ERROR_REASON_INTERNAL: InternalError,
    t.ERROR_REASON_SUCCESSOR_LOST: SuccessorLost,
    t.ERROR_REASON_MODEL_MISMATCH: ModelMismatch,
}


def from_wire(error: t.Error) -> HomenodeError:
    """The exception for a refusal or failure on the wire. An unknown reason becomes InternalError."""
    failure = _from_wire(error)
    if error.keys:
        failure.refusals = {refused.key: from_wire(refused.error) for refused in error.keys}
        for key, refusal in failure.refusals.items():
            refusal.about(key)
        failure.message = "; ".join(refusal.message for refusal in failure.refusals.values())
        failure.args = (failure.message,)
    return failure


def _from_wire(error: t.Error) -> HomenodeError:
    reason, message = error.reason, error.message
    current = Version(error.current.incarnation, error.current.n) if error.HasField("current") else None
    retry_after = error.retry_after_ms / 1000
    if reason in _LEASE_DENIED:
        reason_text, name = _LEASE_DENIED[reason], error.holder_name
        message += f" ({name})" if name else ""
        return LeaseDenied(message, reason=reason_text, holder=error.holder, holder_name=name, retry_after=retry_after)
    if reason == t.ERROR_REASON_VERSION_CONFLICT:
        return VersionConflict(f"{message}, {current}" if current else message, current=current)
    if reason == t.ERROR_REASON_ALREADY_EXISTS:
        return AlreadyExists(message, current=current)
    if reason == t.ERROR_REASON_NOT_FOUND:
        return NotFound(message, current=current)
    if reason == t.ERROR_REASON_STALE_FENCE:
        return StaleFence(message, cause=CAUSES.get(error.cause, ""), current=current)
    if reason == t.ERROR_REASON_LEASE_LOST:
        return LeaseLost(message, cause=CAUSES.get(error.cause, ""), current=current)
    if reason == t.ERROR_REASON_OVERLOADED:
        return Overloaded(message, retry_after=retry_after)
    if reason == t.ERROR_REASON_NO_WORKER:
        return NoWorker(message, found=error.workers)
    if reason == t.ERROR_REASON_CONTENDED:
        return Contended(message, retry_after=retry_after)
    return _PLAIN.get(reason, InternalError)(message)


_STATUS: dict[int, type[HomenodeError]] = {
    StatusCode.CANCELLED: Unavailable,
    StatusCode.INVALID_ARGUMENT: InvalidArgument,
    StatusCode.NOT_FOUND: NotFound,
    StatusCode.PERMISSION_DENIED: PermissionDenied,
    StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    StatusCode.UNIMPLEMENTED: Unsupported,
    StatusCode.INTERNAL: InternalError,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.UNAUTHENTICATED: Unauthenticated,
}

_DETAILS_KEY = "grpc-status-details-bin"
_ERROR_TYPE = "/homenode_api.v1.Error"


def from_status(status: Status) -> HomenodeError:
    """The exception for a failed gRPC call: by our status detail where there is one, else by its code."""
    for key, value in status.trailing:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            error = _error_detail(value)
            if error is not None:
                return from_wire(error)
    if status.code == StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("no answer in time")
    return _STATUS.get(status.code, Unavailable)(status.message or StatusCode(status.code).name)


def _error_detail(status: bytes) -> t.Error | None:
    """Our Error in a serialised google.rpc.Status, whose field 3 is `repeated Any details`."""
    for field, value in _fields(status):
        if field == 3:
            parts = dict(_fields(value))
            if parts.get(1, b"").decode("utf-8", "replace").endswith(_ERROR_TYPE):
                try:
                    return t.Error.FromString(parts.get(2, b""))
                except Exception:  # a broken detail is no better than none; protobuf's DecodeError varies by version
                    return None
    return None


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message; anything malformed ends the list.

    google.rpc's own generated code is not a dependency of the SDK, and this is all that is needed of it.
    """
    found: list[tuple[int, bytes]] = []
    position = 0
    while position < len(message):
        tag, position = varint_at(message, position)
        kind = tag & 7
        if kind == 0:
            _, position = varint_at(message, position)
        elif kind == 2:
            size, position = varint_at(message, position)
            if position + size > len(message):
                break
            found.append((tag >> 3, message[position : position + size]))
            position += size
        else:
            break
    return found
