"""One call's work on the engine's thread: the prompt from what is kept and what must be computed, then the text."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from homenode_kv.costs import NS_PER_MS
from homenode_kv.engine import Forward, greedy
from homenode_kv.errors import PromptTooLong, no_memory
from homenode_kv.parts import Composed
from homenode_kv.planner import Demand
from homenode_kv.provenance import Kind
from homenode_kv.worker.going_on import compose_on
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.outputs import Output, Outputs
from homenode_kv.worker.prompts import Prompt
from homenode_kv.worker.text import Pieces, Tokenizer

T = TypeVar("T")


class Stopped(Exception):
    """Nobody waits for the text any more."""


@dataclass(frozen=True)
class Job:
    """What is to be written, and where it goes.

    Attributes:
        told: hears of pieces of text as they come, with their tokens, on the engine's thread.
        demand, consumer: see `planner` and `composer`.
        stop: set when nobody waits any more.
    """

    prompt: Prompt
    tokens_max: int
    told: Callable[[str, list[int]], None]
    temperature: float = 0.0
    seed: int = 0
    keep_output: bool = False
    demand: Demand = field(default_factory=Demand)
    consumer: str = ""
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Written:
    """Outcome of a job. `first_ns`: when the first token was there. `ended`: by the model, not by a limit."""

    composed: Composed
    tokens: int
    ended: bool
    at_context: bool
    prefill_ms: float
    first_ns: int
    decode_ms: float
    output_id: str


def write(keeper: Keeper, outputs: Outputs, tokenizer: Tokenizer, job: Job) -> Written:
    """Runs a job. Raises Stopped, PromptTooLong, and what the engine raises."""
    if job.stop.is_set():
        raise Stopped
    began_ns = time.monotonic_ns()
    composed = with_room(
        keeper,
        outputs,
        lambda: (
            compose_on(keeper, job.prompt, job.demand, job.consumer)
            or keeper.compose(job.prompt, job.demand, job.consumer)
        ),
    )
    return write_on(keeper, outputs, tokenizer, job, composed, began_ns)


def with_room(keeper: Keeper, outputs: Outputs, compute: Callable[[], T]) -> T:
    """What `compute` gives; where memory was short once more, without what was only kept for later."""
    try:
        return compute()
    except Exception as failure:
        if not no_memory(failure):
            raise
    keeper.relieve()
    outputs.clear()
    return compute()


def write_on(
    keeper: Keeper, outputs: Outputs, tokenizer: Tokenizer, job: Job, composed: Composed, began_ns: int
) -> Written:
    """The text after a prompt whose KV is there since now, and was begun with at `began_ns`."""
    ready_ns, prompt = time.monotonic_ns(), job.prompt
    room = keeper.engine.tokens_max - len(prompt.tokens)
    if room < 1:
        raise PromptTooLong(len(prompt.tokens) + 1, keeper.engine.tokens_max)
    telling = _Telling(job, Pieces(tokenizer.decode))
    limit = min(job.tokens_max, room)
    decoded = keeper.engine.decode(composed.forward, limit, end=tokenizer.ends, choose=_choice(job), told=telling.told)
    done_ns = time.monotonic_ns()
    telling.end()
    if composed.provenance.kind is Kind.EXACT:
        forward = Forward(decoded.kv, composed.forward.logits)
        keeper.keep_prompt(prompt, [*prompt.tokens, *decoded.tokens], forward)
    else:
        keeper.keep_beginning(prompt, composed)
    output_id = ""
    if job.keep_output and decoded.tokens:
        canonical = keeper.engine.rotation.shift(decoded.kv[:, :, decoded.start :], -decoded.start)
        output_id = outputs.keep(Output(decoded.tokens, canonical.cpu()))
    return Written(
        composed,
        tokens=len(decoded.tokens),
        ended=len(decoded.tokens) < limit,
        at_context=limit == room < job.tokens_max,
        prefill_ms=(ready_ns - began_ns) / NS_PER_MS,
        first_ns=telling.first_ns or done_ns,
        decode_ms=(done_ns - ready_ns) / NS_PER_MS,
        output_id=output_id,
    )


class _Telling:
    """Passes text on as its tokens come, until nobody waits."""

    def __init__(self, job: Job, pieces: Pieces) -> None:
        self._job = job
        self._pieces = pieces
        self._waiting: list[int] = []
        self.first_ns = 0

    def told(self, token: int) -> None:
        if self._job.stop.is_set():
            raise Stopped
        self.first_ns = self.first_ns or time.monotonic_ns()
        self._waiting.append(token)
        if text := self._pieces.add(token):
            self._job.told(text, self._waiting)
            self._waiting = []

    def end(self) -> None:
        rest = self._pieces.rest()
        if rest or self._waiting:
            self._job.told(rest, self._waiting)


def _choice(job: Job) -> Callable[[Tensor], int]:
    if job.temperature <= 0:
        return greedy
    generator = torch.Generator().manual_seed(job.seed)

    def drawn(logits: Tensor) -> int:
        scores = logits.double().cpu()
        scores -= scores.max()  # next to no temperature must not make them infinite
        return int(torch.multinomial(torch.softmax(scores / job.temperature, dim=-1), 1, generator=generator))

    return drawn
