"""The table of the rules as Markdown: `python -m tests.protocol.rules_table > tests/protocol/RULES.md`."""

from __future__ import annotations

from pathlib import Path

from homenode_directory.protocol.model import State
from homenode_directory.protocol.rules import RULES

FILE = Path(__file__).with_name("RULES.md")

STATES = {
    State.I: "I: no copies",
    State.E: "E: one sharer",
    State.S: "S: sharers",
    State.M: "M: write lease held",
    State.P: "P: prepared",
}


def render() -> str:
    """The table, one row per event, one column per state."""
    events = list(dict.fromkeys(event for _, event in RULES))
    rows = [
        "# What the rule book does",
        "",
        "Generated from `homenode_directory.protocol.rules.RULES` by `python -m tests.protocol.rules_table`.",
        "Deadlines that have passed take effect before the rule; after it a free write lease goes to the first live",
        "waiter. A session that is over is refused, and an answered request gets the same answer, in every state.",
        "",
        "| Event | " + " | ".join(STATES.values()) + " |",
        "|---" * (len(STATES) + 1) + "|",
    ]
    for event in events:
        cells = [RULES[state, event].name for state in STATES]
        rows.append(f"| {event.__name__} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(render(), end="")
