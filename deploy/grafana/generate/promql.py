"""Expressions that dashboards repeat. `$job` and `$instance` are their variables."""

from __future__ import annotations

WHERE = 'job="$job",instance=~"$instance"'
RANGE = "$__rate_interval"


def of(metric: str, *more: str) -> str:
    """The series of the directories that are looked at; `more` are further matchers."""
    return f"{metric}{{{','.join((WHERE, *more))}}}"


def rate(metric: str, *more: str) -> str:
    """How much a counter grows a second."""
    return f"rate({of(metric, *more)}[{RANGE}])"


def total(metric: str, *more: str, by: str = "") -> str:
    """The rates of all series together, or by one label."""
    return f"sum{f' by ({by})' if by else ''} ({rate(metric, *more)})"


def none(expr: str) -> str:
    """0 where the expression has no series yet, as of failures that never happened."""
    return f"{expr} or vector(0)"


def none_of(label: str, expr: str) -> str:
    """The same for an expression by a label: one series, of the label value "none"."""
    return f'{expr} or on () label_replace(vector(0), "{label}", "none", "", "")'


def quantile(q: float, histogram: str, *more: str, by: str = "") -> str:
    """A quantile of what a histogram saw lately; no value where it saw nothing."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q:g}, {total(histogram + '_bucket', *more, by=labels)})"


def buckets(histogram: str, *more: str) -> str:
    """For a heatmap."""
    return total(histogram + "_bucket", *more, by="le")


def part(some: str, of_all: str) -> str:
    """A share, and nothing where there is nothing to share."""
    return f"{some} / ({of_all} > 0)"


# Reasons that tell of the service, not of what agents want of each other.
SERVICE_FAULTS = 'outcome=~"unavailable|overloaded|internal|unknown|deadline_exceeded|quota_exceeded"'
HIT_RATIO = part(total("homenode_cache_reads_total", 'result="hit"'), total("homenode_cache_reads_total"))
FAULT_RATIO = f"({none(total('homenode_requests_total', SERVICE_FAULTS))}) / ({total('homenode_requests_total')} > 0) or vector(0)"
MEMORY_RATIO = (
    f"max ({of('homenode_store_memory_bytes')} / ({of('homenode_store_memory_limit_bytes')} > 0)) or vector(0)"
)
