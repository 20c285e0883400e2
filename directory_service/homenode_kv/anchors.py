"""Corrections for segments that are reused under another prefix (KVCOMM, arXiv 2510.12872, section 3).

A segment's KV in a prompt differs from its base, computed alone, by what the text before it adds. For the same place of
the same template these offsets are alike when the segments are; so the offset of a new segment is estimated from
*anchors*, samples of earlier requests of which both the base and the real KV are known:

    K̂ = K_base + Σ w_a ΔK_a        V̂ = V_base + Σ w'_a ΔV_a        w = softmax(-distance / τ), apart for K and V

Everything is in the canonical frame, first token at position 0: an offset that was kept as it lay at one start would be
turned wrongly at another. Layer 0 does not depend on the context and is left as it is. Distances are relative, ‖a-b‖
over ‖a‖, so that γ means the same for segments of all lengths and models of all scales; in raw L2 it would not.

The gate: estimates are trusted where few anchors are near and many are not, that is where the entropy of
softmax(-distance / τ) is at most γ·log₂|A|; otherwise, and with fewer than two anchors, the prompt is computed densely
and becomes an anchor. Entropy knows no distance: one far anchor among farther ones passes. Who uses an estimate
therefore looks at the check layer as well (`composer`), and `calibration` chooses γ by what estimates save there.

Anchors are kept as they were given, never copied: a gate and an estimate read them where they lie. Estimates are
approximate, never bases.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homenode_kv.errors import WrongShape
from homenode_kv.ident import digest
from homenode_kv.layout import KEYS, VALUES, Geometry
from homenode_kv.rope import Rotation


@dataclass(frozen=True, slots=True)
class Slot:
    """A place: placeholder `placeholder` of `template`, as `consumer` sees it. All are digests or names, no text."""

    fingerprint: str
    template: str
    placeholder: str
    consumer: str

    @property
    def digest(self) -> str:
        """Names the slot."""
        parts = (self.fingerprint, self.template, self.placeholder, self.consumer)
        return digest([part.encode() for part in parts], person=b"slot")


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the anchors of one model.

    Attributes:
        gamma: γ, share of the greatest entropy up to which anchors are trusted; `calibration` finds it for a model.
        anchors_max: V, of a slot.
        window: of a full slot the least used among so many oldest goes.
        top_p: anchors beyond this sum of weights, nearest first, are left out.
        tau: of the weights' softmax over relative distances. The paper's 1.0 is for raw distances, which are some tens.
        gate_tau: of the gate's, sharper: whether some anchors are nearer than others must show before it is trusted.
        compared: of longer segments about so many tokens, evenly spread, are compared: matching 32K tokens costs no
            more than 1K.
        bytes_max: of all anchors; slots that were not used for longest go.
    """

    gamma: float = 0.3
    anchors_max: int = 20
    window: int = 5
    top_p: float = 0.9
    tau: float = 0.1
    gate_tau: float = 0.01
    compared: int = 512
    bytes_max: int = 256 << 20

    def __post_init__(self) -> None:
        if self.gamma < 0 or min(self.anchors_max, self.window, self.compared) < 1 or not 0 < self.top_p <= 1:
            raise ValueError("γ is at least 0, V, the window and what is compared at least 1, top-p above 0, at most 1")
        if min(self.tau, self.gate_tau) <= 0:
            raise ValueError("τ is above 0")


@dataclass(eq=False, slots=True)
class Anchor:
    """A sample. Layer 0 is left out of all tensors.

    Attributes:
        base: [L-1, 2, T, Hkv, d], canonical.
        offset: real - base, canonical.
        follow: the same difference for the fixed text after the placeholder; None where none was given.
        versions: digests of the artifact versions that it comes from: its own, and those before it in the prompt.
    """

    name: str
    base: Tensor
    offset: Tensor
    follow: Tensor | None
    versions: frozenset[str]
    uses: int = 0

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.base.shape[2])

    @property
    def bytes(self) -> int:
        """What it takes."""
        return self.base.nbytes + self.offset.nbytes + (0 if self.follow is None else self.follow.nbytes)


@dataclass(frozen=True, eq=False, slots=True)
class Gate:
    """Whether a slot's anchors serve a segment, and with which weights.

    Attributes:
        keys, values: weights of `anchors`, each summing to 1; empty where not shareable.
        anchors: those that are used.
        distance: of the nearest anchor's values; infinity without any.
        entropy, limit: bits; shareable where the first is at most the second.
        eligible: |A|, anchors that are long enough.
    """

    keys: Tensor
    values: Tensor
    anchors: tuple[Anchor, ...]
    distance: float
    entropy: float
    limit: float
    eligible: int

    @property
    def shareable(self) -> bool:
        """Whether an estimate may be made."""
        return bool(self.anchors)


@dataclass(slots=True)
class _Kept:
    anchors: list[Anchor] = field(default_factory=list)  # the oldest first
    bytes: int = 0


#: (slot's digest, anchor's name, tokens, whether it was added or evicted)
OnChange = Callable[[str, str, int, bool], None]


class Anchors:
    """Anchors of one model, in memory of their own.

    Attributes:
        settings: γ may be changed at any time.
        bytes: of all anchors.
    """

    def __init__(
        self,
        geometry: Geometry,
        rotation: Rotation,
        settings: Settings | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.bytes = 0
        self.on_change: OnChange = on_change or (lambda slot, name, tokens, added: None)
        self._geometry, self.rotation = geometry, rotation
        self._slots: OrderedDict[str, _Kept] = OrderedDict()
        self._made = 0

    def __len__(self) -> int:
        return sum(len(kept.anchors) for kept in self._slots.values())

    def count(self, slot: Slot) -> int:
        """Anchors of a slot."""
        kept = self._slots.get(slot.digest)
        return len(kept.anchors) if kept else 0

    def find(self, slot: Slot, name: str) -> Anchor:
        """An anchor, to be read and not changed. Raises KeyError."""
        kept = self._slots[slot.digest]
        return {anchor.name: anchor for anchor in kept.anchors}[name]

    def observe(
        self,
        slot: Slot,
        base: Tensor,
        real: Tensor,
        start: int,
        follow: tuple[Tensor, Tensor, int] | None = None,
        *,
        versions: Iterable[str] = (),
    ) -> str:
        """A dense pass becomes an anchor; its name.

        Args:
            base: canonical KV of the segment, computed alone. Kept as it is: do not change it.
            real: its KV in the prompt, first token at `start`.
            follow: the same three of the fixed text after it.
            versions: digests of the artifact versions in it and before it; `drop_version` forgets what came from them.
        """
        offset = self._offset(base, real, start)
        after = None if follow is None else self._offset(*follow)
        self._made += 1
        anchor = Anchor(f"{slot.digest[:16]}-{self._made}", base[1:], offset, after, frozenset(versions))
        kept = self._slots.setdefault(slot.digest, _Kept())
        self._slots.move_to_end(slot.digest)
        if len(kept.anchors) >= self.settings.anchors_max:
            oldest = kept.anchors[: self.settings.window]
            self._evict(slot.digest, min(oldest, key=lambda one: one.uses))
        kept.anchors.append(anchor)
        kept.bytes += anchor.bytes
        self.bytes += anchor.bytes
        self.on_change(slot.digest, anchor.name, anchor.tokens, True)
        while self.bytes > self.settings.bytes_max and self._slots:
            self._drop_slot(next(iter(self._slots)))
        return anchor.name

    def gate(self, slot: Slot, base: Tensor) -> Gate:
        """Whether the segment with this canonical base is near enough to the slot's anchors."""
        tokens = self._geometry.check(base)
        kept = self._slots.get(slot.digest)
        eligible = [anchor for anchor in kept.anchors if anchor.tokens >= tokens] if kept else []
        if not eligible:
            return _closed(float("inf"), 0.0, 0.0, 0)
        self._slots.move_to_end(slot.digest)
        spread = slice(0, tokens, max(1, tokens // self.settings.compared))
        distances = _distances(base[1:, :, spread], [anchor.base[:, :, spread] for anchor in eligible])
        shares = torch.softmax(-distances[:, VALUES].double() / self.settings.gate_tau, dim=0)
        entropy = float(-(shares * shares.clamp_min(1e-300).log2()).sum())
        limit = self.settings.gamma * math.log2(len(eligible))
        nearest = float(distances[:, VALUES].min())
        if len(eligible) < 2 or entropy > limit:
            return _closed(nearest, entropy, limit, len(eligible))
        weights = torch.softmax(-distances / self.settings.tau, dim=0)
        chosen = _top(weights[:, VALUES], self.settings.top_p) | _top(weights[:, KEYS], self.settings.top_p)
        weights = weights[chosen] / weights[chosen].sum(dim=0)
        anchors = tuple(anchor for anchor, one in zip(eligible, chosen.tolist(), strict=True) if one)
        return Gate(weights[:, KEYS], weights[:, VALUES], anchors, nearest, entropy, limit, len(eligible))

    def estimate(self, gate: Gate, base: Tensor, *, follow: bool = False) -> Tensor:
        """Canonical KV of the segment with this base as the prompt would make it; the base stays as it is.

        follow: it is the fixed text after the segment that the gate is about. Raises WrongShape where an anchor has
        none of the same length.
        """
        offsets = [anchor.follow if follow else anchor.offset for anchor in gate.anchors]
        tokens = self._geometry.check(base)
        made = base.to(torch.float32, copy=True)
        for part, weights in ((KEYS, gate.keys), (VALUES, gate.values)):
            for offset, weight in zip(offsets, weights.tolist(), strict=True):
                if offset is None or offset.shape[2] < tokens or (follow and offset.shape[2] != tokens):
                    raise WrongShape("the anchor has no offset of these tokens")
                made[1:, part].add_(offset[:, part, :tokens], alpha=weight)
        return made.to(base.dtype)

    def used(self, gate: Gate) -> None:
        """An estimate was made of these anchors: they are worth keeping."""
        for anchor in gate.anchors:
            anchor.uses += 1

    def drop_version(self, version: str) -> int:
        """Forgets what came from an artifact version; how many."""
        gone = [
            (slot, anchor)
            for slot, kept in self._slots.items()
            for anchor in kept.anchors
            if version in anchor.versions
        ]
        for slot, anchor in gone:
            self._evict(slot, anchor)
            if not self._slots[slot].anchors:
                del self._slots[slot]
        return len(gone)

    # --- inside ---

    def _offset(self, base: Tensor, real: Tensor, start: int) -> Tensor:
        if self._geometry.check(base) != self._geometry.check(real):
            raise WrongShape("a base and what became of it have the same tokens")
        offset = self.rotation.shift(real[1:], -start)
        return offset.sub_(base[1:])

    def _evict(self, slot: str, anchor: Anchor) -> None:
        kept = self._slots[slot]
        kept.anchors.remove(anchor)
        kept.bytes -= anchor.bytes
        self.bytes -= anchor.bytes
        self.on_change(slot, anchor.name, anchor.tokens, False)

    def clear(self) -> None:
        """Forgets all anchors."""
        for slot in list(self._slots):
            self._drop_slot(slot)

    def _drop_slot(self, slot: str) -> None:
        for anchor in list(self._slots[slot].anchors):
            self._evict(slot, anchor)
        del self._slots[slot]


def _closed(distance: float, entropy: float, limit: float, eligible: int) -> Gate:
    nothing = torch.empty(0)
    return Gate(nothing, nothing, (), distance, entropy, limit, eligible)


def _distances(ours: Tensor, theirs: list[Tensor]) -> Tensor:
    """Relative distances to each of them, of keys and of values, over all layers: [A, 2]."""
    ours = ours.float()
    size = ours.square().sum(dim=(0, 2, 3, 4)).clamp_min(1e-24)
    return torch.stack([((other - ours).square_().sum(dim=(0, 2, 3, 4)) / size).sqrt() for other in theirs])


def _top(weights: Tensor, top_p: float) -> Tensor:
    """The heaviest that together reach `top_p`: bool [A]."""
    order = weights.argsort(descending=True)
    before = weights[order].cumsum(0) - weights[order]
    chosen = torch.zeros_like(weights, dtype=torch.bool)
    chosen[order[before < top_p]] = True
    return chosen
