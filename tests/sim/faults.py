"""What may go wrong, how often, and how often it did."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Odds:
    """Chances: of a frame, of a call, of a store call. Everything that fires is counted."""

    frame_drop: float = 0.004
    frame_double: float = 0.01
    frame_swap: float = 0.01
    frame_late: float = 0.03
    stream_cut: float = 0.003
    call_lost: float = 0.04
    reply_lost: float = 0.04
    call_double: float = 0.06
    call_late: float = 0.1
    store_unknown_before: float = 0.003
    store_unknown_after: float = 0.003
    crash_before: float = 0.002
    crash_after: float = 0.002
    crash_prepared: float = 0.08  # right after a strict version was prepared


#: Nothing goes wrong by chance.
NONE = Odds(**{chance.name: 0.0 for chance in fields(Odds)})

BY_SCRIPT = (
    "black_hole", "one_way", "hold", "lag", "reader_cut_off", "committer_cut_off", "suspend", "wipe", "clock_drift",
    "store_clock", "killed_agent",
)  # fmt: skip
NAMES = (*(field.name for field in fields(Odds)), *BY_SCRIPT)


class Faults:
    """Draws faults from a seeded source, and stops when told, so that a run can come to rest."""

    def __init__(self, rng: random.Random, odds: Odds) -> None:
        self.rng = rng
        self.odds = odds
        self.fired: Counter[str] = Counter()
        self.active = True

    def hit(self, name: str) -> bool:
        """Whether the fault strikes now."""
        if not self.active or self.rng.random() >= getattr(self.odds, name):
            return False
        self.fired[name] += 1
        return True

    def note(self, name: str) -> None:
        """A fault that the scenario made by itself."""
        self.fired[name] += 1
