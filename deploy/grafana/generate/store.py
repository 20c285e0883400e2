"""The store: does it answer, how fast, and how much room is left."""

from __future__ import annotations

from deploy.grafana.generate.model import (
    ANY_IS_BAD,
    GREEN,
    PLAIN,
    RED,
    Panel,
    Query,
    Row,
    dashboard,
    heat,
    lines,
    stat,
    worse_above,
)
from deploy.grafana.generate.promql import MEMORY_RATIO, buckets, none, none_of, of, part, quantile, total

COMMIT = 'kind="commit"'

HEALTH: tuple[Panel, ...] = (
    stat(
        "Writes to disk",
        "Whether the store's last write to disk went well. If not, what is acknowledged now may not survive it. "
        "Alert: HomenodeStorePersistence.",
        f"min({of('homenode_store_persistence_ok')})",
        "short",
        ((None, RED), (1, GREEN)),
        named={"0": ("failing", RED), "1": ("fine", GREEN)},
    ),
    stat(
        "Calls failing",
        "A second. Alert: HomenodeStoreFailing.",
        none(total("homenode_store_failures_total")),
        "cps",
        ANY_IS_BAD,
    ),
    stat(
        "Memory of its limit",
        "At the limit every write is refused (noeviction). 0 where no limit is set. Alerts: HomenodeStoreMemoryHigh, "
        "HomenodeStoreMemoryFull.",
        MEMORY_RATIO,
        "percentunit",
        worse_above(0.75, 0.9),
    ),
    stat(
        "Replicas",
        "Connected to the store. Alert: HomenodeStoreReplicaLost.",
        f"min({of('homenode_store_replicas')})",
        "short",
        PLAIN,
    ),
    stat(
        "Commit p99",
        "Time of one store call that commits a batch. Alert: HomenodeStoreSlow.",
        quantile(0.99, "homenode_store_seconds", COMMIT),
        "s",
        worse_above(0.05, 0.25),
    ),
    stat(
        "Incarnation changes",
        "In the shown time, over all slices: the store had another memory than before (restart, failover, loss). "
        "Alert: HomenodeIncarnationChanged.",
        none(f"sum(increase({of('homenode_incarnations_total')}[$__range]))"),
        "short",
        ANY_IS_BAD,
        whole=True,
    ),
    stat(
        "Commits a batch",
        "Mean number of transitions that share one store call. It rises with load; that is what keeps up.",
        part(total("homenode_batch_size_sum"), total("homenode_batch_size_count")),
        "short",
        PLAIN,
    ),
    stat(
        "Archive failures",
        "In the shown time: the log could not be exported, and is kept longer instead. Alert: HomenodeArchiveFailing.",
        f"sum(max_over_time({of('homenode_archive_failures')}[$__range]) - min_over_time({of('homenode_archive_failures')}[$__range]))",
        "short",
        ANY_IS_BAD,
        whole=True,
    ),
)

CALLS: tuple[Panel, ...] = (
    lines(
        "Calls",
        "Store calls by kind.",
        [Query(total("homenode_store_seconds_count", by="kind"), "{{kind}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Call latency p99",
        "By kind, failed calls included.",
        [Query(quantile(0.99, "homenode_store_seconds", by="kind"), "{{kind}}")],
        "s",
        log=True,
    ),
    heat(
        "Commit latency, all of them",
        "How many commits of batches took how long.",
        buckets("homenode_store_seconds", COMMIT),
        "s",
    ),
    lines(
        "Failures",
        "By kind of call. open at a start, commit and load while the store is away.",
        [Query(none_of("kind", total("homenode_store_failures_total", by="kind")), "{{kind}}")],
        "cps",
        stacked=True,
    ),
    lines(
        "Group commit",
        "Transitions of one batch. Its size follows the load: small batches at a high latency mean that the store is far away.",
        [
            Query(quantile(0.5, "homenode_batch_size"), "p50"),
            Query(quantile(0.99, "homenode_batch_size"), "p99"),
            Query(part(total("homenode_batch_size_sum"), total("homenode_batch_size_count")), "mean"),
        ],
        "short",
    ),
    lines(
        "Time of a group commit",
        "From asking the store to its answer. Points lead to traces.",
        [
            Query(quantile(0.5, "homenode_batch_seconds"), "p50"),
            Query(quantile(0.99, "homenode_batch_seconds"), "p99", exemplar=True),
        ],
        "s",
        log=True,
    ),
)

ROOM: tuple[Panel, ...] = (
    lines(
        "Memory",
        "What the store uses, and what it may use; of SQLite the file. A limit of 0 is none.",
        [
            Query(f"max({of('homenode_store_memory_bytes')})", "used"),
            Query(f"max({of('homenode_store_memory_limit_bytes')})", "limit"),
        ],
        "bytes",
    ),
    lines(
        "Persistence and replicas",
        "1 while the store's writes to disk go well, as each directory was told; and its replicas.",
        [
            Query(f"min by (instance) ({of('homenode_store_persistence_ok')})", "writes to disk, by {{instance}}"),
            Query(f"min({of('homenode_store_replicas')})", "replicas"),
        ],
        "short",
    ),
    lines(
        "Incarnation changes and clock jumps",
        "By directory that noticed; the same change is counted once for each slice. Alert: HomenodeClockJumped.",
        [
            Query(
                f"sum by (instance) (increase({of('homenode_incarnations_total')}[$__rate_interval]))",
                "another memory, {{instance}}",
            ),
            Query(
                f"sum by (instance) (increase({of('homenode_clock_jumps_total')}[$__rate_interval]))",
                "clock jumped, {{instance}}",
            ),
        ],
        "short",
        stacked=True,
    ),
)

STORE = dashboard(
    "homenode-store",
    "Homenode / Store",
    "Redis (or SQLite) as the directories see it.",
    (Row("Is it healthy?", HEALTH), Row("Calls", CALLS), Row("Room and safety", ROOM)),
)
