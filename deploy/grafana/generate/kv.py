"""Workers of the KV tier: what is reused, how far off it is, and how long callers wait."""

from __future__ import annotations

from deploy.grafana.generate.model import (
    ANY_IS_BAD,
    DATA_SOURCE,
    PLAIN,
    Panel,
    Query,
    Row,
    dashboard,
    heat,
    lines,
    series,
    stat,
    worse_above,
)
from deploy.grafana.generate.promql import none

RANGE = "$__rate_interval"
WHERE = 'instance=~"$worker"'
DEVICE = 'tier="device"'
REUSED = 'source=~"exact|exact_by_mask|approximate"'


def of(metric: str, *more: str) -> str:
    """The series of the workers that are looked at."""
    return f"homenode_kv_{metric}{{{','.join((WHERE, *more))}}}"


def total(metric: str, *more: str, by: str = "") -> str:
    """The rates of all series together, or by one label."""
    return f"sum{f' by ({by})' if by else ''} (rate({of(metric, *more)}[{RANGE}]))"


def quantile(q: float, histogram: str) -> str:
    """A quantile of what a histogram saw lately; no value where it saw nothing."""
    return f"histogram_quantile({q:g}, {total(histogram + '_bucket', by='le')})"


def quantiles(histogram: str) -> list[Query]:
    """Half and nearly all of a histogram."""
    return [Query(quantile(0.5, histogram), "p50"), Query(quantile(0.95, histogram), "p95")]


def levels(metric: str, label: str) -> list[Query]:
    """A gauge by one label, all workers together."""
    return [Query(f"sum by ({label}) ({of(metric)})", f"{{{{{label}}}}}")]


HEALTH: tuple[Panel, ...] = (
    stat("Workers", "That Prometheus sees.", f"count({of('entries')})", "short", PLAIN),
    stat(
        "Waiting",
        "Calls that wait at the busiest worker. When too many do, the next ones are refused with a time.",
        f"max({of('calls_waiting')})",
        "short",
        worse_above(8, 32),
    ),
    stat(
        "Turned away",
        "Calls a second that were refused because the line was full, or memory short.",
        none(total("calls_total", 'outcome="overloaded"')),
        "ops",
        worse_above(0.01, 1),
    ),
    stat(
        "Faults",
        "Calls a second that ended with a fault of the worker's own; its log has them.",
        none(total("calls_total", 'outcome="internal"')),
        "ops",
        ANY_IS_BAD,
    ),
    stat(
        "First token p95",
        "From when the worker had a request to its first token, its turn included.",
        quantile(0.95, "ttft_seconds"),
        "s",
        worse_above(1, 5),
    ),
    stat(
        "Reused",
        "Share of the prompts' tokens that were not computed.",
        f"{total('prompt_tokens_total', REUSED)} / ({total('prompt_tokens_total')} > 0)",
        "percentunit",
        PLAIN,
    ),
    stat(
        "Error that stayed p95",
        "Relative deviation of reused keys on the check layer, after repair; only of prompts that were checked.",
        quantile(0.95, "measured_error"),
        "percentunit",
        worse_above(0.5, 0.8),
    ),
    stat(
        "Device memory",
        "Of the fullest worker's pool. Full is normal: what is cheapest to lose goes first.",
        f"max({of('bytes', DEVICE)} / {of('bytes_max', DEVICE)})",
        "percentunit",
        PLAIN,
    ),
)

CALLS: tuple[Panel, ...] = (
    lines(
        "Calls",
        "By how they ended. version_conflict: a version of the prompt was superseded, and the caller reads again.",
        [Query(total("calls_total", by="outcome"), "{{outcome}}")],
        "ops",
        stacked=True,
    ),
    lines("Time to the first token", "Of all workers together.", quantiles("ttft_seconds"), "s"),
    heat(
        "Waiting for a turn",
        "One thread computes one call, or one round, at a time.",
        total("queue_seconds_bucket", by="le"),
        "s",
    ),
)

REUSE: tuple[Panel, ...] = (
    lines(
        "Tokens of prompts",
        "By where their KV came from. Refreshed: computed afresh over reused KV; dense: as a plain prefill does.",
        [Query(total("prompt_tokens_total", by="source"), "{{source}}")],
        "short",
        stacked=True,
    ),
    lines(
        "Prompts",
        "By the weakest provenance of what was reused; dense: nothing was.",
        [Query(total("prompts_total", by="provenance"), "{{provenance}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Computation saved",
        "Floating point operations a second that reused tokens would have taken, about. No speed-up: other work remains.",
        [Query(total("flops_saved_total"), "saved")],
        "short",
    ),
    lines(
        "Restored",
        "Tokens a second whose KV a round left, of the approximate ones: neither checked nor refreshed, or hardly.",
        [Query(total("restored_tokens_total"), "restored")],
        "short",
    ),
    lines("Error that was expected", "By plans, of reused keys.", quantiles("predicted_error"), "percentunit"),
    lines("Error that stayed", "On the check layer, after repair.", quantiles("measured_error"), "percentunit"),
    lines("Computed together", "Members of a round, one for calls without.", quantiles("round_members"), "short"),
)

KEPT: tuple[Panel, ...] = (
    lines("Bytes by tier", "KV of all workers together.", levels("bytes", "tier"), "bytes", stacked=True),
    lines(
        "Entries and anchors",
        "Bases of versions, whole prompts and members of rounds; samples of offsets beside them.",
        [Query(f"sum({of('entries')})", "entries"), Query(f"sum({of('anchors')})", "anchors")],
        "short",
    ),
    lines(
        "Let go",
        "Segments a second whose version was superseded.",
        [Query(none(total("superseded_total")), "superseded")],
        "ops",
    ),
    lines(
        "Rounds",
        "Members that are kept whole for others, and those kept as differences.",
        levels("members", "kind"),
        "short",
    ),
    lines(
        "Used of rounds",
        "Members a second that were restored for a prompt; masters that handed over to a mirror.",
        [Query(total("family_events_total", by="event"), "{{event}}")],
        "ops",
    ),
    lines("Bytes of mirrors", "As they are kept, and as they would be whole.", levels("mirror_bytes", "form"), "bytes"),
    lines(
        "The pool",
        "Entries a second that were reloaded from slower tiers, moved down, lost, found broken; refusals.",
        [Query(total("pool_events_total", by="event"), "{{event}}")],
        "ops",
    ),
)

ROUTING: tuple[Panel, ...] = (
    lines(
        "Known to the directories",
        "Workers whose streams are there, and artifact versions that they hold; each directory keeps its own index.",
        [
            Query("max(homenode_kv_workers)", "workers"),
            Query("max(homenode_kv_holdings)", "holdings"),
        ],
        "short",
    ),
    lines(
        "Where prompts were sent",
        "By why: to one that holds of it, to any, past the best one because that is too busy, with its round, to none.",
        [Query(f"sum by (how) (rate(homenode_kv_routes_total[{RANGE}]))", "{{how}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "What was expected of them",
        "Tokens of those prompts, as the directories predicted; compare with the tokens of prompts above.",
        [Query(f"sum by (how) (rate(homenode_kv_routed_tokens_total[{RANGE}]))", "{{how}}")],
        "short",
        stacked=True,
    ),
    lines(
        "What workers told",
        "Gaps and snapshots, holdings that a commit took out of routing, and those that came too late or were too many.",
        [Query(f"sum by (kind) (rate(homenode_kv_placements_total[{RANGE}]))", "{{kind}}")],
        "ops",
    ),
)

KV = dashboard(
    "homenode-kv",
    "Homenode / KV",
    "Workers of the KV tier: whether they keep up, what they reuse, and how far off that is.",
    (
        Row("Is it healthy?", HEALTH),
        Row("Calls", CALLS),
        Row("Reuse", REUSE),
        Row("What is kept", KEPT),
        Row("Routing", ROUTING),
    ),
    variables=[DATA_SOURCE, series("worker", "Worker", "label_values(homenode_kv_entries, instance)")],
    annotations=[],
)
