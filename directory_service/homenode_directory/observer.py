"""What the parts of the server tell about their work. `telemetry` counts it; the default ignores it.

Labels are closed sets (operation, reason, kind names), never keys, agents or content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

#: What an artifact's policy is called: the presets of policies, and more.
STRATEGIES = ("broadcast", "eager", "lazy", "lease", "access_count", "strict")


@dataclass(frozen=True, slots=True)
class Saved:
    """What an agent was not shown again of an artifact; agent and key are empty where several are told together.

    Attributes:
        strategy: one of STRATEGIES, or "unknown".
        sums: tokens of hits, of changes instead of whole texts, of what had not changed; bytes of hits.
    """

    agent: str
    key: str
    strategy: str
    sums: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an SDK tells of the reads of its agents since it told last; validated.

    Attributes:
        reads: how many, by result: hit (served from the cache), miss (asked the directory), stale (refused as too old).
        saved: what agents did not have to be shown or fetch, by artifact as far as it was told apart.
        age_ms: no hit was older; None: there were none.
    """

    reads: Mapping[str, int] = field(default_factory=dict)
    saved: Sequence[Saved] = ()
    age_ms: int | None = None


class Observer(Protocol):
    """Receives measurements. Calls are cheap, never block and never raise."""

    def request(self, operation: str, outcome: str, seconds: float, trace_id: str = "") -> None:
        """An operation was answered; `outcome` is "ok" or the reason of the refusal, in lower case.

        `trace_id` is that of its trace, where it is recorded.
        """

    def batch(self, size: int, seconds: float, trace_id: str = "") -> None:
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

    def clock_jumped(self) -> None:
        """The store's clock was found to have jumped, and a slice went into quarantine."""

    def fanout(self, sessions: int) -> None:
        """So many sessions on this server were told that their copies are obsolete, by one commit."""

    def acknowledged(self, seconds: float, trace_id: str = "") -> None:
        """A sharer's word that its copy is gone arrived so long after the commit."""

    def lease_ended(self, cause: str) -> None:
        """A write lease ended, by a commit of this server."""

    def usage(self, usage: Usage, workspace: str = "") -> None:
        """An SDK has told what its agents did in a workspace."""

    def store_failed(self, kind: str) -> None:
        """A store call of this kind failed."""

    def incarnation(self) -> None:
        """A slice's store was found to have another memory."""

    def lag(self, slice_: int, head: int, delivered: int) -> None:
        """Head of a slice's log, and up to where it is delivered."""

    def gauge(self, name: str, value: float) -> None:
        """A level: sessions, leases, streams, queued_events, in_flight."""

    def content(self, kind: str, body_bytes: int, full_bytes: int) -> None:
        """A body went out as `kind` (patch, snapshot, held, chunks): its size on the wire, and the content's size.

        Of chunks, `full_bytes` counts those that were sent as they were sent.
        """

    def placed(self, kind: str, n: int = 1) -> None:
        """Placement events of KV workers, by what became of them: gap, snapshot, invalidated, ignored, refused."""

    def routed(self, how: str, cached: int, computed: int) -> None:
        """A prompt was sent to a KV worker: how that was chosen, and its tokens as predicted."""


class Silent:
    """Ignores everything."""

    def request(self, operation: str, outcome: str, seconds: float, trace_id: str = "") -> None:
        """See `Observer`."""

    def batch(self, size: int, seconds: float, trace_id: str = "") -> None:
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

    def clock_jumped(self) -> None:
        """See `Observer`."""

    def fanout(self, sessions: int) -> None:
        """See `Observer`."""

    def acknowledged(self, seconds: float, trace_id: str = "") -> None:
        """See `Observer`."""

    def lease_ended(self, cause: str) -> None:
        """See `Observer`."""

    def usage(self, usage: Usage, workspace: str = "") -> None:
        """See `Observer`."""

    def store_failed(self, kind: str) -> None:
        """See `Observer`."""

    def incarnation(self) -> None:
        """See `Observer`."""

    def lag(self, slice_: int, head: int, delivered: int) -> None:
        """See `Observer`."""

    def gauge(self, name: str, value: float) -> None:
        """See `Observer`."""

    def content(self, kind: str, body_bytes: int, full_bytes: int) -> None:
        """See `Observer`."""

    def placed(self, kind: str, n: int = 1) -> None:
        """See `Observer`."""

    def routed(self, how: str, cached: int, computed: int) -> None:
        """See `Observer`."""


SILENT: Observer = Silent()
