"""A mirror restored into pages in one go (TokenDance, arXiv 2604.03143, section 4.3: fused restore).

The plain way makes the whole member beside the pages: copy the master, put in what differs, turn, write. Here each
program takes one block of one head from where it lies, the master's page or the mirror, turns its keys and writes them
to the page of the member: one launch a layer, nothing in between. Layers are separate launches so that a layer's
attention may begin while the next one is restored.

Bit for bit the plain way: angles come from the same computation, turns are made in fp32 without fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from homenode_kv.diffs import Mirror
from homenode_kv.errors import WrongShape
from homenode_kv.layout import blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.pages import Pages
from homenode_kv.rope import Rotation


@triton.jit
def _restore_layer(  # type: ignore[no-untyped-def]
    pages, sheet, table, masters, targets, cosines, sines, tokens, master_tokens, page_part,
    HEADS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
    HALF_WIDE: tl.constexpr, REST_WIDE: tl.constexpr, DIM_WIDE: tl.constexpr,
):  # fmt: skip
    """One block of one head: `pages` [2, B, 32, Hkv, d] of the layer, `sheet` [n, 2, 32, Hkv, d] of the mirror."""
    block, head = tl.program_id(0), tl.program_id(1)
    row = tl.load(table + block).to(tl.int64)
    master = tl.load(masters + block).to(tl.int64)
    target = tl.load(targets + block).to(tl.int64)
    token = tl.arange(0, BLOCK)[:, None]
    page_block = BLOCK * HEADS * DIM
    from_page = pages + tl.maximum(master, 0) * page_block
    from_sheet = sheet + tl.maximum(row, 0) * 2 * page_block
    into = pages + target * page_block
    fresh = row + token * 0 >= 0  # a column: the interpreter makes integers of scalar truths that it widens
    kept = (row + token * 0 < 0) & (master + token * 0 >= 0) & (block * BLOCK + token < master_tokens)
    written = block * BLOCK + token < tokens

    pair = tl.arange(0, HALF_WIDE)[None, :]
    turns = pair < HALF
    cos = tl.load(cosines + block * HALF + pair, mask=turns, other=0.0)
    sin = tl.load(sines + block * HALF + pair, mask=turns, other=0.0)
    first_at = token * (HEADS * DIM) + head * DIM + pair
    second_at = first_at + HALF
    first = tl.where(
        fresh,
        tl.load(from_sheet + first_at, mask=fresh & turns, other=0.0),
        tl.load(from_page + first_at, mask=kept & turns, other=0.0),
    )
    second = tl.where(
        fresh,
        tl.load(from_sheet + second_at, mask=fresh & turns, other=0.0),
        tl.load(from_page + second_at, mask=kept & turns, other=0.0),
    )
    first_wide, second_wide = first.to(tl.float32), second.to(tl.float32)
    turned_first = (first_wide * cos - second_wide * sin).to(first.dtype)
    turned_second = (second_wide * cos + first_wide * sin).to(first.dtype)
    tl.store(into + first_at, turned_first, mask=written & turns)
    tl.store(into + second_at, turned_second, mask=written & turns)

    if REST_WIDE > 0:  # dimensions that no rotation touches
        rest = tl.arange(0, REST_WIDE)[None, :]
        stays = rest < DIM - 2 * HALF
        rest_at = token * (HEADS * DIM) + head * DIM + 2 * HALF + rest
        keys = tl.where(
            fresh,
            tl.load(from_sheet + rest_at, mask=fresh & stays, other=0.0),
            tl.load(from_page + rest_at, mask=kept & stays, other=0.0),
        )
        tl.store(into + rest_at, keys, mask=written & stays)

    dim = tl.arange(0, DIM_WIDE)[None, :]
    whole = dim < DIM
    value_at = token * (HEADS * DIM) + head * DIM + dim
    values = tl.where(
        fresh,
        tl.load(from_sheet + page_block + value_at, mask=fresh & whole, other=0.0),
        tl.load(from_page + page_part + value_at, mask=kept & whole, other=0.0),
    )
    tl.store(into + page_part + value_at, values, mask=written & whole)


def restore_into(
    pages: Pages,
    blocks: Sequence[int],
    mirror: Mirror,
    master_blocks: Sequence[int],
    master_tokens: int,
    rotation: Rotation,
    delta: int | Tensor = 0,
) -> int:
    """Writes a mirror's member into `blocks` of `pages`, moved by `delta`; how many launches it took: one a layer.

    Args:
        pages: of the master and of the member.
        blocks: ⌈T/32⌉, none of them the master's.
        mirror: on the same device.
        master_blocks: of its master.
        master_tokens: how many tokens these hold.
        rotation: of the model.
        delta: for the whole member, or int [⌈T/32⌉], for each block.
    """
    g, count, device = pages.geometry, blocks_of(mirror.tokens), pages.data.device
    if len(blocks) != count or len(master_blocks) != blocks_of(master_tokens) or mirror.layers != g.layers:
        raise WrongShape(f"{len(blocks)} blocks for a mirror of {mirror.tokens} tokens in {mirror.layers} layers")
    if set(blocks) & set(master_blocks):
        raise WrongShape("a member is restored beside its master, not over it")
    table = torch.full((g.layers * count,), -1, dtype=torch.int32, device=device)
    table[mirror.place.long()] = torch.arange(mirror.place.numel(), dtype=torch.int32, device=device)
    masters = [*master_blocks[:count], *[-1] * (count - len(master_blocks))]
    where = torch.tensor([masters, list(blocks)], dtype=torch.int32, device=device)
    shift = torch.as_tensor(delta, dtype=torch.float32, device=device).expand(count)
    angles = (shift[:, None] * rotation.frequencies.to(device)).contiguous()
    cosines, sines = angles.cos(), angles.sin()
    half = rotation.frequencies.numel()
    sheet = mirror.data if mirror.data.numel() else pages.data.new_zeros(1)  # a pointer that is never followed
    for layer in range(g.layers):
        _restore_layer[(count, g.heads)](
            pages.data[layer], sheet, table[layer * count :], where[0], where[1], cosines, sines,
            mirror.tokens, master_tokens, pages.data.stride(1),
            HEADS=g.heads, DIM=g.dim, HALF=half, BLOCK=BLOCK_TOKENS, HALF_WIDE=triton.next_power_of_2(half),
            REST_WIDE=triton.next_power_of_2(g.dim - 2 * half) if g.dim > 2 * half else 0,
            DIM_WIDE=triton.next_power_of_2(g.dim), enable_fp_fusion=False,
        )  # fmt: skip
    return g.layers
