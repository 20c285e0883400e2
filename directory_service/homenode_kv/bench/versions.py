"""From one version of an artifact to the next: what is computed, how good it is, and what the next version takes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from homenode_kv.bench.exactness import off
from homenode_kv.bench.prompts import Prompt as Asked
from homenode_kv.bench.prompts import prompts_of
from homenode_kv.bench.rows import Bench, Row, group
from homenode_kv.costs import Tier
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import TASKS
from homenode_kv.diffs import Mirror
from homenode_kv.engine import Engine
from homenode_kv.entries import Held
from homenode_kv.ident import Version
from homenode_kv.layout import blocks_of
from homenode_kv.pages import Pages
from homenode_kv.planner import Demand
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT
from homenode_kv.sheets import sheet_geometry
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.prompts import Piece, Prompt

SEEDS_FROM = 3 << 44
EDITED = 6  # tokens
WHERE = {"start": 0.1, "middle": 0.5, "end": 0.9}
#: Nothing kept; the old version's prompt, exactly; its base, moved; the new version's base, made in the call.
WAYS = ("dense", "exact", "moved", "based")


@dataclass
class _Sum:
    prompts: int = 0
    tokens: int = 0
    computed: int = 0
    based: int = 0
    refreshed: int = 0
    cpu_ms: float = 0.0
    deviation: float = 0.0
    right: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class _Edit:
    """A prompt over the new version, at `at` of its pieces, and the same over the old one."""

    asked: Asked
    at: int
    old: Prompt
    new: Prompt


@group("versions")
def versions(bench: Bench) -> Iterator[Row]:
    """Rows `versions/EDIT/WAY`: share of a prompt's tokens that is computed; `versions/EDIT/pages`: bytes."""
    count, shape = (1, Shape(segment_tokens=128)) if bench.quick else (6, Shape(segment_tokens=256))
    for where, share in WHERE.items():
        bench.tell(f"versions: an edit at the {where}")
        seeds = range(SEEDS_FROM, SEEDS_FROM + count)
        edits = [
            _edit(one, share, random.Random(seed))
            for task in TASKS
            for seed, one in zip(seeds, prompts_of(task, seeds, shape), strict=True)
        ]
        for way in WAYS:
            total = _Sum()
            for edit in edits:
                _add(total, bench.demo, edit, way)
            yield bench.row(
                f"versions/{where}/{way}",
                (total.computed + total.based) / total.tokens,
                "share of tokens computed",
                total.prompts,
                tokens=total.tokens / total.prompts,
                computed=total.computed / total.prompts,
                for_a_base=total.based / total.prompts,
                refreshed=total.refreshed / total.prompts,
                deviation=total.deviation / total.prompts,
                right=sum(total.right) / len(total.right),
                questions=len(total.right),
                cpu_ms=total.cpu_ms / total.prompts,
            )
        yield _pages(bench, where, edits)


def _edit(asked: Asked, share: float, draw: random.Random) -> _Edit:
    """The old version has other words there, some that are gone now, or lacks some."""
    at = draw.randrange(len(asked.segments))
    text = asked.segments[at]
    cut, words = int(share * len(text)), tuple(draw.choices(text, k=EDITED))
    old = draw.choice(
        [
            (*text[:cut], *words, *text[cut + EDITED :]),
            (*text[:cut], *words, *text[cut:]),
            text[:cut] + text[cut + EDITED :],
        ]
    )
    pieces = [Piece(one, f"{name}", Version(1, 1)) for name, one in enumerate(asked.segments)]
    own, question = Piece(asked.own), Piece(asked.asked[0].question)

    def prompt(piece: Piece) -> Prompt:
        return Prompt((), (own, *pieces[:at], piece, *pieces[at + 1 :], question))

    return _Edit(asked, at + 1, prompt(Piece(old, f"{at}", Version(1, 1))), prompt(Piece(text, f"{at}", Version(1, 2))))


def _keeper(engine: Engine, edit: _Edit) -> Keeper:
    blocks = 4 * blocks_of(len(edit.old.tokens) + len(edit.new.tokens))
    pools = [Pool(Pages(one, blocks, engine.device)) for one in (engine.geometry, sheet_geometry(engine.geometry))]
    return Keeper(engine, pools[0], "f" * 64, b"bench", lambda holding: None, pools[1])


def _add(total: _Sum, engine: Engine, edit: _Edit, way: str) -> None:
    keeper, old = _keeper(engine, edit), edit.old
    for at, piece in enumerate(old.pieces):  # no time is measured, so that reuse is tried
        if piece.artifact and way != "dense" and (at != edit.at or way in ("moved", "based")):
            keeper.keep(piece, engine.prefill(piece.tokens).kv, EXACT)
    if way != "dense":
        keeper.prompts.keep(old, old.tokens, engine.prefill(old.tokens).kv, None)
    changed = edit.new.pieces[edit.at]
    assert changed.version is not None
    keeper.supersede(changed.artifact, changed.version)
    began = time.process_time()
    based = keeper.base(changed).computed if way == "based" else 0
    composed = keeper.compose(edit.new, Demand(exact=way in ("dense", "exact")))
    total.cpu_ms += (time.process_time() - began) * 1000
    start = sum(len(piece.tokens) for piece in edit.new.pieces[: edit.at])
    here = slice(start, start + len(changed.tokens))
    total.prompts += 1
    total.tokens += composed.whole.tokens
    total.computed += composed.whole.dense + composed.whole.refreshed
    total.refreshed += composed.whole.refreshed
    total.based += based
    total.deviation += off(composed.forward.kv[:, :, here], engine.prefill(edit.new.tokens).kv[:, :, here])
    context = composed.forward.kv[:, :, : len(edit.asked.context)]
    for one in edit.asked.asked:
        written = engine.decode(engine.prefill(one.question, context), len(one.answer)).tokens
        total.right.append(written == one.answer)


def _pages(bench: Bench, where: str, edits: list[_Edit]) -> Row:
    """What the new version's base adds to the old one's, beside a mirror of it with its indices."""
    taken = mirrors = whole = 0
    for edit in edits:
        keeper = _keeper(bench.demo, edit)
        old, new = edit.old.pieces[edit.at], edit.new.pieces[edit.at]
        keeper.base(old)
        with _held(keeper, old) as held:  # a call still has it
            before = keeper.pool.bytes(Tier.DEVICE)
            keeper.base(new)
            taken += keeper.pool.bytes(Tier.DEVICE) - before
            with _held(keeper, new) as successor:
                mirror = Mirror.of(successor.kv(), held.kv())
        mirrors, whole = mirrors + mirror.bytes, whole + mirror.dense_bytes
    return bench.row(
        f"versions/{where}/pages", taken / whole, "share of its bytes that the next version takes", len(edits),
        mirror=mirrors / whole, bytes=taken, whole_bytes=whole,
    )  # fmt: skip


def _held(keeper: Keeper, piece: Piece) -> Held:
    held = keeper.pool.get(keeper.key_of(piece).digest)
    assert held is not None
    return held
