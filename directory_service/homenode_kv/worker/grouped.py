"""A round on the engine's thread: the prompts of a group in one pass, then each member's text."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from homenode_kv import parts
from homenode_kv.collector import Collected, collect
from homenode_kv.composing import Private, Request, Shared
from homenode_kv.errors import KvError
from homenode_kv.layout import blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.planner import Demand, Plan, Way
from homenode_kv.worker.generation import Job, Stopped, Written, with_room, write_on
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.outputs import Outputs
from homenode_kv.worker.prompts import Prompt
from homenode_kv.worker.text import Tokenizer

#: Of the shared blocks, how many are computed afresh (TokenDance).
SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Round:
    """Outcome.

    Attributes:
        written: each member's text, or what went wrong with it.
        collected: how the prompts came about.
        blocks: that they share.
        bytes, dense_bytes: of what is kept of the round, and of as many whole members; 0: nothing is.
    """

    written: Mapping[str, Written | Exception]
    collected: Collected
    blocks: int
    bytes: int
    dense_bytes: int


def write_group(
    keeper: Keeper, outputs: Outputs, tokenizer: Tokenizer, round_id: str, jobs: Mapping[str, Job]
) -> Round:
    """Runs the jobs of a group, by member. Raises what the collective pass raises."""
    began_ns = time.monotonic_ns()
    for job in jobs.values():
        keeper.meet(job.prompt.pieces)
    kept = {member: _history(keeper, job.prompt) for member, job in jobs.items()}
    requests = [Request(member, _parts(keeper, job.prompt, kept[member])) for member, job in jobs.items()]
    collected = with_room(keeper, outputs, lambda: collect(keeper.engine, keeper.segments, requests, share=SHARE))
    for job in jobs.values():  # bases that were made on the way: from now on the directory may be told
        for piece in job.prompt.pieces:
            if piece.artifact and piece.tokens:
                keeper.find(piece)
    written: dict[str, Written | Exception] = {}
    for member, job in jobs.items():
        try:
            composed = _composed(keeper, member, job.prompt, collected, _count(kept[member]))
            limit = job.demand.error_max
            if limit is not None and not composed.measured <= limit:
                composed = keeper.compose(job.prompt, Demand(exact=True))
            written[member] = write_on(keeper, outputs, tokenizer, job, composed, began_ns)
        except (KvError, Stopped) as failure:
            written[member] = failure
    shared = {part.key.digest: part for request in requests for part in request.parts if isinstance(part, Shared)}
    size, dense = keeper.keep_round(round_id, collected, [job.prompt for job in jobs.values()])
    return Round(written, collected, sum(blocks_of(len(part.tokens)) for part in shared.values()), size, dense)


def _history(keeper: Keeper, prompt: Prompt) -> Tensor | None:
    """KV of a member's own text before the first artifact, as far as it is kept from earlier rounds."""
    own = list(prompt.lead)
    for piece in prompt.pieces:
        if piece.artifact:
            break
        own += piece.tokens
    prefix = keeper.prefix(own)
    held = keeper.use(prefix) if prefix is not None else None
    if prefix is None or held is None:
        return None
    with held:
        return held.kv(prefix.tokens)


def _count(history: Tensor | None) -> int:
    return 0 if history is None else int(history.shape[2])


def _parts(keeper: Keeper, prompt: Prompt, history: Tensor | None) -> tuple[Private | Shared, ...]:
    kept = _count(history)
    made: list[Private | Shared] = [Private(tuple(prompt.tokens[:kept]), history)] if kept else []
    if prompt.lead[kept:]:
        made.append(Private(prompt.lead[kept:]))
    for start, piece in prompt.placed():
        if piece.artifact and piece.tokens:
            made.append(Shared(keeper.key_of(piece), piece.tokens))
        elif rest := piece.tokens[max(0, kept - start) :]:
            made.append(Private(rest))
    return tuple(made)


def _composed(keeper: Keeper, member: str, prompt: Prompt, collected: Collected, kept: int) -> parts.Composed:
    """What became of one member's prompt, as said of a prompt that was computed alone."""
    plan = collected.plan
    refreshed = {key.digest: blocks for key, blocks in zip(plan.shared, plan.refreshed, strict=True)}
    last, uses, ways = len(prompt.tokens) - 1, [], []
    for start, piece in prompt.placed():
        count = len(piece.tokens)
        if not piece.artifact or not count:
            exact = max(0, min(kept - start, count))
            uses.append(parts.Use(count, exact=exact, dense=count - exact))
            ways.append(Way.DENSE)
            continue
        fresh = {
            at
            for block in refreshed[keeper.key_of(piece).digest]
            for at in range(block * BLOCK_TOKENS, min(count, (block + 1) * BLOCK_TOKENS))
        }
        if start <= last < start + count:
            fresh.add(last - start)
        uses.append(parts.Use(count, approximate=count - len(fresh), refreshed=len(fresh)))
        ways.append(Way.REUSE)
    lead = len(prompt.lead)
    exact = min(kept, lead)
    whole = parts.Use.sum([*uses, parts.Use(lead, exact=exact, dense=lead - exact)])
    measured = plan.left.get(member, math.nan) if whole.approximate else 0.0
    return parts.Composed(
        forward=collected.forwards[member],
        uses=tuple(uses),
        whole=whole,
        ways=tuple(ways),
        provenance=collected.provenance,
        predicted=math.nan,
        measured=measured,
        plan=Plan(tuple(ways), math.nan, math.nan, math.nan),
        missing=(),
    )
