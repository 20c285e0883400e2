"""What the figures prove, and what not. Pure: a verdict is computed, never announced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homenode.cli.demo.figures import Figures
from homenode.cli.demo.script import CAST, Fate


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, whether it was kept in this run, and by which figures."""

    promise: str
    kept: bool
    figures: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of a run."""

    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return all(check.kept for check in self.checks)


def judge(arm: Figures, *, max_age_ms: int, holders: Mapping[str, str], unfinished: Sequence[str]) -> Verdict:
    """The verdict on the arm that shared pages through the directory.

    Args:
        arm: its final figures.
        max_age_ms: Δ, the greatest age that a read may have.
        holders: pages on which a write lease is left, and whose.
        unfinished: agents that neither came to the end of their turns nor were killed, and why.
    """
    frozen = [role.name for role in CAST if role.fate is Fate.FROZEN]
    told = [refusal for refusal in arm.refusals if refusal.agent in frozen and refusal.cause]
    freed = f"{arm.freed_ms / 1000:.1f} s" if arm.freed_ms is not None else "not seen"
    return Verdict(
        (
            Check(
                "no acknowledged edit is lost",
                arm.acknowledged > 0 and not arm.lost and arm.present == arm.acknowledged,
                f"{arm.acknowledged} acknowledged, {arm.present} present, {len(arm.lost)} lost{_some(arm.lost)}",
            ),
            Check(
                "the pages count what was acknowledged, and hold nothing else",
                arm.counted == arm.acknowledged and not arm.uninvited,
                f"{arm.counted} counted, {len(arm.uninvited)} unacknowledged{_some(arm.uninvited)}",
            ),
            Check(
                f"no read is older than {max_age_ms} ms",
                arm.observed > 0 and arm.stale_beyond == 0 and arm.stale_max_ms <= max_age_ms,
                f"{arm.observed} reads judged, {arm.stale_beyond} beyond; the oldest was {arm.stale_max_ms:.1f} ms old",
            ),
            Check(
                "a killed writer's page is free again, and the others went on",
                not holders and arm.freed_ms is not None,
                f"next edit acknowledged after {freed}, {len(holders)} leases left",
            ),
            Check(
                "a writer that woke up too late was refused, and told why",
                len(told) == len(frozen),
                "; ".join(f"{refusal.agent}: {refusal.error}, cause {refusal.cause}" for refusal in told)
                or "no refusal",
            ),
            Check(
                "every other agent came to its end",
                not unfinished,
                "; ".join(unfinished) or "all",
            ),
        )
    )


def _some(ids: Sequence[str]) -> str:
    return f" ({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})" if ids else ""
