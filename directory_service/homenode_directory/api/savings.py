"""What the agents of each workspace have saved, by agent and artifact, for the last hour and the last day.

In memory, of this server alone, and gone when it stops: SDKs tell it for people to look at, and nothing rests on it.
Bounded: quarters of an hour for a day, ENTRIES_MAX lines in each; what finds no room is counted for its workspace
without agent and artifact, and where there are too many workspaces for that, not at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.clock import Clock
from homenode_directory.observer import Saved
from homenode_directory.place import Place

QUARTER_MS = 900_000
HOUR = 4
DAY = 96
ENTRIES_MAX = 1_024
PLACES_MAX = 256
LINES_MAX = 256
STRATEGIES_MAX = 8

_Line = tuple[Place, str, str, str]  # agent, key, strategy
_Sums = list[int]  # tokens of hits, changes, unchanged; bytes of hits


class Ledger:
    """See the module. `clock` is in milliseconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_ms = clock()
        self._quarters: dict[int, dict[_Line, _Sums]] = {}  # the newest last

    def note(self, place: Place, savings: Iterable[Saved]) -> None:
        """An SDK has told this."""
        now = int(self._clock() // QUARTER_MS)
        quarter = self._quarters.get(now)
        if quarter is None:
            quarter = self._quarters[now] = {}
            for old in [one for one in self._quarters if one <= now - DAY]:
                del self._quarters[old]
        for saved in savings:
            line = (place, saved.agent, saved.key, saved.strategy)
            if line not in quarter and len(quarter) >= ENTRIES_MAX:
                line = (place, "", "", saved.strategy)
                if line not in quarter and len(quarter) >= ENTRIES_MAX + PLACES_MAX:
                    continue
            _add(quarter, line, saved.sums)

    def told(self, place: Place) -> pb.SavingsResponse:
        """What is known of a workspace."""
        now = int(self._clock() // QUARTER_MS)
        counted_ms = max(0, int(self._clock() - self._began_ms))
        return pb.SavingsResponse(
            hour=self._last(place, now - HOUR), day=self._last(place, now - DAY), counted_ms=counted_ms
        )

    def _last(self, place: Place, after: int) -> list[pb.Saving]:
        sums: dict[_Line, _Sums] = {}
        for quarter, lines in self._quarters.items():
            for line, more in lines.items() if quarter > after else ():
                if line[0] == place:
                    _add(sums, line, more)
        ranked = sorted(sums, key=lambda line: (-sum(sums[line][:3]), -sums[line][3], line[1:]))
        kept = {line: sums[line] for line in ranked[: LINES_MAX - STRATEGIES_MAX]}
        for line in ranked[LINES_MAX - STRATEGIES_MAX :]:
            _add(kept, (place, "", "", line[3]), sums[line])
        return [_message(line, one) for line, one in kept.items()]


def _message(line: _Line, sums: _Sums) -> pb.Saving:
    _, agent, key, strategy = line
    hit, delta, same, size = sums
    return pb.Saving(
        agent=agent,
        key=key,
        strategy=strategy,
        tokens_hit=hit,
        tokens_delta=delta,
        tokens_unchanged=same,
        bytes_hit=size,
    )


def _add(sums: dict[_Line, _Sums], line: _Line, more: Iterable[int]) -> None:
    before = sums.get(line)
    sums[line] = list(more) if before is None else [a + b for a, b in zip(before, more, strict=True)]
