"""The prompts of a group, put together from what is kept: which token of which segment goes where, and one rotation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homenode_kv.costs import NS_PER_MS
from homenode_kv.engine import Engine
from homenode_kv.errors import OutOfMemory, WrongShape
from homenode_kv.ident import SegmentKey
from homenode_kv.layout import KEYS, VALUES, blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.provenance import EXACT
from homenode_kv.segments import Segments
from homenode_kv.slots import Slots


@dataclass(frozen=True, eq=False, slots=True)
class Private:
    """A member's own text.

    Attributes:
        tokens: of it.
        kv: of these tokens at their very place in this prompt, where it is kept; None: they are computed.
    """

    tokens: tuple[int, ...]
    kv: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Shared:
    """A segment that others of the group may read too.

    Attributes:
        key, tokens: of it.
        kv: canonical, what serves in place of its base: the first that a group names is for all of it.
    """

    key: SegmentKey
    tokens: tuple[int, ...]
    kv: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """One member's prompt."""

    member: str
    parts: tuple[Private | Shared, ...]

    @property
    def tokens(self) -> list[int]:
        """The whole prompt."""
        return [token for part in self.parts for token in part.tokens]


@dataclass(frozen=True, eq=False, slots=True)
class Canonical:
    """The segments of a group, each once, each from a block of its own.

    Attributes:
        keys: of the segments, in order of appearance.
        starts: first block of each, and the number of blocks.
        kv: [L, 2, 32 · blocks, Hkv, d], each segment at positions 0, 1, …
        lookups, loads, bases: how many were looked up, loaded, computed.
    """

    keys: tuple[SegmentKey, ...]
    starts: tuple[int, ...]
    kv: Tensor
    lookups: int
    loads: int
    bases: int

    def split(self, blocks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Blocks of the group as blocks of each segment."""
        bounds = list(zip(self.starts, self.starts[1:], strict=False))
        return tuple(tuple(block - low for block in blocks if low <= block < high) for low, high in bounds)


@dataclass(frozen=True, eq=False, slots=True)
class Composed:
    """The group's prompts over kept KV; M is the number of shared tokens over all members.

    Attributes:
        prompts: tokens of each member.
        slots: of all members, with one slot more than T of the longest prompt.
        own: bool [N, T], where a member's own KV was given.
        rows, targets: [M], member and position of each shared token, rising.
        sources, blocks, delta: [M], its place in the canonical KV, its block there, and how far it was moved.
        block_count: G.
        rotated_bytes: keys that were moved.
    """

    prompts: list[list[int]]
    slots: Slots
    own: Tensor
    rows: Tensor
    targets: Tensor
    sources: Tensor
    blocks: Tensor
    delta: Tensor
    block_count: int
    rotated_bytes: int

    @property
    def kv(self) -> Tensor:
        """[L, 2, N, T, Hkv, d], a view; zero where nothing is kept."""
        return self.slots.group(max(map(len, self.prompts)))


def load(engine: Engine, segments: Segments, group: Sequence[Request]) -> Canonical:
    """Each shared segment of a group, looked up once, and loaded once or computed once, unless its KV is given.

    Raises OutOfMemory.
    """
    wanted: dict[str, Shared] = {}
    for request in group:
        for part in request.parts:
            if isinstance(part, Shared):
                wanted.setdefault(part.key.digest, part)
    starts = [0]
    for part in wanted.values():
        starts.append(starts[-1] + blocks_of(len(part.tokens)))
    kv = torch.zeros(
        engine.geometry.shape(starts[-1] * BLOCK_TOKENS), dtype=engine.geometry.dtype, device=engine.device
    )
    loads = given = 0
    for part, start in zip(wanted.values(), starts, strict=False):
        into = kv[:, :, start * BLOCK_TOKENS :][:, :, : len(part.tokens)]
        if part.kv is not None:
            into.copy_(part.kv)
            given += 1
        elif _loaded(segments, part, into):
            loads += 1
        else:
            _computed(engine, segments, part, into)
    keys = tuple(part.key for part in wanted.values())
    lookups = len(wanted) - given
    return Canonical(keys, tuple(starts), kv, lookups, loads, lookups - loads)


def _loaded(segments: Segments, part: Shared, into: Tensor) -> bool:
    found = segments.find(part.key)
    if found is None or not found.choice.reload:
        return False
    if found.tokens != len(part.tokens):
        raise WrongShape(f"a segment of {len(part.tokens)} tokens is kept with {found.tokens}")
    try:
        held = segments.use(found)
    except OutOfMemory:  # it lies in a slower tier, and the device is full of what cannot go
        held = None
    if held is None:
        return False
    with held:
        into.copy_(held.kv())
    return True


def base(engine: Engine, segments: Segments, key: SegmentKey, tokens: Sequence[int]) -> tuple[Tensor, int]:
    """The KV of a text at position 0, and how many of its tokens were computed: what follows the longest beginning of
    which exact KV is kept, of an earlier version of the text as well."""
    past, cut = None, 0
    if (prefix := segments.prefix(key.fingerprint, key.salt, tokens)) is not None:
        choice = segments.look(prefix.digest)
        with contextlib.suppress(OutOfMemory):
            if choice is not None and choice.reload and (held := segments.use(prefix)) is not None:
                with held:
                    past, cut = held.kv(prefix.tokens), prefix.tokens
    if past is not None and cut == len(tokens):
        return past, 0
    began_ns = time.monotonic_ns()
    kv = engine.prefill(tokens[cut:], past).kv
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    segments.costs.prefilled(len(tokens) - cut, (time.monotonic_ns() - began_ns) / NS_PER_MS)
    return kv, len(tokens) - cut


def _computed(engine: Engine, segments: Segments, part: Shared, into: Tensor) -> None:
    into.copy_(base(engine, segments, part.key, part.tokens)[0])
    try:
        segments.put(part.key, part.tokens, into, EXACT)
    except OutOfMemory:
        pass  # this round has it; the next computes it again


def compose(engine: Engine, canonical: Canonical, group: Sequence[Request]) -> Composed:
    """Puts the kept KV to its places, all keys moved by one rotation."""
    g, first = engine.geometry, dict(zip((key.digest for key in canonical.keys), canonical.starts, strict=False))
    prompts = [request.tokens for request in group]
    longest = max(map(len, prompts))
    slots = Slots(g, longest + 1, engine.device, members=len(group))
    kv = slots.group(longest)
    own = torch.zeros(len(group), longest, dtype=torch.bool, device=engine.device)
    rows: list[int] = []
    targets: list[int] = []
    sources: list[int] = []
    starts: list[int] = []
    for at, request in enumerate(group):
        place = 0
        for part in request.parts:
            count = len(part.tokens)
            if isinstance(part, Shared):
                start = first[part.key.digest] * BLOCK_TOKENS
                rows += [at] * count
                targets += range(place, place + count)
                sources += range(start, start + count)
                starts += [start] * count
            elif part.kv is not None:
                if g.check(part.kv) != count:
                    raise WrongShape(f"KV of {part.kv.shape[2]} tokens for a text of {count}")
                kv[:, :, at, place : place + count] = part.kv
                own[at, place : place + count] = True
            place += count
    row, target, source, start_ = torch.tensor([rows, targets, sources, starts], device=engine.device).long()
    delta = target - (source - start_)
    empty = ~own
    empty[row, target] = False
    blank, gap = empty.nonzero(as_tuple=True)
    kv[:, :, blank, gap] = 0  # masked is not enough: what memory held may be no number
    if rows:
        kv[:, KEYS, row, target] = engine.rotation.turn(canonical.kv[:, KEYS, source], delta)
        kv[:, VALUES, row, target] = canonical.kv[:, VALUES, source]
    moved = len(rows) * g.token_bytes // 2
    return Composed(
        prompts, slots, own, row, target, source, source // BLOCK_TOKENS, delta, canonical.starts[-1], moved
    )
