"""How many agents one worker serves in rounds of at most 1,500 ms, from times and bytes of the same run.

In a round each agent's prompt is its own past, which is kept, then the segments that all agents read, then its task.
The round is over when all prompts are computed; what is decoded after them costs all ways the same, and is not in it.
The segments are kept when it begins, as what agents wrote is. Only the first way is exact. Three ways:

- prefix-cache: what comes after the kept past is computed. Pasts differ, so no two agents share a block.
- per-request: each agent by itself places the segments, checks them and refreshes the blocks that deviate most.
- rounds: one collective call; then the segments as each member has them are stored as mirrors of one master, and all
  are restored once, as the next round would, which is in the time.

Of the first two the faster of one call after the other and one batch counts, in each size. Times are taken for 1, 2, 4
… agents until the round takes too long, and interpolated between the last two sizes. Memory is what is kept of all
agents between two rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from homenode_kv.bench.collective import SHARE, Sizes, batched, collective, round_of, serial
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.bench.shapes import random_engine
from homenode_kv.bench.timing import in_turns
from homenode_kv.composing import Private, Request
from homenode_kv.engine import Engine, GroupForward
from homenode_kv.families import Families
from homenode_kv.kin import Standing
from homenode_kv.layout import blocks_of
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.segments import Segments
from homenode_kv.sheets import sheet_geometry

SLO_MS = 1_500
AGENTS_MAX = 64
ON_CPU = "random-16m"
"""Of the larger shape one core computes not even two dense prompts in that time."""
POOL_BYTES = 256 << 20
"""What `homenode kv serve` takes unless it is told otherwise; on CUDA all that the model leaves free."""
ROUND = "round"
MIRROR_MAX = 0.5
"""Of a member, what its mirror takes at most: room for more is not made."""

Calls = Mapping[str, Callable[[list[Request]], object]]


@dataclass(eq=False)
class Way:
    """One way to compute rounds.

    Attributes:
        calls: of which the fastest counts.
        fixed, each: bytes that are kept of no agent in particular, and of every one.
        ms: of a round, by its agents.
    """

    calls: Calls
    fixed: float
    each: float
    ms: dict[int, float] = field(default_factory=dict)

    def by_time(self) -> float:
        """Agents within the SLO; the largest size that was measured where none took longer."""
        fits = max((size for size, ms in self.ms.items() if ms <= SLO_MS), default=0)
        beyond = min((size for size, ms in self.ms.items() if ms > SLO_MS and size > fits), default=None)
        if beyond is None or not fits:
            return fits
        share = (SLO_MS - self.ms[fits]) / (self.ms[beyond] - self.ms[fits])
        return fits + share * (beyond - fits)

    def by_memory(self, budget: int) -> float:
        """Agents whose KV fits."""
        return max(0.0, (budget - self.fixed) / self.each)

    def over(self) -> bool:
        """Whether some size took too long."""
        return max(self.ms.values(), default=0.0) > SLO_MS


def dense(engine: Engine, requests: list[Request]) -> list[object]:
    """Whole prompts, which has the model's own causal attention."""
    return [engine.prefill(request.tokens) for request in requests]


def after_past(engine: Engine, requests: list[Request]) -> list[object]:
    """What comes after each kept past, one agent after the other."""
    return [engine.prefill(request.tokens[len(past) :], kv) for request, past, kv in _pasts(requests)]


def after_pasts(engine: Engine, requests: list[Request]) -> GroupForward:
    """The same in one batch."""
    prompts = [request.tokens for request in requests]
    layers, two, _, heads, dim = engine.geometry.shape(0)
    longest = max(map(len, prompts))
    kv = torch.zeros(
        (layers, two, len(prompts), longest, heads, dim), dtype=engine.geometry.dtype, device=engine.device
    )
    after = []
    for row, (request, past, past_kv) in enumerate(_pasts(requests)):
        kv[:, :, row, : len(past)] = past_kv
        after.append(range(len(past), len(request.tokens)))
    return engine.refresh_group(prompts, kv, after)


def _pasts(requests: list[Request]) -> list[tuple[Request, tuple[int, ...], Tensor]]:
    """Each request with its kept past."""
    pasts = [(request, request.parts[0]) for request in requests]
    return [
        (request, past.tokens, past.kv) for request, past in pasts if isinstance(past, Private) and past.kv is not None
    ]


def room_for(engine: Engine, requests: list[Request], sizes: Sizes) -> Families:
    """Room for the members of a round of all of them."""
    blocks = sizes.segments * blocks_of(sizes.segment_tokens)
    sheets = math.ceil(MIRROR_MAX * engine.geometry.layers * blocks) * len(requests)
    return Families(
        Pool(Pages(engine.geometry, 2 * blocks, engine.device)),
        Pool(Pages(sheet_geometry(engine.geometry), sheets, engine.device)),
        share_max=1.0,
    )


def in_rounds(engine: Engine, segments: Segments, families: Families, requests: list[Request]) -> Standing:
    """One collective call, its members stored, and all of them restored."""
    done = collective(engine, segments, requests)
    families.put(ROUND, {name: done.composite(name) for name in done.forwards}, done.plan.deviation)
    for name in done.forwards:
        if families.restore(ROUND, name) is None:
            raise AssertionError(f"{name} was not kept")
    return families.standing()


def ways_of(engine: Engine, segments: Segments, requests: list[Request], sizes: Sizes) -> dict[str, Way]:
    """The ways, with the bytes that each keeps; those of mirrors as a round of four has them."""
    block = engine.geometry.block_bytes
    whole = block * blocks_of(len(requests[0].tokens))
    own = block * blocks_of(len(requests[0].tokens) - sizes.segments * sizes.segment_tokens)
    shared = block * sizes.segments * blocks_of(sizes.segment_tokens)
    families = room_for(engine, requests, sizes)
    kept = in_rounds(engine, segments, families, requests[:4])
    mirror = kept.mirror_bytes / kept.mirrors
    return {
        "prefix-cache": Way(
            {
                "whole": partial(dense, engine),
                "serial": partial(after_past, engine),
                "batch": partial(after_pasts, engine),
            },
            0.0,
            whole,
        ),
        "per-request": Way(
            {"serial": partial(serial, engine, segments), "batch": partial(batched, engine, segments)}, shared, whole
        ),
        "rounds": Way({"call": partial(in_rounds, engine, segments, families)}, 2 * shared - mirror, own + mirror),
    }


def measure(ways: Mapping[str, Way], requests: list[Request], repeats: int, device: str) -> None:
    """Rounds of twice as many agents each time, in every way that still keeps to the SLO."""
    size = 1
    while size <= len(requests):
        left = {
            f"{name} {call}": (way, made)
            for name, way in ways.items()
            if not way.over()
            for call, made in way.calls.items()
        }
        if not left:
            return
        calls = {name: partial(made, requests[:size]) for name, (_, made) in left.items()}
        if device.startswith("cuda"):
            calls = {name: call for name, call in calls.items() if fits(call)}
        took = in_turns(calls, repeats, device)
        for name, ms in took.items():
            way = left[name][0]
            way.ms[size] = min(ms, way.ms.get(size, ms))
        size *= 2


def fits(call: Callable[[], object]) -> bool:
    """Whether the device has memory for it; on a device that counts before it computes, asking is trying."""
    try:
        call()
        return True
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # not before: the error holds what was computed
    return False


@group("slo")
def agents_in_time(bench: Bench) -> Iterator[Row]:
    """Rows `slo/WAY`: the agents of a round that keeps to the SLO and whose KV fits, and what bounds them."""
    cuda = bench.device.startswith("cuda")
    bench = bench if cuda or bench.shape != Bench.shape else replace(bench, shape=ON_CPU)
    sizes = Sizes(segment_tokens=2048 if cuda else 64 if bench.quick else 512)
    engine, repeats = random_engine(bench.shape, bench.device), 1 if bench.quick else 2
    budget = torch.cuda.mem_get_info(engine.device)[0] if cuda else POOL_BYTES
    segments, requests = round_of(engine, 4 if bench.quick else AGENTS_MAX, sizes)
    bench.tell(f"agents within {SLO_MS} ms: {bench.shape}")
    ways = ways_of(engine, segments, requests, sizes)
    measure(ways, requests, repeats, bench.device)
    yield from _rows(bench, ways, budget, len(requests[0].tokens), repeats)


def _rows(bench: Bench, ways: Mapping[str, Way], budget: int, tokens: int, repeats: int) -> Iterator[Row]:
    served = {name: min(way.by_time(), way.by_memory(budget)) for name, way in ways.items()}
    for name, way in ways.items():
        by_time, by_memory = way.by_time(), way.by_memory(budget)
        yield bench.timed(
            f"slo/{name}",
            int(served[name]),
            f"agents in {SLO_MS} ms",
            repeats,
            prefix_cache=int(served["prefix-cache"]),
            times_prefix_cache=served[name] / max(1.0, served["prefix-cache"]),
            by_time=by_time if way.over() else f"{by_time:g} and more",
            by_memory=int(by_memory),
            bytes_each=int(way.each),
            budget_bytes=budget,
            prompt_tokens=tokens,
            clock="wall" if bench.device.startswith("cuda") else "CPU time of one thread",
            refreshed_blocks=0.0 if name == "prefix-cache" else SHARE,
            not_in_it="decoding, and making the segments' bases",
            **{f"ms_at_{size}": ms for size, ms in way.ms.items()},
        )
