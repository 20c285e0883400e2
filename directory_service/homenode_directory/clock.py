"""Time as the directory needs it: handed in, so that a simulation can turn it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Milliseconds on a clock of this process that never goes back."""


_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def monotonic_ms() -> float:
    """The process's own clock. It goes on while the machine is suspended, where there is such a clock."""
    return (time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)) * 1_000.0


DRIFT = 0.01


@dataclass(slots=True)
class StoreClock:
    """What this process knows of a slice's time, from the last answer that carried it. For what is in no hurry: it
    believes jumps of the store's clock, as long as they are not mended."""

    clock: Clock
    now_ms: int = 0
    asked_at: float = 0.0

    def saw(self, now_ms: int, asked_at: float) -> None:
        """An answer to a call made at local time `asked_at` said that the store's clock was at `now_ms`."""
        self.now_ms, self.asked_at = now_ms, asked_at

    @property
    def latest_ms(self) -> int:
        """An upper bound of the store's clock now, as long as it runs at most DRIFT fast."""
        return self.now_ms + int((self.clock() - self.asked_at) * (1 + DRIFT)) + 1
