"""A gRPC server that answers a unary call with a message of so many bytes: `python -m tests.bench.unary_server BYTES`.

The peer of large reads. Prints the port that it listens on and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import random
import sys

import grpc

from homenode_api.v1 import directory_pb2 as pb


async def main(size: int) -> None:
    """Serve."""
    body = random.Random(1).randbytes(size)

    async def get(request: bytes, context: grpc.aio.ServicerContext) -> pb.ReadContentResponse:
        return pb.ReadContentResponse(data=body)

    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    method = grpc.unary_unary_rpc_method_handler(get, response_serializer=lambda m: m.SerializeToString())
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench.Bytes", {"Get": method})])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
