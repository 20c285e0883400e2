"""Anchors: offsets in the canonical frame, the gate, eviction, and γ by the error that it lets through."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from homenode_kv.anchors import Anchors, Settings, Slot
from homenode_kv.calibration import GAIN, SERVED_MIN, Calibrated, CalibrationError, Sample, calibrate
from homenode_kv.errors import WrongShape
from homenode_kv.layout import KEYS
from tests.kv.models import deviation, engine, tokens

SLOT = Slot("model", "template", "1", "writer")
LEAD = tokens(21, seed=90)


def made(settings: Settings | None = None) -> Anchors:
    return Anchors(engine().geometry, engine().rotation, settings or Settings(gamma=1.0))


def segment(seed: int, count: int = 24) -> list[int]:
    return tokens(count, seed)


def edited(text: list[int], at: int) -> list[int]:
    """A text of the same kind: one token is another."""
    return text[:at] + [3 + text[at] % 90] + text[at + 1 :]


def alone(text: list[int]) -> Tensor:
    return engine().prefill(text).kv


def within(text: list[int], lead: list[int] = LEAD) -> Tensor:
    return engine().prefill(lead + text).kv[:, :, len(lead) :]


def observed(anchors: Anchors, text: list[int], lead: list[int] = LEAD, **more: list[str]) -> str:
    return anchors.observe(SLOT, alone(text), within(text, lead), len(lead), **more)


def test_offsets_of_layer_0_are_nothing() -> None:
    text = segment(1)
    back = engine().rotation.shift(within(text), -len(LEAD))
    assert deviation(back[0], alone(text)[0]) < 1e-6


def test_the_estimate_of_an_anchor_itself_is_the_dense_result() -> None:
    anchors, text = made(Settings(gamma=1.0, tau=0.01)), segment(1)
    observed(anchors, text)
    observed(anchors, segment(2))
    gate = anchors.gate(SLOT, alone(text))
    assert gate.shareable and gate.distance == 0.0 and len(gate.anchors) == 1
    estimated = anchors.estimate(gate, alone(text))
    assert deviation(engine().rotation.shift(estimated, len(LEAD)), within(text)) < 1e-6


def test_an_offset_is_the_same_wherever_it_was_seen_and_serves_at_another_start() -> None:
    """The published code kept offsets as they lay at one start and added them at another."""
    text, base = segment(1), alone(segment(1))
    offsets = []
    for start in (21, 300):
        anchors = made()
        name = anchors.observe(SLOT, base, engine().rotation.shift(within(text), start - len(LEAD)), start)
        offsets.append(anchors.find(SLOT, name).offset)
    assert deviation(offsets[1], offsets[0]) < 1e-4
    turned = engine().rotation.turn(offsets[0][:, KEYS], 300 - 21)
    assert deviation(turned, offsets[0][:, KEYS]) > 0.1, "the start would matter if it were not taken out"


def test_near_anchors_bring_an_estimate_nearer_to_the_dense_result_than_plain_reuse() -> None:
    anchors, text = made(), segment(1)
    for at in (2, 9, 16):
        observed(anchors, edited(text, at))
    gate = anchors.gate(SLOT, alone(text))
    estimated = anchors.estimate(gate, alone(text))
    real = engine().rotation.shift(within(text), -len(LEAD))
    assert deviation(estimated, real) < 0.6 * deviation(alone(text), real)


def test_the_fixed_text_after_a_segment_is_estimated_from_the_same_anchors() -> None:
    anchors, text, fixed = made(Settings(gamma=1.0, tau=0.01)), segment(1), tokens(9, seed=70)
    for one in (text, segment(2)):
        whole = engine().prefill(LEAD + one + fixed).kv
        start, end = len(LEAD), len(LEAD) + len(one)
        anchors.observe(SLOT, alone(one), whole[:, :, start:end], start, (alone(fixed), whole[:, :, end:], end))
    gate = anchors.gate(SLOT, alone(text))
    after = anchors.estimate(gate, alone(fixed), follow=True)
    real = engine().prefill(LEAD + text + fixed).kv[:, :, len(LEAD) + len(text) :]
    assert deviation(engine().rotation.shift(after, len(LEAD) + len(text)), real) < 1e-6
    with pytest.raises(WrongShape):
        anchors.estimate(gate, alone(fixed[:5]), follow=True)


def test_fewer_than_two_anchors_are_not_shareable_nor_shorter_ones() -> None:
    anchors, text = made(), segment(1)
    assert not anchors.gate(SLOT, alone(text)).shareable
    observed(anchors, text)
    gate = anchors.gate(SLOT, alone(text))
    assert not gate.shareable and gate.eligible == 1
    observed(anchors, segment(2, count=12))
    assert anchors.gate(SLOT, alone(text)).eligible == 1
    assert not anchors.gate(replace(SLOT, consumer="reader"), alone(text)).shareable


def test_gamma_0_shares_nothing_and_gamma_1_everything() -> None:
    anchors = made(Settings(gamma=0.0))
    for seed in range(2, 6):
        observed(anchors, segment(seed))
    near = alone(edited(segment(2), 5))
    assert not anchors.gate(SLOT, near).shareable
    anchors.settings = Settings(gamma=1.0)
    gate = anchors.gate(SLOT, near)
    assert gate.shareable and gate.entropy <= gate.limit == 2.0
    anchors.settings = Settings(gamma=0.3)
    assert anchors.gate(SLOT, near).shareable, "one near anchor among far ones"
    alike = made(Settings(gamma=0.3))
    for _ in range(4):
        observed(alike, segment(2))
    assert not alike.gate(SLOT, alone(segment(9))).shareable, "all are as far"


def test_the_least_used_of_the_oldest_goes_when_a_slot_is_full() -> None:
    told: list[tuple[str, bool]] = []
    settings = Settings(gamma=1.0, anchors_max=4, window=3, tau=0.01)
    anchors = Anchors(
        engine().geometry, engine().rotation, settings, lambda slot, name, tokens, added: told.append((name, added))
    )
    names = [observed(anchors, segment(seed)) for seed in range(1, 5)]
    for seed in (1, 3):
        anchors.used(anchors.gate(SLOT, alone(segment(seed))))
    observed(anchors, segment(5))
    assert anchors.count(SLOT) == 4
    assert told[-2:] == [(names[1], False), (told[-1][0], True)], "not the fourth: it is not among the oldest three"


def test_anchors_keep_to_their_bytes_and_the_slot_unused_for_longest_goes() -> None:
    one = made()
    observed(one, segment(1))
    anchors = made(Settings(gamma=1.0, bytes_max=one.bytes * 3))
    slots = [replace(SLOT, consumer=str(at)) for at in range(3)]
    for slot in slots:
        anchors.observe(slot, alone(segment(1)), within(segment(1)), len(LEAD))
    anchors.gate(slots[0], alone(segment(1)))
    anchors.observe(slots[2], alone(segment(2)), within(segment(2)), len(LEAD))
    assert [anchors.count(slot) for slot in slots] == [1, 0, 2]
    assert anchors.bytes == one.bytes * 3


def test_of_long_segments_a_spread_of_tokens_is_compared() -> None:
    texts = [segment(1, count=200), segment(2, count=200), [*segment(1, count=100), *segment(3, count=100)]]
    whole, spread = made(), made(Settings(gamma=1.0, compared=20))
    for anchors in (whole, spread):
        for text in texts[1:]:
            observed(anchors, text)
    full, part = (anchors.gate(SLOT, alone(texts[0])) for anchors in (whole, spread))
    assert full.distance == pytest.approx(part.distance, rel=0.1), "half of the third text is the first"
    observed(spread, texts[0])
    assert spread.gate(SLOT, alone(texts[0])).distance == 0.0


def test_anchors_of_a_superseded_version_are_forgotten() -> None:
    anchors = made()
    observed(anchors, segment(1), versions=["v1"])
    observed(anchors, segment(2), versions=["v0", "v2"])
    assert anchors.drop_version("v1") == 1
    assert len(anchors) == 1 and anchors.drop_version("v1") == 0
    assert anchors.drop_version("v2") == 1 and anchors.bytes == 0


def test_a_gate_copies_no_anchor() -> None:
    anchors, base = made(), alone(segment(1))
    name = anchors.observe(SLOT, base, within(segment(1)), len(LEAD))
    observed(anchors, segment(2))
    gate = anchors.gate(SLOT, alone(segment(1)))
    kept = anchors.find(SLOT, name)
    assert kept.base.data_ptr() == base[1:].data_ptr()
    assert gate.anchors[0] is kept


def test_bf16_estimates_have_the_models_dtype() -> None:
    geometry = replace(engine().geometry, dtype=torch.bfloat16)
    anchors = Anchors(geometry, engine().rotation, Settings(gamma=1.0))
    for seed in (1, 2):
        text = segment(seed)
        anchors.observe(SLOT, alone(text).bfloat16(), within(text).bfloat16(), len(LEAD))
    base = alone(segment(1)).bfloat16()
    estimated = anchors.estimate(anchors.gate(SLOT, base), base)
    assert estimated.dtype == torch.bfloat16
    assert torch.equal(estimated[0], base[0]), "layer 0 is left as it is"


WRONG = [("gamma", -0.1), ("anchors_max", 0), ("window", 0), ("top_p", 0.0), ("tau", 0.0), ("gate_tau", 0.0)]


@pytest.mark.parametrize(("name", "value"), [*WRONG, ("compared", 0)])
def test_settings_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError):
        Settings(**{name: value})  # type: ignore[arg-type]


def gathered(variants: int, unlike: int) -> list[Sample]:
    """Variants of one text, which anchors of that one serve, and unlike ones, which they do not, mixed."""
    texts = [edited(segment(1), at % 24) for at in range(variants)] + [segment(100 + at) for at in range(unlike)]
    random.Random(0).shuffle(texts)
    return [Sample(SLOT, alone(one), within(one), len(LEAD)) for one in texts]


def afresh(kv: Tensor, sample: Sample, error_max: float) -> float:
    """One block: computed afresh where its farthest token is too far off."""
    real = engine().rotation.shift(sample.real, -sample.start)[2, KEYS]
    far = (kv[2, KEYS] - real).flatten(1).norm(dim=1) / real.flatten(1).norm(dim=1)
    return float(far.max() > error_max)


def test_gamma_is_the_greatest_up_to_which_estimates_leave_less_to_compute_afresh() -> None:
    samples = gathered(60, 30)

    def seen(gamma: float) -> tuple[list[float], list[float]]:
        anchors, estimated, as_kept = made(Settings(gamma=gamma)), [], []
        for sample in samples:
            gate = anchors.gate(SLOT, sample.base)
            if gate.shareable:
                estimated.append(afresh(anchors.estimate(gate, sample.base), sample, error_max))
                as_kept.append(afresh(sample.base, sample, error_max))
            anchors.observe(SLOT, sample.base, sample.real, sample.start)
        return estimated, as_kept

    ways = [deviation(one.base[2, KEYS], engine().rotation.shift(one.real, -one.start)[2, KEYS]) for one in samples]
    error_max = sorted(ways)[len(ways) // 2]
    found = calibrate(made(), samples, error_max)
    estimated, as_kept = seen(found.gamma)
    assert 0 < found.gamma <= 1 and found.served == len(estimated) >= SERVED_MIN
    assert sum(estimated) < (1 - GAIN) * sum(as_kept)
    estimated, as_kept = seen(1.0)
    assert found.samples == len(estimated)
    assert (found.afresh, found.afresh_as_kept) == (
        pytest.approx(sum(estimated) / len(estimated)),
        pytest.approx(sum(as_kept) / len(as_kept)),
    )


def test_gamma_is_0_where_estimates_save_nothing_or_too_few_were_seen() -> None:
    unlike = gathered(0, 50)
    found = calibrate(made(), unlike, 1e9)  # nothing is too far off: there is nothing to save
    assert (found.gamma, found.served, found.afresh, found.samples) == (0.0, 0, 0.0, 48)
    assert calibrate(made(), unlike, 0.0).gamma == 0.0  # everything is, estimated or not
    assert calibrate(made(), gathered(SERVED_MIN, 0), 0.05).gamma == 0.0
    assert calibrate(made(), [], 0.5) == Calibrated(0.0, 0.5, 0.0, 0.0, 0, 0)


def test_what_was_found_is_kept_in_a_file_that_names_the_model(tmp_path: Path) -> None:
    path, found = tmp_path / "anchors.json", Calibrated(0.25, 0.5, 0.125, 0.5, 40, 30, "f" * 64)
    found.write(path, command="homenode kv calibrate")
    assert Calibrated.read(path, "f" * 64) == found
    with pytest.raises(CalibrationError, match="is for another model"):
        Calibrated.read(path, "e" * 64)
    for text in ("", "[]", "{}", path.read_text().replace("0.25", "2"), path.read_text().replace("0.25", '"much"')):
        path.write_text(text)
        with pytest.raises(CalibrationError, match="holds no calibration"):
            Calibrated.read(path, "f" * 64)
