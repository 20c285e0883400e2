"""A round on the engine's thread: the prompts of a group in one pass, then each member's text."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from homenode_kv.collector import Collected, collect
from homenode_kv.composing import Request, Shared
from homenode_kv.errors import KvError
from homenode_kv.layout import blocks_of
from homenode_kv.worker.generation import Job, Stopped, Written, with_room, write_on
from homenode_kv.worker.going_on import Opening, composed, error_max, given, opened, request_parts
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.kept_rounds import Member
from homenode_kv.worker.outputs import Outputs
from homenode_kv.worker.text import Tokenizer

#: Of the shared blocks, how many are computed afresh whatever their error (TokenDance), beside those beyond the bound.
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
    openings, requests, collected = with_room(keeper, outputs, lambda: _collected(keeper, jobs))
    for job in jobs.values():  # bases that were made on the way: from now on the directory may be told
        for piece in job.prompt.pieces:
            if piece.artifact and piece.tokens:
                keeper.find(piece)
    written: dict[str, Written | Exception] = {}
    for member, job in jobs.items():
        try:
            made = composed(keeper, member, job.prompt, collected, openings[member])
            if not made.measured <= error_max(keeper, job.demand):  # who allows less than the worker repairs alone
                made = keeper.compose(job.prompt, job.demand, job.consumer)
            written[member] = write_on(keeper, outputs, tokenizer, job, made, began_ns)
        except (KvError, Stopped) as failure:
            written[member] = failure
    shared = {part.key.digest: part for request in requests for part in request.parts if isinstance(part, Shared)}
    members = {member: Member(job.prompt, openings[member].begun) for member, job in jobs.items()}
    size, dense = keeper.keep_round(round_id, collected, members)
    return Round(written, collected, sum(blocks_of(len(part.tokens)) for part in shared.values()), size, dense)


def _collected(keeper: Keeper, jobs: Mapping[str, Job]) -> tuple[Mapping[str, Opening], Sequence[Request], Collected]:
    """The group's prompts over what is there of them; nobody's blocks are further off than the worker allows.

    Nor than all members allow, if that is more. Who allows less than the worker is left to be computed alone.
    """
    settings = keeper.composer.planner.settings
    for job in jobs.values():
        keeper.meet(job.prompt.pieces)
    openings = {member: opened(keeper, job.prompt, job.demand) for member, job in jobs.items()}
    for member, job in jobs.items():  # one for all: what is in place of a base is the same for the group
        if openings[member].begun is None and (kv := given(keeper, job.prompt, member)):
            openings = {name: replace(opening, given=kv) for name, opening in openings.items()}
            break
    requests = [Request(member, request_parts(keeper, job.prompt, openings[member])) for member, job in jobs.items()]
    bound = min(max(settings.error_max, error_max(keeper, job.demand)) for job in jobs.values())
    collected = collect(
        keeper.engine, keeper.segments, requests, share=SHARE, error_max=bound, refresh_max=settings.refresh_max
    )
    return openings, requests, collected
