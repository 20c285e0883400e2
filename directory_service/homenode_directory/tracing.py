"""How the parts of the server tell a tracer what they do for whom. `telemetry.traces` makes spans of it.

A trace context is a W3C traceparent, "" where nothing is recorded. `CURRENT` is that of the operation under way (of a
call, until it begins, what the caller said); jobs take it along, so that the store's work and the log entry can be told
to whom they belong. Where there is no tracer, none of this is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Protocol

CURRENT: ContextVar[str] = ContextVar("homenode_trace", default="")


def trace_id(traceparent: str) -> str:
    """The trace that a traceparent names; "" for ""."""
    return traceparent[3:35]


class Span(Protocol):
    """Work that is recorded. Calls are cheap, never block and never raise."""

    @property
    def traceparent(self) -> str:
        """Names it as a parent."""

    @property
    def trace_id(self) -> str:
        """Of the whole trace, for exemplars."""

    def end(self, outcome: str = "ok") -> None:
        """It is over; `outcome` as metrics have it."""


class Tracer(Protocol):
    """Decides what is recorded."""

    def operation(self, name: str, traceparent: str, key: str, slice_: int | None) -> Span | None:
        """An operation begins; `traceparent` is what the caller said, whatever it is. None: it is not recorded.

        `key` may be recorded only where the operator wants that.
        """

    def batch(self, waiting: Sequence[str], slice_: int, size: int) -> Span:
        """A group commit goes to the store, for these recorded operations among others; `size` counts all."""
