"""What a generation rested on, as the worker and the directory told it."""

from __future__ import annotations

from dataclasses import dataclass

from homenode.artifact import Artifact
from homenode.versions import Version
from homenode_api.v1 import kv_tier_pb2 as kv


@dataclass(frozen=True, slots=True)
class Provenance:
    """What KV is worth: "exact", "exact_by_mask" or "approximate", or "unspecified" of a worker that was lost before it
    said so; `error` is a relative deviation, if one is known."""

    kind: str
    error: float | None = None
    own_decode: bool = False


@dataclass(frozen=True, slots=True)
class KvUse:
    """Where the KV of a part's tokens came from. All counts but `restored` add up to `tokens`.

    Attributes:
        key, version: of an artifact; "" and None: text.
        exact, exact_by_mask, approximate: reused as they were.
        refreshed: reused, and computed afresh where they had to be.
        dense: computed.
        restored: of the approximate ones, what a round left of the same beginning.
    """

    tokens: int = 0
    exact: int = 0
    exact_by_mask: int = 0
    approximate: int = 0
    refreshed: int = 0
    dense: int = 0
    key: str = ""
    version: Version | None = None
    restored: int = 0

    @property
    def reused(self) -> int:
        """Tokens that were not computed."""
        return self.exact + self.exact_by_mask + self.approximate


@dataclass(frozen=True, slots=True)
class GenerationReport:
    """What a generation rested on.

    Attributes:
        worker, model, fingerprint: who wrote it, and with what.
        prompt: of the whole prompt; parts: of each part of it.
        provenance: of the prompt's KV as a whole.
        predicted_ms: until the first token, as the directory expected; ttft_ms: as it was from the call of `generate`
            on; worker_ttft_ms: as the worker saw it.
        output_tokens: that it wrote; ended: "stop", "length" or "context".
        flops_saved: of the prefill, by the worker's count.
        lost: workers that failed before or while they wrote.
        dead_parts: places of parts whose version was superseded already, as far as the directory knew.
        adopted: after `commit_to`: whether the output's KV became the base of the version.
    """

    worker: str
    model: str
    fingerprint: str
    prompt: KvUse
    parts: tuple[KvUse, ...]
    provenance: Provenance
    predicted_ms: float = 0.0
    ttft_ms: float = 0.0
    worker_ttft_ms: float = 0.0
    total_ms: float = 0.0
    output_tokens: int = 0
    ended: str = ""
    flops_saved: int = 0
    round_members: int = 1
    lost: tuple[str, ...] = ()
    dead_parts: tuple[int, ...] = ()
    adopted: bool | None = None


def use_of(said: kv.KvUse, artifact: Artifact | None) -> KvUse:
    """From the wire; `artifact`: which the part was, None for text."""
    return KvUse(
        said.tokens,
        said.exact_tokens,
        said.exact_by_mask_tokens,
        said.approximate_tokens,
        said.refreshed_tokens,
        said.dense_tokens,
        artifact.key if artifact is not None else "",
        artifact.version if artifact is not None else None,
        said.restored_tokens,
    )


def provenance_of(said: kv.KvProvenance) -> Provenance:
    """From the wire."""
    kind = kv.KvKind.Name(said.kind).removeprefix("KV_KIND_").lower()
    return Provenance(kind, said.error if said.HasField("error") else None, said.own_decode)
