"""Around every gRPC handler: no exception text leaves, nothing runs without a time limit, one log line a call.

The log line (of level debug; what is unexpected is an error) has method, outcome and duration; never an id that a
client chose, never content.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from homenode_api.v1 import types_pb2 as t
from homenode_directory.api.errors import Rejected, error_of, outcome_name, status_of

LOG = logging.getLogger("homenode.api")

Handler = Callable[[Any, Any], Any]


class Guard(grpc.aio.ServerInterceptor):
    """See the module's docstring. Wraps our handlers and those of health and reflection alike."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The handler with the guard around it; None where there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        ends = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(_answering(method, handler.unary_unary), *ends)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(_answering(method, handler.stream_unary), *ends)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(_streaming(method, handler.unary_stream), *ends)
        return grpc.stream_stream_rpc_method_handler(_streaming(method, handler.stream_stream), *ends)


def _answering(method: str, handler: Handler) -> Handler:
    async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
        started, failure = asyncio.get_running_loop().time(), None
        try:
            answer = await handler(request, context)
            _log_ok(method, started)
            return answer
        except grpc.aio.AbortError:
            raise
        except BaseException as error:
            failure = error
        await _end(method, context, failure, started)

    return guarded


def _streaming(method: str, handler: Handler) -> Handler:
    async def guarded(request: Any, context: grpc.aio.ServicerContext) -> None:
        started, failure = asyncio.get_running_loop().time(), None
        try:
            await _write_all(handler(request, context), context)
            _log_ok(method, started)
            return
        except grpc.aio.AbortError:
            raise
        except BaseException as error:
            failure = error
        await _end(method, context, failure, started)

    return guarded


async def _write_all(responses: Any, context: grpc.aio.ServicerContext) -> None:
    """Run a handler of either kind: one that yields its responses, or one that writes them itself."""
    if not hasattr(responses, "__aiter__"):
        await responses
        return
    async with contextlib.aclosing(responses):
        async for response in responses:
            try:
                await context.write(response)
            except grpc.aio.BaseError:
                raise asyncio.CancelledError from None  # there is nobody to write to any more


def _log_ok(method: str, started: float) -> None:
    if LOG.isEnabledFor(logging.DEBUG):
        took_ms = int((asyncio.get_running_loop().time() - started) * 1_000)
        LOG.debug("call", extra={"method": method, "outcome": "ok", "took_ms": took_ms})


async def _end(method: str, context: grpc.aio.ServicerContext, failure: BaseException, started: float) -> None:
    """End a call that failed with a status that says no more than it should."""
    if isinstance(failure, asyncio.CancelledError):
        raise failure  # the client has gone, or the server stops: gRPC ends the call
    error = error_of(failure, during=method)
    took_ms = int((asyncio.get_running_loop().time() - started) * 1_000)
    LOG.debug("call", extra={"method": method, "outcome": outcome_name(error), "took_ms": took_ms})
    code, message, trailing = status_of(error)
    context.set_trailing_metadata(trailing)
    try:
        await context.abort(code, message)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError:
        raise asyncio.CancelledError from None  # the client went away before it took its status


def malformed() -> Rejected:
    """A message whose bytes are not one of its type: not protobuf, or text that is not UTF-8."""
    return Rejected(
        t.Error(reason=t.ERROR_REASON_INVALID_ARGUMENT, message="the message is malformed or has text that is no UTF-8")
    )
