"""Contents in a store: bytes, who refers to them, and the collection of those that nobody wants.

Per slice:

  b/<hash>   blob: a line [size, links, chain_bytes, base], then the encoded bytes
  br/<hash>  record: refs, touched (ms), and `on/<hash>` for each content it needs: a base, or the chunks of a list
  bi         ranked set: hash -> when collection looks at it next, at the earliest

The record is written before the bytes: whatever dies in between is collected. Two writers of one content may encode it
differently, and the first to write bytes wins; so the bytes say themselves what they need, and the record refers to
what every writer's bytes need.

A small content comes with the commit that makes it a version: its bytes are written in the same transaction, the record
by the commit's reference, the rank beside it (`fields.touch_contents`).

References are counted by whoever commits a version (`Exists("b/<hash>")` and `Add("br/<hash>", "refs", 1)` in one
commit) and by what needs a content, in the commit that finds it there. So while the record of a list exists all its
chunks do, and who commits a version compares no more than the list. Collection compares before it deletes, so a content
that is touched or referred to meanwhile survives. Times are on the slice's clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from homenode_directory.clock import Clock, StoreClock, monotonic_ms
from homenode_directory.content.encoding import Blob
from homenode_directory.content.service import BaseGone
from homenode_directory.store.base import (
    Add,
    Commit,
    Delete,
    Equals,
    Exists,
    Guard,
    Incarnation,
    Outcome,
    Put,
    Rank,
    Store,
    StoreChanged,
    StoreError,
    Unrank,
    Write,
)
from homenode_directory.store.coalesce import Coalescer
from homenode_directory.store.fields import CONTENT_INDEX as INDEX
from homenode_directory.store.fields import content_key as bytes_key
from homenode_directory.store.fields import references_key as record_key

ON = "on/"
ROUNDS_MAX = 8
CONFIRM_AFTER_MS = 60_000


class Tokens(Protocol):
    """Knows which incarnation each slice has (`Incarnations`)."""

    async def current(self, slice_: int) -> Incarnation:
        """The slice's incarnation."""

    async def renew(self, slice_: int, seen: str) -> Incarnation:
        """The slice's incarnation after the store refused the token `seen`."""


class _Registered(Enum):
    """What a writer finds before it writes bytes."""

    STORED = "the bytes are there"
    FIRST = "no record, no bytes"
    JOINED = "a record without bytes: another writer is under way, or never came to its bytes"


class StoredBlobs:
    """Content's `Blobs` over a store."""

    def __init__(
        self, store: Store, tokens: Tokens, *, clock: Clock = monotonic_ms, confirm_after_ms: float = CONFIRM_AFTER_MS
    ) -> None:
        """`clock`: local milliseconds that never go back. `confirm_after_ms`: well below what collection calls idle."""
        self._confirm_after_ms = confirm_after_ms
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._slices: dict[int, _Slice] = {}

    async def put_blob(
        self, slice_: int, hash_: str, data: bytes, *, size: int, links: int, chain_bytes: int, base: str
    ) -> bool:
        """Keep a content unless it is there, and note that it was touched. Raises BaseGone, StoreError, StoreFull.

        True: nobody else has begun to write it, so what is stored is this.
        """
        blob = Blob(data, size, base, links, chain_bytes)
        piece = (bytes_key(hash_), stored_form(blob))
        for _ in range(ROUNDS_MAX):
            started = self._clock()
            # What needs nothing can follow its record at once; a patch must not be there without its base.
            registered = await self._register(slice_, hash_, blob, () if blob.needs else (piece,))
            if registered is _Registered.STORED:
                return False
            if blob.needs:
                await self._slice(slice_).keep(piece)
            if self._clock() - started < self._confirm_after_ms:
                return registered is _Registered.FIRST
            # This writer has stalled: collection may have taken the record before the bytes came.
            (there,) = await self._commit(slice_, [Commit((Exists(record_key(hash_)), Exists(bytes_key(hash_))))])
            if there.ok:
                return registered is _Registered.FIRST
        raise StoreError("a content was collected again and again while it was written")

    async def get_blob(self, slice_: int, hash_: str) -> Blob | None:
        """The stored content, or None."""
        data = await self._store.get_blob(slice_, bytes_key(hash_))
        if data is None:
            return None
        end = data.index(b"\n")
        size, links, chain_bytes, base = json.loads(data[:end])
        return Blob(data[end + 1 :], size, base, links, chain_bytes)

    async def touch(self, slice_: int, hashes: Sequence[str]) -> list[bool]:
        """Which of these contents are stored, and note that they were touched now. Raises StoreError, StoreFull."""
        now_ms = await self._slice(slice_).now_ms()
        commits = [Commit((Exists(bytes_key(h)), Exists(record_key(h))), _touch(h, now_ms)) for h in hashes]
        return [outcome.ok for outcome in await self._commit(slice_, commits)] if commits else []

    async def collect(self, slice_: int, idle_ms: int, limit: int) -> int:
        """Look at up to `limit` contents; delete those without references that nobody touched for `idle_ms`.

        Returns how many were deleted. A content that stays is looked at again after `idle_ms`.
        """
        due, now_ms = await self._store.by_score(slice_, INDEX, limit)
        hashes = [hash_ for hash_, at_ms in due if at_ms <= now_ms - idle_ms]
        if not hashes:
            return 0
        records = await self._store.load(slice_, [record_key(hash_) for hash_ in hashes])
        verdicts = [_verdict(h, record, now_ms, idle_ms) for h, record in zip(hashes, records, strict=True)]
        outcomes = await self._commit_all(slice_, [commit for commit, _ in verdicts], relief=True)
        return sum(outcome.ok and deletes for outcome, (_, deletes) in zip(outcomes, verdicts, strict=True))

    async def _register(self, slice_: int, hash_: str, blob: Blob, pieces: Sequence[tuple[str, bytes]]) -> _Registered:
        """Unless the bytes are stored already, see to it that the record is there and holds on to what the blob needs.

        `pieces` are bytes to keep in the same round trip.
        """
        record, touch = record_key(hash_), _touch(hash_, await self._slice(slice_).now_ms())
        there, hold = _hold(record, blob.needs)
        first = [
            Commit((Exists(bytes_key(hash_)), Exists(record)), touch),
            Commit((Equals(record, "refs", None), *there), (Put(record, "refs", "0"), *touch, *hold)),
        ]
        for _ in range(ROUNDS_MAX):
            stored, created = await self._commit(slice_, first, pieces)
            if stored.ok or created.ok:
                return _Registered.STORED if stored.ok else _Registered.FIRST
            if created.failed > 0:
                raise BaseGone("what a content needs is not stored")
            if await self._join(slice_, record, blob.needs, touch):
                return _Registered.JOINED
        raise StoreError("a content's record changed again and again")

    async def _join(self, slice_: int, record: str, needs: Sequence[str], touch: tuple[Write, ...]) -> bool:
        """Let the record of a writer that has not come to its bytes, or never will, hold on to what ours need as well.

        False where it changed meanwhile. Raises BaseGone.
        """
        (known,) = await self._store.load(slice_, [record]) if needs else ({},)
        held = [need for need in needs if ON + need in known]
        new = [need for need in needs if ON + need not in known]
        there, hold = _hold(record, new)
        as_seen: tuple[Guard, ...] = (
            Exists(record),
            *(Equals(record, ON + need, "1") for need in held),
            *(Equals(record, ON + need, None) for need in new),
        )
        (joined,) = await self._commit(slice_, [Commit((*as_seen, *there), (*touch, *hold))])
        if joined.failed >= len(as_seen):
            raise BaseGone("what a content needs is not stored")
        return joined.ok

    def _slice(self, slice_: int) -> _Slice:
        state = self._slices.get(slice_)
        if state is None:
            state = self._slices[slice_] = _Slice(self, slice_)
        return state

    async def _commit(
        self, slice_: int, commits: Sequence[Commit], pieces: Sequence[tuple[str, bytes]] = ()
    ) -> Sequence[Outcome]:
        return await self._slice(slice_).commit((commits, pieces))

    async def _commit_all(
        self,
        slice_: int,
        commits: Sequence[Commit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> Sequence[Outcome]:
        token = (await self._tokens.current(slice_)).token
        for _ in range(ROUNDS_MAX):
            try:
                asked = self._clock()
                outcomes = await self._store.commit(slice_, token, commits, relief=relief, blobs=blobs)
                self._slice(slice_).time.saw(outcomes[-1].now_ms, asked)
                return outcomes
            except StoreChanged:
                token = (await self._tokens.renew(slice_, token)).token
        raise StoreError("the store's memory changed again and again")


_Call = tuple[Sequence[Commit], Sequence[tuple[str, bytes]]]
"""Commits, and bytes to keep after them."""


def _weight(call: _Call) -> int:
    return sum(len(data) for _, data in call[1])


class _Slice:
    """One slice's calls, coalesced over the contents that are written at the same time, and its clock."""

    def __init__(self, blobs: StoredBlobs, slice_: int) -> None:
        self.time = StoreClock(blobs._clock)
        self.commit: Coalescer[_Call, Sequence[Outcome]] = Coalescer(self._commit, _weight)
        self.keep: Coalescer[tuple[str, bytes], None] = Coalescer(self._keep, lambda blob: len(blob[1]))
        self._blobs = blobs
        self._number = slice_

    async def now_ms(self) -> int:
        """The slice's time, asked for once and then reckoned."""
        if not self.time.now_ms:
            await self._blobs._commit_all(self._number, [Commit()])  # whose answer carries it
        return self.time.latest_ms

    async def _commit(self, calls: Sequence[_Call]) -> Sequence[Sequence[Outcome]]:
        commits = [commit for some, _ in calls for commit in some]
        pieces = [piece for _, some in calls for piece in some]
        outcomes = iter(await self._blobs._commit_all(self._number, commits, blobs=pieces))
        return [[next(outcomes) for _ in some] for some, _ in calls]

    async def _keep(self, blobs: Sequence[tuple[str, bytes]]) -> Sequence[None]:
        await self._blobs._store.put_blobs(self._number, blobs)
        return [None] * len(blobs)


def stored_form(blob: Blob) -> bytes:
    """A content as its key in the store holds it."""
    # JSON, and a hash needs no escapes; the encoder would take as long as verifying a small content.
    header = b'[%d,%d,%d,"%s"]\n' % (blob.size, blob.links, blob.chain_bytes, blob.base.encode())
    return header + blob.data


def _hold(record: str, needs: Sequence[str]) -> tuple[tuple[Guard, ...], tuple[Write, ...]]:
    """That what is needed is there, and the writes by which the record refers to it."""
    there = tuple(Exists(key(need)) for need in needs for key in (bytes_key, record_key))
    hold = tuple(Put(record, ON + need, "1") for need in needs)
    return there, (*hold, *(Add(record_key(need), "refs", 1) for need in needs))


def _touch(hash_: str, now_ms: int) -> tuple[Write, ...]:
    return Put(record_key(hash_), "touched", str(now_ms)), Rank(INDEX, hash_, now_ms)


def _verdict(hash_: str, record: Mapping[str, str], now_ms: int, idle_ms: int) -> tuple[Commit, bool]:
    """What collection does with a content, and whether that deletes it."""
    key = record_key(hash_)
    unchanged = (Equals(key, "refs", record.get("refs")), Equals(key, "touched", record.get("touched")))
    if int(record.get("refs", "0")) > 0:
        return Commit(unchanged, (Rank(INDEX, hash_, now_ms),)), False
    touched_ms = int(record.get("touched", "0"))
    if touched_ms > now_ms - idle_ms:
        return Commit(unchanged, (Rank(INDEX, hash_, touched_ms),)), False
    bases = [name.removeprefix(ON) for name in record if name.startswith(ON)]
    release = tuple(Add(record_key(base), "refs", -1) for base in bases)
    gone = (Delete(bytes_key(hash_)), Delete(key), Unrank(INDEX, hash_))
    same_bases = tuple(Equals(key, ON + base, "1") for base in bases)
    return Commit((*unchanged, *same_bases), (*gone, *release)), True
