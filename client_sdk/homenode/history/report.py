"""A whole history judged: what is wrong with it, and figures beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from homenode.history import promises, zones
from homenode.history.operations import Kind, Operation, by_artifact, linear
from homenode.history.zones import Finding

NS_PER_MS = 1_000_000


@dataclass(slots=True)
class Verdict:
    """What was found.

    Attributes:
        findings: what must not be; empty where the history keeps every promise.
        operations: how many, by kind; `unknown` and `refused` are counted beside.
        stale: reads that gave a version which was superseded when they began, which lazy ones may, by their kind.
        oldest_ms: the greatest such age.
        longest_gap_ms: the longest time in which no operation at all was answered.
    """

    findings: list[Finding] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    oldest_ms: float = 0.0
    longest_gap_ms: float = 0.0
    artifacts: int = 0

    @property
    def availability(self) -> float:
        """The part of the operations that got an answer; a refusal by the rules is one."""
        total = sum(self.operations[kind] for kind in Kind)
        failed = self.operations["unknown"] + sum(self.refused[name] for name in FAILURES)
        return 1 - failed / total if total else 1.0

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "findings": [{"rule": f.rule, "key": f.key, "text": f.text} for f in self.findings],
            "operations": dict(self.operations),
            "refused": dict(self.refused),
            "stale_reads": dict(self.stale),
            "oldest_ms": round(self.oldest_ms, 3),
            "longest_gap_ms": round(self.longest_gap_ms, 1),
            "availability": round(self.availability, 6),
            "artifacts": self.artifacts,
        }


FAILURES = ("Unavailable", "DeadlineExceeded", "Overloaded", "Stale", "Contended", "SessionLost", "InternalError")


def judge(operations: Sequence[Operation], *, max_age_ms: float | None = None, all_writers: bool = True) -> Verdict:
    """Hold a history against everything that is promised.

    Args:
        max_age_ms: the greatest age of a lazy read that was configured; None: ages are only counted.
        all_writers: every writer was recorded; else versions may come from elsewhere.
    """
    verdict = Verdict()
    for one in operations:
        verdict.operations[one.kind] += 1
        verdict.operations["unknown"] += one.unknown and one.writes
        if one.refused:
            verdict.refused[one.refused] += 1
    for mine in by_artifact(operations).values():
        verdict.artifacts += 1
        found = zones.check(linear(mine), all_writers=all_writers)
        if found is not None:
            verdict.findings.append(found)
        verdict.findings += promises.backwards(mine)
        verdict.findings += promises.invented(mine, all_writers=all_writers)
        verdict.findings += promises.lost(mine, all_writers=all_writers)
        _ages(verdict, mine, max_age_ms)
    verdict.longest_gap_ms = _longest_gap_ms(operations)
    return verdict


def _ages(verdict: Verdict, operations: Sequence[Operation], max_age_ms: float | None) -> None:
    for stale in promises.stale(operations):
        age_ms = stale.age_ns / NS_PER_MS
        verdict.stale[stale.read.kind] += 1
        verdict.oldest_ms = max(verdict.oldest_ms, age_ms)
        if max_age_ms is not None and age_ms > max_age_ms:
            text = f"{stale.read} was {age_ms:.1f} ms old, {max_age_ms:g} are allowed"
            verdict.findings.append(Finding("too old", stale.read.key, text))


def _longest_gap_ms(operations: Sequence[Operation]) -> float:
    """Between answers, hits left out: they need nobody."""
    ends = sorted(one.end_ns for one in operations if one.end_ns is not None and one.kind is not Kind.HIT)
    return max((b - a for a, b in zip(ends, ends[1:], strict=False)), default=0) / NS_PER_MS
