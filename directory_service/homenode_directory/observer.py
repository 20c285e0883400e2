"""What the parts of the server tell about their work. `telemetry` counts it; the default ignores it.

Labels are closed sets (operation, reason, kind names), never keys, agents or content.
"""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Receives measurements. Calls are cheap, never block and never raise."""

    def request(self, operation: str, outcome: str, seconds: float) -> None:
        """An operation was answered; `outcome` is "ok" or the reason of the refusal, in lower case."""

    def batch(self, size: int, seconds: float) -> None:
        """One group commit of `size` transitions took so long."""

    def store_call(self, kind: str, seconds: float) -> None:
        """One store call of this kind (commit, load, read_log, ...)."""

    def committed(self, n: int = 1) -> None:
        """Versions were published."""

    def delivered(self, kind: str, n: int = 1) -> None:
        """Events of this kind (invalidation, bookmark, change, ...) went to streams."""

    def resync(self) -> None:
        """A session's events were lost or discarded, and it was told so."""

    def mistake(self, where: str) -> None:
        """An exception that nobody expected, in a loop that goes on."""

    def lag(self, slice_: int, head: int, delivered: int) -> None:
        """Head of a slice's log, and up to where it is delivered."""

    def gauge(self, name: str, value: float) -> None:
        """A level: sessions, leases, streams, queued_events, in_flight."""

    def content(self, kind: str, body_bytes: int, full_bytes: int) -> None:
        """A body went out as `kind` (patch, snapshot, held, chunks): its size on the wire, and the content's size.

        Of chunks, `full_bytes` counts those that were sent as they were sent.
        """


class Silent:
    """Ignores everything."""

    def request(self, operation: str, outcome: str, seconds: float) -> None:
        """See `Observer`."""

    def batch(self, size: int, seconds: float) -> None:
        """See `Observer`."""

    def store_call(self, kind: str, seconds: float) -> None:
        """See `Observer`."""

    def committed(self, n: int = 1) -> None:
        """See `Observer`."""

    def delivered(self, kind: str, n: int = 1) -> None:
        """See `Observer`."""

    def resync(self) -> None:
        """See `Observer`."""

    def mistake(self, where: str) -> None:
        """See `Observer`."""

    def lag(self, slice_: int, head: int, delivered: int) -> None:
        """See `Observer`."""

    def gauge(self, name: str, value: float) -> None:
        """See `Observer`."""

    def content(self, kind: str, body_bytes: int, full_bytes: int) -> None:
        """See `Observer`."""


SILENT: Observer = Silent()
