"""Arithmetic of write leases, as the holder must count. Pure: time comes in as an argument.

The directory counts a term from the moment at which it grants; the holder cannot know that moment, only that it is not
before its request was sent. So it counts from the send, takes the greatest drift between two clocks off the term, and a
little more. A lease that looks alive here is alive there.
"""

from __future__ import annotations

from collections import deque

from homenode.clock import NS_PER_MS
from homenode.versions import Position, Version

#: Greatest relative drift between this clock and the store's.
DRIFT = 0.01
#: Taken off besides, for the coarseness of clocks.
EPSILON_NS = 10 * NS_PER_MS
#: A lease is renewed when this part of its term has passed.
RENEW_AFTER = 1 / 3
#: Renewals of one lease; a writer that hangs must not hold an artifact for ever (ten hours at the default term).
RENEWALS_MAX = 10_000

_EXTENSIONS_MAX = 16


def deadline_ns(sent_ns: int, ttl_ms: int) -> int:
    """Until when a lease of `ttl_ms`, asked for at `sent_ns`, certainly lives."""
    return sent_ns + int(ttl_ms * NS_PER_MS * (1 - DRIFT)) - EPSILON_NS


class LeaseRecord:
    """One write lease of this session.

    Attributes:
        token: what the directory checks: (incarnation, fence). It changes when a commit keeps the lease.
        cause: why it is over; None while it is not known to be.
    """

    __slots__ = (
        "_extensions", "cause", "deadline_ns", "key", "lease_id", "renewals", "token", "ttl_ms", "version",
    )  # fmt: skip

    def __init__(
        self, key: str, lease_id: str, token: tuple[int, int], ttl_ms: int, sent_ns: int, version: Version | None
    ) -> None:
        self.key = key
        self.lease_id = lease_id
        self.token = token
        self.ttl_ms = ttl_ms
        self.deadline_ns = deadline_ns(sent_ns, ttl_ms)
        self.version = version
        self.cause: str | None = None
        self.renewals = 0
        self._extensions: deque[tuple[Position, int]] = deque(maxlen=_EXTENSIONS_MAX)

    def remaining_ns(self, now_ns: int) -> int:
        """How long the lease certainly lives still; 0 when it may be over."""
        return 0 if self.cause is not None else max(0, self.deadline_ns - now_ns)

    def renewed(self, sent_ns: int, ttl_ms: int, as_of: Position) -> None:
        """A renewal was granted as of `as_of`. It counts only once the log up to there has been applied: else a
        holder whose stream is dead, but whose calls get through, would never learn that it lost the lease."""
        self.renewals += 1
        self._extensions.append((as_of, deadline_ns(sent_ns, ttl_ms)))

    def applied(self, position: Position) -> None:
        """The session has applied the log up to `position`."""
        while self._extensions and self._extensions[0][0] <= position:
            _, until_ns = self._extensions.popleft()
            self.deadline_ns = max(self.deadline_ns, until_ns)

    def forget_extensions(self) -> None:
        """Part of the log was lost: a renewal that waited for it proves nothing."""
        self._extensions.clear()

    @property
    def waits_for_log(self) -> bool:
        """Whether a granted renewal does not count yet."""
        return bool(self._extensions)

    def lost(self, cause: str) -> None:
        """The lease is over. The first cause stands."""
        if self.cause is None:
            self.cause = cause
            self._extensions.clear()
