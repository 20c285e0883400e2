"""What workers tell and what is asked, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from homenode_directory.protocol.model import NO_VERSION, Version


class Tier(IntEnum):
    """Where KV lies; the lower, the nearer."""

    DEVICE = 1
    HOST = 2
    DISK = 3


class Provenance(StrEnum):
    """What KV is worth: the model's own, its own under a mask that isolates segments, or near to it."""

    EXACT = "exact"
    EXACT_BY_MASK = "exact_by_mask"
    APPROXIMATE = "approximate"


@dataclass(frozen=True, slots=True)
class Holding:
    """KV of one artifact version at one worker; `digest` is its content key there."""

    digest: str
    artifact: str
    version: Version
    tokens: int
    tier: Tier = Tier.DEVICE
    provenance: Provenance = Provenance.EXACT


@dataclass(frozen=True, slots=True)
class Stored:
    """KV was stored, or is told again."""

    holding: Holding


@dataclass(frozen=True, slots=True)
class Removed:
    """KV is gone."""

    digest: str


@dataclass(frozen=True, slots=True)
class TierChanged:
    """KV was moved."""

    digest: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A piece of everything that a worker holds. Pieces follow each other without anything in between."""

    holdings: tuple[Holding, ...]
    first: bool = True
    last: bool = True


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that takes its place in the sequence and changes nothing here: masters, anchors."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a worker is, and how fast; a rate of 0 is not known yet.

    Attributes:
        running: requests that are computed, prefilled or decoded.
        queued: requests that wait.
        queued_tokens: tokens that they are to prefill.
        decoding: of those that run, the ones that decode.
        room_tokens: how many the device has room for at all; 0: not told.
        reload: tokens per millisecond from each tier that is not the device.
        draining: it takes no new work.
    """

    running: int = 0
    queued: int = 0
    queued_tokens: int = 0
    decoding: int = 0
    room_tokens: int = 0
    prefill_tokens_per_ms: float = 0.0
    decode_ms_per_token: float = 0.0
    reload: Mapping[Tier, float] = field(default_factory=dict)
    draining: bool = False


Event = Stored | Removed | TierChanged | Snapshot | Noted | Load


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt: text (`artifact` empty), or a version of an artifact; `tokens` is an estimate."""

    tokens: int
    artifact: str = ""
    version: Version = NO_VERSION
