"""γ of a model: the entropy up to which its anchors are trusted, by the error that estimates then have.

The paper's γ is a number for all models; what it lets through depends on the model and its texts. Here it is found from
prompts that no test uses, in the order in which a worker would see them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from homenode_kv.anchors import Anchors, Slot

_ROUND = 1 + 1e-9  # the gate multiplies γ by what it was divided by here


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """A segment of a prompt that was computed densely, to calibrate with."""

    slot: Slot
    base: Tensor
    real: Tensor
    start: int


def calibrate(anchors: Anchors, samples: Iterable[Sample], error_max: float) -> float:
    """The greatest γ whose estimates deviate by at most `error_max` in the mean, on prompts that no test uses.

    Each sample is estimated from those before it and then becomes an anchor itself, as in use. 0.0 where no γ will do.
    The deviation is that of layers 1 and up, relative, keys and values together.
    """
    given, scored = anchors.settings, list[tuple[float, float]]()  # share of the greatest entropy, error
    for sample in samples:
        anchors.settings = replace(given, gamma=float("inf"))
        gate = anchors.gate(sample.slot, sample.base)
        if gate.shareable:
            estimated = anchors.estimate(gate, sample.base)
            scored.append((gate.entropy / math.log2(gate.eligible), _off(estimated, sample, anchors)))
        anchors.settings = given
        anchors.observe(sample.slot, sample.base, sample.real, sample.start)
    gamma, total = 0.0, 0.0
    for count, (share, error) in enumerate(sorted(scored), 1):
        total += error
        if total / count <= error_max:
            gamma = share * _ROUND
    return gamma


def _off(estimated: Tensor, sample: Sample, anchors: Anchors) -> float:
    real = anchors.rotation.shift(sample.real, -sample.start)[1:].float()
    return float((estimated[1:].float() - real).norm() / real.norm().clamp_min(1e-12))
