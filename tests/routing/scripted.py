"""A KV worker that does what a test says, over real gRPC: for what a real one does rarely or never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import status_pb2

from homenode_api.v1 import kv_tier_pb2 as kv
from homenode_api.v1 import kv_tier_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t
from tests.routing.stream import Worker


@dataclass
class Script(rpc.KvTierServiceServicer):
    """Writes `pieces`, then a report. `cut` pieces in, the process is gone; `refusal` comes instead of everything."""

    name: str
    pieces: list[str] = field(default_factory=lambda: ["one ", "two ", "three"])
    cut: int | None = None
    stand: int | None = None  # after so many pieces it does nothing any more
    refusal: int = 0
    refusals: int = 1_000_000  # how often
    requests: list[kv.GenerateRequest] = field(default_factory=list)
    named: str = "?"  # the only session that it knows, where one is given
    adopted: list[kv.AdoptOutputRequest] = field(default_factory=list)
    rounds: list[kv.BeginRoundRequest] = field(default_factory=list)
    left: list[kv.LeaveRoundRequest] = field(default_factory=list)
    server: grpc.aio.Server | None = None

    async def Generate(self, request: kv.GenerateRequest, context: Any) -> AsyncIterator[kv.GenerateResponse]:
        self.requests.append(request)
        if self.named not in ("?", request.session_id):
            await refuse(context, t.ERROR_REASON_SESSION_LOST)
        if self.refusal and self.refusals:
            self.refusals -= 1
            await refuse(context, self.refusal)
        me = kv.KvWorkerId(worker=self.name, epoch=1)
        yield kv.GenerateResponse(started=kv.GenerateStarted(worker=me, prompt_tokens=7))
        told = sum(len(part.tokens.ids) for part in request.parts)
        for number, piece in enumerate(self.pieces):
            if number < told:  # it goes on behind what is written
                continue
            if number == self.cut:
                await self.stop()
            if number == self.stand:
                await asyncio.sleep(60)
            yield kv.GenerateResponse(piece=kv.GeneratePiece(text=piece, tokens=[number + 1]))
            await asyncio.sleep(0)
        uses = [kv.KvUse(tokens=3, exact_tokens=3) for _ in request.parts]
        report = kv.GenerateReport(
            worker=me, end=kv.GENERATE_END_STOP, output_tokens=3, parts=uses, prompt=kv.KvUse(tokens=7, exact_tokens=7),
            provenance=kv.KvProvenance(kind=kv.KV_KIND_EXACT), output_id="o1" if request.keep_output else "",
        )  # fmt: skip
        yield kv.GenerateResponse(report=report)

    async def Stat(self, request: kv.KvTierServiceStatRequest, context: Any) -> kv.KvTierServiceStatResponse:
        me = kv.KvWorkerId(worker=self.name, epoch=1)
        load = kv.WorkerLoad(running=1, queued=2)
        return kv.KvTierServiceStatResponse(worker=me, model=kv.KvModel(name="m", device="cpu"), load=load, entries=3)

    async def BeginRound(self, request: kv.BeginRoundRequest, context: Any) -> kv.BeginRoundResponse:
        self.rounds.append(request)
        return kv.BeginRoundResponse(deadline_ms=request.deadline_ms)

    async def LeaveRound(self, request: kv.LeaveRoundRequest, context: Any) -> kv.LeaveRoundResponse:
        self.left.append(request)
        return kv.LeaveRoundResponse(kept=True)

    async def AdoptOutput(self, request: kv.AdoptOutputRequest, context: Any) -> kv.AdoptOutputResponse:
        self.adopted.append(request)
        return kv.AdoptOutputResponse(adopted=True, tokens=3)

    async def stop(self) -> None:
        """As if it were killed: calls under way see the connection end."""
        assert self.server is not None
        stopping = asyncio.ensure_future(self.server.stop(None))
        await asyncio.sleep(0.2)
        del stopping


async def refuse(context: Any, reason: int) -> None:
    """End the call with an Error."""
    detail = Packed()
    detail.Pack(t.Error(reason=reason, message="as the script says", retry_after_ms=1_500))  # type: ignore[arg-type]
    status = status_pb2.Status(code=14, message="as the script says", details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(grpc.StatusCode.UNAVAILABLE, "as the script says")


@asynccontextmanager
async def scripted(
    stub: rpc.KvRoutingServiceStub, session: str, script: Script, *held: kv.KvStored, tls: tuple[str, str] | None = None
) -> AsyncIterator[Worker]:
    """The worker serves, and its stream tells the directory so; `tls`: files of its certificate and key."""
    script.server = grpc.aio.server()
    rpc.add_KvTierServiceServicer_to_server(script, script.server)
    if tls is None:
        port = script.server.add_insecure_port("127.0.0.1:0")
    else:
        chain, key = (Path(file).read_bytes() for file in tls)
        port = script.server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, chain)]))
    await script.server.start()
    worker = Worker(stub, session, script.name)
    worker.address = f"127.0.0.1:{port}" if tls is None else f"localhost:{port}"
    try:
        yield await worker.start(*held)
    finally:
        worker.call.cancel()
        await script.server.stop(None)
