"""top: what the metrics of one or more servers say together."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from homenode.cli.metrics import Metrics

_REQUESTS = "homenode_requests_total"
_READS = "homenode_cache_reads_total"
_KV_TOKENS = "homenode_kv_routed_tokens_total"

#: Names of `figures`, and what they mean; part of the interface of `homenode top --json`. null: no server tells it.
FIGURES = {
    "sessions": "sessions attached",
    "streams": "open streams and watches",
    "stream_lag_s": "how long the oldest event for a stream has waited",
    "log_lag": "log entries that are not delivered yet, of the slice that is furthest behind",
    "resyncs": "sessions told that events were lost",
    "requests": "operations answered",
    "cache_reads": "reads by agents, as SDKs tell: hits, misses and refused ones",
    "hit_rate": "part of them that was served from the cache",
    "stale_reads": "reads refused as too old",
    "read_age_p99_s": "greatest age of cached reads",
    "reads": "reads that the directory answered",
    "commits": "commits answered",
    "published": "versions published",
    "conflicts": "commits and requests for leases that other writers were in the way of",
    "write_leases": "write leases, as the server says that knows most",
    "lease_wait_p99_s": "how long a granted write lease was waited for",
    "invalidations": "invalidations sent",
    "invalidation_p50_s": "from a commit to a sharer's word that its copy is gone: median",
    "invalidation_p99_s": "the same: 99 of 100 are below",
    "fanout": "sessions told of a commit, on average",
    "bodies": "contents sent, whole or in part",
    "bodies_held": "those that the receiver had already",
    "bytes_sent": "bytes of contents sent",
    "bytes_saved": "bytes of contents that did not travel",
    "tokens_saved": "tokens that agents did not have to be shown",
    "store_p99_s": "time of a call of the store",
    "store_failures": "calls of the store that failed",
    "store_memory": "bytes that the store uses",
    "store_memory_limit": "most that it may use; 0: no limit",
    "persistence_ok": "1: the store's last write to disk went well on every server's word",
    "incarnations": "times that the store was found to have another memory",
    "event_loop_lag_p99_s": "how late a server came to a timer",
    "kv_workers": "KV workers, as the server says that knows most",
    "kv_holdings": "artifact versions of which they hold KV, once for each worker",
    "kv_routes": "prompts for which one was sought",
    "kv_cached": "part of those prompts' tokens that need not be computed, as predicted",
}
#: Those that rise, and the counter of each; from the second look on there is a `…_per_s` of each too.
COUNTED: dict[str, tuple[str, dict[str, str]]] = {
    "requests": (_REQUESTS, {}),
    "cache_reads": (_READS, {}),
    "reads": (_REQUESTS, {"operation": "read"}),
    "commits": (_REQUESTS, {"operation": "commit", "outcome": "ok"}),
    "conflicts": ("homenode_conflicts_total", {}),
    "invalidations": ("homenode_delivered_total", {"kind": "invalidation"}),
    "tokens_saved": ("homenode_tokens_saved_total", {}),
    "kv_routes": ("homenode_kv_routes_total", {}),
}


@dataclass(frozen=True, slots=True)
class Fleet:
    """One look at several servers: what those that answered say, by address, and why the others did not."""

    at: float
    told: Mapping[str, Metrics] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether any server tells it."""
        return any(name in metrics for metrics in self.told.values())

    def sum(self, name: str, **labels: str) -> float | None:
        """All servers together; None where none tells it."""
        return sum(m.total(name, **labels) for m in self.told.values()) if self.has(name) else None

    def most(self, name: str) -> float | None:
        """The greatest that one of them says."""
        return max((m.total(name) for m in self.told.values() if name in m), default=None)

    def least(self, name: str) -> float | None:
        """The least that one of them says."""
        return min((m.total(name) for m in self.told.values() if name in m), default=None)

    def since(self, before: Fleet, name: str, **labels: str) -> float | None:
        """By how much a counter has risen; a server that was started again counts from zero."""
        both = [(m, before.told[a]) for a, m in self.told.items() if a in before.told and name in m]
        if not both:
            return None
        rises = [(now.total(name, **labels), then.total(name, **labels)) for now, then in both]
        return sum(now - then if now >= then else now for now, then in rises)

    def quantile(self, name: str, part: float, before: Fleet | None) -> float | None:
        """Of what a histogram has counted since the look before; of all that it has, where that is nothing.

        An upper bound: the bucket's.
        """
        counts = self._buckets(name)
        if before is not None:
            earlier = before._buckets(name)
            fresh = {bound: count - earlier.get(bound, 0.0) for bound, count in counts.items()}
            if fresh and max(fresh.values()) > 0 and min(fresh.values()) >= 0:
                counts = fresh
        bounds = sorted(counts)
        total = counts[bounds[-1]] if bounds else 0.0
        if not total:
            return None
        at = bounds[bisect_left([counts[bound] for bound in bounds], part * total)]
        return at if at != float("inf") else bounds[-2]

    def _buckets(self, name: str) -> dict[float, float]:
        found: dict[float, float] = {}
        for metrics in self.told.values():
            for sample, labels, value in metrics.samples:
                if sample == f"{name}_bucket" and "le" in labels:
                    bound = float(labels["le"])
                    found[bound] = found.get(bound, 0.0) + value
        return found

    def by(self, name: str, label: str) -> dict[str, float]:
        """A counter by one label, all servers together."""
        found: dict[str, float] = {}
        for metrics in self.told.values():
            for sample, labels, value in metrics.samples:
                if sample == name and label in labels:
                    found[labels[label]] = found.get(labels[label], 0.0) + value
        return found


def figures(now: Fleet, before: Fleet | None) -> dict[str, float | None]:
    """Everything of FIGURES, and the rates where there is an earlier look."""
    memory = now.most("homenode_store_memory_bytes") or None  # 0: the store was not asked yet, or does not say
    told: dict[str, float | None] = {
        "sessions": now.sum("homenode_sessions"),
        "streams": now.sum("homenode_streams"),
        "stream_lag_s": now.most("homenode_stream_lag_seconds"),
        "log_lag": _log_lag(now.told.values()),
        "resyncs": now.sum("homenode_resyncs_total"),
        "hit_rate": _part(now.sum(_READS, result="hit"), now.sum(_READS)),
        "stale_reads": now.sum(_READS, result="stale"),
        "read_age_p99_s": now.quantile("homenode_read_age_seconds", 0.99, before),
        "published": now.sum("homenode_commits_total"),
        "write_leases": now.most("homenode_leases"),
        "lease_wait_p99_s": now.quantile("homenode_lease_wait_seconds", 0.99, before),
        "invalidation_p50_s": now.quantile("homenode_invalidation_seconds", 0.5, before),
        "invalidation_p99_s": now.quantile("homenode_invalidation_seconds", 0.99, before),
        "fanout": _part(now.sum("homenode_fanout_sum"), now.sum("homenode_fanout_count")),
        "bodies": now.sum("homenode_content_bodies_total"),
        "bodies_held": now.sum("homenode_content_bodies_total", kind="held"),
        "bytes_sent": now.sum("homenode_content_bytes_total"),
        "bytes_saved": now.sum("homenode_bytes_saved_total"),
        "store_p99_s": now.quantile("homenode_store_seconds", 0.99, before),
        "store_failures": now.sum("homenode_store_failures_total"),
        "store_memory": memory,
        "store_memory_limit": now.most("homenode_store_memory_limit_bytes") if memory else None,
        "persistence_ok": now.least("homenode_store_persistence_ok") if memory else None,
        "incarnations": now.sum("homenode_incarnations_total"),
        "event_loop_lag_p99_s": now.quantile("homenode_event_loop_lag_seconds", 0.99, before),
        "kv_workers": now.most("homenode_kv_workers"),
        "kv_holdings": now.most("homenode_kv_holdings"),
        "kv_cached": _part(now.sum(_KV_TOKENS, how="cached"), now.sum(_KV_TOKENS)),
    }
    told.update({name: now.sum(counter, **labels) for name, (counter, labels) in COUNTED.items()})
    if before is not None:
        passed_s = max(0.001, now.at - before.at)
        for name, (counter, labels) in COUNTED.items():
            rise = now.since(before, counter, **labels)
            told[f"{name}_per_s"] = rise / passed_s if rise is not None else None
        reads = now.since(before, _READS)
        if reads:
            told["hit_rate_now"] = _part(now.since(before, _READS, result="hit"), reads)
    return {name: told[name] for name in (*FIGURES, *(n for n in told if n not in FIGURES))}


def _part(some: float | None, whole: float | None) -> float | None:
    return some / whole if some is not None and whole else None


def _log_lag(servers: Iterable[Metrics]) -> float | None:
    """Of a server that is started or follows a slice only since lately, what came before counts as delivered."""
    lags = []
    for metrics in servers:
        delivered = metrics.by("homenode_log_delivered", "slice")
        heads = metrics.by("homenode_log_head", "slice")
        lags += [head - delivered.get(slice_, head) for slice_, head in heads.items()]
    return max(0.0, *lags) if lags else None
