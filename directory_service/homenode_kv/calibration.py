"""γ of a model: up to which entropy its anchors are tried.

The paper's γ is a number for all models; what it lets through depends on the model and its texts. Here it is found from
prompts that no test uses, in the order in which a worker would see them, and by what a worker pays: it computes afresh
each block in which a token is too far off on the check layer (`composer`), estimated or not. So γ is the greatest up to
which estimates leave less of that than KV that is reused as it is kept; 0 where they never do.

What was found for a model is a small file, `anchors.json` beside its weights, that names the model it is for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from torch import Tensor

from homenode_kv.anchors import Anchors, Slot
from homenode_kv.layout import KEYS
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.planner import CHECK_LAYER

FILE = "anchors.json"
GAIN = 0.05
SERVED_MIN = 32
"""An estimate costs time, and of a few segments luck looks like a gain."""
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
        gamma: the greatest up to which estimates pay; 0.0: they do not.
        error_max: how far a token's keys may be off.
        afresh: share of the tokens that are computed afresh all the same where all are estimated.
        afresh_as_kept: the same of the same segments without an estimate.
        samples: segments that anchors might have served.
        served: those that they do serve at this γ.
        fingerprint: of the model.
    """

    gamma: float
    error_max: float
    afresh: float
    afresh_as_kept: float
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


def calibrate(anchors: Anchors, samples: Iterable[Sample], error_max: float, layer: int = CHECK_LAYER) -> Calibrated:
    """The greatest γ up to which estimates leave less to compute afresh: by `GAIN`, and of `SERVED_MIN` segments.

    Each sample is estimated from those before it and then becomes an anchor itself, as in use.
    """
    given, scored = anchors.settings, list[tuple[float, float, float]]()  # share of the greatest entropy, afresh
    for sample in samples:
        anchors.settings = replace(given, gamma=float("inf"))
        gate = anchors.gate(sample.slot, sample.base)
        if gate.shareable:
            real = anchors.rotation.shift(sample.real, -sample.start)
            share = gate.entropy / math.log2(gate.eligible)
            ways = (anchors.estimate(gate, sample.base), sample.base)
            estimated, as_kept = (_afresh(kv, real, error_max, layer) for kv in ways)
            scored.append((share, estimated, as_kept))
        anchors.settings = given
        anchors.observe(sample.slot, sample.base, sample.real, sample.start)
    gamma, served, estimated, as_kept = 0.0, 0, 0.0, 0.0
    for count, (share, one, other) in enumerate(sorted(scored), 1):
        estimated, as_kept = estimated + one, as_kept + other
        if count >= SERVED_MIN and estimated < (1 - GAIN) * as_kept:
            gamma, served = min(1.0, share * _ROUND), count
    count = max(1, len(scored))
    return Calibrated(gamma, error_max, estimated / count, as_kept / count, len(scored), served)


def _afresh(kv: Tensor, real: Tensor, error_max: float, layer: int) -> float:
    """The share of the tokens in blocks of 32 of which one is too far off, as a worker looks at them."""
    layer = min(layer, real.shape[0] - 1)
    ours, theirs = kv[layer, KEYS].flatten(1).float(), real[layer, KEYS].flatten(1).float()
    far = (ours - theirs).norm(dim=1) > error_max * theirs.norm(dim=1).clamp_min(1e-12)
    return sum(len(block) for block in far.split(BLOCK_TOKENS) if block.any()) / len(far)
