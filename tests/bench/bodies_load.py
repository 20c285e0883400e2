"""Loads of large contents."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import grpc

import homenode
from homenode.grpc_transport import GrpcStream
from homenode_api.v1 import directory_pb2 as pb
from tests.bench.homenode_load import run_name, sessions
from tests.bench.load import latencies

_CHANNEL = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Timed:
    """Reads one after another; what comes before each is not timed.

    Args:
        prepare: gives the read.
        wire: bytes that have come over the session stream so far.
    """

    def __init__(
        self, prepare: Callable[[], Awaitable[Callable[[], Awaitable[object]]]], wire: Callable[[], int] = lambda: 0
    ) -> None:
        self._prepare = prepare
        self._wire = wire

    async def measure(self, seconds: float) -> dict[str, float]:
        """See `load.Measurable`."""
        took_s, came = [], 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(took_s) < 3:
            read = await self._prepare()
            started, before = time.perf_counter(), self._wire()
            await read()
            took_s.append(time.perf_counter() - started)
            came += self._wire() - before
        return {"n": len(took_s), "wire_bytes": came / len(took_s), **latencies(took_s)}


async def whole(address: str, clients: int, size: int) -> Timed:
    """Read a content of `size` random bytes, with nothing at hand."""
    key = f"{run_name()}/large"
    writer = (await sessions(address, 1))[0]
    await writer.put(key, random.Random(1).randbytes(size))
    readers: list[homenode.Homenode] = []

    async def prepare() -> Callable[[], Awaitable[object]]:
        while readers:
            await readers.pop().close()
        readers.extend(await sessions(address, 1))

        async def read() -> None:
            assert len((await readers[0].read(key)).bytes) == size

        return read

    return Timed(prepare)


async def refetch(address: str, clients: int, size: int) -> Timed:
    """Read again after somebody else has edited one line of `size` bytes of text."""
    key = f"{run_name()}/edited"
    writer, reader = await sessions(address, 2)
    rng = random.Random(2)
    lines = [rng.randbytes(40).hex() for _ in range(size // 81)]
    await writer.put(key, "\n".join(lines))
    await reader.read(key)
    came = _count_frames()

    async def prepare() -> Callable[[], Awaitable[object]]:
        lines[rng.randrange(len(lines))] = rng.randbytes(40).hex()
        done = await writer.put(key, "\n".join(lines))

        async def read() -> None:
            assert (await reader.read(key, max_age_ms=0)).version == done.version

        return read

    return Timed(prepare, lambda: came[0])


def _count_frames() -> list[int]:
    """Bytes of all frames that come on session streams of this process from now on."""
    came = [0]
    plain = GrpcStream.read

    async def read(self: GrpcStream) -> pb.SessionResponse | None:
        frame = await plain(self)
        came[0] += frame.ByteSize() if frame is not None else 0
        return frame

    GrpcStream.read = read  # type: ignore[method-assign]
    return came


async def unary(address: str, clients: int) -> Timed:
    """Fetch one message from `tests.bench.unary_server`."""
    channel = grpc.aio.insecure_channel(address, _CHANNEL)
    fetch = channel.unary_unary("/bench.Bytes/Get", response_deserializer=pb.ReadContentResponse.FromString)

    async def read() -> None:
        assert (await fetch(b"")).data

    async def prepare() -> Callable[[], Awaitable[object]]:
        return read

    return Timed(prepare)
