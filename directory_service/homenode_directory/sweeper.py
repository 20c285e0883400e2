"""What nobody asks for: deadlines that pass, sessions that end, history and logs that are long enough.

Each round looks, slice by slice, at what is due on the store's clock, and feeds it to the directory as events. Any
replica's sweeper may do any of it: the guards of a commit let only one succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from homenode_directory.audit.trimming import Keep, trim
from homenode_directory.content.retention import Retained, RetentionPolicy, outlived
from homenode_directory.directory import Directory
from homenode_directory.errors import DirectoryError
from homenode_directory.mistakes import Mistakes
from homenode_directory.protocol.model import Cause
from homenode_directory.sessions import CLEARED, forgotten
from homenode_directory.slice import Slice
from homenode_directory.store import fields
from homenode_directory.store.base import Commit, Store, StoreError

HISTORIES_AT_ONCE = 16

Collect = Callable[[int], Awaitable[int]]
"""Deletes unreferenced content of a slice; returns how many contents."""

Reap = Callable[[Slice, int], Awaitable[None]]
"""Ends up to so many of a slice's snapshots, those whose time or session is over."""

Inherit = Callable[[Slice, int, int], Awaitable[None]]
"""Has artifacts take over a changed policy of their prefix: those due at a time, up to so many prefixes."""

Forget = Callable[[Slice], Awaitable[None]]
"""Deletes what a slice holds of no use any more."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often the sweeper looks, and how much it does at once."""

    period_ms: int = 250
    ticks: int = 16  # rounds in which a slice's time is vouched for after its last use
    store_every: int = 4  # how durable the store is is looked up every so many rounds
    idle_every: int = 8  # a slice that nobody used lately is looked at every so many rounds
    tidy_every: int = 120  # log and content are tidied every so many rounds
    due_max: int = 256
    log: Keep = field(default_factory=Keep)
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)


class Sweeper:
    """Looks for what is due, until closed."""

    def __init__(
        self,
        directory: Directory,
        *,
        collect: Collect | None = None,
        reap: Reap | None = None,
        inherit: Inherit | None = None,
        forget: Forget | None = None,
        rounds: Rounds | None = None,
        mistakes: Mistakes | None = None,
        exported: Callable[[int], int | None] = lambda slice_: None,
    ) -> None:
        self._exported = exported
        self._oldest: dict[int, int] = {}  # slice -> up to where its log was cut, as far as is known here
        self.rounds = rounds or Rounds()
        self._mistakes = mistakes or Mistakes()
        self._reap = reap
        self._inherit = inherit
        self._forget = forget
        self._directory = directory
        self._store: Store = directory.store
        self._collect = collect
        self._task: asyncio.Task[None] | None = None
        self._round = 0

    def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(self.rounds.period_ms / 1_000)

    async def sweep(self) -> None:
        """One round over all slices. A slice whose store fails is left for the next round."""
        number_of_round, self._round = self._round, self._round + 1
        if number_of_round % self.rounds.store_every == 0:
            with suppress(StoreError):  # it says so to whoever needs it
                await self._directory.look_at_store()
        for number in range(self._store.slices):
            slice_ = self._directory.slice_at(number)
            self._tick(slice_)
            idle = not slice_.used and not 0 < slice_.due_ms <= slice_.time.latest_ms
            if idle and (number_of_round + number) % self.rounds.idle_every:
                continue
            slice_.used = False
            try:
                await self._sweep_slice(slice_)
                if (number_of_round + number) % self.rounds.tidy_every == 0:
                    await self._tidy(slice_)
            except (StoreError, DirectoryError):
                continue
            except Exception as mistake:  # one slice's must not let leases and sessions of all others live for ever
                self._mistakes.tell("sweeper", mistake)

    def _tick(self, slice_: Slice) -> None:
        """Vouch for the time of a slice that is used now and then, so that servers which start believe it."""
        if slice_.used:
            slice_.ticks = self.rounds.ticks
        if slice_.ticks and self._store.shared:
            slice_.ticks -= 1
            with suppress(DirectoryError):  # overloaded, or stopping
                self._directory.tick(slice_)

    async def _sweep_slice(self, slice_: Slice) -> None:
        asked = slice_.time.clock()
        due, now_ms = await self._store.by_score(slice_.number, fields.DUE_ARTIFACTS, self.rounds.due_max)
        slice_.time.saw(now_ms, asked)
        slice_.due_ms = due[0][1] if due else 0
        now_ms = await self._believed_ms(slice_, due)
        passed = [artifact for artifact, deadline_ms in due if deadline_ms <= now_ms]
        for artifact in passed:
            await self._forget_history(slice_, artifact, now_ms)
        expired = [self._directory.expire(slice_, artifact) for artifact in passed]
        for failure in await asyncio.gather(*expired, return_exceptions=True):
            if failure is not None and not isinstance(failure, DirectoryError):  # what was contended stays due
                raise failure
        due, _ = await self._store.by_score(slice_.number, fields.DUE_SESSIONS, self.rounds.due_max)
        now_ms = await self._believed_ms(slice_, due)
        for session, deadline_ms in due:
            if deadline_ms <= now_ms:
                await self._end(slice_, session)
        await self._forget_old_incarnation(slice_)
        await self._retain(slice_, now_ms)
        if self._reap is not None:
            await self._reap(slice_, self.rounds.due_max)
        if self._inherit is not None:
            await self._inherit(slice_, now_ms, self.rounds.due_max)

    async def _believed_ms(self, slice_: Slice, due: Sequence[tuple[str, int]]) -> int:
        """The slice's time. Where something may be due and the time is unknown or in doubt, that is settled first."""
        if due and not slice_.time.settled:
            await self._directory.plain(slice_, partial(_as_is, Commit()))
        return slice_.time.now_ms

    async def _end(self, slice_: Slice, session: str) -> None:
        """A session's deadline has passed: end it; one that has been over for long enough is forgotten."""
        key = fields.session_key(session)
        (record,) = await self._store.load(slice_.number, [key], (fields.LIVE, fields.DEADLINE, CLEARED))
        live = record.get(fields.LIVE)
        if live:
            await self._directory.end_recorded(slice_, session, live, record.get(fields.DEADLINE), Cause.SESSION_LOST)
        elif live is None or CLEARED in record:
            await self._directory.plain(slice_, lambda s: forgotten(s, session, live))
        else:
            await self._directory.clear_session(slice_, session, Cause.SESSION_LOST)

    async def _forget_old_incarnation(self, slice_: Slice) -> None:
        """After an adoption, the sessions of the older memory are over, whatever their deadlines."""
        token = slice_.incarnation.token
        if not token or slice_.swept_token == token:
            return
        known = sorted(await self._store.ranked(slice_.number, fields.DUE_SESSIONS))
        for start in range(0, len(known), self.rounds.due_max):
            some = known[start : start + self.rounds.due_max]
            keys = [fields.session_key(session) for session in some]
            records = await self._store.load(slice_.number, keys, (fields.LIVE,))
            for session, record in zip(some, records, strict=True):
                live = record.get(fields.LIVE)
                if live and live != token:
                    await self._directory.end_recorded(slice_, session, live, None, Cause.SESSION_LOST)
        slice_.swept_token = token

    async def _retain(self, slice_: Slice, now_ms: int) -> None:
        """Cut histories that have grown."""
        grown, slice_.grown = slice_.grown, {}
        age_ms = self.rounds.retention.age_ms
        if age_ms is not None:
            due, now_ms = await self._store.by_score(slice_.number, fields.DUE_HISTORIES, self.rounds.due_max)
            grown |= {artifact: None for artifact, at_ms in due if at_ms <= now_ms}
        artifacts = list(grown)
        for start in range(0, len(artifacts), HISTORIES_AT_ONCE):
            some = artifacts[start : start + HISTORIES_AT_ONCE]
            records = await self._store.load(slice_.number, [fields.versions_key(artifact) for artifact in some])
            for artifact, record in zip(some, records, strict=True):
                slice_.looked_at(artifact, self.rounds.retention.room(len(record)))
            cuts = [
                cut
                for artifact, record in zip(some, records, strict=True)
                for cut in self._cuts(artifact, record, now_ms)
            ]
            await asyncio.gather(*(self._directory.plain(slice_, partial(_as_is, cut)) for cut in cuts))

    def _cuts(self, artifact: str, record: Mapping[str, str], now_ms: int) -> Iterator[Commit]:
        """What to do with an artifact's history."""
        age_ms = self.rounds.retention.age_ms
        history = self._history(record)
        drop = outlived(history, self.rounds.retention, now_ms=now_ms)
        if drop:
            yield fields.forget_versions(artifact, {str(n): record[str(n)] for n in drop})
        if age_ms is not None:
            left = sorted(version.committed_ms for version in history if version.n not in drop)
            again = left[0] + age_ms + 1 if len(left) > 1 else 0  # the committed version never ages
            yield fields.look_at_history(artifact, again)

    def _history(self, record: Mapping[str, str]) -> list[Retained]:
        if self.rounds.retention.age_ms is None:  # numbers are enough
            return [Retained(int(name), 0) for name in record]
        decoded = {name: fields.decode_version(text) for name, text in record.items()}
        return [Retained(int(name), version.committed_ms) for name, version in decoded.items()]

    async def _forget_history(self, slice_: Slice, artifact: str, now_ms: int) -> None:
        """The history of a tombstone that is about to be dropped goes first, up to the deleted version."""
        (record,) = await self._store.load(slice_.number, [fields.entry_key(artifact)])
        entry = fields.decode_entry(record)
        if not 0 < entry.tombstone_ms <= now_ms:
            return
        (history,) = await self._store.load(slice_.number, [fields.versions_key(artifact)])
        gone = {name: text for name, text in history.items() if int(name) <= entry.version.n}
        if gone:
            await self._directory.plain(slice_, partial(_as_is, fields.forget_versions(artifact, gone)))

    async def _tidy(self, slice_: Slice) -> None:
        if slice_.incarnation.token:
            head = (await self._directory.plain(slice_, partial(_as_is, Commit()))).head
            number, now_ms = slice_.number, slice_.time.now_ms
            self._oldest[number] = await trim(
                self._store, number, head, now_ms, self.rounds.log,
                exported=self._exported(number), since=self._oldest.get(number, 0),
            )  # fmt: skip
        if self._collect is not None:
            await self._collect(slice_.number)
        if self._forget is not None:
            await self._forget(slice_)


def _as_is(commit: Commit, slice_: Slice) -> Commit:
    """A commit that needs nothing from the slice."""
    return commit
