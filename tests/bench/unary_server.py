"""A gRPC server that answers a unary call with so many bytes: `python -m tests.bench.unary_server BYTES`.

The peer of large reads. Prints the port that it listens on and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import random
import sys

import grpc


async def main(size: int) -> None:
    """Serve."""
    body = random.Random(1).randbytes(size)

    async def get(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return body

    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    handler = grpc.method_handlers_generic_handler("bench.Bytes", {"Get": grpc.unary_unary_rpc_method_handler(get)})
    server.add_generic_rpc_handlers([handler])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
