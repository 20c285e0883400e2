"""The demo on the screen: both arms side by side, what happened, the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from homenode.cli.demo.figures import Figures
from homenode.cli.demo.verdict import Verdict

if TYPE_CHECKING:
    from rich.table import Table

NAMES = ("homenode", "control: plain files")
CONTROL_SAYS = "the same agents and turns on shared files: pull on every access, the last write wins"

_Cell = Callable[[Figures], str]
_NONE = "–"


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f} ms"


def _number(value: int) -> str:
    return f"{value:,}"


#: Name of the row, cell of the homenode arm, cell of the control arm.
_ROWS: tuple[tuple[str, _Cell, _Cell], ...] = (
    ("reads, those for an edit included", lambda f: _number(f.reads), lambda f: _number(f.reads)),
    ("  served from the agent's own cache", lambda f: _share(f.hits, f.reads), lambda f: _NONE),
    ("edits acknowledged", lambda f: _number(f.acknowledged), lambda f: _number(f.acknowledged)),
    ("edits present in the pages", lambda f: _number(f.present), lambda f: _number(f.present)),
    ("EDITS LOST", lambda f: _number(len(f.lost)), lambda f: _number(len(f.lost))),
    ("conflicts seen and retried", lambda f: _number(f.conflicts), lambda f: "0 (not noticed)"),
    ("commit → seen elsewhere, median", lambda f: _ms(f.latency_p50_ms), lambda f: "at the next pull"),
    ("commit → seen elsewhere, p99", lambda f: _ms(f.latency_p99_ms), lambda f: "at the next pull"),
    ("bytes sent and received", lambda f: _number(f.bytes), lambda f: _number(f.bytes)),
    ("tokens shown to agents (bytes / 4)", lambda f: _number(f.tokens), lambda f: _number(f.tokens)),
    ("tokens shown for each read", lambda f: f"{f.tokens_per_read:.0f}", lambda f: f"{f.tokens_per_read:.0f}"),
    ("  if files were sent when changed only", lambda f: _NONE, lambda f: _number(f.tokens_changed)),
    ("seconds", lambda f: f"{f.seconds:.1f}", lambda f: f"{f.seconds:.1f}"),
)


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.0f} %)" if whole else _NONE


def arms_table(homenode: Figures, control: Figures) -> Table:
    """Both arms side by side."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("", no_wrap=True)
    for name in NAMES:
        made.add_column(name, justify="right", no_wrap=True)
    for name, left, right in _ROWS:
        loss = name == "EDITS LOST"
        made.add_row(
            name,
            left(homenode),
            right(control),
            style="bold" if loss else ("dim" if name.startswith("  ") else None),
        )
    made.add_row("TOKENS SAVED, for each read", _saved(homenode, control), _NONE, style="bold")
    return made


def _saved(homenode: Figures, control: Figures) -> str:
    """Both arms read as often in the end, but not at the same time: while they run only shares can be compared."""
    if not control.tokens_per_read:
        return _NONE
    return f"{100 * (1 - homenode.tokens_per_read / control.tokens_per_read):.0f} %"


def live(homenode: Figures, control: Figures, events: Sequence[str], seconds: float) -> Any:
    """One picture of the running demo."""
    from rich.console import Group
    from rich.text import Text

    head = Text(f"agents at work, {seconds:.0f} s", style="bold")
    return Group(head, arms_table(homenode, control), *(Text(event) for event in events))


def progress(homenode: Figures, control: Figures) -> str:
    """The same as one line, where there is no terminal."""
    return (
        f"homenode: {homenode.reads} reads, {homenode.hits} hits, {homenode.acknowledged} edits,"
        f" {homenode.tokens} tokens | control: {control.reads} reads, {control.acknowledged} edits,"
        f" {len(control.lost)} lost, {control.tokens} tokens"
    )


def conclusion(homenode: Figures, control: Figures) -> list[str]:
    """What the control arm lost and cost, in words; and what the comparison does not say."""
    lines = []
    if control.acknowledged:
        lost = len(control.lost)
        lines.append(
            f"The control arm lost {lost} of its {control.acknowledged} acknowledged edits"
            f" ({100 * lost / control.acknowledged:.0f} %), silently; the pages' own counters say {control.counted}."
        )
    if homenode.tokens and control.tokens:
        lines.append(
            f"It put {control.tokens:,} tokens into the agents' contexts, homenode {homenode.tokens:,}:"
            f" {100 * (1 - homenode.tokens / control.tokens):.0f} % fewer."
            f" Against whole files that are sent only when they have changed ({control.tokens_changed:,}):"
            f" {100 * (1 - homenode.tokens / max(1, control.tokens_changed)):.0f} % fewer."
        )
        lines.append(
            "Tokens are an estimate (4 bytes each) and assume that an agent's context still holds what it was shown;"
            " after a change it is shown the change. Seconds differ because writers wait for each other, and for the"
            " killed and the stopped one, instead of overwriting each other."
        )
    return lines


def verdict_lines(verdict: Verdict) -> list[str]:
    """One line a check, and the verdict."""
    lines = [f"  {'kept  ' if check.kept else 'BROKEN'}  {check.promise}: {check.figures}" for check in verdict.checks]
    broken = sum(not check.kept for check in verdict.checks)
    end = "every promise was kept" if verdict.holds else f"{broken} of {len(verdict.checks)} promises were BROKEN"
    return ["", *lines, "", f"VERDICT: {end}"]
