"""From one version of an artifact to the next, wherever in a prompt it stands: what is the same is not computed again,
what a plain pass gives comes out, and nothing of a superseded version is found."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode_kv.composing import Request, Shared, load
from homenode_kv.costs import Tier
from homenode_kv.engine import Engine, Forward
from homenode_kv.families import sheet_geometry
from homenode_kv.ident import Version
from homenode_kv.pages import Pages
from homenode_kv.parts import Composed
from homenode_kv.planner import Demand
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT, Kind
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.prompts import Piece, Prompt
from tests.kv.models import deviation, engine, model, tokens

EXACTLY, ANYHOW = Demand(exact=True), Demand(error_max=100.0)
TEXT = tuple(tokens(300))
LEAD, ORDER, QUESTION = (1,), Piece(tuple(tokens(40, seed=2))), Piece(tuple(tokens(9, seed=3)))
OTHER = Piece(tuple(tokens(50, seed=4)), "other.md", Version(7, 1))
PLACES = {
    "first": ((), ()),
    "after a lead": (LEAD, ()),
    "after text": (LEAD, (ORDER,)),
    "after both": ((), (ORDER, OTHER)),
}
WHERE = {"start": 20, "middle": 150, "end": 280}


def made(blocks: int = 128, own: Engine | None = None) -> Keeper:
    own = own or engine()
    sheets = Pool(Pages(sheet_geometry(own.geometry), blocks, own.device))
    return Keeper(own, Pool(Pages(own.geometry, blocks, own.device)), "f" * 64, b"salt", lambda holding: None, sheets)


def plan(text: tuple[int, ...], n: int) -> Piece:
    return Piece(text, "plan.md", Version(7, n))


def edited(text: tuple[int, ...], at: int, kind: str, seed: int = 5) -> tuple[int, ...]:
    new = tuple(token % 90 + 3 for token in tokens(11, seed))
    gone = {"replaced": 11, "inserted": 0, "deleted": 13}[kind]
    return (*text[:at], *(() if kind == "deleted" else new), *text[at + gone :])


def asked(keeper: Keeper, prompt: Prompt, demand: Demand) -> Composed:
    """As a call does it: the prompt, and what is kept of it."""
    composed = keeper.compose(prompt, demand)
    if composed.provenance == EXACT:
        keeper.keep_prompt(prompt, prompt.tokens, Forward(composed.forward.kv, composed.forward.logits))
    else:
        keeper.keep_beginning(prompt, composed)
    keeper.pool.check()
    return composed


def known(keeper: Keeper) -> None:
    """A base of the first version; no time was measured, so reuse is tried."""
    assert keeper.keep(plan(TEXT, 1), keeper.engine.prefill(list(TEXT)).kv, EXACT)


def alike(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def same(keeper: Keeper, composed: Composed, prompt: Prompt) -> bool:
    real = keeper.engine.prefill(prompt.tokens)
    off = max(deviation(composed.forward.kv, real.kv), deviation(composed.forward.logits[-1:], real.logits[-1:]))
    return off < 1e-4


@pytest.mark.parametrize("kind", ["replaced", "inserted", "deleted"])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("place", PLACES)
def test_the_next_version_is_computed_from_the_first_edit_wherever_it_stands(place: str, where: str, kind: str) -> None:
    """Heard of before it is asked for, or not; and again for the version after."""
    lead, before = PLACES[place]
    for told in (True, False):
        keeper = made()
        asked(keeper, Prompt(lead, (*before, plan(TEXT, 1), QUESTION)), EXACTLY)
        last = TEXT
        for n in (2, 3):
            text = edited(last, WHERE[where] + n, kind, seed=n)
            if told:
                keeper.supersede("plan.md", Version(7, n))
            prompt = Prompt(lead, (*before, plan(text, n), QUESTION))
            composed = asked(keeper, prompt, EXACTLY)
            use = composed.uses[len(before)]
            assert composed.provenance == EXACT and same(keeper, composed, prompt)
            start = sum(len(piece.tokens) for piece in before) + len(lead)
            if start + WHERE[where] >= 32:
                assert use.exact == alike(last, text) and use.dense == len(text) - use.exact
            assert (
                composed.whole.dense + composed.whole.refreshed <= len(prompt.tokens) - start - use.exact or start < 32
            )
            last = text


@pytest.mark.parametrize("place", [place for place in PLACES if place != "first"])
def test_what_an_edit_moved_is_turned_and_refreshed_and_no_base(place: str) -> None:
    """What follows the edit is reused where an error is allowed, checked, and told as approximate."""
    lead, before = PLACES[place]
    for kind in ("replaced", "inserted", "deleted"):
        keeper = made()
        known(keeper)
        keeper.supersede("plan.md", Version(7, 2))
        text = edited(TEXT, 30, kind)
        prompt = Prompt(lead, (*before, plan(text, 2), QUESTION))
        composed = keeper.compose(prompt, ANYHOW)
        use = composed.uses[len(before)]
        assert composed.provenance.kind is Kind.APPROXIMATE and composed.measured > 0
        assert use.approximate > 250 and use.dense + use.refreshed <= 45 and len(before) in composed.missing
        real = keeper.engine.prefill(prompt.tokens)
        assert 0 < deviation(composed.forward.kv, real.kv) < 0.8
        assert keeper.find(plan(text, 2)) is None, "never a base"
        assert asked(keeper, prompt, EXACTLY).provenance == EXACT
        strict = keeper.compose(prompt, Demand(error_max=0.0))
        assert strict.provenance == EXACT and same(keeper, strict, prompt)


@pytest.mark.parametrize("place", PLACES)
def test_an_edit_in_the_last_tenth_computes_what_changed_and_what_follows_it(place: str) -> None:
    """Exact: from the first edit on, with all that comes after the artifact. Else nothing that is kept."""
    lead, before = PLACES[place]
    text, after = tuple(tokens(360, seed=8)), Piece(tuple(tokens(45, seed=9)), "after.md", Version(7, 1))
    changed = (*text[:325], 5, 6, *text[325:])
    computed = {}
    for demand in (EXACTLY, ANYHOW):
        keeper = made()
        for piece in (plan(text, 1), after):
            assert keeper.keep(piece, keeper.engine.prefill(piece.tokens).kv, EXACT)
        first = Prompt(lead, (*before, plan(text, 1), after, QUESTION))
        keeper.prompts.keep(first, first.tokens, keeper.engine.prefill(first.tokens).kv, None)
        keeper.supersede("plan.md", Version(7, 2))
        prompt = Prompt(lead, (*before, plan(changed, 2), after, QUESTION))
        whole = keeper.compose(prompt, demand).whole
        computed[demand] = whole.dense + whole.refreshed
    follows = len(changed) - 325 + len(after.tokens) + len(QUESTION.tokens)
    assert computed[EXACTLY] == follows
    assert computed[ANYHOW] == 2 + len(QUESTION.tokens)


def test_turned_blocks_are_those_that_a_shift_gives() -> None:
    """On layer 0, which knows no context, they are what a plain pass computes."""
    for kind in ("inserted", "deleted"):
        keeper = made()
        known(keeper)
        prompt = Prompt(LEAD, (ORDER, plan(edited(TEXT, 100, kind), 2), QUESTION))
        composed = keeper.compose(prompt, ANYHOW)
        assert composed.uses[1].approximate > 200
        assert deviation(composed.forward.kv[0], keeper.engine.prefill(prompt.tokens).kv[0]) < 1e-5


def test_a_second_prompt_goes_on_from_the_old_version_as_the_first_did() -> None:
    keeper = made()
    questions = [Piece(tuple(tokens(40, seed=seed))) for seed in (11, 12)]
    for question in questions:
        asked(keeper, Prompt((), (question, plan(TEXT, 1))), EXACTLY)
    keeper.base(plan(TEXT, 1))
    for n in (2, 3, 4):
        keeper.supersede("plan.md", Version(7, n))
        text = edited(TEXT, 250, "inserted", seed=n)
        for question in questions:
            composed = asked(keeper, Prompt((), (question, plan(text, n))), EXACTLY)
            assert composed.uses[0].exact == 40 and composed.uses[1].exact == alike(TEXT, text)
        assert keeper.base(plan(text, n)).computed == len(text) - alike(TEXT, text)


def test_a_base_that_a_round_made_takes_the_place_of_the_one_before() -> None:
    keeper = made()
    keeper.base(plan(TEXT, 1))
    new = plan(edited(TEXT, 100, "inserted"), 2)
    keeper.meet([new])
    assert "plan.md" in keeper.lineage
    canonical = load(keeper.engine, keeper.segments, [Request("ann", (Shared(keeper.key_of(new), new.tokens),))])
    assert canonical.bases == 1
    assert keeper.find(new) is not None and "plan.md" not in keeper.lineage
    keeper.pool.check()


def test_versions_that_nobody_asked_for_are_gone_over() -> None:
    keeper = made()
    keeper.base(plan(TEXT, 1))
    asked(keeper, Prompt(LEAD, (ORDER, plan(TEXT, 1))), EXACTLY)
    keeper.meet([plan(TEXT[:150], 2)])
    for n in (3, 4, 5):
        keeper.supersede("plan.md", Version(7, n))
    text = edited(TEXT, 140, "replaced")
    composed = asked(keeper, Prompt(LEAD, (ORDER, plan(text, 5))), EXACTLY)
    assert composed.uses[1].exact == alike(TEXT, text)
    assert keeper.base(plan(text, 5)).computed == len(text) - alike(TEXT, text)


def test_the_same_text_again_is_not_computed_again() -> None:
    keeper = made()
    prompt = Prompt(LEAD, (ORDER, plan(TEXT, 1), OTHER, QUESTION))
    asked(keeper, prompt, EXACTLY)
    keeper.supersede("plan.md", Version(7, 2))
    assert keeper.prefix(prompt.tokens).tokens == 41  # type: ignore[union-attr]
    again = Prompt(LEAD, (ORDER, plan(TEXT, 2), OTHER, QUESTION))
    assert asked(keeper, again, EXACTLY).whole.exact == len(again.tokens) - 1
    keeper.supersede("plan.md", Version(7, 3))
    keeper.supersede("other.md", Version(7, 2))
    third = Prompt(LEAD, (ORDER, plan(TEXT, 3), Piece(OTHER.tokens[:-1], "other.md", Version(7, 2))))
    assert keeper.compose(third, EXACTLY).whole.exact == len(third.tokens) - 1


def test_a_text_that_comes_back_is_kept_anew() -> None:
    keeper = made()
    for n, text in enumerate((TEXT, edited(TEXT, 100, "replaced"), TEXT), 1):
        prompt = Prompt(LEAD, (ORDER, plan(text, n)))
        assert same(keeper, asked(keeper, prompt, EXACTLY), prompt)
        assert asked(keeper, prompt, EXACTLY).whole.exact == len(prompt.tokens) - 1


def test_a_deletion_leaves_nothing_of_the_artifact() -> None:
    keeper = made()
    prompt = Prompt(LEAD, (ORDER, plan(TEXT, 1), QUESTION))
    asked(keeper, prompt, EXACTLY)
    keeper.base(plan(TEXT, 1))
    keeper.supersede("plan.md", Version(7, 1), deleted=True)
    assert keeper.find(plan(TEXT, 1)) is None and keeper.prefix(prompt.tokens).tokens == 41  # type: ignore[union-attr]
    keeper.meet([plan(TEXT, 2)])
    assert keeper.prefix(list(TEXT)) is None and keeper.prefix(prompt.tokens).tokens == 41  # type: ignore[union-attr]
    assert keeper.pool.bytes(Tier.DEVICE) == 2 * keeper.pool.geometry.block_bytes
    keeper.pool.check()


def test_what_a_later_run_could_not_find_is_not_written() -> None:
    keeper = made()
    keeper.base(plan(TEXT, 1))
    keeper.base(OTHER)
    asked(keeper, Prompt(LEAD, (ORDER, plan(TEXT, 1))), EXACTLY)
    keeper.supersede("plan.md", Version(7, 2))
    keeper.close()
    assert [entry.key for entry in keeper.pool.entries()] == [keeper.key_of(OTHER).digest]
    assert len(keeper.prompts) == 0 and "plan.md" not in keeper.lineage
    keeper.pool.check()


def test_a_prompt_whose_version_died_while_it_was_computed_is_kept_up_to_it() -> None:
    keeper = made()
    prompt = Prompt(LEAD, (ORDER, plan(TEXT, 1), QUESTION))
    composed = keeper.compose(prompt, EXACTLY)
    keeper.supersede("plan.md", Version(7, 2))
    keeper.keep_prompt(prompt, prompt.tokens, composed.forward)
    assert keeper.prefix(prompt.tokens).tokens == 41  # type: ignore[union-attr]


def test_a_version_takes_the_pages_in_which_it_differs_until_the_one_before_goes() -> None:
    keeper = made()
    block = keeper.pool.geometry.block_bytes
    keeper.base(plan(TEXT, 1))
    whole = keeper.pool.bytes(Tier.DEVICE)
    assert whole == 10 * block
    text = edited(TEXT, 280, "replaced")
    old = keeper.pool.get(keeper.key_of(plan(TEXT, 1)).digest)  # a call has it
    assert old is not None
    keeper.supersede("plan.md", Version(7, 2))
    keeper.base(plan(text, 2))
    assert keeper.pool.bytes(Tier.DEVICE) == whole + 2 * block  # blocks of 256 to 299
    assert deviation(old.kv(), keeper.engine.prefill(list(TEXT)).kv) < 1e-5
    keeper.pool.check([old])
    old.release()
    assert keeper.pool.bytes(Tier.DEVICE) == whole
    with keeper.segments.use(keeper.find(plan(text, 2))) as base:  # type: ignore[union-attr, arg-type]
        assert deviation(base.kv(), keeper.engine.prefill(list(text)).kv) < 1e-5


def test_twenty_prompts_that_begin_alike_keep_the_beginning_once() -> None:
    keeper = made()
    block = keeper.pool.geometry.block_bytes
    for seed in range(20):
        asked(keeper, Prompt((), (plan(TEXT, 1), Piece(tuple(tokens(40, seed=100 + seed))))), EXACTLY)
    assert keeper.pool.bytes(Tier.DEVICE) <= (10 + 1 + 20 * 2) * block  # 20 × 11 without


class Work:
    """Random edits and prompts beside what is true: each artifact has letters of its own."""

    LETTERS = {"a": range(3, 15), "b": range(15, 27), "c": range(27, 39), "": range(40, 60)}

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.keeper = made(blocks=self.draw.choice((6, 16, 64)), own=SMALL)
        self.now = {name: plan((), 0) for name in "abc"}
        self.told = dict.fromkeys("abc", 0)
        self.seen: list[Prompt] = []
        for name in "abc":
            self.now[name] = Piece(self.text(name, self.draw.randrange(20, 100)), name, Version(7, 1))

    def text(self, name: str, count: int) -> tuple[int, ...]:
        return tuple(self.draw.choices(self.LETTERS[name], k=count))

    def edit(self) -> None:
        old = self.now[self.draw.choice("abc")]
        at, gone = self.draw.randrange(len(old.tokens) + 1), self.draw.choice((0, 1, 9, 40))
        new = self.text(old.artifact, self.draw.choice((0, 1, 9, 40)))
        text = (*old.tokens[:at], *new, *old.tokens[at + gone :])[:100] or self.text(old.artifact, 1)
        assert old.version is not None
        self.now[old.artifact] = Piece(text, old.artifact, Version(7, old.version.n + 1))
        if self.draw.random() < 0.7:
            self.tell(old.artifact)
            assert self.keeper.find(old) is None

    def tell(self, name: str) -> None:
        version = self.now[name].version
        assert version is not None
        self.keeper.supersede(name, version)
        self.told[name] = version.n

    def ask(self) -> None:
        names = self.draw.sample("abc", self.draw.randrange(1, 4))
        pieces = [self.now[name] for name in names]
        if self.draw.random() < 0.5:
            pieces.insert(0, Piece(self.text("", self.draw.choice((3, 40)))))
        prompt = Prompt(LEAD if self.draw.random() < 0.5 else (), (*pieces, Piece((95, 96))))
        if self.draw.random() < 0.3:
            self.keeper.base(pieces[-1])
        if self.draw.random() < 0.3:
            asked(self.keeper, prompt, ANYHOW)
        composed = asked(self.keeper, prompt, EXACTLY)
        real = SMALL.prefill(prompt.tokens)
        assert composed.provenance == EXACT and not composed.whole.approximate
        assert deviation(composed.forward.logits[-1:], real.logits[-1:]) < 1e-4
        self.seen.append(prompt)
        for name in names:
            self.told[name] = self.now[name].version.n  # type: ignore[union-attr]

    def check(self) -> None:
        """Of what was asked once nothing is found from the first token on that is another now, nor a dead base."""
        for prompt in self.seen:
            found = self.keeper.prefix(prompt.tokens)
            for start, piece in prompt.placed():
                if not piece.artifact or self.now[piece.artifact].version.n != self.told[piece.artifact]:  # type: ignore[union-attr]
                    continue
                now = self.now[piece.artifact]
                if now.version == piece.version:
                    continue
                until = start + alike(piece.tokens, now.tokens)
                whole = until == start + len(piece.tokens) == start + len(now.tokens)
                assert found is None or found.tokens <= until or whole
                assert self.keeper.find(piece) is None
                base = self.keeper.prefix(list(piece.tokens))
                assert base is None or base.tokens <= until - start


SMALL = Engine(model(num_hidden_layers=2, hidden_size=32, head_dim=8, intermediate_size=32))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_any_edits_at_any_place_give_what_a_plain_pass_gives_and_nothing_dead_is_found(seed: int) -> None:
    work = Work(seed)
    for _ in range(12):
        work.edit() if work.draw.random() < 0.5 else work.ask()
        work.check()
    work.keeper.pool.check()
