"""The log as a store has it now."""

from __future__ import annotations

from collections.abc import AsyncIterator

from homenode_directory.audit.items import Corrupt, Item, Logged, Renewed
from homenode_directory.store.base import LogTrimmed, Store
from homenode_directory.store.fields import LogRecord, decode_log

PAGE = 512


async def head_of(store: Store, slice_: int, token: str | None = None) -> int:
    """The slice's last sequence; 0 where it has no log."""
    try:
        return (await store.read_log(slice_, 0, 1, incarnation=token))[1]
    except LogTrimmed as trimmed:
        return trimmed.head


async def oldest(store: Store, slice_: int, head: int, low: int = 0, token: str | None = None) -> int:
    """The least sequence, from `low` up, after which everything is retained. One look where that is `low` itself."""
    high, middle = head, low
    while low < high:
        try:
            await store.read_log(slice_, middle, 1, incarnation=token)
            high = middle
        except LogTrimmed:
            low = middle + 1
        middle = (low + high) // 2
    return low


async def record_after(store: Store, slice_: int, after: int, token: str | None = None) -> LogRecord | None:
    """The entry that follows a sequence; None at the head. Raises LogTrimmed."""
    entries, _ = await store.read_log(slice_, after, 1, incarnation=token)
    return decode_log(entries[0][1]) if entries else None


async def read_store(store: Store) -> AsyncIterator[Item]:
    """The items of an open store's log, slice by slice, as far as it retains them and up to the head as of now.

    Raises:
        Corrupt: an entry cannot be read.
        StoreError: the store fails, or trims faster than it can be read.
    """
    for slice_ in range(store.slices):
        head = await head_of(store, slice_)
        async for item in _read_slice(store, slice_, head):
            yield item


async def _read_slice(store: Store, slice_: int, head: int) -> AsyncIterator[Item]:
    after, incarnation = await oldest(store, slice_, head), 0
    while after < head:
        entries, _ = await store.read_log(slice_, after, min(PAGE, head - after))
        for sequence, data in entries:
            where = f"slice {slice_}, entry {sequence}"
            try:
                record = decode_log(data)
            except (ValueError, KeyError, TypeError, IndexError):
                raise Corrupt(where, "not a log entry") from None
            if record.incarnation > incarnation:
                incarnation = record.incarnation
                yield Renewed(slice_, incarnation, sequence - 1, where)
            yield Logged(slice_, sequence, record, where)
        after = entries[-1][0]
