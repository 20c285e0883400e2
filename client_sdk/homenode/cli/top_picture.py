"""top: one look as text, for a screen of some columns and rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from homenode.cli.look import STATES, holder_text
from homenode.cli.metrics import short_address
from homenode.cli.output import ago_text, size_text
from homenode.cli.top_figures import Fleet, figures

if TYPE_CHECKING:
    from homenode.values import Stat

UNKNOWN = "–"
LABEL = 11  # columns of the names at the left
WIDE, NARROW = 100, 60
WRITING = ("M", "P")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: artifacts, whether there are more, and what the servers say; None: nobody was asked."""

    at: float
    stats: Sequence[Stat]
    fleet: Fleet | None
    more: bool = False


@dataclass(frozen=True, slots=True)
class Activity:
    """What an artifact has been through since the look before: new versions, and turns of its write lease."""

    versions: int = 0
    turns: int = 0


def activities(sample: Sample, before: Sample | None) -> dict[str, Activity]:
    """By name. A commit under a lease raises the fence once more than the version; so does each grant and each end."""
    if before is None or before is sample:
        return {}
    old = {stat.key: stat for stat in before.stats}
    found = {}
    for stat in sample.stats:
        earlier = old.get(stat.key)
        if earlier is None:
            found[stat.key] = Activity(stat.version.n, 0)
        elif earlier.version.incarnation == stat.version.incarnation:
            versions = max(0, stat.version.n - earlier.version.n)
            found[stat.key] = Activity(versions, max(0, stat.fence - earlier.fence - versions))
    return found


def by_activity(sample: Sample, before: Sample | None) -> list[Stat]:
    """Those most written first, then those that are being written, then those with most copies."""
    found = activities(sample, before)
    none = Activity()

    def rank(stat: Stat) -> tuple[Any, ...]:
        seen = found.get(stat.key, none)
        busy = stat.state in WRITING
        return (-(seen.versions + seen.turns + stat.waiters + busy), not busy, -stat.sharers, stat.key)

    return sorted(sample.stats, key=rank)


def picture(url: str, sample: Sample, before: Sample | None, *, width: int, rows: int | None) -> Any:
    """Everything, in `rows` rows of `width` columns; None: as many as it takes."""
    from rich.console import Group
    from rich.text import Text

    head = [Text(_cut(f"{url}  {time.strftime('%H:%M:%S')}", width), style="bold")]
    for label, parts, style in _lines(sample, before):
        lines = [Text.assemble((line[:LABEL], "bold"), (line[LABEL:], style)) for line in _fold(label, parts, width)]
        if style or rows is None or len(head) + len(lines) <= rows // 2:  # what is wrong is shown on any screen
            head += lines
    head.append(Text(""))
    room = len(sample.stats) if rows is None else max(1, rows - len(head) - 2)
    shown = by_activity(sample, before)[:room]
    left_out = len(sample.stats) - len(shown)
    tail = [Text(f"… and {left_out}{'+' if sample.more else ''} more")] if left_out or sample.more else []
    return Group(*head, _table(shown, activities(sample, before), width), *tail)


def _fold(label: str, parts: Sequence[str], width: int) -> list[str]:
    """A line of parts, on as many lines as it takes; the label stands before the first."""
    lines, line = [], ""
    for part in parts:
        joined = f"{line}  {part}" if line else part
        if line and LABEL + len(joined) > width:
            lines.append(line)
            joined = part
        line = joined
    lines.append(line)
    return [_cut(f"{label if n == 0 else '':<{LABEL}}{text}", width) for n, text in enumerate(lines)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _lines(sample: Sample, before: Sample | None) -> list[tuple[str, list[str], str]]:
    """Label, parts and style of each line above the table."""
    states = {state: sum(stat.state == state for stat in sample.stats) for state in STATES}
    summary = [f"{state} {STATES[state]}: {number}" for state, number in states.items() if number]
    number = f"{len(sample.stats)}, the first ones by name" if sample.more else str(len(sample.stats))
    lines = [("artifacts", [number, *summary], "")]
    fleet = sample.fleet
    if fleet is None:
        return [*lines, ("servers", ["no metrics are looked at (--metrics URL names them)"], "")]
    earlier = before.fleet if before is not None and before is not sample else None
    failed = [f"{short_address(address)}: {why}" for address, why in fleet.failed.items()]
    if not fleet.told:
        return [*lines, ("servers", ["no metrics", *failed], "yellow")]
    lines += _server_lines(figures(fleet, earlier), fleet)
    servers = [f"{len(fleet.told)} of {len(fleet.told) + len(failed)} tell", *failed]
    return [*lines, ("servers", servers, "yellow" if failed else "")]


def _server_lines(told: Mapping[str, float | None], fleet: Fleet) -> list[tuple[str, list[str], str]]:
    def number(name: str) -> str:
        value = told.get(name)
        return UNKNOWN if value is None else _short(value)

    def rate(name: str) -> str:
        per_s = told.get(f"{name}_per_s")
        return "" if per_s is None else f" ({_short(per_s)}/s)"

    def time_of(name: str) -> str:
        value = told.get(name)
        return UNKNOWN if value is None else f"≤ {1000 * value:g} ms" if value < 1 else f"≤ {value:g} s"

    def part(name: str) -> str:
        value = told.get(name)
        return UNKNOWN if value is None else f"{100 * value:.1f} %"

    now = f" ({part('hit_rate_now')} now)" if told.get("hit_rate_now") is not None else ""
    reasons = sorted(fleet.by("homenode_conflicts_total", "reason").items(), key=lambda item: -item[1])
    why = ", ".join(f"{reason} {_short(value)}" for reason, value in reasons[:3] if value)
    kinds = [
        ", ".join(f"{label} {_short(value)}" for label, value in saved if value)
        for saved in (
            sorted(fleet.by("homenode_tokens_saved_total", by).items(), key=lambda item: -item[1])
            for by in ("how", "strategy")
        )
    ]
    bytes_saved = told.get("bytes_saved")
    size = UNKNOWN if bytes_saved is None else size_text(int(bytes_saved))
    lag = told.get("stream_lag_s")
    limit = told.get("store_memory_limit")
    memory = told.get("store_memory")
    used = UNKNOWN if memory is None else size_text(int(memory)) + (f" of {size_text(int(limit))}" if limit else "")
    kept = {None: UNKNOWN, 1.0: "well"}.get(told.get("persistence_ok"), "FAILING")
    workers = [
        f"workers {number('kv_workers')}", f"hold {number('kv_holdings')}", f"prompts {number('kv_routes')}"
        f"{rate('kv_routes')}", f"tokens cached {part('kv_cached')}",
    ]  # fmt: skip
    return [
        ("agents", [
            f"sessions {number('sessions')}", f"streams {number('streams')}",
            f"lag {UNKNOWN if lag is None else f'{1000 * lag:.0f} ms'}", f"log lag {number('log_lag')}",
            f"resyncs {number('resyncs')}",
        ], ""),
        ("reads", [
            f"hit rate {part('hit_rate')}{now}", f"by agents {number('cache_reads')}{rate('cache_reads')}",
            f"asked {number('reads')}{rate('reads')}", f"too old {number('stale_reads')}",
            f"age p99 {time_of('read_age_p99_s')}",
        ], ""),
        ("writes", [
            f"commits {number('commits')}{rate('commits')}", f"write leases {number('write_leases')}",
            f"waited p99 {time_of('lease_wait_p99_s')}", f"requests {number('requests')}{rate('requests')}",
        ], ""),
        ("conflicts", [f"{number('conflicts')}{rate('conflicts')}", *([why] if why else [])],
         "yellow" if told.get("conflicts_per_s") else ""),
        ("coherence", [
            f"invalidations {number('invalidations')}{rate('invalidations')}",
            f"seen p50 {time_of('invalidation_p50_s')} p99 {time_of('invalidation_p99_s')}",
            f"fan-out {number('fanout')}",
        ], ""),
        ("saved", [
            f"tokens {number('tokens_saved')}{rate('tokens_saved')}", *(kind for kind in kinds if kind),
            f"bytes {size}",
        ], ""),
        ("store", [
            f"calls p99 {time_of('store_p99_s')}", f"failures {number('store_failures')}", f"memory {used}",
            f"writes {kept}", f"incarnations {number('incarnations')}", f"loop p99 {time_of('event_loop_lag_p99_s')}",
        ], "red" if kept == "FAILING" else ""),
        *([("kv", workers, "")] if told.get("kv_workers") or told.get("kv_cached") is not None else []),
    ]  # fmt: skip


def _short(value: float) -> str:
    """A number for people, in at most five characters."""
    for limit, divisor, unit in ((1e4, 1.0, ""), (1e7, 1e3, "k"), (1e10, 1e6, "M")):
        if value < limit:
            scaled = value / divisor
            return f"{scaled:.0f}{unit}" if scaled >= 10 or scaled == int(scaled) else f"{scaled:.1f}{unit}"
    return f"{value / 1e9:.0f}G"


def _table(stats: Sequence[Stat], found: Mapping[str, Activity], width: int) -> Any:
    """Names are cut where there is no room; narrow screens have fewer columns."""
    from rich.table import Table
    from rich.text import Text

    columns = ["KEY", "STATE", "VERSION", "NEW", "TURNS", "SHARERS", "WRITER"]
    if width < WIDE:
        columns = ["KEY", "STATE", "VERSION", "NEW", "SHARERS", "WRITER"] if width >= NARROW else ["KEY", "ST", "NEW"]
    else:
        columns += ["BYTES", "COMMITTED"]
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), width=width)
    for name in columns:
        right = name in ("VERSION", "NEW", "TURNS", "SHARERS", "BYTES")
        ratio = {"KEY": 3, "WRITER": 2}.get(name)
        justify: Any = "right" if right else "left"
        made.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", ratio=ratio)
    for stat in stats:
        seen = found.get(stat.key, Activity())
        cells = {
            "KEY": stat.key,
            "ST": stat.state,
            "STATE": f"{stat.state} {STATES.get(stat.state, '')}",
            "VERSION": str(stat.version.n),
            "NEW": f"+{seen.versions}" if seen.versions else "",
            "TURNS": f"+{seen.turns}" if seen.turns else "",
            "SHARERS": str(stat.sharers),
            "WRITER": holder_text(stat),
            "BYTES": size_text(stat.size),
            "COMMITTED": ago_text(stat.committed_at_ms),
        }
        made.add_row(*(Text(cells[name]) for name in columns), style="bold" if stat.state in WRITING else "")
    return made
