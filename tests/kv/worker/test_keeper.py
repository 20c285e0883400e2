"""What a worker keeps, without processes: bases from their predecessors, prompts cut at what changed, nothing leaks."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
import torch

import homenode
from homenode_api.v1 import types_pb2 as t
from homenode_kv.costs import Tier
from homenode_kv.engine import Engine
from homenode_kv.errors import InvalidTokens, NoSuchRound, OutOfMemory, PromptTooLong, UnsupportedModel
from homenode_kv.families import sheet_geometry
from homenode_kv.ident import Version
from homenode_kv.pages import Pages
from homenode_kv.planner import Demand
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT, Kind, own_decode
from homenode_kv.worker.artifacts import Holding
from homenode_kv.worker.generation import Job, Stopped, write
from homenode_kv.worker.keeper import Base, Keeper
from homenode_kv.worker.models import load
from homenode_kv.worker.outputs import Outputs
from homenode_kv.worker.prompts import Piece, Prompt
from homenode_kv.worker.refusals import error_of
from homenode_kv.worker.text import Pieces, Tokenizer
from tests.kv.models import deviation, engine, tokens
from tests.kv.worker.parts import save_model

TOKENIZER = Tokenizer("", lambda text: list(text.encode()), lambda ids: " ".join(map(str, ids)))

EXACTLY = Demand(exact=True)


def version(n: int) -> Version:
    return Version(7, n)


def made(blocks: int = 64) -> tuple[Keeper, list[Holding]]:
    told: list[Holding] = []
    own = engine()
    pool = Pool(Pages(own.geometry, blocks, own.device))
    sheets = Pool(Pages(sheet_geometry(own.geometry), blocks, own.device))
    return Keeper(own, pool, "f" * 64, b"salt", told.append, sheets), told


def held(keeper: Keeper) -> None:
    """Blocks in use are those of entries."""
    keeper.pool.check()


def prompt(*pieces: Piece) -> Prompt:
    return Prompt((), pieces)


def dense(own: Engine, ids: list[int]) -> torch.Tensor:
    return own.prefill(ids).kv


def test_a_base_is_computed_from_the_first_edit_and_is_exact() -> None:
    keeper, told = made()
    old = tokens(100, seed=1)
    new = [*old[:70], *tokens(50, seed=2)]
    assert keeper.base(Piece(tuple(old), "a", version(1))).computed == 100
    assert keeper.supersede("a", version(2)) == 1
    assert [holding.tier for holding in told] == [Tier.DEVICE, None]
    assert keeper.find(Piece(tuple(old), "a", version(1))) is None
    held(keeper)
    piece = Piece(tuple(new), "a", version(2))
    assert keeper.base(piece).computed == 50
    found = keeper.find(piece)
    assert found is not None and found.provenance == EXACT
    with keeper.segments.use(found) as base:  # type: ignore[union-attr]
        assert deviation(base.kv(), dense(keeper.engine, new)) < 1e-5
    assert "a" not in keeper.lineage  # the successor is there
    held(keeper)


def test_a_prompt_with_the_next_version_goes_on_from_the_one_before() -> None:
    keeper, _ = made()
    old, question = tokens(96), tuple(tokens(5, seed=3))
    keeper.base(Piece(tuple(old), "plan.md", version(1)))
    keeper.supersede("plan.md", version(2))
    new = (*old[:80], *tokens(16, seed=9))
    composed = keeper.compose(prompt(Piece(new, "plan.md", version(2)), Piece(question)), EXACTLY)
    assert (composed.uses[0].exact, composed.uses[0].dense) == (80, 16)
    assert composed.whole.tokens == 101 and composed.provenance == EXACT
    assert deviation(composed.forward.kv, dense(keeper.engine, [*new, *question])) < 1e-5
    held(keeper)


def test_what_was_superseded_while_it_was_computed_is_not_kept() -> None:
    keeper, told = made()
    piece = Piece(tuple(tokens(40)), "a", version(1))
    keeper.supersede("a", version(2))
    assert not keeper.base(piece).kept
    assert not told and not len(keeper.pool)
    keeper.supersede("a", version(3), deleted=True)
    assert keeper.base(Piece(tuple(tokens(40)), "a", version(3))).kept  # who deletes it has no text of that version


def test_prompts_are_cut_before_what_changed() -> None:
    keeper, _ = made()
    first, second = tuple(tokens(64, seed=1)), tuple(tokens(64, seed=2))
    asked = prompt(Piece(first, "a", version(1)), Piece(second, "b", version(1)), Piece(tuple(tokens(40, seed=3))))
    composed = keeper.compose(asked, EXACTLY)
    keeper.keep_prompt(asked, asked.tokens, composed.forward)
    assert keeper.compose(asked, EXACTLY).whole.exact == 167  # the last is computed
    keeper.supersede("b", version(2))
    assert keeper.compose(asked, EXACTLY).whole.exact == 64
    keeper.supersede("a", version(2))
    assert keeper.compose(asked, EXACTLY).whole.exact == 0
    held(keeper)


def test_what_comes_before_anything_approximate_is_kept_as_exact() -> None:
    keeper, _ = made()
    own, note = Piece(tuple(tokens(64, seed=1))), Piece(tuple(tokens(64, seed=2)), "a", version(1))
    assert keeper.keep(note, dense(keeper.engine, list(note.tokens)), EXACT)  # no time was measured: reuse is tried
    asked = prompt(own, note, Piece(tuple(tokens(8, seed=3))))
    reused = keeper.compose(asked, Demand(error_max=100.0))
    assert reused.provenance.kind is Kind.APPROXIMATE and reused.whole.approximate > 0
    keeper.keep_beginning(asked, reused)
    found = keeper.prefix(asked.tokens)
    assert found is not None and found.tokens == 64
    with keeper.segments.use(found) as base:  # type: ignore[union-attr]
        assert deviation(base.kv(), dense(keeper.engine, list(own.tokens))) < 1e-5


def test_an_output_in_context_never_replaces_exact_kv_and_is_no_exact_prefix() -> None:
    keeper, _ = made()
    piece = Piece(tuple(tokens(64)), "a", version(1))
    kv = dense(keeper.engine, list(piece.tokens))
    assert keeper.keep(piece, kv, own_decode())
    assert keeper.compose(prompt(piece, Piece((5, 6))), EXACTLY).whole.exact == 0
    assert keeper.keep(piece, kv, EXACT) and not keeper.keep(piece, kv, own_decode())
    assert keeper.compose(prompt(piece, Piece((5, 6))), EXACTLY).whole.exact == 64


def test_mixed_work_leaves_no_block_behind() -> None:
    """More than fits, changes, callers who leave, outputs: after each call blocks in use are those of owners."""
    keeper, told = made(blocks=8)
    outputs, draw = Outputs(), random.Random(5)
    versions = dict.fromkeys("abc", 1)
    for _ in range(200):
        name = draw.choice("abc")
        piece = Piece(
            tuple(tokens(draw.choice((40, 64, 90)), seed=ord(name) + versions[name])), name, version(versions[name])
        )
        match draw.randrange(4):
            case 0:
                versions[name] += 1
                keeper.supersede(name, version(versions[name]), deleted=draw.random() < 0.2)
            case 1:
                keeper.base(piece)
            case _:
                stop = threading.Event()

                def heard(text: str, ids: list[int], stop: threading.Event = stop) -> None:
                    if sum(ids) % 5 == 0:
                        stop.set()

                asked = prompt(piece, Piece(tuple(tokens(20, seed=draw.randrange(5)))))
                job = Job(asked, draw.choice((3, 8)), heard, keep_output=True, stop=stop)
                try:
                    write(keeper, outputs, TOKENIZER, job)
                except Stopped:
                    assert stop.is_set()
        held(keeper)
    assert keeper.pool.counters.lost > 0
    kept = {holding.digest: holding.tier for holding in told}
    assert {digest for digest, tier in kept.items() if tier is not None} == set(keeper.artifacts._known)


def test_pieces_hold_back_a_character_until_it_is_whole() -> None:
    ids = list("aé€😀".encode())
    pieces = Pieces(lambda some: bytes(some).decode(errors="replace"))
    shown = [pieces.add(one) for one in ids]
    assert shown == ["a", "", "é", "", "", "€", "", "", "", "😀"]
    assert pieces.rest() == ""
    cut = Pieces(lambda some: bytes(some).decode(errors="replace"))
    assert [cut.add(one) for one in ids[:-1]][-1] == "" and cut.rest() == "\N{REPLACEMENT CHARACTER}"


def test_where_nothing_fits_nothing_is_kept_and_everything_works() -> None:
    keeper, told = made(blocks=1)
    piece = Piece(tuple(tokens(100)), "a", version(1))
    assert keeper.base(piece) == Base(100, EXACT, False)
    job = Job(prompt(piece), 3, lambda text, ids: None, keep_output=True)
    written = write(keeper, Outputs(bytes_max=1), TOKENIZER, job)
    assert written.tokens == 3 and not written.output_id
    assert not told and keeper.pool.counters.refused > 0
    held(keeper)


@pytest.mark.parametrize(
    ("failure", "reason", "told"),
    [
        (PromptTooLong(9, 8), "TOO_LARGE", "9 tokens; the model takes 8"),
        (OutOfMemory(9, 1, 8), "OVERLOADED", "no memory"),
        (torch.OutOfMemoryError("CUDA out of memory at 0x7f"), "OVERLOADED", "no memory"),
        (InvalidTokens("token ids of this model are 0 to 96"), "INVALID_ARGUMENT", "token ids"),
        (NoSuchRound("the round was not begun"), "NOT_FOUND", "not begun"),
        (homenode.Unavailable("10.0.0.1 refused"), "UNAVAILABLE", "could not be asked"),
        (KeyError("secret"), "INTERNAL", "internal error"),
    ],
)
def test_callers_are_told_reasons_and_no_internals(failure: Exception, reason: str, told: str) -> None:
    error = error_of(failure)
    assert t.ErrorReason.Name(error.reason) == f"ERROR_REASON_{reason}"
    assert told in error.message and "secret" not in error.message and "0x7f" not in error.message
    assert bool(error.retry_after_ms) == (reason == "OVERLOADED")


def test_a_model_without_a_layer_to_check_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="one layer"):
        load(str(save_model(tmp_path, num_hidden_layers=1)))


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(UnsupportedModel, match=r"there is no model|knows no causal"):
            load(name)
