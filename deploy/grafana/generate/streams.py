"""Sessions, and the way from the log to them."""

from __future__ import annotations

from deploy.grafana.generate.model import ANY_IS_BAD, PLAIN, Panel, Query, Row, dashboard, lines, stat, worse_above
from deploy.grafana.generate.promql import RANGE, none, of, quantile, total

BEHIND = f"({of('homenode_log_head')} - {of('homenode_log_delivered')})"
PER_SESSION = f"{of('homenode_queued_events')} / clamp_min({of('homenode_sessions')}, 1)"

HEALTH: tuple[Panel, ...] = (
    stat("Sessions", "Attached to all directories.", f"sum({of('homenode_sessions')})", "short", PLAIN),
    stat(
        "Streams",
        "Open streams and watches. A process of many agents needs one.",
        f"sum({of('homenode_streams')})",
        "short",
        PLAIN,
    ),
    stat(
        "Oldest waiting event",
        "How long the oldest event that waits for a stream has waited. Alert: HomenodeStreamLag.",
        f"max({of('homenode_stream_lag_seconds')})",
        "s",
        worse_above(0.5, 2),
    ),
    stat(
        "Events waiting a session",
        "On average, at the worst directory. At queue_events (1,024 unless set) a session's events are dropped and it is told "
        "to look anew. Alert: HomenodeQueuesFilling.",
        f"max({PER_SESSION})",
        "short",
        worse_above(64, 256),
    ),
    stat(
        "Behind the log",
        "Entries of the log that a directory has seen and not delivered, in its worst slice. Alert: HomenodeDeliveryBehind.",
        none(f"max({BEHIND})"),
        "short",
        worse_above(200, 1000),
    ),
    stat(
        "Resyncs",
        "A second: sessions told that events were lost; they drop what they had. Alert: HomenodeResyncs.",
        none(total("homenode_resyncs_total")),
        "ops",
        worse_above(0.1, 1),
    ),
    stat(
        "Event loop lag p99",
        "Everything in a directory waits that long. Alert: HomenodeEventLoopLag.",
        quantile(0.99, "homenode_event_loop_lag_seconds"),
        "s",
        worse_above(0.05, 0.25),
    ),
    stat(
        "Turned away",
        "Operations a second that were refused because the directory had too much to do. Alert: HomenodeOverloaded.",
        none(total("homenode_refusals_total", 'reason="overloaded"')),
        "ops",
        ANY_IS_BAD,
    ),
)

SESSIONS: tuple[Panel, ...] = (
    lines(
        "Sessions",
        "By directory. A step down at one and up at the others is a restart; a step down at all is clients that left.",
        [Query(f"sum by (instance) ({of('homenode_sessions')})", "{{instance}}")],
        "short",
        stacked=True,
    ),
    lines(
        "Streams and watches",
        "By directory.",
        [Query(f"sum by (instance) ({of('homenode_streams')})", "{{instance}}")],
        "short",
        stacked=True,
    ),
    lines(
        "Operations under way",
        "Taken and not yet answered, by directory; those that wait for a lease are among them.",
        [Query(f"sum by (instance) ({of('homenode_in_flight')})", "{{instance}}")],
        "short",
        stacked=True,
    ),
)

DELIVERY: tuple[Panel, ...] = (
    lines(
        "Events sent",
        "By kind. Bookmarks are the heartbeat: they keep copies confirmed.",
        [Query(total("homenode_delivered_total", by="kind"), "{{kind}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Events waiting",
        "In the queues of all streams of a directory: clients that read slower than the log grows.",
        [Query(f"sum by (instance) ({of('homenode_queued_events')})", "{{instance}}")],
        "short",
    ),
    lines(
        "Oldest waiting event",
        "By directory.",
        [Query(f"max by (instance) ({of('homenode_stream_lag_seconds')})", "{{instance}}")],
        "s",
        steps=((None, "transparent"), (1, "red")),
    ),
    lines(
        "Behind the log",
        "Head of the log less what is delivered, in the worst slice of each directory. It grows when the store or the event "
        "loop is slow.",
        [Query(f"max by (instance) ({BEHIND})", "{{instance}}")],
        "short",
    ),
    lines(
        "Log growth by slice",
        "Entries a second. One slice far above the others is one busy workspace: it is the part that cannot be spread.",
        [Query(f"max by (slice) (rate({of('homenode_log_head')}[{RANGE}]))", "slice {{slice}}")],
        "ops",
        stacked=True,
    ),
    lines(
        "Resyncs",
        "By directory: queues that overflowed, and sessions whose place in the log was gone.",
        [Query(total("homenode_resyncs_total", by="instance"), "{{instance}}")],
        "ops",
        stacked=True,
    ),
)

STREAMS = dashboard(
    "homenode-streams",
    "Homenode / Streams",
    "Who is attached, and whether they hear in time what became obsolete.",
    (Row("Is it healthy?", HEALTH), Row("Sessions", SESSIONS), Row("From the log to the streams", DELIVERY)),
)
