"""Which entries of a slice's log may go."""

from __future__ import annotations

from dataclasses import dataclass

from homenode_directory.audit.live import oldest, record_after
from homenode_directory.store.base import LogTrimmed, Store


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of a log is kept: at most so many entries, and none older than so long (0: whatever their age)."""

    entries: int = 65_536
    age_ms: int = 86_400_000


async def trim(
    store: Store, slice_: int, head: int, now_ms: int, keep: Keep, *, exported: int | None = None, since: int = 0
) -> int:
    """Forget what is beyond `keep`, but nothing that is to be exported and is not yet.

    Args:
        head: the slice's last sequence.
        now_ms: the slice's time.
        exported: the last sequence that the archive has; None: there is none to wait for.
        since: what the last call returned, which spares looking for it; 0: not known.

    Returns the sequence after which everything is retained now.
    """
    first = await oldest(store, slice_, head, since if since <= head else 0)
    gone = max(first, head - keep.entries)
    if keep.age_ms:
        gone = max(gone, await _older(store, slice_, first, head, now_ms - keep.age_ms))
    if exported is not None:
        gone = min(gone, exported)
    if gone > first:
        await store.trim_log(slice_, gone + 1)
    return max(first, gone)


async def _older(store: Store, slice_: int, low: int, high: int, before_ms: int) -> int:
    """The last sequence, above `low`, of an entry from before `before_ms`; `low` where there is none: one look."""
    middle = low
    while low < high:
        try:
            record = await record_after(store, slice_, middle)
        except LogTrimmed:
            low = middle + 1
        else:
            if record is not None and record.at_ms < before_ms:
                low = middle + 1
            else:
                high = middle
        middle = (low + high) // 2
    return low
