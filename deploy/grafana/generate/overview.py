"""Is it well, what does it do, and what does it bring."""

from __future__ import annotations

from deploy.grafana.generate.model import (
    ANY_IS_BAD,
    PLAIN,
    Panel,
    Query,
    Row,
    dashboard,
    lines,
    stat,
    table,
    worse_above,
    worse_below,
)
from deploy.grafana.generate.promql import (
    FAULT_RATIO,
    HIT_RATIO,
    none,
    none_of,
    of,
    quantile,
    rate,
    total,
)

HEALTH: tuple[Panel, ...] = (
    stat(
        "Directories down",
        "Processes that Prometheus cannot scrape. Clients go on at another one; with none left nothing can be written and "
        "copies are served for max_age_ms only. Alerts: HomenodeDirectoryDown, HomenodeNoDirectory.",
        none(f"count({of('up')} == 0)"),
        "short",
        ANY_IS_BAD,
    ),
    stat(
        "Alerts firing",
        "Alerts of this system that fire now. deploy/runbook.md has a section for each.",
        none('count(ALERTS{alertname=~"Homenode.+",alertstate="firing"})'),
        "short",
        ANY_IS_BAD,
    ),
    stat(
        "Store calls failing",
        "Failed store calls a second. Nothing is committed while they last. Alert: HomenodeStoreFailing; more on the "
        "dashboard Store.",
        none(total("homenode_store_failures_total")),
        "cps",
        ANY_IS_BAD,
    ),
    stat(
        "Requests failing",
        "Share of operations that failed for the service's sake (unavailable, overloaded, internal, unknown outcome, out of "
        "time or room). What agents are refused because of each other is not in it. Alert: HomenodeRequestsFailing.",
        FAULT_RATIO,
        "percentunit",
        worse_above(0.001, 0.01),
    ),
    stat(
        "Invalidation p99",
        "Time from a commit to a sharer's word that its copy is gone. Copies that hear nothing end by their age, so this is "
        "about freshness, not safety. Alert: HomenodeInvalidationSlow.",
        quantile(0.99, "homenode_invalidation_seconds"),
        "s",
        worse_above(0.25, 1),
    ),
    stat(
        "Oldest waiting event",
        "How long the oldest event that waits for a stream has waited: a client that does not read, or a busy server. "
        "Alert: HomenodeStreamLag.",
        f"max({of('homenode_stream_lag_seconds')})",
        "s",
        worse_above(0.5, 2),
    ),
    stat(
        "Hit ratio",
        "Share of agents' reads that their own cache answered. It falls when everybody writes what everybody reads, and when "
        "copies are lost (resyncs, restarts). Alert: HomenodeHitRatioDropped.",
        HIT_RATIO,
        "percentunit",
        worse_below(0.7, 0.3),
    ),
    stat(
        "Unexpected exceptions",
        "In the last 15 minutes: mistakes in the program, in a loop that went on. The log has each with its traceback. "
        "Alert: HomenodeMistakes.",
        none(f"sum(increase({of('homenode_mistakes_total')}[15m]))"),
        "short",
        ANY_IS_BAD,
        whole=True,
    ),
    table(
        "Which alerts fire",
        "Now. deploy/runbook.md has a section for each: what it means, where to look, what to do, what not to.",
        none_of(
            "alertname",
            'sum by (alertname, severity, instance) (ALERTS{alertname=~"Homenode.+",alertstate="firing"})',
        ),
    ).wide(24, 4),
)

WORK: tuple[Panel, ...] = (
    lines(
        "Operations",
        "Operations that the directories answered, refusals included. Hits are not in it: they ask nobody.",
        [Query(total("homenode_requests_total", by="operation"), "{{operation}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Reads by agents",
        "As the SDKs tell: hit = from the cache, miss = asked a directory, stale = refused, because the copy was too old and "
        "nobody answered.",
        [Query(total("homenode_cache_reads_total", by="result"), "{{result}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Versions published",
        "Commits that took effect, by directory.",
        [Query(total("homenode_commits_total", by="instance"), "{{instance}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Request latency",
        "From the operation's arrival at the directory to its answer; waits for leases are in it. Points lead to traces.",
        [
            Query(quantile(0.5, "homenode_request_seconds", 'operation!="acquire"'), "p50"),
            Query(quantile(0.99, "homenode_request_seconds", 'operation!="acquire"'), "p99", exemplar=True),
        ],
        "s",
        log=True,
    ),
    lines(
        "Invalidation",
        "From the commit, by the store's clock, to the sharer's acknowledgement. Points lead to traces.",
        [
            Query(quantile(0.5, "homenode_invalidation_seconds"), "p50"),
            Query(quantile(0.99, "homenode_invalidation_seconds"), "p99", exemplar=True),
        ],
        "s",
        log=True,
    ),
    lines(
        "Sessions",
        "Sessions attached to each directory. When one drains or dies they move to the others.",
        [Query(f"sum by (instance) ({of('homenode_sessions')})", "{{instance}}")],
        "short",
        stacked=True,
    ),
)

GAIN: tuple[Panel, ...] = (
    stat(
        "Tokens saved",
        "In the shown time: tokens that agents did not have to be given again, as the SDKs tell.",
        f"sum(increase({of('homenode_tokens_saved_total')}[$__range]))",
        "short",
        PLAIN,
        whole=True,
    ).wide(4),
    stat(
        "Bytes saved",
        "In the shown time: bytes of contents that did not travel.",
        f"sum(increase({of('homenode_bytes_saved_total')}[$__range]))",
        "bytes",
        PLAIN,
    ).wide(4),
    lines(
        "Tokens saved",
        "A second, by how: hit = read again from the cache, delta = only what changed was shown, unchanged = nothing had.",
        [Query(total("homenode_tokens_saved_total", by="how"), "{{how}}")],
        "short",
        stacked=True,
    ),
    lines(
        "Refusals",
        "Operations refused or failed, by reason. version_conflict and held are agents in each other's way; overloaded and "
        "unavailable are the service's trouble.",
        [Query(none_of("reason", total("homenode_refusals_total", by="reason")), "{{reason}}")],
        "ops",
        stacked=True,
    ),
)

PROCESSES: tuple[Panel, ...] = (
    lines(
        "CPU",
        "Cores that each directory uses. One process uses one core at most: at 1 it is full, start more of them.",
        [Query(rate("process_cpu_seconds_total"), "{{instance}}")],
        "short",
        steps=((None, "transparent"), (0.9, "red")),
    ),
    lines(
        "Memory",
        "Resident memory of each directory.",
        [Query(of("process_resident_memory_bytes"), "{{instance}}")],
        "bytes",
    ),
    lines(
        "Event loop lag p99",
        "How late a directory's event loop comes to a timer. Everything waits that long. Alert: HomenodeEventLoopLag.",
        [Query(quantile(0.99, "homenode_event_loop_lag_seconds", by="instance"), "{{instance}}")],
        "s",
    ),
    table(
        "Versions",
        "What runs where. Several versions for long mean a rollout that stopped halfway. Alert: HomenodeVersionsDiffer.",
        f"sum by (instance, version) ({of('homenode_build_info')})",
    ).wide(8),
    lines(
        "Open files",
        "Share of the file descriptors that a directory may have: connections, mostly. Alert: HomenodeFilesNearLimit.",
        [Query(f"{of('process_open_fds')} / {of('process_max_fds')}", "{{instance}}")],
        "percentunit",
    ),
    lines(
        "Scrapes",
        "Whether each directory answered Prometheus; gaps in other panels are explained here.",
        [Query(of("up"), "{{instance}}")],
        "short",
        most=1,
    ),
)

OVERVIEW = dashboard(
    "homenode-overview",
    "Homenode / Overview",
    "Start here: the top row is green when all is well.",
    (
        Row("Is it healthy?", HEALTH),
        Row("What it does", WORK),
        Row("What it brings, and what it refuses", GAIN),
        Row("Processes", PROCESSES),
    ),
)
