"""What a judgement rests on beyond the entry. The directory gathers it; guards confirm it at the commit."""

from __future__ import annotations

from collections.abc import Container

from homenode_directory.protocol.effects import Result
from homenode_directory.protocol.model import Level, Policy
from homenode_directory.protocol.values import value

DEFAULT = Policy(Level.LAZY)
SLACK_MS = 1_000  # by how much the store's clock may have stepped unnoticed
DRIFT_PERCENT = 2  # by how much the clocks of store and reader may go apart


def level_of(policy: Policy | None, default: Policy) -> Level:
    """The level that an artifact's policy asks for."""
    return (policy.level if policy is not None else None) or default.level or Level.LAZY


def outlasting(ms: int) -> int:
    """A time on the store's clock in which `ms` have certainly passed on a reader's."""
    return ms * (100 + DRIFT_PERCENT) // 100 + SLACK_MS


@value
class Terms:
    """Bounds and durations of the rule book, in milliseconds and counts."""

    tombstone_ms: int = 70_000  # lease term + the window in which a request may be repeated
    lease_ms: int = 10_000  # how long after a sign of life a session may serve its strict copies
    max_age_ms: int = 3_000  # how old lazy copies may be, where the policy does not say
    late_ms: int = 500  # how long after it was judged a prepare may be committed
    alone: bool = False  # no session of an earlier memory can be about: an adoption needs no quarantine
    waiters_max: int = 64
    ended_max: int = 8

    @property
    def quiet_ms(self) -> int:
        """In this time, on the store's clock, every strict copy dies that is not renewed."""
        return outlasting(self.lease_ms)

    def lease_of(self, ttl_ms: int) -> int:
        """The lease on strict copies of a session that lives `ttl_ms` without a sign of life: it ends before that."""
        return max(0, min(self.lease_ms, (ttl_ms - SLACK_MS) * 100 // (100 + DRIFT_PERCENT)))


@value
class Facts:
    """Time, identity and memory as seen when an event is judged.

    `now_ms` is a lower bound of the store's clock (a deadline at or below it has passed), `now_max_ms` an upper
    bound (a deadline computed from it is not shorter than its holder believes). `stored` is the answer that
    (session, `request`) already got; no request of it below `settled_below` runs any more. `dead` names sessions
    known to be over. `floor` is the slice's floor of dropped versions, fences and revs. Before `quarantine_ms` no
    strict version is published. `weakness` says why strict cannot be kept over this store; empty: it can.
    """

    now_ms: int
    incarnation: int
    now_max_ms: int = 0
    request: int = 0
    digest: str = ""
    stored: Result | None = None
    settled_below: int = 0
    floor: int = 0
    dead: Container[str] = frozenset()
    quarantine_ms: int = 0
    weakness: str = ""
    default: Policy = DEFAULT
    terms: Terms = Terms()
