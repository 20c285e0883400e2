"""Registering the service so that a message which cannot be read is a refusal by name.

The generated code leaves that to gRPC, which tells the caller the exception's text, as UNKNOWN.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_kv.worker.refusals import abort, error_of, invalid

SERVICE = pb.DESCRIPTOR.services_by_name["KvTierService"]


def add(service: Any, server: grpc.aio.Server) -> None:
    """Lets `server` serve the methods of KvTierService by those of `service`."""
    handlers = {method.name: _handler(method, getattr(service, method.name)) for method in SERVICE.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))


def _handler(method: MethodDescriptor, serve: Any) -> Any:
    kind = GetMessageClass(method.input_type)

    async def read(data: bytes, context: grpc.aio.ServicerContext) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError:
            await abort(context, error_of(invalid(f"that is no {kind.__name__}")))

    async def answer(data: bytes, context: grpc.aio.ServicerContext) -> Any:
        return await serve(await read(data, context), context)

    async def answers(data: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async with contextlib.aclosing(serve(await read(data, context), context)) as responses:
            async for response in responses:
                yield response

    make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
    return make(
        answers if method.server_streaming else answer,
        response_serializer=lambda message: message.SerializeToString(),
    )
