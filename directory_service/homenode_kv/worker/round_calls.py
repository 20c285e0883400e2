"""Rounds as calls: members join, the group takes one turn, each gets its own text."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from homenode.errors import GateClosed
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_kv.errors import NoSuchRound
from homenode_kv.rounds import Group, Rounds
from homenode_kv.worker.generation import Job, Written
from homenode_kv.worker.grouped import Round, write_group
from homenode_kv.worker.refusals import Refused

if TYPE_CHECKING:
    from homenode_kv.worker.worker import Worker

DEADLINE_MS = 1_000
REPORTS_MAX = 256
#: Of a group's mask, members times the square of the longest prompt: so much in any case.
MASK_MIN = 1 << 24


@dataclass(frozen=True, slots=True)
class Joined:
    """A member's call; `started` is told how long it waited, in ms, when the group's turn has come."""

    job: Job
    started: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Part:
    """What a member gets: its text, how long it waited, and how many were computed together."""

    written: Written
    queue_ms: float
    members: int


class RoundCalls:
    """See the module."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._rounds: Rounds[Joined, Part] = Rounds(self._released)
        self._reports: OrderedDict[str, pb.RoundReport] = OrderedDict()
        self._running: dict[str, set[asyncio.Task[None]]] = {}
        self._moved = asyncio.Event()  # the next deadline may be another one

    async def run(self) -> None:
        """Keeps the deadlines, until cancelled."""
        while True:
            self._moved.clear()
            due = self._rounds.next_deadline
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                    await self._moved.wait()
            self._rounds.tick(time.monotonic())

    def begin(self, round_id: str, members: list[str], deadline_ms: int) -> int:
        """Opens a round; its deadline in ms. Raises RoundRefused."""
        wait_ms = deadline_ms or DEADLINE_MS
        self._rounds.begin(round_id, members, wait_ms / 1000, time.monotonic())
        self._moved.set()
        return wait_ms

    async def join(self, round_id: str, member: str, joined: Joined) -> Part:
        """A member's text, when its group has been computed. Raises NoSuchRound, RoundRefused, and as a call does."""
        future = self._rounds.join(round_id, member, joined, time.monotonic())
        self._moved.set()  # the first late one sets a deadline
        try:
            return await asyncio.wrap_future(future)
        finally:
            self.leave(round_id, member)

    def leave(self, round_id: str, member: str) -> None:
        """The others do not wait for this member."""
        self._rounds.leave(round_id, member, time.monotonic())
        self._moved.set()

    async def commit(self, round_id: str) -> pb.RoundReport:
        """Runs the round with those who have joined, and waits for it. Raises NoSuchRound."""
        try:
            self._rounds.commit(round_id, time.monotonic())
            self._moved.set()
        except NoSuchRound:
            if round_id not in self._reports and round_id not in self._running:
                raise
        while tasks := self._running.get(round_id):
            await asyncio.wait(tasks)
        return self._reports.get(round_id, pb.RoundReport())

    # --- a group ------------------------------------------------------------------------------------------------------

    def _released(self, group: Group[Joined, Part]) -> None:
        for part in fitting(group, self._worker.engine.tokens_max):
            task = asyncio.ensure_future(self._compute(part))
            running = self._running.setdefault(group.round_id, set())
            running.add(task)
            task.add_done_callback(lambda done: self._done(group.round_id, done))

    def _done(self, round_id: str, task: asyncio.Task[None]) -> None:
        running = self._running[round_id]
        running.discard(task)
        if not running:
            del self._running[round_id]

    async def _compute(self, group: Group[Joined, Part]) -> None:
        try:
            tokens = sum(len(joined.job.prompt.tokens) for joined in group.requests.values())
            async with self._worker.turns.turn(tokens) as queue_ms:
                alive = await self._alive(group)
                if not alive:
                    return
                for joined in alive.values():
                    joined.started(queue_ms)
                jobs = {member: joined.job for member, joined in alive.items()}
                worker = self._worker
                outcome = await worker.turns.run(
                    lambda: write_group(worker.keeper, worker.outputs, worker.tokenizer, group.round_id, jobs)
                )
            self._report(group.round_id, outcome)
            for member, written in outcome.written.items():
                future = group.futures[member]
                if not future.set_running_or_notify_cancel():
                    continue
                if isinstance(written, Written):
                    future.set_result(Part(written, queue_ms, len(alive)))
                else:
                    future.set_exception(written)
        except Exception as failure:
            for future in group.futures.values():
                if not future.done():
                    future.set_exception(failure)

    async def _alive(self, group: Group[Joined, Part]) -> dict[str, Joined]:
        """The members whose versions hold; the others are refused."""
        alive = {member: joined for member, joined in group.requests.items() if not joined.job.stop.is_set()}
        try:
            await self._worker.coherence.gate(piece for joined in alive.values() for piece in joined.job.prompt.pieces)
            return alive
        except (GateClosed, Refused):
            pass
        for member, joined in list(alive.items()):
            try:
                await self._worker.coherence.gate(joined.job.prompt.pieces)
            except (GateClosed, Refused) as closed:
                del alive[member]
                if not group.futures[member].done():
                    group.futures[member].set_exception(closed)
        return alive

    def _report(self, round_id: str, outcome: Round) -> None:
        plan = outcome.collected.plan
        report = self._reports.setdefault(round_id, pb.RoundReport())
        members = list(plan.deviation)
        report.groups.add(
            members=members,
            master=plan.master,
            deviation=[plan.deviation[member] for member in members],
            blocks=outcome.blocks,
            refreshed_blocks=sum(map(len, plan.refreshed)),
            bytes=outcome.bytes,
            dense_bytes=outcome.dense_bytes,
        )
        counts = plan.counts
        total = report.counts
        total.lookups += counts.lookups
        total.loads += counts.loads
        total.rotations += counts.rotations
        total.selections += counts.selections
        total.passes += counts.checks + counts.passes
        total.rotated_bytes += counts.rotated_bytes
        total.refreshed_tokens += counts.refreshed_tokens
        while len(self._reports) > REPORTS_MAX:
            self._reports.popitem(last=False)


def fitting(group: Group[Joined, Part], tokens_max: int) -> Iterator[Group[Joined, Part]]:
    """The group, or parts of it whose pass takes no more memory for its mask than the longest single prompt does."""
    most, members, longest = max(tokens_max**2, MASK_MIN), list[str](), 0
    for member, joined in group.requests.items():
        tokens = len(joined.job.prompt.tokens)
        if members and (len(members) + 1) * max(longest, tokens) ** 2 > most:
            yield _part(group, members)
            members, longest = [], 0
        members.append(member)
        longest = max(longest, tokens)
    if members:
        yield _part(group, members)


def _part(group: Group[Joined, Part], members: list[str]) -> Group[Joined, Part]:
    requests = {member: group.requests[member] for member in members}
    return replace(group, requests=requests, futures={member: group.futures[member] for member in members})
