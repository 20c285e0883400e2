"""The store interface: few shapes, one guarded commit, no protocol word.

A store keeps, per slice,
  - *records*: key -> {field: text},
  - *ranked sets*: key -> {member: integer score}, readable by member prefix or by score,
  - *blobs*: key -> bytes, written and read outside the commit,
  - one *log* of byte strings with dense sequence numbers 1, 2, 3, ...
Keys of different shapes never collide (`fields.py` names them). An empty record or ranked set does not exist.

`commit` takes many commits in one round trip. Each succeeds or fails on its own: all its guards are checked before
its first write, and later commits of the call see the writes of earlier ones. The whole call is refused with
`StoreChanged` when the slice's incarnation is not the given one, or when the store may have lost something since
it was adopted (another process behind the address, wiped memory, an older file).

Guards, writes, commits and outcomes are values, never changed once made; they are not frozen because they are made by
the dozen for every request, and a frozen dataclass costs three times as much to make.

Time is the store's: milliseconds since the epoch, plus the slice's offset, which a commit may set like any other field
(`Put(META, OFFSET, text)`; it counts from the next call on). `Outcome.now_ms` is a lower bound of that clock for
everything that happens later, unless the store's own clock steps back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

META = "meta"
"""The record that the store shares: number, token, identity, head and kept are its own fields, others the caller's."""

OFFSET = "offset"
"""Field of `META`: milliseconds that the slice's time is ahead of the store's clock."""


@dataclass(slots=True)
class Equals:
    """The record's field has this text; None: the field is absent."""

    key: str
    field: str
    value: str | None


@dataclass(slots=True)
class Exists:
    """The key exists, in whatever shape."""

    key: str


@dataclass(slots=True)
class Before:
    """The store's clock is below this time."""

    ms: int


@dataclass(slots=True)
class BeforeField:
    """The store's clock is below the integer in this field (an absent field fails)."""

    key: str
    field: str


Guard = Equals | Exists | Before | BeforeField


@dataclass(slots=True)
class Put:
    """Set a record's field."""

    key: str
    field: str
    value: str


@dataclass(slots=True)
class Drop:
    """Remove a record's field."""

    key: str
    field: str


@dataclass(slots=True)
class Add:
    """Add to the integer in a record's field (absent counts as 0)."""

    key: str
    field: str
    amount: int


@dataclass(slots=True)
class Rank:
    """Put a member into a ranked set, or change its score."""

    key: str
    member: str
    score: int


@dataclass(slots=True)
class Unrank:
    """Remove a member from a ranked set."""

    key: str
    member: str


@dataclass(slots=True)
class Delete:
    """Remove a key of any shape."""

    key: str


Write = Put | Drop | Add | Rank | Unrank | Delete


@dataclass(slots=True)
class Commit:
    """Guards, then writes and log appends, atomically.

    `after`: index, in the same call, of a commit that must have succeeded (-1: none); it keeps a chain of decisions
    from being applied on top of somebody else's entry that happens to look alike.
    `show`: records and ranked sets to return whole when a guard fails.
    A commit without writes and log only compares.
    `said`: what the log entries mean to whoever made them; no store looks at it.
    """

    guards: Sequence[Guard] = ()
    writes: Sequence[Write] = ()
    log: tuple[bytes, ...] = ()
    after: int = -1
    show: tuple[str, ...] = ()
    said: tuple[Any, ...] = ()


PREDECESSOR = -2


@dataclass(slots=True)
class Outcome:
    """What became of one commit.

    `failed` is -1 on success, the index of the first guard that failed, or PREDECESSOR.
    `head` is the slice's log sequence after this commit (on success its last own entry, if it appended).
    `found` is the text that a failed `Equals` met (None: absent). `shown` holds what `show` asked for: a record as
    {field: text}, a ranked set as {member: score}; absent keys are left out.
    """

    failed: int
    head: int
    now_ms: int
    found: str | None = None
    shown: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the commit was applied."""
        return self.failed == -1


class Incarnation(NamedTuple):
    """Identity of a slice's memory. `number` only rises; `token` is what commits compare: number and a random id."""

    number: int
    token: str


class StoreError(Exception):
    """The store failed; whether the call took effect may be unknown."""


class StoreChanged(StoreError):
    """The slice's memory is not the one that was adopted; nothing of this call was applied. Adopt, then decide anew."""


class StoreFull(StoreError):
    """The store has no room; nothing of this call was applied."""


class StoreLocked(StoreError):
    """Another process has this embedded store open; it should be reached through `homenode serve`."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A store's own state: memory in use (of SQLite, its file) and the most that it may use (0: no limit is set),
    whether its last write to disk went well, and how many replicas are connected."""

    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    persistence_ok: bool = True
    replicas: int = 0


class Store(Protocol):
    """What the directory needs of a store. `shared`: several processes may have it open at once."""

    slices: int
    shared: bool

    async def open(self) -> None:
        """Connect; fix the number of slices at first use. Raises StoreLocked, StoreError."""

    async def close(self) -> None:
        """Release everything; nothing acknowledged is lost."""

    async def adopt(self, slice_: int, at_least: int) -> Incarnation:
        """The slice's incarnation, after taking over memory that is new or may have lost something.

        A new incarnation's number is max(stored + 1, at_least, milliseconds since the epoch); otherwise the stored
        one is returned unchanged (but one below `at_least` is replaced too). Safe to call from several replicas.
        """

    async def commit(
        self,
        slice_: int,
        incarnation: str,
        commits: Sequence[Commit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        """Apply commits in order, in one round trip. `relief` commits free room and work when the store is full.

        `blobs` are kept before the commits as `put_blobs` does, in the same transaction, whatever becomes of the
        commits; 8 MiB together at most.

        Raises StoreChanged, StoreFull (nothing applied) or StoreError (outcome unknown).
        """

    async def load(self, slice_: int, keys: Sequence[str], names: Sequence[str] = ()) -> list[Mapping[str, str]]:
        """Records, in order; an absent one is empty. `names`: of each no more than these fields."""

    async def ranked(self, slice_: int, key: str) -> Mapping[str, int]:
        """A whole ranked set."""

    async def by_prefix(self, slice_: int, key: str, prefix: str, after: str, limit: int) -> list[str]:
        """Members that start with `prefix` and sort after `after` (code point order), at most `limit`.

        Only for ranked sets whose scores are all equal.
        """

    async def by_score(self, slice_: int, key: str, limit: int) -> tuple[list[tuple[str, int]], int]:
        """The `limit` members of lowest score with their scores, and the store's time read before them."""

    async def read_log(
        self, slice_: int, after: int, limit: int, *, incarnation: str | None = None
    ) -> tuple[list[tuple[int, bytes]], int]:
        """Entries above sequence `after`, at most `limit`, and the head read before them.

        Raises LogTrimmed when some are gone. A tail passes its incarnation's token and gets StoreChanged where the
        log is another one's; without it, a log that was lost and has grown again would look like a continuation.
        """

    async def heads(self, slices: Mapping[int, str]) -> Mapping[int, int | None]:
        """The log's head of each slice (slice -> the token that it was adopted with), in one round trip.

        None: the slice's memory is not that one any more.
        """

    def hints(self) -> AsyncIterator[tuple[int, int]]:
        """(slice, head) when another client of the store has appended, from now on. Best effort: also poll.

        Ends with StoreError when the connection does, and at once where there can be no other client.
        """

    async def trim_log(self, slice_: int, keep_from: int) -> None:
        """Forget entries below sequence `keep_from`."""

    async def put_blobs(self, slice_: int, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Keep bytes under each key unless something is there already (content keys name their bytes)."""

    async def get_blob(self, slice_: int, key: str) -> bytes | None:
        """The bytes, or None."""

    async def now_ms(self) -> int:
        """The store's clock, without any slice's offset."""

    async def weakness(self) -> str:
        """How what it has acknowledged might be lost without a new incarnation; empty: it cannot."""

    async def condition(self) -> Condition:
        """What it says of its own state, for metrics."""


class LogTrimmed(StoreError):
    """Entries after the asked sequence are no longer retained, or the sequence lies in the future.

    `head` is the log's last sequence.
    """

    def __init__(self, message: str, head: int = 0) -> None:
        super().__init__(message)
        self.head = head
