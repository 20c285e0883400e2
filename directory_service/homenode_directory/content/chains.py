"""How a content is stored, and what is sent to a reader: patch, chain of patches or snapshot. Pure.

A version's bytes are stored once per slice, under their hash, as a snapshot or as a patch from a base that is stored
too. Following the bases from a content to a snapshot gives its *chain*. Chains are kept short, so that a load costs
little, and small, so that they stay worth it: at most `LINKS_MAX` patches, together at most half of the version's
full size. Past that a snapshot begins a new chain.

What a reader gets is decided apart from that: a reader who holds the previous version should receive a few hundred
bytes even where the new version happened to start a chain. Candidates are the stored patches that lead from a content
that the reader holds (to be applied in order), one patch made for the purpose, and the snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

#: Patches between a stored content and the snapshot below it, at most.
LINKS_MAX = 16
#: Largest content in one piece, in bytes.
MAX_BYTES = 4 << 20
#: Contents up to this size are always stored as snapshots: a chain would save less than it costs.
SMALL_BYTES = 1024
#: Stored patches of less than this fraction of the content are sent without looking for something shorter.
_GOOD_ENOUGH = 16


class ContentTooLarge(ValueError):
    """A content exceeds what is stored in one piece."""

    def __init__(self, size: int, max_bytes: int) -> None:
        super().__init__(f"content of {size} bytes; at most {max_bytes} are accepted")
        self.size = size
        self.max_bytes = max_bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A stored content: a patch from `base`, or a snapshot when `base` is empty. Sizes in bytes.

    `size` is that of the content, `stored_bytes` that of the patch or snapshot. `links` patches of together
    `chain_bytes` lie between this content and its snapshot, its own included (0 and 0 for a snapshot).
    """

    hash: str
    size: int
    stored_bytes: int
    base: str = ""
    links: int = 0
    chain_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StorePlan:
    """How a new content is stored; `base` is empty for a snapshot."""

    base: str = ""
    links: int = 0
    chain_bytes: int = 0


SNAPSHOT = StorePlan()


def check_size(size: int, max_bytes: int = MAX_BYTES) -> None:
    """Raise ContentTooLarge for a content of more than `max_bytes`."""
    if size > max_bytes:
        raise ContentTooLarge(size, max_bytes)


def plan_store(size: int, patch_bytes: int, base: Link | None, *, max_bytes: int = MAX_BYTES) -> StorePlan:
    """How to store a content of `size` bytes for which the writer sent a patch of `patch_bytes` from `base`.

    `base` is None where the writer sent the whole content. Raises ContentTooLarge.
    """
    check_size(size, max_bytes)
    if base is None or size <= SMALL_BYTES:
        return SNAPSHOT
    links, chain_bytes = base.links + 1, base.chain_bytes + patch_bytes
    if links > LINKS_MAX or 2 * chain_bytes > size:
        return SNAPSHOT
    return StorePlan(base.hash, links, chain_bytes)


class Sending(StrEnum):
    """What goes to a reader: nothing, stored patches, one patch made for the purpose, or the snapshot."""

    HELD = "held"
    STORED = "stored"
    MADE = "made"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class SendPlan:
    """What goes to a reader: patches start from the held content `base`.

    `via` are the hashes that stored patches lead to, in the order of application; the last is the wanted content.
    """

    sending: Sending
    base: str = ""
    via: tuple[str, ...] = ()


def route(wanted: str, stored: Mapping[str, Link], have: Sequence[str]) -> SendPlan | None:
    """The stored patches that lead to `wanted` from the nearest content in `have`; None where none do.

    `stored` holds what is known of the chain; it need not go further than the first content in `have`.
    """
    via: list[str] = []
    at = wanted
    while at not in have:
        link = stored.get(at)
        if link is None or not link.base or len(via) == LINKS_MAX:
            return None
        via.append(at)
        at = link.base
    return SendPlan(Sending.STORED, at, tuple(reversed(via))) if via else SendPlan(Sending.HELD)


def good_enough(plan: SendPlan | None, stored: Mapping[str, Link], *, patches_max: int = LINKS_MAX) -> bool:
    """Whether a route is so short that neither a snapshot nor another patch is worth making to compare."""
    if plan is None or len(plan.via) > patches_max:
        return False
    return not plan.via or route_bytes(plan, stored) * _GOOD_ENOUGH <= stored[plan.via[-1]].size


def route_bytes(plan: SendPlan, stored: Mapping[str, Link]) -> int:
    """Bytes of the stored patches of a plan."""
    return sum(stored[hash_].stored_bytes for hash_ in plan.via)


def plan_send(
    wanted: str,
    stored: Mapping[str, Link],
    have: Sequence[str],
    *,
    snapshot_bytes: int,
    made: Mapping[str, int],
    patches_max: int = LINKS_MAX,
) -> SendPlan:
    """The shortest of stored patches, a patch made from a held base, and the snapshot.

    `made` gives the bytes of single patches to `wanted` by their base (those not in `have` are ignored),
    `snapshot_bytes` the snapshot's as it would be sent. A reader takes `patches_max` patches at most. On a tie what is
    stored wins over what is made, and patches over the snapshot.
    """
    options: list[tuple[int, int, SendPlan]] = [(snapshot_bytes, 2, SendPlan(Sending.SNAPSHOT))]
    stored_route = route(wanted, stored, have)
    if stored_route is not None and len(stored_route.via) <= patches_max:
        options.append((route_bytes(stored_route, stored), 0, stored_route))
    options += [(size, 1, SendPlan(Sending.MADE, base, (wanted,))) for base, size in made.items() if base in have]
    return min(options, key=lambda option: (option[0], option[1], option[2].base))[2]
