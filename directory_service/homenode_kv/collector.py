"""A round's prompts computed together (TokenDance, arXiv 2604.03143, section 4.2: the KV Collector).

The agents of a round read the same segments, each after a text of its own, so at other places. Reuse is decided once
for the group, not once a prompt: each segment is looked up and loaded once; one rotation moves all copies to their
places; one pass up to a check layer says how far the moved keys are from fresh ones; one selection takes the blocks
that deviate most; one pass refreshes these blocks and what is the members' own, layer by layer for all.

`chosen_by` says whose deviation decides. "master": the first member's alone, so that the check does not grow with the
group. "union": a block counts as much as in the member in which it deviates most, so all are checked.

What is kept of a round stays in the canonical frame: the segments' own bytes but for the refreshed blocks, turned back.
So members of a group differ in refreshed blocks alone, and there only above layer 0, which knows no context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from homenode_kv.composing import Canonical, Composed, Request, compose, load
from homenode_kv.engine import Engine, Forward, GroupForward
from homenode_kv.ident import SegmentKey
from homenode_kv.layout import KEYS
from homenode_kv.planner import CHECK_LAYER
from homenode_kv.provenance import EXACT, Provenance, approximate
from homenode_kv.rope import Rotation
from homenode_kv.segments import Segments

ChosenBy = Literal["master", "union"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What a round cost. The first six do not grow with the number of members that read the same segments.

    Attributes:
        lookups, loads: of segments, each once.
        bases: segments that were not kept, and were computed.
        rotations, checks, selections, passes: launches over the whole group.
        rotated_bytes: keys that were moved.
        checked_tokens: computed up to the check layer.
        refreshed_tokens: of shared segments, computed afresh.
        own_tokens: of the members' own text, computed.
    """

    lookups: int
    loads: int
    bases: int
    rotations: int
    checks: int
    selections: int
    passes: int
    rotated_bytes: int
    checked_tokens: int
    refreshed_tokens: int
    own_tokens: int


@dataclass(frozen=True, slots=True)
class ReusePlan:
    """What was decided for a group.

    Attributes:
        master: the member whose kept keys deviated least where they were computed afresh: to be kept dense.
        chosen_by: whose deviation chose the blocks.
        shared: the segments, in order of appearance.
        refreshed: blocks of each that were refreshed.
        deviation: of each member, on the check layer: kept keys against fresh ones in the refreshed blocks.
        left: of each member that was checked: its farthest token in the blocks that were not refreshed.
        counts: what it cost.
    """

    master: str
    chosen_by: ChosenBy
    shared: tuple[SegmentKey, ...]
    refreshed: tuple[tuple[int, ...], ...]
    deviation: Mapping[str, float]
    left: Mapping[str, float]
    counts: Counts


@dataclass(frozen=True, eq=False, slots=True)
class Collected:
    """Outcome of a round.

    Attributes:
        plan: what was decided.
        forwards: KV and next logits of each member's prompt; views into the group's.
        provenance: of that KV; where not all members were checked nobody knows its error.
    """

    plan: ReusePlan
    forwards: Mapping[str, Forward]
    provenance: Provenance
    _rotation: Rotation
    _canonical: Canonical | None
    _composed: Composed
    _group: GroupForward
    _chosen: Tensor

    @property
    def starts(self) -> dict[str, int]:
        """First block of each shared segment in what `composite` gives, by the segment's digest."""
        keys = self.plan.shared
        return dict(zip((key.digest for key in keys), self._canonical.starts, strict=False)) if self._canonical else {}

    @property
    def blocks(self) -> int:
        """Of what `composite` gives."""
        return self._composed.block_count

    def composite(self, member: str) -> Tensor:
        """The shared segments as this member has them, canonical: [L, 2, S, Hkv, d], each from a block of its own.

        What `member` does not read is as it is kept. Raises KeyError, and ValueError where nothing is shared.
        """
        if self._canonical is None:
            raise ValueError("nothing is shared in this group")
        at = list(self.forwards).index(member) if member in self.forwards else -1
        if at < 0:
            raise KeyError(member)
        made, c = self._canonical.kv.clone(), self._composed
        mine = (c.rows == at) & self._chosen[c.blocks]
        fresh = self._group.kv[1:, :, at, c.targets[mine]]
        made[1:, :, c.sources[mine]] = self._rotation.shift(fresh, -c.delta[mine])
        return made


@dataclass(frozen=True, eq=False, slots=True)
class Decision:
    """What a group reuses and what it computes; everything but the pass itself.

    Attributes:
        canonical, composed: the segments, and the prompts over them.
        off: deviation of each shared token; NaN in members that were not checked; None where nothing is shared.
        checked_tokens: computed to know it.
        chosen: bool [G], which blocks are refreshed.
        positions: what each member computes.
    """

    canonical: Canonical
    composed: Composed
    off: Tensor | None
    checked_tokens: int
    chosen: Tensor
    positions: list[list[int]]


def decide(
    engine: Engine,
    segments: Segments,
    group: Sequence[Request],
    *,
    share: float,
    chosen_by: ChosenBy = "union",
    layer: int = CHECK_LAYER,
    error_max: float = math.inf,
    refresh_max: float = 1.0,
) -> Decision:
    """Loads, moves, checks and selects for a group, of whose shared blocks `share` are refreshed, at least one.

    Beyond that share every block is refreshed in which a token is further off than `error_max`, and where those are
    more than `refresh_max` of all, all are: the share may be 0 then. Segments that are not kept are computed once,
    alone, and kept. Of a model without the check layer `layer` the last one is. Raises ValueError, WrongShape,
    InvalidTokens, PromptTooLong, OutOfMemory.
    """
    if not group or len({request.member for request in group}) < len(group):
        raise ValueError("a group has members of different names")
    if not 0 <= share <= 1 or (not share and error_max == math.inf):
        raise ValueError("a group refreshes a share above 0 and up to 1, or what is too far off")
    for request in group:
        engine.check(request.tokens)
    canonical = load(engine, segments, group)
    composed = compose(engine, canonical, group)
    off, checked = _check(engine, group, composed, chosen_by, _within(engine, layer))
    chosen = _select(composed, off, share, error_max, refresh_max)
    return Decision(canonical, composed, off, checked, chosen, _positions(composed, chosen))


def collect(
    engine: Engine,
    segments: Segments,
    group: Sequence[Request],
    *,
    share: float,
    chosen_by: ChosenBy = "union",
    layer: int = CHECK_LAYER,
    error_max: float = math.inf,
    refresh_max: float = 1.0,
) -> Collected:
    """Computes the prompts of a group together; the arguments and what is raised are those of `decide`."""
    layer = _within(engine, layer)
    decision = decide(
        engine,
        segments,
        group,
        share=share,
        chosen_by=chosen_by,
        layer=layer,
        error_max=error_max,
        refresh_max=refresh_max,
    )
    canonical, composed, chosen = decision.canonical, decision.composed, decision.chosen
    names = [request.member for request in group]
    kept_keys = _refreshed_keys(composed, composed.kv, chosen, layer)  # before they are overwritten
    forward = engine.refresh_slots(composed.prompts, composed.slots, decision.positions)
    deviation = _deviation(composed, kept_keys, _refreshed_keys(composed, forward.kv, chosen, layer), chosen)
    left = _left(composed, decision.off, chosen, names)
    plan = ReusePlan(
        names[min(range(len(names)), key=lambda at: deviation[at])],
        chosen_by,
        canonical.keys,
        canonical.split(chosen.nonzero().flatten().tolist()),
        dict(zip(names, deviation, strict=True)),
        left,
        _counts(decision),
    )
    forwards = {name: forward.member(at, len(composed.prompts[at])) for at, name in enumerate(names)}
    stale = len(composed.rows[~chosen[composed.blocks]].unique())  # members that have blocks as they were kept
    known = max(left.values(), default=0.0) if len(left) == stale else math.inf
    provenance = approximate(known) if stale else EXACT
    kept = canonical if canonical.keys else None
    return Collected(plan, forwards, provenance, engine.rotation, kept, composed, forward, chosen)


def _within(engine: Engine, layer: int) -> int:
    return min(layer, engine.geometry.layers - 1)


def _counts(decision: Decision) -> Counts:
    canonical, checked = decision.canonical, decision.off is not None
    refreshed = int(decision.chosen[decision.composed.blocks].sum())
    return Counts(
        lookups=canonical.lookups,
        loads=canonical.loads,
        bases=canonical.bases,
        rotations=int(bool(canonical.keys)),
        checks=int(checked),
        selections=int(checked),
        passes=1,
        rotated_bytes=decision.composed.rotated_bytes,
        checked_tokens=decision.checked_tokens,
        refreshed_tokens=refreshed,
        own_tokens=sum(map(len, decision.positions)) - refreshed,
    )


def _check(
    engine: Engine, group: Sequence[Request], composed: Composed, chosen_by: ChosenBy, layer: int
) -> tuple[Tensor | None, int]:
    """Deviation of each shared token, NaN in members that were not asked; and how many tokens were computed for it."""
    if not len(composed.rows):
        return None, 0
    asked = range(len(group)) if chosen_by == "union" else range(int(composed.rows[0]), int(composed.rows[0]) + 1)
    prompts, positions, wanted = [], [], []
    for at in asked:
        targets = composed.targets[composed.rows == at]
        if not len(targets):
            continue
        until = int(targets[-1]) + 1
        prompts.append(composed.prompts[at])
        open_ = (~composed.own[at, :until]).nonzero().flatten()
        positions.append(open_.tolist())
        wanted.append((at, torch.isin(open_, targets)))
    longest = max(map(len, prompts))
    members = torch.tensor([at for at, _ in wanted], device=composed.kv.device)
    rows = engine.deviation(prompts, composed.kv[: layer + 1, :, members, :longest], positions, layer)
    off = torch.full(composed.rows.shape, torch.nan, device=composed.kv.device)
    for (at, shared), row in zip(wanted, rows, strict=True):
        off[composed.rows == at] = row[shared]
    return off, sum(map(len, positions))


def _select(composed: Composed, off: Tensor | None, share: float, error_max: float, refresh_max: float) -> Tensor:
    """Which blocks are refreshed, bool [G]: a block is as far off as its farthest token in any member."""
    chosen = torch.zeros(composed.block_count, dtype=torch.bool, device=composed.own.device)
    if off is not None:
        score = torch.zeros(composed.block_count, device=off.device)
        score.scatter_reduce_(0, composed.blocks, off.nan_to_num(0.0), "amax")
        chosen[score.topk(math.ceil(share * composed.block_count)).indices] = True
        chosen |= score > error_max
        if int(chosen.sum()) > refresh_max * composed.block_count:  # little is left to reuse: a plain prefill is exact
            chosen[:] = True
    return chosen


def _positions(composed: Composed, chosen: Tensor) -> list[list[int]]:
    """What each member computes: its own text, the chosen blocks, and its last token."""
    compute = ~composed.own
    kept = ~chosen[composed.blocks]
    compute[composed.rows[kept], composed.targets[kept]] = False
    rows = []
    for at, prompt in enumerate(composed.prompts):
        compute[at, len(prompt) - 1] = True
        rows.append(compute[at, : len(prompt)].nonzero().flatten().tolist())
    return rows


def _refreshed_keys(composed: Composed, kv: Tensor, chosen: Tensor, layer: int) -> Tensor:
    """Of the check layer, in the refreshed blocks of all members: fp32 [tokens, Hkv · d]."""
    here = chosen[composed.blocks]
    return kv[layer, KEYS][composed.rows[here], composed.targets[here]].flatten(1).float()


def _deviation(composed: Composed, kept: Tensor, fresh: Tensor, chosen: Tensor) -> list[float]:
    """Of each member: kept keys against fresh ones in the refreshed blocks; 0 where it has none."""
    rows = composed.rows[chosen[composed.blocks]]
    zero = torch.zeros(len(composed.prompts), device=fresh.device)
    off = zero.index_add(0, rows, (fresh - kept).square().sum(1))
    size = zero.index_add(0, rows, fresh.square().sum(1))
    ratios: list[float] = (off / size.clamp_min(1e-12)).sqrt().tolist()
    return ratios


def _left(composed: Composed, off: Tensor | None, chosen: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Greatest deviation of each checked member in blocks that are not refreshed."""
    if off is None:
        return {}
    left = {}
    for at, name in enumerate(names):
        mine = off[(composed.rows == at) & ~chosen[composed.blocks]]
        if len(mine) and not mine[0].isnan():
            left[name] = float(mine.max())
    return left
