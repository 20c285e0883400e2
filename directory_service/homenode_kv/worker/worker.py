"""The worker as a whole: what its parts share, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_kv.costs import Tier
from homenode_kv.engine import Engine
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.worker.callers import Callers
from homenode_kv.worker.coherence import Coherence
from homenode_kv.worker.generation import Job, Written, write
from homenode_kv.worker.keeper import Keeper
from homenode_kv.worker.metrics import Metrics
from homenode_kv.worker.models import Loaded
from homenode_kv.worker.outputs import Outputs
from homenode_kv.worker.placement import TIERS
from homenode_kv.worker.refusals import Refused
from homenode_kv.worker.round_calls import RoundCalls
from homenode_kv.worker.text import Tokenizer
from homenode_kv.worker.turns import Turns

_RATE_TOKENS = 512
_RATE_BYTES = 1 << 20


@dataclass
class Worker:
    """See the module."""

    loaded: Loaded
    identity: pb.KvWorkerId
    keeper: Keeper
    turns: Turns
    coherence: Coherence
    callers: Callers
    version: str
    outputs: Outputs = field(default_factory=Outputs)
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    decode_tokens_per_s: float = 0.0

    def __post_init__(self) -> None:
        self.model = pb.KvModel(
            name=self.loaded.name,
            fingerprint=self.loaded.fingerprint,
            tokens_max=self.engine.tokens_max,
            block_tokens=BLOCK_TOKENS,
            token_bytes=self.engine.geometry.token_bytes,
            token_flops=self.loaded.token_flops,
            device=str(self.engine.device),
        )
        self.metrics.watch(self.keeper, self.turns)
        self.rounds = RoundCalls(self)

    @property
    def engine(self) -> Engine:
        """Of the model."""
        return self.loaded.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self.loaded.tokenizer

    def require(self, model: str) -> None:
        """Raises Refused unless this worker serves `model`: its name, its fingerprint, or "" for any."""
        if model in ("", self.model.name, self.model.fingerprint):
            return
        if len(model) == len(self.model.fingerprint) and set(model) <= set("0123456789abcdef"):
            raise Refused(
                t.ERROR_REASON_MODEL_MISMATCH, f"this worker's model has fingerprint {self.model.fingerprint}"
            )
        raise Refused(t.ERROR_REASON_NOT_FOUND, f"this worker serves {self.model.name!r}, not {model[:80]!r}")

    def write(self, job: Job) -> Written:
        """Runs a job on the engine's thread."""
        written = write(self.keeper, self.outputs, self.tokenizer, job)
        if written.tokens and written.decode_ms > 0:
            self.decode_tokens_per_s = written.tokens / written.decode_ms * 1000
        return written

    def load(self) -> pb.WorkerLoad:
        """How busy it is."""
        pool, turns = self.keeper.pool, self.turns
        prefill_ms = pool.costs.predict(_RATE_TOKENS)
        standing = self.keeper.rounds.standing()
        return pb.WorkerLoad(
            queued=turns.waiting,
            running=turns.running,
            queue_max=turns.waiting_max,
            queued_tokens=turns.tokens,
            prefill_tokens_per_s=_RATE_TOKENS / prefill_ms * 1000 if prefill_ms else 0.0,
            decode_tokens_per_s=self.decode_tokens_per_s,
            host_bytes_per_s=self._reload_rate(Tier.HOST),
            disk_bytes_per_s=self._reload_rate(Tier.DISK),
            tiers=[
                pb.TierBytes(tier=TIERS[tier], bytes=pool.bytes(tier), bytes_max=pool.bytes_max(tier)) for tier in Tier
            ],
            masters=standing.masters,
            mirrors=standing.mirrors,
            anchors=self.keeper.anchor_count,
            draining=self.draining,
        )

    def _reload_rate(self, tier: Tier) -> float:
        ms = self.keeper.pool.costs.choose(tier, _RATE_BYTES, 1).reload_ms
        return _RATE_BYTES / ms * 1000 if ms else 0.0
