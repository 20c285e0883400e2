"""γ of a model: the entropy up to which its anchors are trusted, by the error that estimates then have.

The paper's γ is a number for all models; what it lets through depends on the model and its texts. Here it is found from
prompts that no test uses, in the order in which a worker would see them. What was found for a model is a small file,
`anchors.json` beside its weights, that names the model it is for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from torch import Tensor

from homenode_kv.anchors import Anchors, Slot

FILE = "anchors.json"
_ROUND = 1 + 1e-9  # the gate multiplies γ by what it was divided by here


class CalibrationError(ValueError):
    """A file that holds no calibration, or one of another model."""


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """A segment of a prompt that was computed densely, to calibrate with."""

    slot: Slot
    base: Tensor
    real: Tensor
    start: int


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What calibration found.

    Attributes:
        gamma: the greatest whose estimates keep to what was asked; 0.0 where none do.
        error_max: what they may deviate in the mean.
        error: what they do at this γ.
        error_as_kept: of the same segments reused as they are kept, without an estimate.
        samples: segments that anchors might have served.
        served: those that they do serve at this γ.
        fingerprint: of the model.
    """

    gamma: float
    error_max: float
    error: float
    error_as_kept: float
    samples: int
    served: int
    fingerprint: str = ""

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> Calibrated:
        """From a file, for the model of this fingerprint. Raises CalibrationError, OSError."""
        try:
            known = json.loads(path.read_text())
            found = cls(**{one.name: known[one.name] for one in fields(cls)})
            if not 0 <= found.gamma <= 1 or not isinstance(found.fingerprint, str):
                raise ValueError("γ is from 0 to 1")
        except (ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"{path} holds no calibration: {error}") from None
        if found.fingerprint != fingerprint:
            raise CalibrationError(f"{path} is for another model, or for these weights in another dtype")
        return found

    def write(self, path: Path, **more: object) -> None:
        """To a file, with what else is to be known of it."""
        rounded = {name: round(one, 6) if isinstance(one, float) else one for name, one in asdict(self).items()}
        path.write_text(json.dumps(rounded | more, indent=1) + "\n")


def calibrate(anchors: Anchors, samples: Iterable[Sample], error_max: float) -> Calibrated:
    """The greatest γ whose estimates, in the mean, deviate by at most `error_max`, and by no more than no estimate.

    Each sample is estimated from those before it and then becomes an anchor itself, as in use. The deviation is that of
    layers 1 and up, relative, keys and values together.
    """
    given, scored = anchors.settings, list[tuple[float, float, float]]()  # share of the greatest entropy, errors
    for sample in samples:
        anchors.settings = replace(given, gamma=float("inf"))
        gate = anchors.gate(sample.slot, sample.base)
        if gate.shareable:
            estimated = anchors.estimate(gate, sample.base)
            share = gate.entropy / math.log2(gate.eligible)
            scored.append((share, _off(estimated, sample, anchors), _off(sample.base, sample, anchors)))
        anchors.settings = given
        anchors.observe(sample.slot, sample.base, sample.real, sample.start)
    best = Calibrated(0.0, error_max, 0.0, 0.0, len(scored), 0)
    total = as_kept = 0.0
    for count, (share, error, without) in enumerate(sorted(scored), 1):
        total, as_kept = total + error, as_kept + without
        if total / count <= error_max and total <= as_kept:
            gamma = min(1.0, share * _ROUND)
            best = Calibrated(gamma, error_max, total / count, as_kept / count, len(scored), count)
    return best


def _off(estimated: Tensor, sample: Sample, anchors: Anchors) -> float:
    real = anchors.rotation.shift(sample.real, -sample.start)[1:].float()
    return float((estimated[1:].float() - real).norm() / real.norm().clamp_min(1e-12))
