"""Copies, writers, and who is in whose way."""

from __future__ import annotations

from deploy.grafana.generate.model import (
    ANY_IS_BAD,
    PLAIN,
    Panel,
    Query,
    Row,
    dashboard,
    heat,
    lines,
    stat,
    worse_above,
    worse_below,
)
from deploy.grafana.generate.promql import HIT_RATIO, buckets, none, none_of, of, part, quantile, total

ENDED_BADLY = 'cause=~"expired|session_lost|revoked"'

HEALTH: tuple[Panel, ...] = (
    stat(
        "Hit ratio",
        "Share of agents' reads that their own cache answered.",
        HIT_RATIO,
        "percentunit",
        worse_below(0.7, 0.3),
    ),
    stat(
        "Reads refused as too old",
        "A second: the copy was older than allowed and no directory answered in time, so the read failed closed. Agents stand "
        "still meanwhile. Sessions that no directory hears tell it when they are back. Alert: HomenodeStaleReads.",
        none(total("homenode_cache_reads_total", 'result="stale"')),
        "ops",
        ANY_IS_BAD,
    ),
    stat(
        "Read age p99",
        "How old cached reads were at most, as sessions report: never over max_age_ms (3 s unless set).",
        quantile(0.99, "homenode_read_age_seconds"),
        "s",
        worse_above(3.5, 10),
    ),
    stat(
        "Invalidation p99",
        "From a commit to a sharer's acknowledgement. Alert: HomenodeInvalidationSlow.",
        quantile(0.99, "homenode_invalidation_seconds"),
        "s",
        worse_above(0.25, 1),
    ),
    stat(
        "Conflicts",
        "Commits and requests for leases that met another writer, a second. Alert: HomenodeConflictStorm.",
        none(total("homenode_conflicts_total")),
        "ops",
        worse_above(10, 100),
    ),
    stat(
        "Lease wait p95",
        "How long granted write leases were waited for. Alert: HomenodeLeaseWaits.",
        quantile(0.95, "homenode_lease_wait_seconds"),
        "s",
        worse_above(2, 10),
    ),
    stat(
        "Leases lost",
        "A second: write leases that expired, were revoked or ended with their session, instead of being released. "
        "Alert: HomenodeLeasesLost.",
        none(total("homenode_lease_ends_total", ENDED_BADLY)),
        "ops",
        worse_above(0.05, 0.5),
    ),
    stat(
        "Incarnation changes",
        "In the shown time, over all slices: how often the store was found to have another memory. Each one drops every copy "
        "of the slice. Alert: HomenodeIncarnationChanged.",
        none(f"sum(increase({of('homenode_incarnations_total')}[$__range]))"),
        "short",
        ANY_IS_BAD,
        whole=True,
    ),
)

READS: tuple[Panel, ...] = (
    lines(
        "Reads",
        "Reads by agents, a second: hit = served from the cache, miss = asked a directory, stale = refused.",
        [Query(total("homenode_cache_reads_total", by="result"), "{{result}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Hit ratio",
        "By directory that the sessions are attached to.",
        [
            Query(
                part(
                    total("homenode_cache_reads_total", 'result="hit"', by="instance"),
                    total("homenode_cache_reads_total", by="instance"),
                ),
                "{{instance}}",
            )
        ],
        "percentunit",
        most=1,
    ),
    lines(
        "Age of cached reads",
        "The greatest age in each session's report. It stays under max_age_ms; near it, directories are heard of too seldom.",
        [
            Query(quantile(0.5, "homenode_read_age_seconds"), "p50"),
            Query(quantile(0.99, "homenode_read_age_seconds"), "p99"),
        ],
        "s",
        steps=((None, "transparent"), (3, "red")),
    ),
)

INVALIDATIONS: tuple[Panel, ...] = (
    lines(
        "Time to invalidate",
        "From the commit (store's clock) to a sharer's word that its copy is gone. Points lead to traces.",
        [
            Query(quantile(0.5, "homenode_invalidation_seconds"), "p50"),
            Query(quantile(0.95, "homenode_invalidation_seconds"), "p95"),
            Query(quantile(0.99, "homenode_invalidation_seconds"), "p99", exemplar=True),
        ],
        "s",
        log=True,
    ),
    heat(
        "Time to invalidate, all of them",
        "How many acknowledgements took how long. Two bands mean two kinds of clients, as near and far ones.",
        buckets("homenode_invalidation_seconds"),
        "s",
    ),
    lines(
        "Sharers told of a commit",
        "Sessions of a directory that were told of one commit.",
        [
            Query(quantile(0.5, "homenode_fanout"), "p50"),
            Query(quantile(0.99, "homenode_fanout"), "p99"),
            Query(part(total("homenode_fanout_sum"), total("homenode_fanout_count")), "mean"),
        ],
        "short",
    ),
)

WRITES: tuple[Panel, ...] = (
    lines(
        "Commits and conflicts",
        "Versions published beside refusals because of other writers. More conflicts than commits is work thrown away: agents "
        "should take leases (hn.write) or use hn.edit.",
        [Query(total("homenode_commits_total"), "commits"), Query(total("homenode_conflicts_total"), "conflicts")],
        "ops",
    ),
    lines(
        "Conflicts by reason",
        "version_conflict: written by another meanwhile. held, wait_timeout, queue_full: somebody has the lease. stale_fence, "
        "lease_lost: a writer that was too late.",
        [Query(none_of("reason", total("homenode_conflicts_total", by="reason")), "{{reason}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Wait for a write lease",
        "From the request to the grant. Points lead to traces.",
        [
            Query(quantile(0.5, "homenode_lease_wait_seconds"), "p50"),
            Query(quantile(0.95, "homenode_lease_wait_seconds"), "p95"),
            Query(quantile(0.99, "homenode_lease_wait_seconds"), "p99", exemplar=True),
        ],
        "s",
        log=True,
    ),
    lines(
        "Write leases",
        "Held now, by the directories that know of them.",
        [Query(f"sum by (instance) ({of('homenode_leases')})", "{{instance}}")],
        "short",
        stacked=True,
    ),
    lines(
        "How write leases end",
        "released and handed_off are as it should be; expired: the writer stood still; session_lost: it died.",
        [Query(none_of("cause", total("homenode_lease_ends_total", by="cause")), "{{cause}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Refusals by operation",
        "Everything that was refused or failed.",
        [
            Query(
                none_of("operation", total("homenode_refusals_total", by="operation, reason")),
                "{{operation}} {{reason}}",
            )
        ],
        "ops",
        stacked=True,
    ),
)

SAVINGS: tuple[Panel, ...] = (
    stat(
        "Tokens saved",
        "In the shown time, as the SDKs tell.",
        f"sum(increase({of('homenode_tokens_saved_total')}[$__range]))",
        "short",
        PLAIN,
        whole=True,
    ).wide(4),
    lines(
        "Bytes kept off the wire",
        "hit = served from caches, delta = patches and chunks instead of whole contents, unchanged = held already.",
        [Query(total("homenode_bytes_saved_total", by="how"), "{{how}}")],
        "Bps",
        stacked=True,
    ).wide(7),
    lines(
        "Bytes sent",
        "Bodies as they travel: patch, snapshot (whole), chunks, pushed; held ones cost nothing.",
        [Query(total("homenode_content_bytes_total", by="kind"), "{{kind}}")],
        "Bps",
        stacked=True,
    ).wide(7),
    lines(
        "Bodies sent",
        "How many of each kind. Mostly snapshots where patches are expected: readers come back after too many versions.",
        [Query(total("homenode_content_bodies_total", by="kind"), "{{kind}}")],
        "ops",
        stacked=True,
    ).wide(6),
)

COHERENCE = dashboard(
    "homenode-coherence",
    "Homenode / Coherence",
    "What agents read, how fast obsolete copies go, and who writes against whom.",
    (
        Row("Is it healthy?", HEALTH),
        Row("Reads", READS),
        Row("Invalidations", INVALIDATIONS),
        Row("Writes and leases", WRITES),
        Row("What need not travel", SAVINGS),
    ),
)
