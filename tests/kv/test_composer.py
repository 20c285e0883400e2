"""Prompts composed from what is kept: exact where that is said, repaired where it is off, and nothing kept of it."""

from __future__ import annotations

import math

import pytest
import torch

from homenode_kv.anchors import Anchors
from homenode_kv.anchors import Settings as AnchorSettings
from homenode_kv.composer import Composer
from homenode_kv.costs import Rate
from homenode_kv.errors import InvalidTokens, PromptTooLong
from homenode_kv.ident import SegmentKey, Version
from homenode_kv.pages import Pages
from homenode_kv.parts import Composed, Part, Use
from homenode_kv.planner import Demand, Settings, Way
from homenode_kv.pool import Pool
from homenode_kv.provenance import EXACT, EXACT_BY_MASK, Kind, own_decode
from homenode_kv.segments import Segments
from tests.kv.models import deviation, engine, tokens

MODEL, SALT = "model", b"tenant"
LEAD, ASK = tokens(40, seed=50), tokens(9, seed=51)
FIRST, SECOND = tokens(96, seed=52), tokens(70, seed=53)


def key(text: list[int], artifact: str = "plan", n: int = 1) -> SegmentKey:
    return SegmentKey.of(MODEL, SALT, text, artifact, Version(1, n))


def part(text: list[int], artifact: str = "plan") -> Part:
    return Part(tuple(text), key(text, artifact))


PROMPT = [Part(tuple(LEAD)), part(FIRST), part(SECOND, "notes"), Part(tuple(ASK))]
TOKENS = [*LEAD, *FIRST, *SECOND, *ASK]


class Worker:
    """An engine with what it keeps."""

    def __init__(self, error_max: float = 0.2, *, gamma: float | None = None, isolated: bool = False) -> None:
        self.segments = Segments(Pool(Pages(engine().geometry, 64)))
        settings = AnchorSettings(gamma=gamma or 0.0, tau=0.05)
        self.anchors = Anchors(engine().geometry, engine().rotation, settings) if gamma else None
        self.composer = Composer(
            engine(),
            self.segments,
            MODEL,
            anchors=self.anchors,
            settings=Settings(error_max=error_max, refresh_max=1.0 if error_max < 0.5 else 0.6),
            isolated=isolated,
        )

    def keep(self, text: list[int], artifact: str = "plan") -> None:
        assert self.segments.put(key(text, artifact), text, engine().prefill(text).kv, EXACT)

    def compose(self, parts: list[Part] = PROMPT, **demand: bool | float) -> Composed:
        composed = self.composer.compose(parts, SALT, Demand(**demand))  # type: ignore[arg-type]
        for use, one in zip(composed.uses, parts, strict=True):
            assert use.tokens == len(one.tokens) == use.reused + use.refreshed + use.dense
        assert composed.whole.tokens == sum(use.tokens for use in composed.uses)
        return composed

    def as_if_deep(self) -> None:
        """On three layers a look at the check layer costs two thirds of a prefill, so that reuse does not pay."""
        rates = self.composer.planner.rates
        rates.place, rates.check, rates.refresh = Rate(), Rate(), Rate()
        for rate in (rates.place, rates.check, rates.refresh):
            rate.measured(100, 1e-3)


def dense(text: list[int] = TOKENS) -> torch.Tensor:
    return engine().prefill(text).kv


def test_a_prompt_of_which_nothing_is_kept_is_a_plain_prefill() -> None:
    composed = Worker().compose()
    assert torch.equal(composed.forward.kv, dense())
    assert (composed.provenance, composed.whole) == (EXACT, Use(len(TOKENS), dense=len(TOKENS)))
    assert composed.missing == (1, 2)


def test_an_exact_beginning_is_loaded_and_the_rest_computed_over_it() -> None:
    worker = Worker()
    begin = [*LEAD, *FIRST[:90]]
    assert worker.segments.put(SegmentKey.of(MODEL, SALT, begin), begin, dense(begin), EXACT)
    composed = worker.compose()
    assert composed.uses[0] == Use(40, exact=40) and composed.uses[1] == Use(96, exact=90, dense=6)
    assert composed.ways == (Way.EXACT, Way.DENSE, Way.DENSE, Way.DENSE) and composed.provenance == EXACT
    assert deviation(composed.forward.kv, dense()) < 1e-5
    assert deviation(composed.forward.logits, engine().prefill(TOKENS).logits) < 1e-4


def test_a_prompt_that_begins_with_a_kept_segment_needs_no_prefix_index() -> None:
    worker = Worker()
    worker.keep(FIRST)
    worker.segments._prefixes.remove(key(FIRST).digest)
    composed = worker.compose([part(FIRST), Part(tuple(ASK))])
    assert composed.uses == (Use(96, exact=96), Use(9, dense=9)) and composed.provenance == EXACT


def test_a_whole_prompt_that_is_kept_leaves_one_token_to_compute() -> None:
    worker = Worker()
    worker.keep(FIRST)
    composed = worker.compose([part(FIRST)])
    assert composed.uses == (Use(96, exact=95, dense=1),)


def test_segments_are_reused_where_much_is_allowed() -> None:
    worker = Worker(error_max=50.0)
    worker.keep(FIRST)
    worker.keep(SECOND, "notes")
    composed = worker.compose()
    assert composed.ways == (Way.DENSE, Way.REUSE, Way.REUSE, Way.DENSE)
    assert composed.uses[1:3] == (Use(96, approximate=96), Use(70, approximate=70)) and composed.missing == ()
    assert composed.provenance.kind is Kind.APPROXIMATE and composed.provenance.error == composed.measured > 0.1
    base = engine().rotation.shift(engine().prefill(FIRST).kv, len(LEAD))
    assert deviation(composed.forward.kv[:, :, 40:136], base) < 1e-6, "one rotation to where each begins"
    assert math.isnan(composed.predicted)
    again = worker.compose()
    assert again.predicted == pytest.approx(again.measured, rel=1e-3)


def test_what_disagrees_on_the_check_layer_is_repaired() -> None:
    worker = Worker(error_max=50.0)
    worker.keep(FIRST)
    worker.keep(SECOND, "notes")
    parts = [Part(tuple(LEAD)), part(FIRST), part(SECOND, "notes"), Part(tuple(ASK))]
    kept = worker.compose(parts)
    error_max = 0.9 * kept.measured
    composed = worker.compose(parts, error_max=error_max)
    assert 0 < composed.whole.refreshed < 166 and composed.whole.refreshed + composed.whole.approximate == 166
    assert composed.measured <= error_max
    assert deviation(composed.forward.kv, dense()) < deviation(kept.forward.kv, dense())


def test_where_nothing_may_be_off_everything_is_refreshed_and_the_result_is_dense() -> None:
    worker = Worker(error_max=0.0)
    worker.keep(FIRST)
    composed = worker.compose()
    assert composed.uses[1] == Use(96, refreshed=96) and composed.provenance == EXACT and composed.measured == 0.0
    assert deviation(composed.forward.kv, dense()) < 1e-5


def test_a_repair_that_would_be_most_of_it_is_a_plain_prefill_and_remembered() -> None:
    worker = Worker(error_max=0.6)
    worker.keep(FIRST)
    composed = worker.compose(error_max=1e-6)
    assert composed.plan.approximate and composed.ways[1] is Way.DENSE and composed.provenance == EXACT
    assert torch.equal(composed.forward.kv, dense())
    assert not worker.compose(error_max=1e-6).plan.approximate, "the place is known now"


@pytest.mark.parametrize("demand", [{"exact": True}, {"judge": True}])
def test_who_asks_for_exact_and_judges_get_a_plain_prefill(demand: dict[str, bool]) -> None:
    worker = Worker(error_max=50.0)
    worker.keep(FIRST)
    composed = worker.compose(**demand)
    assert composed.provenance == EXACT and torch.equal(composed.forward.kv, dense())


def test_an_own_decode_is_reused_but_is_no_exact_beginning() -> None:
    worker = Worker(error_max=50.0)
    worker.segments.put(key(FIRST), FIRST, engine().prefill(FIRST).kv + 0.01, own_decode())
    composed = worker.compose([part(FIRST), Part(tuple(ASK))])
    assert composed.ways[0] is Way.REUSE and composed.provenance.kind is Kind.APPROXIMATE
    assert worker.compose([part(FIRST), Part(tuple(ASK))], exact=True).provenance == EXACT


def test_nothing_that_was_composed_is_kept() -> None:
    worker = Worker(error_max=50.0, gamma=1.0)
    worker.keep(FIRST)
    worker.compose()
    assert worker.segments.find(key(SECOND, "notes")) is None
    assert worker.segments.prefix(MODEL, SALT, TOKENS) is None


def test_plain_passes_become_anchors_and_near_ones_correct_the_next_segment() -> None:
    worker = Worker(error_max=50.0, gamma=1.0)
    assert worker.anchors is not None
    plain = Worker(error_max=50.0)
    variants = [FIRST[:at] + [3 + FIRST[at] % 90] + FIRST[at + 1 :] for at in (20, 50, 80)]
    for text in (FIRST, *variants):
        worker.keep(text)
    plain.keep(FIRST)
    for text in variants:
        worker.compose([Part(tuple(LEAD)), part(text), Part(tuple(ASK))], exact=True)
    assert len(worker.anchors) == 2, "of the third the first two are near enough"
    worker.as_if_deep()
    prompt, whole = [Part(tuple(LEAD)), part(FIRST), Part(tuple(ASK))], [*LEAD, *FIRST, *ASK]
    composed, without = worker.compose(prompt), plain.compose(prompt)
    assert (composed.ways[1], without.ways[1]) == (Way.ANCHORS, Way.REUSE)
    assert composed.measured < without.measured
    assert deviation(composed.forward.kv, dense(whole)) < 0.8 * deviation(without.forward.kv, dense(whole))
    worker.as_if_deep()
    other = worker.composer.compose(prompt, SALT, consumer="reviewer")
    assert other.ways[1] is Way.REUSE, "anchors are kept apart for each consumer"
    worker.anchors.drop_version(key(variants[0]).version_digest)
    assert len(worker.anchors) == 0, "all of the same version"


def test_an_anchor_goes_with_any_version_before_it_in_the_prompt() -> None:
    worker = Worker(gamma=1.0)
    assert worker.anchors is not None
    worker.keep(SECOND, "notes")
    worker.compose(exact=True)
    assert len(worker.anchors) == 1, "of the notes, which were computed after the plan"
    assert worker.anchors.drop_version(key(FIRST).version_digest) == 1


def test_fixed_text_after_an_artifact_is_corrected_by_the_same_anchors() -> None:
    worker, fixed = Worker(error_max=50.0, gamma=1.0), tokens(40, seed=60)
    assert worker.anchors is not None
    text_key = SegmentKey.of(MODEL, SALT, fixed)
    worker.segments.put(text_key, fixed, engine().prefill(fixed).kv, EXACT)

    def prompt(text: list[int]) -> list[Part]:
        return [Part(tuple(LEAD)), part(text), Part(tuple(fixed), text_key), Part(tuple(ASK))]

    variants = [FIRST[:at] + [3 + FIRST[at] % 90] + FIRST[at + 1 :] for at in (20, 50)]
    for text in (FIRST, *variants):
        worker.keep(text)
    plain = worker.compose(prompt(FIRST))
    assert plain.ways[1:3] == (Way.REUSE, Way.REUSE)
    for text in variants:
        worker.compose(prompt(text), exact=True)
    assert len(worker.anchors) == 2
    worker.as_if_deep()
    composed = worker.compose(prompt(FIRST))
    assert composed.ways[1:3] == (Way.ANCHORS, Way.ANCHORS)
    real = dense([*LEAD, *FIRST, *fixed, *ASK])[:, :, 136:176]
    assert deviation(composed.forward.kv[:, :, 136:176], real) < 0.8 * deviation(plain.forward.kv[:, :, 136:176], real)
    worker.compose(prompt(variants[0]), exact=True)
    assert len(worker.anchors) == 2, "those that are kept are near enough"


def test_segments_of_an_isolated_model_are_what_its_mask_makes_of_them() -> None:
    worker = Worker(isolated=True)
    masked = worker.compose()
    assert masked.provenance == EXACT, "of nothing kept a plain pass"
    worker.keep(FIRST)
    worker.keep(SECOND, "notes")
    composed = worker.compose()
    assert composed.provenance == EXACT_BY_MASK
    assert composed.uses[1:3] == (Use(96, exact_by_mask=96), Use(70, exact_by_mask=70))
    half = Worker(isolated=True)
    half.keep(FIRST)
    other = half.compose()
    assert other.uses[2] == Use(70, dense=70)
    assert deviation(other.forward.kv, composed.forward.kv) < 1e-4, "kept or computed under the mask"
    assert worker.compose(exact=True).provenance == EXACT


def test_prompts_that_the_model_does_not_take_are_refused() -> None:
    with pytest.raises(InvalidTokens):
        Worker().composer.compose([], SALT)
    with pytest.raises(InvalidTokens):
        Worker().composer.compose([Part((1, 5000))], SALT)
    with pytest.raises(PromptTooLong):
        Worker().composer.compose([Part(tuple(tokens(513)))], SALT)
