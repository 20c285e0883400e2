"""What matching a segment with a full slot of anchors costs, over the length of the segment.

Beside it the plain prefill that a match saves, and a match that compares all tokens instead of a spread of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from homenode_kv.anchors import Anchors, Settings, Slot
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.bench.shapes import random_engine, random_tokens
from homenode_kv.bench.timing import in_turns
from homenode_kv.engine import Engine

ANCHORS = 20
REPEATS = 2
_SLOT = Slot("bench", "template", "0", "agent")


@group("matching")
def matching(bench: Bench) -> Iterator[Row]:
    """Rows `matching/TOKENS`: gate and estimate together, as a share of the plain prefill of as many tokens."""
    engine = random_engine(bench.shape, bench.device)
    for tokens in _lengths(bench):
        bench.tell(f"matching: {tokens} tokens")
        prompt = random_tokens(engine, tokens, 1)
        base = torch.randn(engine.geometry.shape(tokens), device=engine.device, dtype=engine.geometry.dtype)
        some = full_slot(engine, base)
        gate = some.gate(_SLOT, base)
        ways = {
            "gate": partial(some.gate, _SLOT, base),
            "estimate": partial(some.estimate, gate, base),
            "dense": partial(engine.prefill, prompt),
        }
        took = in_turns(ways, REPEATS, bench.device)
        some.settings = replace(some.settings, compared=tokens)
        whole = in_turns({"gate": partial(some.gate, _SLOT, base)}, REPEATS, bench.device)
        yield bench.timed(
            f"matching/{tokens}",
            (took["gate"] + took["estimate"]) / took["dense"],
            "share of a plain prefill",
            REPEATS,
            **{f"{name}_ms": ms for name, ms in took.items()},
            gate_of_all_tokens_ms=whole["gate"],
            anchors=ANCHORS,
            anchors_used=len(gate.anchors),
            anchor_bytes=2 * base[1:].nbytes,
        )


def full_slot(engine: Engine, base: Tensor) -> Anchors:
    """A slot of 20 anchors. They share their tensors, larger than caches are: of their own they might not fit."""
    settings = Settings(gamma=1.0, anchors_max=ANCHORS, bytes_max=1 << 50)
    anchors, other = Anchors(engine.geometry, engine.rotation, settings), base + 0.1
    first = anchors.find(_SLOT, anchors.observe(_SLOT, other, base, 0))
    for _ in range(ANCHORS - 1):
        anchors.find(_SLOT, anchors.observe(_SLOT, other, base, 0)).offset = first.offset
    return anchors


def _lengths(bench: Bench) -> tuple[int, ...]:
    if bench.quick:
        return (256, 1024)
    return (8192, 32_768) if bench.device.startswith("cuda") else (512, 2048)
