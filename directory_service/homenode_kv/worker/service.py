"""`KvTierService`: each call judged, brought to tokens, put in line, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import grpc

from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import kv_tier_pb2_grpc as rpc
from homenode_api.v1 import types_pb2 as t
from homenode_kv.costs import NS_PER_MS
from homenode_kv.parts import Use
from homenode_kv.planner import Demand
from homenode_kv.provenance import own_decode
from homenode_kv.worker.generation import Job, Stopped
from homenode_kv.worker.parts import Parts
from homenode_kv.worker.placement import provenance_of
from homenode_kv.worker.refusals import Refused, abort, error_of, invalid, name_of
from homenode_kv.worker.round_calls import Joined, Part
from homenode_kv.worker.worker import Worker

TOKENS_DEFAULT = 256
TEMPERATURE_MAX = 100.0
NAME_BYTES_MAX = 512  # of a member of a round, of a consumer
_ROUND = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Service(rpc.KvTierServiceServicer):
    """See the module."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._parts = Parts(worker)

    # --- calls --------------------------------------------------------------------------------------------------------

    async def Prefill(self, request: pb.PrefillRequest, context: grpc.aio.ServicerContext) -> Any:
        """See the contract."""
        return await self._unary("prefill", context, lambda: self._prefill(request))

    async def AdoptOutput(self, request: pb.AdoptOutputRequest, context: grpc.aio.ServicerContext) -> Any:
        """See the contract."""
        return await self._unary("adopt_output", context, lambda: self._adopt(request))

    async def BeginRound(self, request: pb.BeginRoundRequest, context: grpc.aio.ServicerContext) -> Any:
        """See the contract."""
        return await self._unary("begin_round", context, lambda: self._begin_round(request))

    async def CommitRound(self, request: pb.CommitRoundRequest, context: grpc.aio.ServicerContext) -> Any:
        """See the contract."""
        return await self._unary("commit_round", context, lambda: self._commit_round(request))

    async def Materialize(self, request: pb.MaterializeRequest, context: grpc.aio.ServicerContext) -> Any:
        """See the contract."""
        return await self._unary("materialize", context, lambda: self._materialize(request))

    async def LeaveRound(self, request: pb.LeaveRoundRequest, context: grpc.aio.ServicerContext) -> Any:
        """See the contract."""
        return await self._unary("leave_round", context, lambda: self._leave_round(request))

    async def Stat(self, request: pb.KvTierServiceStatRequest, context: grpc.aio.ServicerContext) -> Any:
        """See the contract."""
        return await self._unary("stat", context, self._stat)

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        """See the contract."""
        outcome = "cancelled"
        try:
            async with contextlib.aclosing(self._generate(request, time.monotonic_ns())) as responses:
                async for response in responses:
                    yield response
            outcome = "ok"
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as failure:
            error = error_of(failure)
            outcome = name_of(error)
            await abort(context, error)
        finally:
            self._worker.metrics.called("generate", outcome)

    async def _unary(self, method: str, context: grpc.aio.ServicerContext, answer: Callable[[], Awaitable[Any]]) -> Any:
        outcome = "cancelled"
        try:
            response = await answer()
            outcome = "ok"
            return response
        except asyncio.CancelledError:
            raise
        except BaseException as failure:
            error = error_of(failure)
            outcome = name_of(error)
            await abort(context, error)
        finally:
            self._worker.metrics.called(method, outcome)

    # --- what they do -------------------------------------------------------------------------------------------------

    async def _prefill(self, request: pb.PrefillRequest) -> pb.PrefillResponse:
        began_ns = time.monotonic_ns()
        await self._check(request, request.model)
        self._worker.turns.admit()
        pieces = await self._parts.artifacts(request.artifacts)
        answer = pb.PrefillResponse(worker=self._worker.identity)
        for piece, base in zip(pieces, await self._worker.coherence.build(pieces), strict=True):
            part = answer.parts.add(
                key=piece.artifact,
                tokens=len(piece.tokens),
                computed_tokens=base.computed,
                provenance=provenance_of(base.provenance),
                kept=base.kept,
            )
            assert piece.version is not None
            part.version.incarnation, part.version.n = piece.version.incarnation, piece.version.n
        answer.total_ms = (time.monotonic_ns() - began_ns) / NS_PER_MS
        return answer

    async def _adopt(self, request: pb.AdoptOutputRequest) -> pb.AdoptOutputResponse:
        worker = self._worker
        await self._check(request)
        output = await worker.turns.run(lambda: worker.outputs.take(request.output_id))
        if output is None:
            return pb.AdoptOutputResponse(adopted=False)
        piece = await self._parts.artifact(pb.ArtifactPart(key=request.key, version=request.version))
        answer = pb.AdoptOutputResponse(adopted=False, tokens=len(output.tokens))
        if piece.tokens != output.tokens:  # other text, or text that does not tokenise to what was written
            return answer
        await worker.coherence.gate([piece])
        kv = output.kv.to(worker.engine.device)
        answer.adopted = await worker.turns.run(lambda: worker.keeper.keep(piece, kv, own_decode()))
        return answer

    async def _begin_round(self, request: pb.BeginRoundRequest) -> pb.BeginRoundResponse:
        await self._check(request)
        if not _ROUND.fullmatch(request.round_id) or len(set(request.members)) < len(request.members):
            raise invalid("a round has a name of 1-128 characters A-Z a-z 0-9 . _ -, and members of different names")
        if not all(0 < len(member.encode()) <= NAME_BYTES_MAX for member in request.members):
            raise invalid(f"the name of a member has 1-{NAME_BYTES_MAX} bytes")
        deadline_ms = self._worker.rounds.begin(request.round_id, list(request.members), request.deadline_ms)
        return pb.BeginRoundResponse(worker=self._worker.identity, deadline_ms=deadline_ms)

    async def _commit_round(self, request: pb.CommitRoundRequest) -> pb.CommitRoundResponse:
        await self._check(request)
        return pb.CommitRoundResponse(report=await self._worker.rounds.commit(request.round_id))

    async def _materialize(self, request: pb.MaterializeRequest) -> pb.MaterializeResponse:
        worker = self._worker
        await self._check(request)
        found = await worker.turns.run(lambda: worker.keeper.rounds.materialize(request.round_id, request.member))
        if found is None:
            raise Refused(t.ERROR_REASON_NOT_FOUND, "this worker keeps no such member of a round")
        return pb.MaterializeResponse(tokens=found[0], bytes=found[1])

    async def _leave_round(self, request: pb.LeaveRoundRequest) -> pb.LeaveRoundResponse:
        worker = self._worker
        await self._check(request)
        worker.rounds.leave(request.round_id, request.member)
        master = await worker.turns.run(lambda: worker.keeper.rounds.leave(request.round_id, request.member))
        return pb.LeaveRoundResponse(kept=master is not None, master=master or "")

    async def _stat(self) -> pb.KvTierServiceStatResponse:
        worker, standing = self._worker, self._worker.keeper.rounds.standing()
        return pb.KvTierServiceStatResponse(
            worker=worker.identity,
            model=worker.model,
            load=worker.load(),
            entries=len(worker.keeper.pool),
            server_version=worker.version,
            restored_members=standing.restored,
            elections=standing.elections,
        )

    async def _generate(
        self, request: pb.GenerateRequest, received_ns: int
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        worker = self._worker
        await self._check(request, request.model)
        if bool(request.round_id) != bool(request.member):
            raise invalid("a round is joined as a member of it")
        if not 0 <= request.temperature <= TEMPERATURE_MAX:
            raise invalid(f"temperature is 0 to {TEMPERATURE_MAX:g}")
        if len(request.consumer.encode()) > NAME_BYTES_MAX:
            raise invalid(f"a consumer's name has up to {NAME_BYTES_MAX} bytes")
        worker.turns.admit()
        prompt = await self._parts.prompt(request.parts)
        prompt.check(worker.engine.tokens_max - 1, worker.engine.vocabulary)
        pieces: asyncio.Queue[pb.GenerateResponse | None] = asyncio.Queue()  # bounded by the tokens of one call
        loop = asyncio.get_running_loop()

        def told(text: str, tokens: Sequence[int]) -> None:
            piece = pb.GenerateResponse(piece=pb.GeneratePiece(text=text, tokens=tokens))
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = Job(
            prompt,
            min(request.tokens_max or TOKENS_DEFAULT, worker.engine.tokens_max),
            told,
            request.temperature,
            request.seed,
            request.keep_output,
            _demand(request.demand),
            request.consumer,
        )
        if request.round_id and job.demand.dense:  # nothing of a round is exact
            worker.rounds.leave(request.round_id, request.member)
        if request.round_id and not job.demand.dense:
            work = asyncio.ensure_future(self._join(request.round_id, request.member, job, pieces.put_nowait))
        else:
            work = asyncio.ensure_future(self._run(job, pieces.put_nowait))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (item := await pieces.get()) is not None:
                yield item
            part = await work
        finally:
            job.stop.set()
            work.cancel()
            with contextlib.suppress(BaseException):
                await work
        yield pb.GenerateResponse(report=self._report(part, received_ns))

    async def _run(self, job: Job, say: Callable[[pb.GenerateResponse], None]) -> Part:
        """The job in its turn: nobody who reads slowly holds up the next."""
        worker = self._worker
        async with worker.turns.turn(len(job.prompt.tokens)) as queue_ms:
            await worker.coherence.gate(job.prompt.pieces)
            self._started(job, say, queue_ms)
            try:
                written = await worker.turns.run(lambda: worker.write(job))
            except Stopped:
                raise asyncio.CancelledError from None
        worker.coherence.want(job.prompt.pieces[at] for at in written.composed.missing)
        return Part(written, queue_ms, 1)

    async def _join(self, round_id: str, member: str, job: Job, say: Callable[[pb.GenerateResponse], None]) -> Part:
        """The job with those of the other members."""
        started = partial(self._started, job, say)
        return await self._worker.rounds.join(round_id, member, Joined(job, started))

    def _started(self, job: Job, say: Callable[[pb.GenerateResponse], None], queue_ms: float) -> None:
        started = pb.GenerateStarted(
            worker=self._worker.identity, prompt_tokens=len(job.prompt.tokens), queue_ms=queue_ms
        )
        say(pb.GenerateResponse(started=started))

    def _report(self, part: Part, received_ns: int) -> pb.GenerateReport:
        worker, written, composed = self._worker, part.written, part.written.composed
        ttft_ms = (written.first_ns - received_ns) / NS_PER_MS
        worker.metrics.composed(composed, worker.model.token_flops)
        worker.metrics.written(written.tokens, ttft_ms, part.queue_ms, part.members)
        end = pb.GENERATE_END_CONTEXT if written.at_context else pb.GENERATE_END_LENGTH
        report = pb.GenerateReport(
            worker=worker.identity,
            end=pb.GENERATE_END_STOP if written.ended else end,
            output_tokens=written.tokens,
            prompt=_use(composed.whole),
            parts=[_use(use) for use in composed.uses],
            provenance=provenance_of(composed.provenance),
            queue_ms=part.queue_ms,
            ttft_ms=ttft_ms,
            total_ms=(time.monotonic_ns() - received_ns) / NS_PER_MS,
            flops_saved=composed.whole.reused * worker.model.token_flops,
            output_id=written.output_id,
            round_members=part.members,
        )
        if composed.whole.approximate and not math.isnan(composed.predicted):
            report.predicted_error = composed.predicted
        if not math.isnan(composed.measured):
            report.measured_error = composed.measured
        return report

    async def _check(self, request: Any, model: str = "") -> None:
        """Nothing is looked up for who may not call, nor told."""
        worker, epoch = self._worker, request.epoch
        await worker.callers.require(request.session_id)
        if epoch and epoch != worker.identity.epoch:
            raise Refused(t.ERROR_REASON_STALE_FENCE, f"the call is for epoch {epoch} of this worker, which is over")
        if worker.draining:
            raise Refused(t.ERROR_REASON_UNAVAILABLE, "the worker is about to stop")
        worker.require(model)


def _demand(demand: pb.KvDemand) -> Demand:
    error_max = demand.error_max if demand.HasField("error_max") else None
    if error_max is not None and not error_max >= 0:
        raise invalid("error_max is at least 0")
    return Demand(demand.exact, demand.judge, error_max)


def _use(use: Use) -> pb.KvUse:
    return pb.KvUse(
        tokens=use.tokens,
        exact_tokens=use.exact,
        exact_by_mask_tokens=use.exact_by_mask,
        approximate_tokens=use.approximate,
        refreshed_tokens=use.refreshed,
        dense_tokens=use.dense,
        restored_tokens=use.restored,
    )
