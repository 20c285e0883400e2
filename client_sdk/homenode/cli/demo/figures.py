"""From what the demo's processes told to figures. Pure: records and texts in, numbers out."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from homenode.cli.demo import script
from homenode.cli.demo.records import COST, EDIT, HOLDING, READ, REFUSED

NS_PER_MS = 1_000_000
OBSERVER = "observer"

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A commit that the directory refused to a writer whose lease was over."""

    agent: str
    id: str
    page: str
    error: str
    cause: str


@dataclass(frozen=True, slots=True)
class Figures:
    """One arm of the demo.

    Attributes:
        reads, hits, versions, conflicts: of the agents; `conflicts` are attempts that had to be made again.
        acknowledged, present, lost: edits whose write was confirmed; those whose id is in the final pages; the others.
        uninvited: ids in the final pages whose write was never confirmed.
        counted: edits by the pages' own counters, summed.
        bytes, tokens: that went to and from the agents; tokens that entered their contexts.
        tokens_changed: control arm: what a reader would pay that is sent whole files, but only changed ones.
        latency_p50_ms, latency_p99_ms: from sending a commit to another process being given it; None: not measured.
        observed: reads that staleness was judged on, `stale` of them older than what had been acknowledged before
            they began, `stale_beyond` by more than Δ, the oldest by `stale_max_ms`.
        freed_ms: from the end of a writer to the next acknowledged edit of the page that it held.
        refusals: late commits that were refused.
        seconds: how long the arm took.
    """

    reads: int = 0
    hits: int = 0
    versions: int = 0
    conflicts: int = 0
    acknowledged: int = 0
    present: int = 0
    lost: tuple[str, ...] = ()
    uninvited: tuple[str, ...] = ()
    counted: int = 0
    bytes: int = 0
    tokens: int = 0
    tokens_changed: int = 0
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    observed: int = 0
    stale: int = 0
    stale_beyond: int = 0
    stale_max_ms: float = 0.0
    freed_ms: float | None = None
    refusals: tuple[Refusal, ...] = ()
    seconds: float = 0.0

    @property
    def tokens_per_read(self) -> float:
        """0 where there were no reads."""
        return self.tokens / self.reads if self.reads else 0.0

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(slots=True)
class Tally:
    """Takes the records of one arm as they come."""

    max_age_ms: int = 3_000
    _reads: int = 0
    _hits: int = 0
    _conflicts: int = 0
    _acknowledged: dict[str, Record] = field(default_factory=dict)
    _costs: dict[str, Record] = field(default_factory=dict)
    _observed: list[Record] = field(default_factory=list)
    _first_seen: dict[tuple[str, tuple[int, int]], int] = field(default_factory=dict)
    _refusals: list[Refusal] = field(default_factory=list)
    _ended: list[tuple[str, str, int]] = field(default_factory=list)
    _began_ns: int = 0
    _last_ns: int = 0

    def take(self, agent: str, record: Record) -> None:
        """One record of `agent`."""
        kind = record["kind"]
        if kind == READ:
            self._read(agent, record)
        elif kind == EDIT:
            self._acknowledged[record["id"]] = {**record, "agent": agent}
            self._conflicts += record["tries"] - 1
            self._last_ns = max(self._last_ns, record["acked"])
        elif kind == COST:
            self._costs[agent] = record
        elif kind == REFUSED:
            self._refusals.append(Refusal(agent, record["id"], record["page"], record["error"], record["cause"]))
        elif kind == HOLDING:
            self._ended.append((agent, record["page"], record["at"]))

    def _read(self, agent: str, record: Record) -> None:
        if agent == OBSERVER:
            key = (record["page"], tuple(record["version"]))
            self._first_seen.setdefault(key, record["seen"])
        else:
            self._reads += 1
            self._hits += bool(record["hit"])
            self._began_ns = self._began_ns or record.get("began", 0)
        if "version" in record:
            self._observed.append(record)

    def figures(self, texts: Mapping[str, str], *, final: bool = True) -> Figures:
        """The figures so far. Staleness is judged at the end, when every acknowledgement is known.

        Args:
            texts: the pages as they are now.
            final: nothing more will come.
        """
        ids = {id for text in texts.values() for id in script.ids_in(text)}
        present = self._acknowledged.keys() & ids
        stale, beyond, oldest_ms = self._staleness() if final else (0, 0, 0.0)
        latencies = self._latencies()
        return Figures(
            reads=self._reads,
            hits=self._hits,
            versions=len(self._acknowledged),
            conflicts=self._conflicts,
            acknowledged=len(self._acknowledged),
            present=len(present),
            lost=tuple(sorted(self._acknowledged.keys() - ids)),
            uninvited=tuple(sorted(ids - self._acknowledged.keys())),
            counted=sum(max(0, script.counter(text)) for text in texts.values()),
            bytes=sum(cost["bytes"] for cost in self._costs.values()),
            tokens=sum(cost["tokens"] for cost in self._costs.values()),
            tokens_changed=sum(cost.get("changed", 0) for cost in self._costs.values()),
            latency_p50_ms=percentile(latencies, 0.50),
            latency_p99_ms=percentile(latencies, 0.99),
            observed=len(self._observed),
            stale=stale,
            stale_beyond=beyond,
            stale_max_ms=oldest_ms,
            freed_ms=self._freed_ms(),
            refusals=tuple(self._refusals),
            seconds=(self._last_ns - self._began_ns) / 1e9 if self._began_ns else 0.0,
        )

    def _latencies(self) -> list[float]:
        """Of each acknowledged commit: from sending it to the observer being given that version or a later one."""
        seen_by_page: dict[str, list[tuple[tuple[int, int], int]]] = defaultdict(list)
        for (page, version), seen in self._first_seen.items():
            seen_by_page[page].append((version, seen))
        for seen_list in seen_by_page.values():
            seen_list.sort()
        found = []
        for record in self._acknowledged.values():
            if "version" not in record:
                continue
            seen_list = seen_by_page.get(record["page"], [])
            at = bisect_left(seen_list, (tuple(record["version"]), 0))
            if at < len(seen_list):
                first = min(seen for _, seen in seen_list[at:])
                found.append(max(0, first - record["sent"]) / NS_PER_MS)
        return found

    def _staleness(self) -> tuple[int, int, float]:
        """(stale reads, those beyond Δ, the greatest age in ms). A read is stale by how long before its begin a version
        newer than the one that it gave had been acknowledged to its writer."""
        commits: dict[str, list[tuple[tuple[int, int], int]]] = defaultdict(list)
        for record in self._acknowledged.values():
            if "version" in record:
                commits[record["page"]].append((tuple(record["version"]), record["acked"]))
        superseded = {page: _earliest_after(found) for page, found in commits.items()}
        stale = beyond = 0
        oldest_ms = 0.0
        for read in self._observed:
            versions, earliest = superseded.get(read["page"], ([], []))
            at = bisect_left(versions, (*read["version"][:1], read["version"][1] + 1))
            if at < len(versions) and earliest[at] < read["began"]:
                age_ms = (read["began"] - earliest[at]) / NS_PER_MS
                stale += 1
                beyond += age_ms > self.max_age_ms
                oldest_ms = max(oldest_ms, age_ms)
        return stale, beyond, oldest_ms

    def _freed_ms(self) -> float | None:
        """The longest of the waits after a writer's end; None where a page was never written again."""
        waits = []
        for agent, page, at in self._ended:
            later = [
                record["acked"]
                for record in self._acknowledged.values()
                if record["page"] == page and record["agent"] != agent and record["acked"] > at
            ]
            if later:
                waits.append((min(later) - at) / NS_PER_MS)
        return max(waits) if waits and len(waits) == len(self._ended) else None


def _earliest_after(commits: list[tuple[tuple[int, int], int]]) -> tuple[list[tuple[int, int]], list[int]]:
    """Versions in order; and for each, when the first of it and its successors was acknowledged."""
    commits.sort()
    versions = [version for version, _ in commits]
    earliest = [acked for _, acked in commits]
    for index in range(len(earliest) - 2, -1, -1):
        earliest[index] = min(earliest[index], earliest[index + 1])
    return versions, earliest


def percentile(values: list[float], part: float) -> float | None:
    """The value that `part` of them do not exceed (nearest rank); None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(part * 1000) * len(ordered) // 1000) - 1))]
