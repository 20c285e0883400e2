"""`homenode simulate --changes`: whole documents beside what changed, over steps and sizes of edits, and the bound.

Every agent's first look at an artifact is a whole document, and it has to be shown the text that others changed since
its last one, whatever form that takes. So no way of showing changes can take fewer tokens than both together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from homenode.cli.output import Output, console, table
from homenode.cli.simulate.edits import BLOCK
from homenode.cli.simulate.figures import Result
from homenode.cli.simulate.workload import CHANGE, DOCUMENT, Workload

SCENARIO = "D"
STEPS = (40, 48, 100)
BLOCKS = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tokens of a run, on average.

    Attributes:
        block_lines: that an edit replaces; 0: it is no block.
        times_fewer: tokens where documents are shown, of each one where changes are; at_most: by the bound.
        first_looks, changed_text, signals: what changes cost at least, and what the news of commits cost.
        stale_reads, max_age_steps: where changes are shown.
    """

    scenario: str
    edit_model: str
    block_lines: int
    steps: int
    seeds: int
    documents: float
    changes: float
    times_fewer: float
    at_most: float
    first_looks: float
    changed_text: float
    signals: float
    stale_reads: int
    max_age_steps: int


def pair(load: Workload) -> tuple[Workload, Workload]:
    """The same with documents and with changes."""
    return replace(load, shows=DOCUMENT), replace(load, shows=CHANGE)


def compare(load: Workload, results: Mapping[Workload, Result]) -> Comparison:
    """A workload's row; `results` has both of its `pair`."""
    documents, changes = (results[one] for one in pair(load))
    least = changes.first_mean + changes.changed_mean
    return Comparison(
        scenario=load.scenario,
        edit_model=load.edit,
        block_lines=load.block_lines if load.edit == BLOCK else 0,
        steps=load.steps,
        seeds=changes.row.seeds,
        documents=documents.row.tokens_mean,
        changes=changes.row.tokens_mean,
        times_fewer=documents.row.tokens_mean / max(1.0, changes.row.tokens_mean),
        at_most=documents.row.tokens_mean / max(1.0, least),
        first_looks=changes.first_mean,
        changed_text=changes.changed_mean,
        signals=changes.signals_mean,
        stale_reads=changes.row.stale_reads,
        max_age_steps=changes.row.max_age_steps,
    )


def as_dicts(rows: Sequence[Comparison]) -> list[dict[str, Any]]:
    """For programs."""
    return [asdict(row) for row in rows]


def tell(out: Output, rows: Sequence[Comparison]) -> None:
    """For people."""
    columns = ("SCENARIO", "EDIT", "LINES", "STEPS", "DOCUMENTS", "CHANGES", "TIMES FEWER", "AT MOST", "FIRST LOOKS",
               "CHANGED TEXT", "SIGNALS", "REST", "STALE", "OLDEST")  # fmt: skip
    cells = [
        (
            row.scenario.split()[0], row.edit_model, str(row.block_lines or "-"), str(row.steps),
            *(f"{tokens:,.0f}" for tokens in (row.documents, row.changes)),
            f"{row.times_fewer:.2f}", f"{row.at_most:.2f}",
            *(f"{tokens:,.0f}" for tokens in (row.first_looks, row.changed_text, row.signals)),
            f"{row.changes - row.first_looks - row.changed_text - row.signals:,.0f}",
            str(row.stale_reads), f"{row.max_age_steps} steps",
        )
        for row in rows
    ]  # fmt: skip
    console().print(table(columns, cells, right=columns[2:]))
    out.line(f"Tokens of a run, means of {max(row.seeds for row in rows)}. At most: were there but first looks and the")
    out.line("changed text itself. Rest: what says where changes belong, and whole documents where they are shorter.")
