"""What a caller of the worker is told when it is refused: a reason of the directory's own set, on gRPC's terms."""

from __future__ import annotations

import asyncio
import logging
import secrets

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from homenode.errors import (
    ContentMissing,
    DeadlineExceeded,
    GateClosed,
    HomenodeError,
    InvalidArgument,
    NotFound,
    Overloaded,
    Unavailable,
)
from homenode_api.v1 import types_pb2 as t
from homenode_kv.errors import (
    InvalidTokens,
    NoSuchRound,
    OutOfMemory,
    PromptTooLong,
    RoundRefused,
    TooManyRounds,
    no_memory,
)

LOG = logging.getLogger("homenode.kv")

DOMAIN = "homenode"
DETAILS_KEY = "grpc-status-details-bin"
#: After which a caller may try again where memory was short: what is in use now has its turn behind it by then.
MEMORY_RETRY_MS = 500
#: About as long as an open round waits for its members.
ROUNDS_RETRY_MS = 1_000

_STATUS: dict[int, grpc.StatusCode] = {
    t.ERROR_REASON_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    t.ERROR_REASON_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    t.ERROR_REASON_PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    t.ERROR_REASON_SESSION_LOST: grpc.StatusCode.FAILED_PRECONDITION,
    t.ERROR_REASON_VERSION_CONFLICT: grpc.StatusCode.ABORTED,
    t.ERROR_REASON_INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    t.ERROR_REASON_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    t.ERROR_REASON_STALE_FENCE: grpc.StatusCode.FAILED_PRECONDITION,
    t.ERROR_REASON_MODEL_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    t.ERROR_REASON_CONTENT_MISSING: grpc.StatusCode.FAILED_PRECONDITION,
    t.ERROR_REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    t.ERROR_REASON_UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    t.ERROR_REASON_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    t.ERROR_REASON_DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    t.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
}


class Refused(Exception):
    """A call ends with this `Error`."""

    def __init__(self, reason: int, message: str, *, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.error = t.Error(reason=reason, message=message, retry_after_ms=retry_after_ms)  # type: ignore[arg-type]


def invalid(message: str) -> Refused:
    """The request makes no sense."""
    return Refused(t.ERROR_REASON_INVALID_ARGUMENT, message)


def error_of(failure: BaseException) -> t.Error:
    """What a caller is told of an exception. The unexpected is logged under an id, and only the id is told."""
    match failure:
        case Refused():
            return failure.error
        case PromptTooLong():
            return t.Error(reason=t.ERROR_REASON_TOO_LARGE, message=str(failure))
        case NoSuchRound():
            return t.Error(reason=t.ERROR_REASON_NOT_FOUND, message=str(failure))
        case TooManyRounds():
            return t.Error(reason=t.ERROR_REASON_OVERLOADED, message=str(failure), retry_after_ms=ROUNDS_RETRY_MS)
        case InvalidTokens() | InvalidArgument() | RoundRefused():
            return t.Error(reason=t.ERROR_REASON_INVALID_ARGUMENT, message=str(failure))
        case failure if isinstance(failure, OutOfMemory) or no_memory(failure):
            message = "no memory for this prompt, with all evicted that may be"
            return t.Error(reason=t.ERROR_REASON_OVERLOADED, message=message, retry_after_ms=MEMORY_RETRY_MS)
        case GateClosed():
            return _superseded(failure)
        case NotFound() | ContentMissing():
            return t.Error(reason=t.ERROR_REASON_NOT_FOUND, message=str(failure))
        case Overloaded():
            retry_ms = max(1, int(failure.retry_after * 1000))
            return t.Error(reason=t.ERROR_REASON_OVERLOADED, message=str(failure), retry_after_ms=retry_ms)
        case DeadlineExceeded() | Unavailable() | TimeoutError():
            message = "the directory could not be asked whether the versions still hold"
            return t.Error(reason=t.ERROR_REASON_UNAVAILABLE, message=message)
        case HomenodeError():
            return t.Error(reason=t.ERROR_REASON_UNAVAILABLE, message=failure.message)
        case asyncio.CancelledError():
            return t.Error(reason=t.ERROR_REASON_UNAVAILABLE, message="the call was cancelled")
    incident = secrets.token_hex(6)
    LOG.error("internal error %s", incident, exc_info=failure)
    return t.Error(reason=t.ERROR_REASON_INTERNAL, message=f"internal error {incident}")


def _superseded(failure: GateClosed) -> t.Error:
    """Which of the prompt's versions are not committed any more; the first one's successor as `current`."""
    told = t.Error(reason=t.ERROR_REASON_VERSION_CONFLICT, message="versions of the prompt are superseded")
    for key, reason in sorted(failure.reasons.items()):
        one = told.keys.add(key=key).error
        deleted = reason.kind == "deleted"
        one.reason = t.ERROR_REASON_NOT_FOUND if deleted else t.ERROR_REASON_VERSION_CONFLICT
        one.message = "it was deleted" if deleted else "another version is committed"
        if reason.current is not None:
            one.current.incarnation, one.current.n = reason.current
    if all(one.error.reason == t.ERROR_REASON_NOT_FOUND for one in told.keys):
        told.reason, told.message = t.ERROR_REASON_NOT_FOUND, "artifacts of the prompt are not there any more"
    if told.keys and told.keys[0].error.HasField("current"):
        told.current.CopyFrom(told.keys[0].error.current)
    return told


def name_of(error: t.Error) -> str:
    """The reason in lower case: a label for metrics."""
    return t.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_").lower()


async def abort(context: grpc.aio.ServicerContext, error: t.Error) -> None:
    """End a call with a refusal: google.rpc.Status with ErrorInfo, our Error, and RetryInfo where there is a time."""
    code = _STATUS.get(error.reason, grpc.StatusCode.INTERNAL)
    status = status_pb2.Status(code=code.value[0], message=error.message)
    _pack(status, error_details_pb2.ErrorInfo(reason=name_of(error).upper(), domain=DOMAIN))
    _pack(status, error)
    if error.retry_after_ms:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_after_ms)
        _pack(status, retry)
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    await context.abort(code, error.message)


def _pack(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail)
