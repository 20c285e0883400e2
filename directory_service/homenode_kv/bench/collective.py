"""One collective call for a round, against per-request reuse: one after the other, and with the refresh batched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homenode_kv.bench.choosing import whole_blocks
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.bench.shapes import random_engine, random_tokens
from homenode_kv.bench.timing import in_turns
from homenode_kv.collector import Collected, collect
from homenode_kv.composing import Private, Request, Shared, compose, load
from homenode_kv.engine import Engine
from homenode_kv.ident import SegmentKey
from homenode_kv.layout import blocks_of
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT
from homenode_kv.segments import Segments

SHARE = 0.15
LAYER = 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of a round: shared segments, each member's own text and its task."""

    segments: int = 3
    segment_tokens: int = 256
    own_tokens: int = 32
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
    """A round's requests over segments that are kept."""
    texts = [random_tokens(engine, sizes.segment_tokens, number) for number in range(sizes.segments)]
    segments, shared = kept(engine, texts)
    requests = []
    for number in range(members):
        own = Private(random_tokens(engine, sizes.own_tokens + number % 4, 1000 + number))
        task = Private(random_tokens(engine, sizes.task_tokens, 2000 + number))
        requests.append(Request(f"agent {number}", (own, *shared, task)))
    return segments, requests


def collective(engine: Engine, segments: Segments, requests: list[Request]) -> Collected:
    """All members in one call; the blocks are chosen by the first one's deviation."""
    return collect(engine, segments, requests, share=SHARE, chosen_by="master", layer=LAYER)


def serial(engine: Engine, segments: Segments, requests: list[Request]) -> list[Collected]:
    """Each member by itself: its own look-ups, rotation, check, selection, refresh."""
    return [collect(engine, segments, [one], share=SHARE, layer=LAYER) for one in requests]


def batched(engine: Engine, segments: Segments, requests: list[Request]) -> object:
    """Each member decides by itself; the refresh is one pass of all."""
    composed, positions = [], []
    for request in requests:
        one = compose(engine, load(engine, segments, [request]), [request])
        composed.append(one.kv)
        positions.append(_chosen(engine, request, one.kv, one.targets, one.blocks))
    longest = max(kv.shape[3] for kv in composed)
    kv = torch.cat([torch.nn.functional.pad(one, (0, 0, 0, 0, 0, longest - one.shape[3])) for one in composed], dim=2)
    return engine.refresh_group([request.tokens for request in requests], kv, positions)


def _chosen(engine: Engine, request: Request, kv: Tensor, targets: Tensor, blocks: Tensor) -> list[int]:
    tokens = request.tokens
    until = int(targets[-1]) + 1
    off = engine.deviation([tokens], kv, [list(range(until))], LAYER)[0]
    of_token = torch.full((len(tokens),), -1, device=kv.device)
    of_token[targets] = blocks
    padded = torch.nn.functional.pad(off, (0, len(tokens) - until))
    fresh = (of_token < 0) | whole_blocks(padded, of_token, SHARE)
    fresh[-1] = True
    return [int(at) for at in fresh.nonzero().flatten()]


@group("collective")
def rounds(bench: Bench) -> Iterator[Row]:
    """Rows `collective/N/…`: the time of a round per way, and how many times faster one call is."""
    engine = random_engine(bench.shape, bench.device)
    cuda = bench.device.startswith("cuda")
    sizes = Sizes(segment_tokens=2048 if cuda else 128)
    repeats = 5 if cuda else 1 if bench.quick else 3
    for members in (1, 5, 10, 20) if cuda else (3,) if bench.quick else (1, 5, 10):
        bench.tell(f"collective call: {members} members of {bench.shape}")
        segments, requests = round_of(engine, members, sizes)
        found = in_turns(
            {
                "collective": lambda s=segments, r=requests: collective(engine, s, r),  # type: ignore[misc]
                "serial": lambda s=segments, r=requests: serial(engine, s, r),  # type: ignore[misc]
                "batched": lambda s=segments, r=requests: batched(engine, s, r),  # type: ignore[misc]
            },
            repeats,
            bench.device,
        )
        counts = collective(engine, segments, requests).plan.counts
        alone = serial(engine, segments, requests[:1])[0].plan.counts
        for against in ("serial", "batched"):
            yield bench.timed(
                f"collective/{members}/speedup-over-{against}",
                found[against] / found["collective"],
                "times",
                repeats,
                **{f"{name}_ms": ms for name, ms in found.items()},
                prompt_tokens=len(requests[0].tokens),
                share=math.ceil(SHARE * sizes.segments * blocks_of(sizes.segment_tokens))
                / (sizes.segments * blocks_of(sizes.segment_tokens)),
                launches=counts.rotations + counts.checks + counts.selections + counts.passes,
                launches_serial=members * (alone.rotations + alone.checks + alone.selections + alone.passes),
                lookups=counts.lookups,
                lookups_serial=members * alone.lookups,
                rotated_bytes=counts.rotated_bytes,
                checked_tokens=counts.checked_tokens,
                checked_tokens_serial=members * alone.checked_tokens,
                refreshed_tokens=counts.refreshed_tokens,
            )
