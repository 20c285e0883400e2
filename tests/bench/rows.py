"""What a row of figures is, what it must reach, and the register of all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.bench.running import Bench, Measured


@dataclass(frozen=True)
class Row:
    """One comparison, and its target.

    Attributes:
        id: as in the targets; what: ours, in words; peer: beside what, "" for a figure that stands alone.
        unit: of both figures.
        target: bound of the ratio ours / peer, or of our figure where there is no peer.
        at_least: whether the target is a lower bound.
        times_faster: the ratio is peer / ours instead, for figures of which less is better.
        moonshot: what would be remarkable.
    """

    id: str
    what: str
    peer: str
    unit: str
    target: float
    at_least: bool = False
    times_faster: bool = False
    moonshot: float | None = None


@dataclass
class Figures:
    """What one group of rows found.

    Attributes:
        pairs: by row, the figures of each round, ours and the peer's (empty where there is no peer).
        sides: what each side did in each round, for the CPU figures.
        missing: by row, why it could not be measured.
    """

    pairs: dict[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    sides: dict[str, list[Measured]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Rows that are measured together."""

    rows: tuple[Row, ...]
    run: Callable[[Bench], Figures]


GROUPS: list[Group] = []
#: The first row of each group, in the order in which they are measured and shown.
ORDER = (
    "hit_dict", "acquire_64", "acquire_512", "streams_64", "acquire_1", "commit_64", "commit_1", "batch_64", "hot_64",
    "unary_64", "inval_1", "fanout_1000", "fanout_1000_own", "sessions_5000", "large_16m", "delta_1m",
    "upload_resume_16m", "embedded", "step",
)  # fmt: skip


def group(*rows: Row) -> Callable[[Callable[[Bench], Figures]], Callable[[Bench], Figures]]:
    """Registers the function that measures these rows."""

    def register(run: Callable[[Bench], Figures]) -> Callable[[Bench], Figures]:
        GROUPS.append(Group(rows, run))
        return run

    return register


def entry(row: Row, figures: Figures) -> dict[str, Any]:
    """A row's result: medians over the rounds; the ratio is the median of the rounds' own ratios."""
    result: dict[str, Any] = {
        "id": row.id, "ours": None, "peer": None, "ratio": None, "target": row.target, "met": None, "unit": row.unit,
        "n": 0, "what": row.what, "beside": row.peer, "at_least": row.at_least, "moonshot": row.moonshot,
    }  # fmt: skip
    ours, peer = figures.pairs.get(row.id, ([], []))
    if not ours or (row.peer and not peer):
        result["missing"] = figures.missing.get(row.id, "not measured")
        return result
    result["ours"], result["n"] = statistics.median(ours), len(ours)
    judged = result["ours"]
    if row.peer:
        result["peer"] = statistics.median(peer)
        ratios = [(b / a if row.times_faster else a / b) for a, b in zip(ours, peer, strict=True)]
        judged = result["ratio"] = statistics.median(ratios)
    result["met"] = judged >= row.target if row.at_least else judged <= row.target
    return result
