"""Whatever was kept, cut, retired, restored or moved to disk: what comes of it is what a dense pass gives.

The model is one whose keys and values do not depend on what comes before (its attention tells nothing to the next
layer, but for the last, which makes the logits). So every way of reuse, the approximate ones and rounds too, has to
agree with a dense pass, and KV of a wrong version, place or member shows at once.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest
import torch

from homenode_kv.disk import DiskTier
from homenode_kv.engine import Engine
from homenode_kv.ident import Version
from homenode_kv.pages import Pages
from homenode_kv.parts import Composed
from homenode_kv.planner import Demand, Settings
from homenode_kv.pool import Pool
from homenode_kv.provenance import Kind, own_decode
from homenode_kv.sheets import sheet_geometry
from homenode_kv.worker.artifacts import Holding
from homenode_kv.worker.generation import Job, write
from homenode_kv.worker.grouped import write_group
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.outputs import Outputs
from homenode_kv.worker.prompts import Piece, Prompt
from homenode_kv.worker.text import Tokenizer
from tests.kv.models import deviation, model

TOKENIZER = Tokenizer("", lambda text: list(text.encode()), lambda ids: " ".join(map(str, ids)))
STEPS = 160


@functools.cache
def context_free() -> Engine:
    made = model(max_position_embeddings=1024)
    with torch.no_grad():
        for layer in made.model.layers[:-1]:
            layer.self_attn.o_proj.weight.zero_()
        made.model.layers[-1].self_attn.o_proj.weight.mul_(6)
        made.model.layers[-1].self_attn.q_proj.weight.mul_(2)
    return Engine(made)


class Life:
    """Agents that edit, copy and delete texts, and ask in every way."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw = random.Random(seed)
        self.folder = folder
        self.bits = [self._tokens(self.draw.choice((8, 20, 32, 40))) for _ in range(12)]
        self.texts: dict[str, tuple[int, ...]] = {}
        self.versions: dict[str, Version] = {}
        self.asked: list[Prompt] = []
        self.outputs = Outputs()
        self.ways: set[str] = set()
        self.start()
        for name in "abcd":
            self.commit(name)

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self.draw.randrange(3, 97) for _ in range(count))

    def start(self) -> None:
        """The worker, again; here reuse is always cheaper."""
        engine = context_free()
        self.told: list[Holding] = []
        block = engine.geometry.block_bytes
        disk = DiskTier(self.folder, engine.geometry)
        pages = Pages(engine.geometry, 24)
        pool = Pool(pages, host_bytes_max=6 * block, disk=disk, disk_bytes_max=24 * block)
        sheets = Pool(Pages(sheet_geometry(engine.geometry), 48))
        self.keeper = Keeper(engine, pool, "f" * 64, b"salt", self.told.append, sheets, settings=Settings(0.01, 0.9))
        for tokens in (32, 512):
            pool.costs.prefilled(tokens, 1e6)
        rates = self.keeper.composer.planner.rates
        for rate in (rates.place, rates.check, rates.refresh):
            rate.measured(100, 0.01)

    def commit(self, name: str, text: tuple[int, ...] | None = None) -> None:
        before = self.versions.get(name, Version(1, 0))
        self.versions[name], self.texts[name] = Version(1, before.n + 1), text or self._text()
        if self.draw.random() < 0.8:  # else the worker hears of it from a call that names it
            self.keeper.supersede(name, self.versions[name])

    def _text(self) -> tuple[int, ...]:
        if self.texts and self.draw.random() < 0.6:
            text, at = list(self.draw.choice(list(self.texts.values()))), self.draw.randrange(40)
            text[at : at + self.draw.choice((0, 1, 30))] = self.draw.choice(self.bits)
            return tuple(text[:250])
        return tuple(token for _ in range(self.draw.randrange(1, 5)) for token in self.draw.choice(self.bits))

    def piece(self, name: str) -> Piece:
        return Piece(self.texts[name], name, self.versions[name])

    def prompt(self) -> Prompt:
        again = [one for one in self.asked if all(not p.artifact or p == self.piece(p.artifact) for p in one.pieces)]
        pieces = list(self.draw.choice(again).pieces) if again and self.draw.random() < 0.3 else []
        for _ in range(self.draw.randrange(1, 4)):
            name = self.draw.choice(list(self.texts))
            pieces.append(self.piece(name) if self.draw.random() < 0.8 else Piece(self.texts[name]))
        made = Prompt((), (*pieces[:8], Piece(self.draw.choice(self.bits)[:6])))
        return made if len(made.tokens) < 900 else Prompt((), made.pieces[-1:])

    def judge(self, prompt: Prompt, composed: Composed) -> None:
        real, use = self.keeper.engine.prefill(prompt.tokens), composed.whole
        assert use.exact + use.approximate + use.refreshed + use.dense == use.tokens == len(prompt.tokens)
        assert deviation(composed.forward.kv, real.kv) < 1e-3, composed.ways
        assert deviation(composed.forward.logits[-1], real.logits[-1]) < 1e-2, composed.ways
        self.ways |= {one for one in ("exact", "approximate", "restored") if getattr(use, one)}

    def ask(self) -> None:
        prompt = self.prompt()
        demand = self.draw.choice((Demand(exact=True), Demand(), Demand(), Demand(error_max=10.0)))
        for piece in prompt.pieces:
            if piece.artifact and self.draw.random() < 0.5:
                self.keeper.base(piece)
        keep = self.draw.random() < 0.3
        job = Job(prompt, 3, lambda text, ids: None, keep_output=keep, demand=demand, consumer=self.draw.choice("xy"))
        written = write(self.keeper, self.outputs, TOKENIZER, job)
        assert written.composed.provenance.kind is Kind.EXACT or not demand.exact
        self.judge(prompt, written.composed)
        if (output := self.outputs.take(written.output_id)) is not None:
            self.commit("out", output.tokens)
            self.keeper.keep(self.piece("out"), output.kv, own_decode())

    def meet(self) -> None:
        """Members of a round, some of which go on from an earlier one."""
        shared = tuple(self.piece(name) for name in self.draw.sample(list(self.texts), 2))
        jobs = {}
        for at in range(self.draw.randrange(1, 4)):
            own, task = Piece(self.bits[at]), Piece(self.draw.choice(self.bits)[:5])
            jobs[f"m{at}"] = Job(Prompt((), (own, *shared, task)), 3, lambda text, ids: None)
        name = f"round{self.draw.randrange(4)}"
        for member, written in write_group(self.keeper, self.outputs, TOKENIZER, name, jobs).written.items():
            assert not isinstance(written, Exception)
            self.judge(jobs[member].prompt, written.composed)
            self.asked = [*self.asked[-5:], jobs[member].prompt]
        if self.draw.random() < 0.5:
            self.keeper.rounds.materialize(name, "m1")
            self.keeper.rounds.leave(name, "m0")

    def step(self) -> None:
        match self.draw.randrange(20):
            case 0 | 1 | 2:
                self.commit(self.draw.choice("abcdef"))
            case 3:
                name = self.draw.choice(list(self.texts))
                self.versions[name] = Version(1, self.versions[name].n + 1)
                self.keeper.supersede(name, self.versions[name], deleted=True)
                self.commit(name)
            case 4:  # a caller's text that is not the version's
                name = self.draw.choice(list(self.texts))
                self.keeper.meet([Piece(self._text(), name, self.versions[name])])
            case 5:
                self.keeper.pool.flush()
                self.start()
            case 6 | 7 | 8 | 9:
                self.meet()
            case _:
                self.ask()
        self.keeper.pool.check()
        kept = {holding.digest: holding.tier for holding in self.told}
        assert {digest for digest, tier in kept.items() if tier is not None} == set(self.keeper.artifacts._known)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_way_of_reuse_gives_what_a_dense_pass_gives(seed: int, tmp_path: Path) -> None:
    life = Life(seed, tmp_path)
    for _ in range(STEPS):
        life.step()
    assert life.ways == {"exact", "approximate", "restored"}
