"""Refusals and failures on the wire: `Error` messages on the stream, gRPC status with details on calls.

This is the one place where reasons meet gRPC status codes, and where it is decided what a caller may read of a
failure: the text of a refusal is ours and is shown, the text of an exception is not.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

import grpc

from homenode_api.v1 import types_pb2 as t
from homenode_directory.errors import Contended, Full, OutcomeUnknown, Overloaded, Unavailable
from homenode_directory.store.base import StoreError, StoreFull

LOG = logging.getLogger("homenode.api")

DOMAIN = "homenode"
DETAILS_KEY = "grpc-status-details-bin"
MESSAGE_MAX = 1024

_ABORTED = grpc.StatusCode.ABORTED
_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

STATUS: dict[int, grpc.StatusCode] = {
    t.ERROR_REASON_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    t.ERROR_REASON_ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    t.ERROR_REASON_VERSION_CONFLICT: _ABORTED,
    t.ERROR_REASON_HELD: _ABORTED,
    t.ERROR_REASON_WAIT_TIMEOUT: _ABORTED,
    t.ERROR_REASON_QUEUE_FULL: _EXHAUSTED,
    t.ERROR_REASON_STALE_FENCE: _PRECONDITION,
    t.ERROR_REASON_LEASE_LOST: _PRECONDITION,
    t.ERROR_REASON_SESSION_LOST: _PRECONDITION,
    t.ERROR_REASON_INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    t.ERROR_REASON_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    t.ERROR_REASON_QUOTA_EXCEEDED: _EXHAUSTED,
    t.ERROR_REASON_CONTENT_MISSING: _PRECONDITION,
    t.ERROR_REASON_CONTENDED: _ABORTED,
    t.ERROR_REASON_OVERLOADED: _EXHAUSTED,
    t.ERROR_REASON_UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    t.ERROR_REASON_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    t.ERROR_REASON_PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    t.ERROR_REASON_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    t.ERROR_REASON_DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    t.ERROR_REASON_UNKNOWN: grpc.StatusCode.UNKNOWN,
    t.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
    t.ERROR_REASON_SUCCESSOR_LOST: _PRECONDITION,
    t.ERROR_REASON_MODEL_MISMATCH: _PRECONDITION,
    t.ERROR_REASON_NO_WORKER: grpc.StatusCode.UNAVAILABLE,
}


class Rejected(Exception):
    """A request ends with this `Error`; raised by the api layer only, to leave a call early."""

    def __init__(self, error: t.Error) -> None:
        super().__init__(error.message)
        self.error = error


def invalid(message: str) -> Rejected:
    """The request is malformed; `message` says what is wrong with which field."""
    return Rejected(t.Error(reason=t.ERROR_REASON_INVALID_ARGUMENT, message=message))


def malformed() -> Rejected:
    """A message whose bytes are not one of its type: not protobuf, or text that is not UTF-8."""
    return invalid("the message is malformed or has text that is no UTF-8")


def rejected(reason: int, message: str, *, retry_after_ms: int = 0) -> Rejected:
    """Any other refusal of the api layer itself. `reason` is a value of the ErrorReason enum."""
    return Rejected(t.Error(reason=reason, message=message, retry_after_ms=retry_after_ms))  # type: ignore[arg-type]


def error_of(failure: BaseException, *, during: str) -> t.Error:
    """What a caller is told of an exception. The unexpected is logged under an id, and only the id is told."""
    error = _expected(failure)
    if error is not None:
        return error
    incident = secrets.token_hex(6)
    LOG.error("internal error in %s", during, exc_info=failure, extra={"incident": incident})
    return t.Error(reason=t.ERROR_REASON_INTERNAL, message=f"internal error {incident}")


def outcome_of(failure: BaseException) -> str:
    """How an exception is counted, without logging it."""
    error = _expected(failure)
    return outcome_name(error) if error is not None else "internal"


def _expected(failure: BaseException) -> t.Error | None:
    match failure:
        case Rejected():
            return failure.error
        case Overloaded():
            retry_ms = max(1, failure.retry_after_ms)
            return t.Error(reason=t.ERROR_REASON_OVERLOADED, message="the server is busy", retry_after_ms=retry_ms)
        case OutcomeUnknown():
            message = "the outcome is unknown; the same request id resolves it"
            return t.Error(reason=t.ERROR_REASON_UNKNOWN, message=message)
        case Full() | StoreFull():
            return t.Error(reason=t.ERROR_REASON_QUOTA_EXCEEDED, message="the directory's store has no room")
        case Contended():
            return t.Error(reason=t.ERROR_REASON_CONTENDED, message="other writers were faster", retry_after_ms=20)
        case Unavailable() | StoreError():
            return t.Error(reason=t.ERROR_REASON_UNAVAILABLE, message="the directory's store is not available")
        case TimeoutError():
            return t.Error(reason=t.ERROR_REASON_DEADLINE_EXCEEDED, message="the server's own time limit passed")
        case asyncio.CancelledError():
            return t.Error(reason=t.ERROR_REASON_UNAVAILABLE, message="the call was cancelled")
    return None


def outcome_name(error: t.Error) -> str:
    """The reason in lower case: a label for metrics and logs."""
    try:
        return t.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_").lower()
    except ValueError:
        return "unspecified"


def status_of(error: t.Error) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Status code, message and trailing metadata (google.rpc.Status with ErrorInfo and our Error) of a failed call."""
    from google.rpc import error_details_pb2, status_pb2  # of the server extra, which embedded:// can do without

    code = STATUS.get(error.reason, grpc.StatusCode.INTERNAL)
    message = error.message[:MESSAGE_MAX]
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=outcome_name(error).upper(), domain=DOMAIN)
    status.details.add().Pack(info)
    status.details.add().Pack(error)
    if error.retry_after_ms:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(retry)
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)
