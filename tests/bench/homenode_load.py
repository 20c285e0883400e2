"""Loads on the directory, through the SDK and without it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import homenode
from homenode import opening
from homenode.contents import encode
from homenode.grpc_transport import GrpcTransport
from homenode_api.v1 import directory_pb2 as pb
from tests.bench.load import Loops, Operation

VALUE_BYTES = 1_024
WORKSPACE = "bench"
CALL_S = 60.0
STREAM_SESSIONS_MAX = 4_096  # a server takes no more on one stream


def body(number: int, size: int = VALUE_BYTES) -> str:
    """Text that hardly compresses."""
    return random.Random(number).randbytes(size // 2).hex()


def run_name() -> str:
    """A prefix that no other run has."""
    return f"{random.SystemRandom().getrandbits(32):08x}"


async def sessions(address: str, clients: int, *, own_streams: bool = False) -> Sequence[homenode.Homenode]:
    """Sessions of one process at a server; they share one stream, or each has a connection and stream of its own."""

    async def one(number: int) -> homenode.Homenode:
        transport = GrpcTransport([address]) if own_streams else None
        return await _connect(f"homenode://{address}/{WORKSPACE}", number, transport)

    found: list[homenode.Homenode] = []
    for start in range(0, clients, 32):
        if start and start % STREAM_SESSIONS_MAX == 0:
            opening._links.clear()  # the others get another stream; links that are in use live on
        found += await asyncio.gather(*(one(n) for n in range(start, min(start + 32, clients))))
    return found


async def on_one_stream(address: str, count: int) -> Sequence[homenode.Homenode]:
    """Sessions that share a connection and stream which nobody else has."""
    opening._links.clear()  # as in another process; links that are in use live on
    return await sessions(address, count)


async def _connect(url: str, number: int, transport: GrpcTransport | None = None) -> homenode.Homenode:
    return await homenode.connect(url, agent=f"c{number}", transport=transport, timeout_ms=60_000)


async def acquire(address: str, clients: int, own_streams: bool = False) -> Loops:
    """Reads that must ask the directory: each joins the sharers and finds the content at hand. An artifact each."""
    run = run_name()
    found = await sessions(address, clients, own_streams=own_streams)
    await asyncio.gather(*(hn.put(f"{run}/{number}", body(number)) for number, hn in enumerate(found)))
    return Loops([_reader(hn, f"{run}/{number}") for number, hn in enumerate(found)])


def _reader(hn: homenode.Homenode, key: str) -> Operation:
    async def read() -> None:
        await hn.read(key, max_age_ms=0)

    return read


async def commit(address: str, clients: int, own_streams: bool = False) -> Loops:
    """Compare-and-set of a small change in 1 KiB; an artifact each."""
    return await _commits(await sessions(address, clients, own_streams=own_streams))


async def embedded_commit(address: str, clients: int, path: str) -> Loops:
    """The same with the directory in this process."""
    return await _commits([await _connect(f"embedded://{path}", number) for number in range(clients)])


async def _commits(found: Sequence[homenode.Homenode]) -> Loops:
    run = run_name()
    operations = [_committer(hn, f"{run}/{number}", number) for number, hn in enumerate(found)]
    await asyncio.gather(*(operation() for operation in operations))
    return Loops(operations)


def _committer(hn: homenode.Homenode, key: str, number: int) -> Operation:
    text = body(number)
    head, tail = text[:500], text[508:]
    count = 0

    async def put() -> None:
        nonlocal count
        count += 1
        await hn.put(key, f"{head}{count:08d}{tail}")

    return put


class Idle:
    """Sessions that do nothing but live."""

    def __init__(self, held: Sequence[homenode.Homenode]) -> None:
        self._held = held

    async def measure(self, seconds: float) -> dict[str, float]:
        """See `load.Measurable`."""
        await asyncio.sleep(seconds)
        assert all(hn.connected for hn in self._held), "a session is not confirmed any more"
        return {"n": len(self._held)}


async def idle(address: str, clients: int) -> Idle:
    """Sessions on as few streams as may be."""
    return Idle(await sessions(address, clients))


async def hot(address: str, clients: int) -> Loops:
    """Everybody adds one to the same artifact, again until it holds."""
    key = f"{run_name()}/hot"
    found = await sessions(address, clients)
    await found[0].put(key, "0")

    def edit(hn: homenode.Homenode) -> Operation:
        async def add() -> None:
            await hn.edit(key, lambda text: str(int(text) + 1), timeout_ms=60_000)

        return add

    return Loops([edit(hn) for hn in found])


async def unary_commit(address: str, clients: int) -> Loops:
    """Compare-and-set of 1 KiB by unary calls over the transport of the SDK; a connection and a session each."""
    run = run_name()
    return Loops([await _unary(address, f"{run}/{number}", number) for number in range(clients)])


async def _unary(address: str, key: str, number: int) -> Operation:
    transport = GrpcTransport([address])
    opened = await transport.call("OpenSession", pb.OpenSessionRequest(workspace=WORKSPACE, name=f"c{number}"), CALL_S)
    text = body(number)
    count = 0
    current = pb.CommitResponse()

    async def put() -> None:
        nonlocal count, current
        count += 1
        content = encode(f"{text[:500]}{count:08d}{text[508:]}".encode(), None)
        request = pb.CommitRequest(session_id=opened.session_id, request_id=count, key=key)
        if count == 1:
            request.absent = True
        else:
            request.version.CopyFrom(current.version)
        request.content.hash, request.content.size = content.hash, content.size
        request.content.snapshot = content.body
        current = await transport.call("Commit", request, CALL_S)
        if count % 256 == 0:
            alive = pb.KeepAliveRequest(session_id=opened.session_id, settled_below=count)
            await transport.call("KeepAlive", alive, CALL_S)

    await put()
    return put
