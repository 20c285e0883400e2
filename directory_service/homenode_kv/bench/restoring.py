"""A mirror restored into pages: fused, where Triton and a CUDA device are, against gather, copy, turn and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from homenode_kv import kernels
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.bench.shapes import random_engine
from homenode_kv.bench.timing import in_turns
from homenode_kv.diffs import Mirror
from homenode_kv.layout import blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.pages import Pages

DIRTY = (0.05, 0.1, 0.3)
DELTA = 123


@group("restore")
def restoring(bench: Bench) -> Iterator[Row]:
    """Rows `restore/f=F`: how fast, and whether bit for bit; on CUDA how many times faster fused is."""
    engine = random_engine(bench.shape, bench.device)
    cuda = bench.device.startswith("cuda")
    tokens = 8192 if cuda else 512
    geometry, count = engine.geometry, blocks_of(tokens)
    master = torch.randn(geometry.shape(tokens), device=engine.device).to(geometry.dtype)
    pages = Pages(geometry, 2 * count, engine.device)
    theirs, ours = list(range(count)), list(range(count, 2 * count))
    pages.write(theirs, master)
    for share in DIRTY[1:2] if bench.quick else DIRTY:
        bench.tell(f"restore: f = {share:g}")
        member = master.clone()
        for block in range(0, count, round(1 / share)):
            member[:, :, block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS] += 1
        mirror = Mirror.of(member, master)
        real = engine.rotation.shift(member, DELTA)

        def plain(one: Mirror = mirror) -> None:
            pages.write(ours, one.restore(pages.read(theirs, tokens), engine.rotation, DELTA))

        plain()
        exact = {"exact_plain": int(torch.equal(pages.read(ours, tokens), real))}
        ways: dict[str, Callable[[], object]] = {"plain": plain}
        if cuda and kernels.available():
            from homenode_kv.kernels.restore import restore_into

            def fused(one: Mirror = mirror) -> None:
                restore_into(pages, ours, one, theirs, tokens, engine.rotation, DELTA)

            pages.data[:, :, ours] = 0
            fused()
            exact["exact_fused"] = int(torch.equal(pages.read(ours, tokens), real))
            ways["fused"] = fused
        found = in_turns(ways, 3 if bench.quick else 10, bench.device)
        fastest = min(found.values())
        yield bench.timed(
            f"restore/f={mirror.dirty_share:.3g}",
            member.nbytes / fastest / 1e6,
            "GB/s",
            3 if bench.quick else 10,
            **{f"{name}_ms": ms for name, ms in found.items()},
            **exact,
            tokens=tokens,
            speedup_fused=found["plain"] / found["fused"] if "fused" in found else "not measured: no CUDA device",
        )
