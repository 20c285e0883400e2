"""The barrier of a round: requests of agents that answer together are gathered, and released as one group.

A round names its members and how long to wait. The group is released when all have joined, when the round is committed,
or at the deadline, whichever is first. Who comes later is not added to a group that is being computed: late joiners
wait for each other just as long, and form a group of their own. A round is over when all members were released, or
when nobody came for as long again.

Pure: time is passed in, the next deadline handed out. Not thread-safe: one owner. `release` gets each group once, with
a future for each request; it is to queue the group, not to compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from homenode_kv.errors import NoSuchRound, RoundRefused, TooManyRounds

Request = TypeVar("Request")
Outcome = TypeVar("Outcome")

ROUNDS_MAX, MEMBERS_MAX, WAIT_MAX_S = 64, 256, 60.0


@dataclass(frozen=True, slots=True)
class Group(Generic[Request, Outcome]):
    """Requests to be computed together.

    Attributes:
        round_id: of which round.
        requests: by member, in the order in which they joined.
        futures: who waits for which outcome; an outcome or an exception is due to each.
        late: whether a group of this round went before.
    """

    round_id: str
    requests: dict[str, Request]
    futures: dict[str, Future[Outcome]]
    late: bool


@dataclass(slots=True)
class _Round(Generic[Request, Outcome]):
    members: frozenset[str]
    missing: set[str]
    wait_s: float
    deadline: float
    requests: dict[str, Request] = field(default_factory=dict)
    futures: dict[str, Future[Outcome]] = field(default_factory=dict)
    late: bool = False


class Rounds(Generic[Request, Outcome]):
    """Open rounds, by name.

    Args:
        release: is told of each group.
        rounds_max: most open rounds; more are refused.
        members_max: most members of a round.
    """

    def __init__(
        self,
        release: Callable[[Group[Request, Outcome]], None],
        *,
        rounds_max: int = ROUNDS_MAX,
        members_max: int = MEMBERS_MAX,
    ) -> None:
        self._release = release
        self._rounds_max, self._members_max = rounds_max, members_max
        self._rounds: dict[str, _Round[Request, Outcome]] = {}

    def __len__(self) -> int:
        return len(self._rounds)

    @property
    def next_deadline(self) -> float | None:
        """When `tick` is due; None where no round is open."""
        return min((opened.deadline for opened in self._rounds.values()), default=None)

    def begin(self, round_id: str, members: Collection[str], wait_s: float, now: float) -> None:
        """Opens a round. The same round again changes nothing; raises RoundRefused."""
        if (known := self._rounds.get(round_id)) is not None:
            if known.members != frozenset(members):
                raise RoundRefused("a round of this name has other members")
            return
        if not members or len(members) > self._members_max or not 0 < wait_s <= WAIT_MAX_S:
            raise RoundRefused(f"a round has 1 to {self._members_max} members and waits up to {WAIT_MAX_S:.0f} s")
        if len(self._rounds) >= self._rounds_max:
            raise TooManyRounds(f"{self._rounds_max} rounds are open")
        self._rounds[round_id] = _Round(frozenset(members), set(members), wait_s, now + wait_s)

    def join(self, round_id: str, member: str, request: Request, now: float) -> Future[Outcome]:
        """Adds a member's request; the last one releases the group. Raises NoSuchRound, RoundRefused."""
        opened = self._open(round_id)
        if member not in opened.missing:
            raise RoundRefused("not a member of the round, or joined before")
        if opened.late and not opened.requests:
            opened.deadline = now + opened.wait_s  # the first late one: others may follow
        opened.missing.discard(member)
        opened.requests[member] = request
        future = opened.futures[member] = Future()
        if not opened.missing:
            self._go(round_id, opened, now)
        return future

    def leave(self, round_id: str, member: str, now: float) -> None:
        """A member will not come, or no longer waits: the others do not wait for it. After its release, nothing."""
        if (opened := self._rounds.get(round_id)) is None or (
            member not in opened.missing and member not in opened.requests
        ):
            return
        opened.missing.discard(member)
        opened.requests.pop(member, None)
        if future := opened.futures.pop(member, None):
            future.cancel()
        if not opened.missing:
            self._go(round_id, opened, now)

    def commit(self, round_id: str, now: float) -> None:
        """Releases who has joined, without the others. Raises NoSuchRound."""
        self._go(round_id, self._open(round_id), now)

    def tick(self, now: float) -> None:
        """Releases what is due, and forgets rounds to which nobody comes any more."""
        for round_id, opened in list(self._rounds.items()):
            if opened.deadline > now:
                continue
            if opened.requests or not opened.late:
                self._go(round_id, opened, now)
            else:
                del self._rounds[round_id]

    def _open(self, round_id: str) -> _Round[Request, Outcome]:
        if (opened := self._rounds.get(round_id)) is None:
            raise NoSuchRound("the round was not begun, or is over")
        return opened

    def _go(self, round_id: str, opened: _Round[Request, Outcome], now: float) -> None:
        requests, futures, late = opened.requests, opened.futures, opened.late
        opened.requests, opened.futures, opened.late = {}, {}, True
        opened.deadline = now + opened.wait_s
        if not opened.missing:
            del self._rounds[round_id]
        if requests:
            self._release(Group(round_id, requests, futures, late))
