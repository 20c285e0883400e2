"""Every metric of a server: its name, what it means, and its labels.

Labels come from closed sets. Where a set is known here, its members are exposed as zero from the start, so that the
first of a kind is a step from 0 to 1, which `rate` and `increase` see.
"""

from __future__ import annotations

from dataclasses import dataclass

LATENCY_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SHARERS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
AGES_S = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0, 30.0, 60.0, 600.0)
LAGS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)

RESULTS = ("hit", "miss", "stale")
HOW = ("hit", "delta", "unchanged")
#: Workspaces that are not named in the settings, and what was saved where that is not known.
OTHER, UNKNOWN = "other", "unknown"
WORKSPACES_MAX = 32
LOOPS = ("archive", "delivery", "hints", "savings", "sweeper")
ENDS = ("released", "expired", "revoked", "session_lost", "handed_off")
WRITES = frozenset({"commit", "commit_many", "acquire", "renew", "release", "handoff"})
CONFLICTS = (
    "version_conflict", "already_exists", "held", "wait_timeout", "queue_full", "stale_fence", "lease_lost",
    "contended", "successor_lost",
)  # fmt: skip
ROUTES = ("held", "cold", "spread", "round", "none")
PLACEMENTS = ("gap", "snapshot", "invalidated", "ignored", "refused")
STORE_CALLS = (
    "open", "adopt", "commit", "load", "ranked", "by_prefix", "by_score", "read_log", "heads", "trim_log", "put_blobs",
    "get_blob", "weakness", "now", "condition",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Described:
    """One metric. `known`: values of its first label that are exposed from the start, with `rest` for the others;
    `bounds`: of a histogram."""

    text: str
    labels: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def first(self) -> list[tuple[str, ...]]:
        """The series that exist from the start."""
        return [(value, *self.rest) for value in self.known] if self.labels else [()]


COUNTERS = {
    "homenode_requests": Described("Operations answered.", ("operation", "outcome")),
    "homenode_refusals": Described("Operations refused or failed.", ("reason", "operation")),
    "homenode_conflicts": Described(
        "Commits and requests for leases that other writers were in the way of.", ("reason",), CONFLICTS
    ),
    "homenode_commits": Described("Versions published."),
    "homenode_delivered": Described("Events sent to streams.", ("kind",)),
    "homenode_resyncs": Described("Sessions told that events were lost."),
    "homenode_mistakes": Described(
        "Unexpected exceptions in what goes on all the same; the log has them.", ("where",), LOOPS
    ),
    "homenode_content_bodies": Described("Bodies sent.", ("kind",)),
    "homenode_content_bytes": Described("Bytes of bodies sent.", ("kind",)),
    "homenode_cache_reads": Described(
        "Reads by agents, as SDKs tell: served from their cache, asked of the directory, or refused as too old.",
        ("result",),
        RESULTS,
    ),
    "homenode_tokens_saved": Described(
        "Tokens that agents did not have to be shown, as SDKs tell: hits, changes instead of whole texts, unchanged.",
        ("how", "strategy", "workspace"),
        HOW,
        ("lazy", OTHER),
    ),
    "homenode_bytes_saved": Described(
        "Bytes of contents that did not travel: hits (as SDKs tell), patches and chunks, contents held already.",
        ("how", "strategy", "workspace"),
        HOW,
        (UNKNOWN, OTHER),
    ),
    "homenode_lease_ends": Described("Write leases that ended, by the commits of this server.", ("cause",), ENDS),
    "homenode_store_failures": Described("Store calls that failed.", ("kind",), STORE_CALLS),
    "homenode_kv_routes": Described(
        "Prompts sent to KV workers: to one that holds of it, to one where nobody holds any, to another than the best "
        "because that is too busy, to the one of its round, or to none.",
        ("how",),
        ROUTES,
    ),
    "homenode_kv_routed_tokens": Described(
        "Tokens of those prompts, as predicted: cached or computed.", ("how",), ("cached", "computed")
    ),
    "homenode_kv_placements": Described(
        "What became of what KV workers told: gaps and snapshots, holdings that a commit took out of routing, and "
        "those that were told too late or beyond the bound.",
        ("kind",),
        PLACEMENTS,
    ),
    "homenode_clock_jumps": Described("Times that the store's clock was found to have jumped, for each slice in use."),
    "homenode_incarnations": Described("Times that a slice's store was found to have another memory."),
}
GAUGES = {
    "homenode_streams": Described("Open streams and watches."),
    "homenode_sessions": Described("Sessions attached here."),
    "homenode_leases": Described("Write leases that this server knows of."),
    "homenode_queued_events": Described("Events that wait for a stream."),
    "homenode_stream_lag_seconds": Described("How long the oldest event that waits for a stream has waited, at most."),
    "homenode_kv_workers": Described("KV workers whose streams are here."),
    "homenode_kv_holdings": Described("Artifact versions of which they are known to hold KV, once for each worker."),
    "homenode_in_flight": Described("Operations under way."),
    "homenode_log_head": Described("Last sequence of a slice's log.", ("slice",)),
    "homenode_log_delivered": Described("Sequence up to which it is sent.", ("slice",)),
    "homenode_archive_failures": Described("Times that the log archive could not be written."),
    "homenode_store_memory_bytes": Described("Memory that the store uses; of SQLite, its file."),
    "homenode_store_memory_limit_bytes": Described("Most that it may use; 0: no limit is set."),
    "homenode_store_persistence_ok": Described("Whether the store's last write to disk went well."),
    "homenode_store_replicas": Described("Replicas that are connected to the store."),
}
HISTOGRAMS = {
    "homenode_request_seconds": Described("Time to the answer.", ("operation",), bounds=LATENCY_S),
    "homenode_lease_wait_seconds": Described(
        "Time from the request of a write lease to its grant, where it was granted.", bounds=LATENCY_S
    ),
    "homenode_batch_size": Described("Transitions of a group commit.", bounds=SIZES),
    "homenode_batch_seconds": Described("Time of a group commit.", bounds=LATENCY_S),
    "homenode_store_seconds": Described("Time of a store call.", ("kind",), bounds=LATENCY_S),
    "homenode_invalidation_seconds": Described(
        "Time from a commit until a sharer's copy was gone and the server could know; for each sharer that tells.",
        bounds=LATENCY_S,
    ),
    "homenode_fanout": Described("Sessions on this server that were told of a commit.", bounds=SHARERS),
    "homenode_read_age_seconds": Described(
        "Greatest age of cached reads, one value for each report of an SDK that served any.", bounds=AGES_S
    ),
    "homenode_event_loop_lag_seconds": Described(
        "How late the event loop came to a timer, four times a second.", bounds=LAGS_S
    ),
}
