"""One collective call for a round, against per-request reuse: one after the other, and with the refresh batched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.functional import pad

from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.bench.shapes import random_engine, random_tokens
from homenode_kv.bench.timing import in_turns
from homenode_kv.collector import Collected, collect, decide
from homenode_kv.composing import Private, Request, Shared
from homenode_kv.engine import Engine, GroupForward
from homenode_kv.ident import SegmentKey
from homenode_kv.layout import blocks_of
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT
from homenode_kv.segments import Segments

SHARE = 1 / 16
MEMBERS = (1, 2, 5, 10, 20)
DEEP = "random-135m-deep"
"""Beside the other shape on a CPU: the deeper a model, the less of it is the check that a group makes once."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of a round: each member's own past, which is kept, the segments that all read, each member's task."""

    segments: int = 2
    segment_tokens: int = 512
    own_tokens: int = 64
    task_tokens: int = 16


def kept(engine: Engine, texts: Sequence[tuple[int, ...]]) -> tuple[Segments, list[Shared]]:
    """Bases of these texts in a pool of their own."""
    blocks = sum(blocks_of(len(text)) for text in texts)
    segments = Segments(Pool(Pages(engine.geometry, blocks + 8, engine.device)))
    shared = [Shared(SegmentKey.of("bench", b"bench", text), text) for text in texts]
    for part in shared:
        segments.put(part.key, part.tokens, engine.prefill(part.tokens).kv, EXACT)
    return segments, shared


def round_of(engine: Engine, members: int, sizes: Sizes) -> tuple[Segments, list[Request]]:
    """A round's requests over segments that are kept, after pasts that are."""
    texts = [random_tokens(engine, sizes.segment_tokens, number) for number in range(sizes.segments)]
    segments, shared = kept(engine, texts)
    requests = []
    for number in range(members):
        past = random_tokens(engine, sizes.own_tokens + number % 4, 1000 + number)
        task = Private(random_tokens(engine, sizes.task_tokens, 2000 + number))
        requests.append(Request(f"agent {number}", (Private(past, engine.prefill(past).kv), *shared, task)))
    return segments, requests


def collective(engine: Engine, segments: Segments, requests: list[Request]) -> Collected:
    """All members in one call; the blocks are chosen by the first one's deviation."""
    return collect(engine, segments, requests, share=SHARE, chosen_by="master")


def serial(engine: Engine, segments: Segments, requests: list[Request]) -> list[Collected]:
    """Each member by itself: its own look-ups, rotation, check, selection, refresh."""
    return [collect(engine, segments, [one], share=SHARE) for one in requests]


def batched(engine: Engine, segments: Segments, requests: list[Request]) -> GroupForward:
    """Each member decides by itself; the refresh is one pass of all."""
    made = [decide(engine, segments, [one], share=SHARE) for one in requests]
    longest = max(one.composed.kv.shape[3] for one in made)
    kv = torch.cat([pad(one.composed.kv, (0, 0, 0, 0, 0, longest - one.composed.kv.shape[3])) for one in made], dim=2)
    return engine.refresh_group([request.tokens for request in requests], kv, [one.positions[0] for one in made])


@group("collective")
def rounds(bench: Bench) -> Iterator[Row]:
    """Rows `collective/N/…`: the time of a round per way, and how many times faster one call is."""
    cuda = bench.device.startswith("cuda")
    members = (3,) if bench.quick else MEMBERS
    sizes = Sizes(segment_tokens=2048 if cuda else 128 if bench.quick else 512)
    repeats = 1 if bench.quick else 5 if cuda or bench.full else 2
    for size in members:  # of the largest round a core has enough with one turn
        yield from _measured(bench, (size,), sizes, 1 if size == MEMBERS[-1] and repeats == 2 else repeats)
    if not cuda and not bench.quick:
        yield from _measured(replace(bench, shape=DEEP), MEMBERS if bench.full else (10,), sizes, repeats)


def _measured(bench: Bench, members: Sequence[int], sizes: Sizes, repeats: int) -> Iterator[Row]:
    engine = random_engine(bench.shape, bench.device)
    segments, everybody = round_of(engine, max(members), sizes)
    blocks = sizes.segments * blocks_of(sizes.segment_tokens)
    for size in members:
        bench.tell(f"collective call: {size} members of {bench.shape}")
        requests = everybody[:size]
        ways = {"collective": collective, "serial": serial, "batched": batched}
        found = in_turns(
            {name: partial(way, engine, segments, requests) for name, way in ways.items()}, repeats, bench.device
        )
        plan = collective(engine, segments, requests).plan
        alone = serial(engine, segments, requests[:1])[0].plan.counts
        counts = plan.counts
        others = [off for member, off in plan.deviation.items() if member != requests[0].member]
        for against in ("serial", "batched"):
            yield bench.timed(
                f"collective/{size}/speedup-over-{against}" + ("/deep" if bench.shape == DEEP else ""),
                found[against] / found["collective"],
                "times",
                repeats,
                **{f"{name}_ms": ms for name, ms in found.items()},
                clock="wall" if bench.device.startswith("cuda") else "CPU time of one thread",
                prompt_tokens=len(requests[0].tokens),
                kept_tokens=sizes.own_tokens,
                share=math.ceil(SHARE * blocks) / blocks,
                chosen_by="the first member",
                off_first=plan.deviation[requests[0].member],
                off_others_most=max(others, default=0.0),
                launches=counts.rotations + counts.checks + counts.selections + counts.passes,
                launches_serial=size * (alone.rotations + alone.checks + alone.selections + alone.passes),
                lookups=counts.lookups,
                lookups_serial=size * alone.lookups,
                rotated_bytes=counts.rotated_bytes,
                checked_tokens=counts.checked_tokens,
                checked_tokens_serial=size * alone.checked_tokens,
                refreshed_tokens=counts.refreshed_tokens,
            )
