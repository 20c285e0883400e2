"""A worker's Placement stream as a plain client of the wire contract, over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

import grpc

from homenode_api.v1 import kv_tier_pb2 as kv
from homenode_api.v1 import kv_tier_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t

WAIT_S = 20.0


class Worker:
    """Says hello with a whole snapshot, then tells what it is told to."""

    def __init__(self, stub: rpc.KvRoutingServiceStub, session: str, name: str = "w1", epoch: int = 1) -> None:
        self.call = stub.Placement()
        self.name, self.epoch, self.sequence = name, epoch, 0
        self.address = f"{name}:1"
        self._session = session
        self.told: list[kv.PlacementResponse] = []

    async def start(self, *held: kv.KvStored) -> Self:
        """Hello and a snapshot; returns when that is applied."""
        await self.hello()
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # it was refused by now
            await self.tell(snapshot=kv.PlacementSnapshot(stored=held, first=True, last=True))
        await self.applied()
        return self

    async def hello(self) -> None:
        """Who it is, and nothing else."""
        model = kv.KvModel(name="m", fingerprint="f", tokens_max=4096, token_bytes=64)
        await self.tell(hello=kv.WorkerHello(session_id=self._session, address=self.address, model=model))

    async def tell(self, **what: Any) -> None:
        """One event."""
        self.sequence += 1
        event = kv.PlacementEvent(worker=self.name, epoch=self.epoch, sequence=self.sequence, **what)
        await self.call.write(kv.PlacementRequest(events=[event]))

    async def next(self) -> kv.PlacementResponse | None:
        """The next answer; None at the end. Raises AioRpcError."""
        answer = await asyncio.wait_for(self.call.read(), WAIT_S)
        if answer is grpc.aio.EOF:
            return None
        self.told.append(answer)
        return answer

    async def applied(self) -> None:
        """Wait until everything that was told is applied."""
        while (answer := await self.next()) is not None:
            if answer.applied >= self.sequence:
                return
        raise AssertionError(f"the stream is over: {self.told}")

    async def refused(self) -> t.Error:
        """Wait until the stream is refused."""
        while (answer := await self.next()) is not None:
            if answer.HasField("refused"):
                return answer.refused
        raise AssertionError(f"the stream ended without a word: {self.told}")


def stored(key: str, version: t.Version, tokens: int = 100) -> kv.KvStored:
    """KV of a version on the device."""
    return kv.KvStored(
        digest=f"{key}@{version.n}",
        key=key,
        version=version,
        tokens=tokens,
        tier=kv.KV_TIER_DEVICE,
        provenance=kv.KvProvenance(kind=kv.KV_KIND_EXACT),
    )


def part(key: str, version: t.Version, tokens: int = 100) -> kv.RoutePart:
    """A part of a prompt."""
    return kv.RoutePart(key=key, version=version, tokens=tokens)
