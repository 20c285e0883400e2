"""What simulated agents did, in the form of `homenode.history`, for its judges; times are of the simulation."""

from __future__ import annotations

import asyncio
from typing import Any

import homenode
from homenode.history.operations import Operation, from_lines
from homenode.history.recorded import RecordedHomenode
from homenode.history.report import judge


class Recording:
    """Keeps lines in memory; otherwise what `homenode.history.recorder.Recorder` is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.lines: list[dict[str, Any]] = []

    def clock(self) -> int:
        """The simulation's time, which every process shares."""
        return int(self._loop.time() * 1e9)

    def begin(self, **said: Any) -> str:
        """See `Recorder`."""
        name = str(len(self.lines))
        self.write({"id": name, **said})
        return name

    def write(self, line: dict[str, Any], *, now: bool = False) -> None:
        """See `Recorder`."""
        self.lines.append(line)

    def flush(self) -> None:
        """There is nothing behind it."""

    def of(self, hn: homenode.Homenode) -> homenode.Homenode:
        """The same connection, recorded."""
        return RecordedHomenode(hn._core, hn._view, hn._views, self, owner=True)  # type: ignore[arg-type]

    def operations(self) -> list[Operation]:
        """What was done."""
        return from_lines(self.lines)

    def problems(self, max_age_ms: float) -> list[str]:
        """What the judges of histories find wrong."""
        findings = judge(self.operations(), max_age_ms=max_age_ms).findings
        return [f"the history shows: {found.rule}: {found.key}: {found.text}" for found in findings]
