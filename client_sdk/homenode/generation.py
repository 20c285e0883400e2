"""One generation: a worker is found, called, read, and left for another where it is lost."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from homenode.artifact import Artifact
from homenode.clock import NS_PER_MS
from homenode.errors import (
    Contended,
    DeadlineExceeded,
    HomenodeError,
    InternalError,
    InvalidArgument,
    NotFound,
    NoWorker,
    Overloaded,
    SessionLost,
    StaleFence,
    Unavailable,
    Unsupported,
    VersionConflict,
)
from homenode.generation_prompt import Key, Part, Prompt
from homenode.generation_report import GenerationReport, provenance_of, use_of
from homenode.versions import Base, Version
from homenode_api.v1 import kv_tier_pb2 as kv

if TYPE_CHECKING:
    from homenode.client import Homenode
    from homenode.workers import Workers

WORKERS_TRIED_MAX = 4
ROUNDS_MAX = 16
STRANGERS_MAX = 3  # times that a worker does not know this session
STALL_MS = 60_000  # without a piece of text

OnLoss = Literal["fail", "retry"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What `generate` was called with, checked."""

    model: str
    parts: Sequence[Part]
    commit_to: str
    base: Version | Base
    demand: kv.KvDemand
    on_loss: OnLoss
    tokens_max: int
    temperature: float
    seed: int
    round: str
    members: Sequence[str]
    round_wait_ms: int
    stall_s: float
    timeout_s: float


class Generation:
    """What a worker writes: `async for piece in generation`. Make it with `hn.generate`.

    Attributes:
        text: what was written so far.
        report: what it rested on, once it has ended; None before.
        artifact: with `commit_to`, what was committed, once it has ended.
        versions: of the artifacts in the prompt, by key.
    """

    def __init__(self, homenode: Homenode, asked: Asked) -> None:
        self.text = ""
        self.report: GenerationReport | None = None
        self.artifact: Artifact | None = None
        self._homenode = homenode
        self._workers: Workers = homenode._core.workers
        self._asked = asked
        self._prompt = Prompt()
        self._now = homenode._core.clock
        self._begun_ns = self._now()
        self._first_ns = 0
        self._ids: list[int] = []  # of what was written so far
        self._lost: list[str] = []
        self._dead: tuple[int, ...] = ()
        self._messages: AsyncGenerator[kv.GenerateResponse, None] | None = None
        self._candidate = kv.RouteCandidate()
        self._over = False
        self._together = bool(asked.members)

    # --- for its user -----------------------------------------------------------------------------------------------

    @property
    def versions(self) -> dict[str, Version]:
        """See the class."""
        return self._prompt.versions

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """The next piece of text. What ends the iteration also commits. Raises as `hn.generate` says."""
        while not self._over:
            try:
                piece = await self._next()
            except (Unavailable, DeadlineExceeded) as failure:
                await self._go_on(failure)
                continue
            except BaseException:
                await self.close()
                raise
            if piece:
                return piece
        raise StopAsyncIteration

    async def done(self) -> Self:
        """Wait until everything is written, and committed."""
        async for _ in self:
            pass
        return self

    async def leave_round(self) -> bool:
        """This agent goes on from the round no more: its worker forgets the agent's part, and whether it kept any.

        Raises HomenodeError.
        """
        if not self._asked.round:
            return False
        request = kv.LeaveRoundRequest(
            session_id=self._homenode.session_id,
            epoch=self._candidate.worker.epoch,
            round_id=self._asked.round,
            member=self._homenode.name,
        )
        address, timeout_s = self._candidate.address, self._asked.timeout_s
        answer = await self._workers.unary(address, "LeaveRound", request, kv.LeaveRoundResponse, timeout_s)
        return bool(answer.kept)

    async def close(self) -> None:
        """Write no more; nothing is committed. After the end it does nothing."""
        self._over = True
        messages, self._messages = self._messages, None
        if messages is not None:
            await messages.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- how --------------------------------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Read, route, and call a worker; returns once it has taken the prompt."""
        await self._read()
        await self._begin()
        return self

    async def _read(self, afresh: Sequence[int] = ()) -> None:
        """Read what the prompt names; `afresh`: places of what is known to be superseded."""

        async def read(key: str, max_age_ms: int | None) -> Artifact:
            return await self._homenode.read(key, max_age_ms=max_age_ms)

        self._prompt = await Prompt.of(self._asked.parts, read, afresh)

    async def _begin(self) -> None:
        """Find a worker that takes the prompt: the best, then the next best. Raises NoWorker, HomenodeError."""
        failure: HomenodeError | None = None
        rounds = strangers = 0
        while True:
            try:
                await self._route()
            except NoWorker:
                if failure is not None:  # the others are worse off: say why the best did not
                    raise failure from None
                raise
            try:
                await self._call()
                return
            except (VersionConflict, NotFound, Unsupported, InvalidArgument) as refusal:
                if self._together:  # the round goes without this one, or the worker computes none
                    self._together = False
                    continue
                if not isinstance(refusal, VersionConflict | NotFound):
                    raise
                rounds += 1
                await self._read_on(refusal, rounds)
            except SessionLost:  # not known there yet, or over: then the directory says so too, and another is opened
                strangers += 1
                if strangers >= STRANGERS_MAX:
                    raise
            except (Unavailable, DeadlineExceeded, StaleFence, Overloaded) as refusal:
                failure = refusal
                self._lost.append(self._candidate.worker.worker)
                if len(self._lost) >= WORKERS_TRIED_MAX:
                    raise

    async def _read_on(self, refusal: HomenodeError, rounds: int) -> None:
        """Versions of the prompt were superseded before its turn came: read what is there now, where that may be."""
        named = {str(part) for part in self._asked.parts if isinstance(part, Key)}
        if self._ids or not named or not named.issuperset(refusal.refusals):
            raise refusal
        if isinstance(refusal, NotFound) and not refusal.refusals:  # the model is not there
            raise refusal
        if rounds >= ROUNDS_MAX:
            raise Contended("new versions came faster than a prompt with one of them got its turn") from refusal
        await self._read([i for i, part in enumerate(self._asked.parts) if isinstance(part, Key)])

    async def _route(self) -> None:
        asked = self._asked
        request = kv.RouteRequest(
            model=self._candidate.model.fingerprint if self._ids else asked.model,
            parts=self._prompt.route(),
            round_id=asked.round,
            demand=asked.demand,
            exclude=self._lost,
            tokens_max=asked.tokens_max,
        )
        found = await self._workers.route(request, asked.timeout_s, wait=asked.on_loss == "retry")
        superseded = [i for i in found.dead_parts if i < len(asked.parts) and isinstance(asked.parts[i], Key)]
        if superseded and not self._ids:
            await self._read(superseded)
            del request.parts[:]
            request.parts.extend(self._prompt.route())
            found = await self._workers.route(request, asked.timeout_s)
        self._dead = tuple(found.dead_parts)
        self._candidate = found.choice

    async def _call(self) -> None:
        """Send the prompt, and what is written already; returns when the worker has begun."""
        asked = self._asked
        request = kv.GenerateRequest(
            session_id=self._homenode.session_id,
            model=self._candidate.model.fingerprint,
            epoch=self._candidate.worker.epoch,
            parts=self._prompt.parts,
            tokens_max=max(1, asked.tokens_max - len(self._ids)) if asked.tokens_max else 0,
            temperature=asked.temperature,
            seed=asked.seed,
            demand=asked.demand,
            consumer=self._homenode.name,
            round_id=asked.round if self._together else "",
            member=self._homenode.name if self._together else "",
            keep_output=bool(asked.commit_to),
        )
        if self._ids:
            request.parts.append(kv.PromptPart(tokens=kv.TokenIds(ids=self._ids)))
        elif self.text:
            request.parts.append(kv.PromptPart(text=self.text))
        if self._together:
            begin = kv.BeginRoundRequest(
                session_id=self._homenode.session_id,
                epoch=self._candidate.worker.epoch,
                round_id=asked.round,
                members=asked.members,
                deadline_ms=asked.round_wait_ms,
            )
            address, timeout_s = self._candidate.address, asked.timeout_s
            await self._workers.unary(address, "BeginRound", begin, kv.BeginRoundResponse, timeout_s)
        messages = self._workers.generate(self._candidate.address, request, asked.stall_s)
        try:
            first = await anext(messages, None)
            if first is None or not first.HasField("started"):
                raise InternalError("the worker did not say that it began")
        except BaseException:
            await messages.aclose()
            raise
        self._messages = messages

    async def _next(self) -> str:
        assert self._messages is not None
        message = await anext(self._messages, None)
        if message is None:
            raise Unavailable(f"the worker {self._candidate.worker.worker!r} ended without a report")
        if message.HasField("piece"):
            self._first_ns = self._first_ns or self._now()
            self._ids.extend(message.piece.tokens)
            self.text += message.piece.text
            return message.piece.text
        if message.HasField("report"):
            await self._finish(message.report)
        return ""

    async def _go_on(self, failure: HomenodeError) -> None:
        """The worker was lost while it wrote: another one goes on behind what is written, or the call fails."""
        messages, self._messages = self._messages, None
        if messages is not None:
            await messages.aclose()
        lost = self._candidate.worker.worker
        self._lost.append(lost)
        if self._asked.on_loss == "retry" and len(self._lost) < WORKERS_TRIED_MAX:
            try:
                if 0 < self._asked.tokens_max <= len(self._ids):  # only the report was lost
                    await self._finish(self._unreported())
                    return
                await self._begin()
                return
            except BaseException:
                self._over = True
                raise
        self._over = True
        raise Unavailable(
            f"the worker {lost!r} was lost after {len(self._ids)} tokens; say on_loss='retry' to go on at another: "
            f"{failure}"
        ) from failure

    def _unreported(self) -> kv.GenerateReport:
        """What is known where everything was written, and the worker lost before its report."""
        demand = self._asked.demand
        exact = demand.exact or (demand.judge and not demand.HasField("error_max"))
        kind = kv.KV_KIND_EXACT if exact else kv.KV_KIND_UNSPECIFIED
        return kv.GenerateReport(end=kv.GENERATE_END_LENGTH, provenance=kv.KvProvenance(kind=kind))

    async def _finish(self, said: kv.GenerateReport) -> None:
        asked = self._asked
        await self.close()
        self.report = self._report(said)
        if asked.commit_to:
            self.artifact = await self._homenode.put(asked.commit_to, self.text, base=asked.base)
            self.report = replace(self.report, adopted=await self._adopt(said.output_id))

    async def _adopt(self, output: str) -> bool:
        """Tell the worker that its output is a version now. That is only worth something, so it may fail."""
        artifact = self.artifact
        assert artifact is not None and artifact.version is not None
        if not output:
            return False
        request = kv.AdoptOutputRequest(
            session_id=self._homenode.session_id,
            epoch=self._candidate.worker.epoch,
            output_id=output,
            key=artifact.key,
        )
        request.version.incarnation, request.version.n = artifact.version
        address, timeout_s = self._candidate.address, self._asked.timeout_s
        with contextlib.suppress(HomenodeError):
            answer = await self._workers.unary(address, "AdoptOutput", request, kv.AdoptOutputResponse, timeout_s)
            return bool(answer.adopted)
        return False

    def _report(self, said: kv.GenerateReport) -> GenerationReport:
        model = self._candidate.model
        uses = [use_of(use, artifact) for use, artifact in zip(said.parts, self._prompt.artifacts, strict=False)]
        return GenerationReport(
            worker=said.worker.worker or self._candidate.worker.worker,
            model=model.name,
            fingerprint=model.fingerprint,
            prompt=use_of(said.prompt, None),
            parts=tuple(uses),
            provenance=provenance_of(said.provenance),
            predicted_ms=self._candidate.predicted_ms,
            ttft_ms=((self._first_ns or self._now()) - self._begun_ns) / NS_PER_MS,
            worker_ttft_ms=said.ttft_ms,
            total_ms=(self._now() - self._begun_ns) / NS_PER_MS,
            output_tokens=len(self._ids) or said.output_tokens,
            ended=kv.GenerateEnd.Name(said.end).removeprefix("GENERATE_END_").lower(),
            flops_saved=said.flops_saved,
            round_members=said.round_members or 1,
            lost=tuple(self._lost),
            dead_parts=self._dead,
        )
