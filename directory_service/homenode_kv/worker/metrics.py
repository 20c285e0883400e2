"""What a worker shows to Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from homenode_kv.costs import Tier

if TYPE_CHECKING:
    from homenode_kv.parts import Composed, Use
    from homenode_kv.worker.keeper import Keeper
    from homenode_kv.worker.turns import Turns

LATENCY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ERRORS = (1e-6, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
MEMBERS = (1, 2, 3, 5, 8, 12, 20, 32, 64)
KINDS = ("exact", "exact_by_mask", "approximate", "refreshed", "dense")

#: What is read when it is asked for: name, text, label.
LEVELS = {
    "homenode_kv_bytes": ("Bytes of KV.", "tier"),
    "homenode_kv_bytes_max": ("Most bytes of KV.", "tier"),
    "homenode_kv_entries": ("KV that is kept: bases, prompts, members of rounds.", ""),
    "homenode_kv_anchors": ("Anchors that are kept.", ""),
    "homenode_kv_anchor_bytes": ("Bytes of anchors.", ""),
    "homenode_kv_members": ("Members of rounds: masters of others, mirrors of masters.", "kind"),
    "homenode_kv_mirror_bytes": ("Bytes of mirrors, as they are kept and as whole members.", "form"),
    "homenode_kv_calls_waiting": ("Calls that wait for their turn.", ""),
    "homenode_kv_family_events": (
        "What was done with members of rounds: restored for a prompt; masters that handed over to a mirror.",
        "event",
    ),
    "homenode_kv_pool_events": (
        "What the pool did: entries lost, reloaded, moved down, found broken, not written to disk; refusals.",
        "event",
    ),
}


class Metrics:
    """All metrics of one worker, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._calls = Counter("homenode_kv_calls", "Calls ended.", ["method", "outcome"], registry=self.registry)
        self._hits = Counter(
            "homenode_kv_prompts", "Prompts, by the weakest provenance of what was reused.", ["provenance"],
            registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "homenode_kv_prompt_tokens", "Tokens of prompts, by where their KV came from.", ["source"],
            registry=self.registry,
        )  # fmt: skip
        self._restored = Counter(
            "homenode_kv_restored_tokens", "Tokens of prompts, of the approximate, whose KV a round left.",
            registry=self.registry,
        )  # fmt: skip
        self._written = Counter("homenode_kv_output_tokens", "Tokens written.", registry=self.registry)
        self._flops = Counter(
            "homenode_kv_flops_saved", "Operations that prefills of reused tokens would have taken, about.",
            registry=self.registry,
        )  # fmt: skip
        self._predicted = self._histogram("predicted_error", "Relative error of keys that a plan expected.", ERRORS)
        self._measured = self._histogram("measured_error", "Relative error of keys on the check layer.", ERRORS)
        self._ttft = self._histogram("ttft_seconds", "Time from a request to its first token.", LATENCY_S)
        self._queue = self._histogram("queue_seconds", "Time that a call waited for its turn.", LATENCY_S)
        self._members = self._histogram("round_members", "Prompts that were computed together.", MEMBERS)
        self._superseded = Counter(
            "homenode_kv_superseded", "Segments let go because their version was superseded.", registry=self.registry
        )
        for kind in KINDS:
            self._tokens.labels(kind)
        for kind in ("dense", "exact", "exact_by_mask", "approximate"):
            self._hits.labels(kind)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"homenode_kv_{name}", text, buckets=bounds, registry=self.registry)

    def watch(self, keeper: Keeper, turns: Turns) -> None:
        """Levels are read when they are asked for."""
        self.registry.register(_Levels(keeper, turns))

    def called(self, method: str, outcome: str) -> None:
        """A call ended: "ok" or a reason."""
        self._calls.labels(method, outcome).inc()

    def composed(self, composed: Composed, token_flops: int) -> None:
        """A prompt's KV is there."""
        whole = composed.whole
        for kind in KINDS:
            self._tokens.labels(kind).inc(getattr(whole, kind))
        self._restored.inc(whole.restored)
        self._hits.labels(_weakest(whole)).inc()
        self._flops.inc(whole.reused * token_flops)
        if whole.approximate and not math.isnan(composed.predicted):
            self._predicted.observe(composed.predicted)
        if not math.isnan(composed.measured):
            self._measured.observe(composed.measured)

    def written(self, tokens: int, ttft_ms: float, queue_ms: float, members: int = 1) -> None:
        """A text is written."""
        self._written.inc(tokens)
        self._ttft.observe(ttft_ms / 1000)
        self._queue.observe(queue_ms / 1000)
        self._members.observe(members)

    def superseded(self, segments: int) -> None:
        """A version went."""
        self._superseded.inc(segments)


class _Levels(Collector):
    """See `LEVELS`."""

    def __init__(self, keeper: Keeper, turns: Turns) -> None:
        self._keeper = keeper
        self._turns = turns

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        pool, standing, counters = self._keeper.pool, self._keeper.rounds.standing(), self._keeper.pool.counters
        found = {
            "homenode_kv_bytes": {tier.value: pool.bytes(tier) for tier in Tier},
            "homenode_kv_bytes_max": {tier.value: pool.bytes_max(tier) for tier in Tier},
            "homenode_kv_entries": {"": len(pool)},
            "homenode_kv_anchors": {"": self._keeper.anchor_count},
            "homenode_kv_anchor_bytes": {"": self._keeper.anchors.bytes},
            "homenode_kv_members": {"master": standing.masters, "mirror": standing.mirrors},
            "homenode_kv_mirror_bytes": {"kept": standing.mirror_bytes, "whole": standing.mirror_dense_bytes},
            "homenode_kv_calls_waiting": {"": self._turns.waiting},
        }
        for name, values in found.items():
            text, label = LEVELS[name]
            gauge = GaugeMetricFamily(name, text, labels=[label] if label else [])
            for value, level in values.items():
                gauge.add_metric([value] if label else [], float(level))
            yield gauge
        text, label = LEVELS["homenode_kv_family_events"]
        done = CounterMetricFamily("homenode_kv_family_events", text, labels=[label])
        done.add_metric(["restored"], float(standing.restored))
        done.add_metric(["election"], float(standing.elections))
        yield done
        text, label = LEVELS["homenode_kv_pool_events"]
        events = CounterMetricFamily("homenode_kv_pool_events", text, labels=[label])
        for event in ("lost", "refused", "broken", "write_failures"):
            events.add_metric([event], float(getattr(counters, event)))
        events.add_metric(["reloaded"], float(sum(counters.reloaded.values())))
        events.add_metric(["demoted"], float(sum(counters.demoted.values())))
        yield events


def _weakest(use: Use) -> str:
    for kind in ("approximate", "exact_by_mask", "exact"):
        if getattr(use, kind):
            return kind
    return "dense"
