"""The pool: entries of KV on a device, in host memory and on disk, each tier within its budget.

An entry is kept whole in one tier. On the device entries that begin alike may share the blocks of that beginning, which
are free when the last of them has gone; below the device each has its own. What does not fit pushes out what is
cheapest to lose (`recency`): from the device to the host, from there to the disk, from there for good. Entries that are
pinned or in use stay. A pinned entry is never lost, an entry in use never moved: its blocks are referred to. When
nothing may go the pool refuses, with OutOfMemory.

Reading from a slower tier brings the entry back to the device and is timed; `look` says what that will cost, and what
computing the tokens again would. At a start the disk's entries are there again; `flush` writes the rest before an end.

Not thread-safe: one owner. `on_change` is told of each entry's tier, so that a directory can be; it neither raises nor
calls the pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from homenode_kv.costs import NS_PER_MS, Choice, Costs, Tier
from homenode_kv.disk import DiskTier
from homenode_kv.entries import Counters, Entry, Held
from homenode_kv.errors import InUse, OutOfMemory
from homenode_kv.layout import Geometry, blocks_of
from homenode_kv.ledger import BLOCK_TOKENS
from homenode_kv.pages import Pages
from homenode_kv.recency import PricedRecency

#: (key, tier before, tier after); None: not in the pool.
OnChange = Callable[[str, Tier | None, Tier | None], None]


class Pool:
    """Entries by content key.

    `relieve` is asked before a refusal: whether something that was pinned was given up, so that there may be room now.

    Args:
        pages: the device's blocks.
        host_bytes_max: budget of host memory; 0 for none.
        disk: files, or None for no disk tier.
        disk_bytes_max: budget of the disk.
        costs: measured costs, shared with who computes KV.
    """

    def __init__(
        self,
        pages: Pages,
        *,
        host_bytes_max: int = 0,
        disk: DiskTier | None = None,
        disk_bytes_max: int = 0,
        costs: Costs | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        self.pages = pages
        self.costs = Costs() if costs is None else costs
        self.counters = Counters()
        self.on_change: OnChange = on_change or (lambda key, before, after: None)
        self.relieve: Callable[[], bool] = lambda: False
        self._disk = disk
        self._entries: dict[str, Entry] = {}
        self._order = {tier: PricedRecency() for tier in Tier}
        self._bytes = dict.fromkeys(Tier, 0)
        self._bytes_max = {
            Tier.DEVICE: pages.ledger.blocks * pages.geometry.block_bytes,
            Tier.HOST: host_bytes_max,
            Tier.DISK: disk_bytes_max if disk else 0,
        }
        if disk is not None:
            self._restore(disk)

    @property
    def geometry(self) -> Geometry:
        """Of the KV kept here."""
        return self.pages.geometry

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> Iterator[Entry]:
        """All entries; read them, don't change them."""
        return iter(list(self._entries.values()))

    def bytes(self, tier: Tier) -> int:
        """What a tier's entries take; blocks that several share count once."""
        if tier is Tier.DEVICE:
            return (self.pages.ledger.blocks - self.pages.ledger.free) * self.geometry.block_bytes
        return self._bytes[tier]

    def bytes_max(self, tier: Tier) -> int:
        """What a tier's entries may take."""
        return self._bytes_max[tier]

    def put(
        self, key: str, kv: Tensor, meta: Mapping[str, str] | None = None, *, like: str = "", alike: int = 0
    ) -> None:
        """Keeps a KV on the device, in place of what has the same key. Raises OutOfMemory, WrongShape, InUse.

        Its first `alike` tokens are those of the entry `like`: whole blocks of them are shared where that one lies on
        the device, and not written.
        """
        tokens = self.geometry.check(kv)
        if (old := self._entries.get(key)) and (old.pins or old.holds):
            raise InUse("the entry is pinned or in use")
        other = self._entries.get(like)
        shared = other.blocks[: min(alike, tokens, other.tokens) // BLOCK_TOKENS] if other else ()
        self.pages.ledger.retain(shared)
        try:
            own = self._allocate(blocks_of(tokens) - len(shared), old, beside=len(shared))
        except OutOfMemory:
            self.pages.ledger.release(shared)
            raise
        if key in self._entries:  # it may just have been evicted, to make room for its successor
            self._lose(self._entries[key])
        if own:
            self.pages.write(own, kv[:, :, len(shared) * BLOCK_TOKENS :])
        blocks = shared + own
        size = len(blocks) * self.geometry.block_bytes
        self._settle(Entry(key, tokens, dict(meta or {}), size, Tier.DEVICE, blocks=blocks), None)

    def look(self, key: str) -> Choice | None:
        """What bringing the entry back costs; None for a miss."""
        entry = self._entries.get(key)
        return self.costs.choose(entry.tier, entry.size_bytes, entry.tokens) if entry else None

    def entry(self, key: str) -> Entry | None:
        """The entry, to be read and not changed; None for a miss."""
        return self._entries.get(key)

    def get(self, key: str) -> Held | None:
        """The entry on the device, in use; None for a miss, a broken file included. Raises OutOfMemory."""
        entry = self._entries.get(key)
        if entry is None or (entry.tier is not Tier.DEVICE and not self._promote(entry)):
            return None
        self._touch(entry)
        return Held(self.pages, entry)

    @contextmanager
    def scratch(self, count: int) -> Iterator[tuple[int, ...]]:
        """Blocks of the device for a moment, after as many evictions as that takes. Raises OutOfMemory."""
        blocks = self._allocate(count)
        try:
            yield blocks
        finally:
            self.pages.ledger.release(blocks)

    def pin(self, key: str) -> bool:
        """Keeps the entry from being lost until `unpin`, as often; False for a miss."""
        if entry := self._entries.get(key):
            entry.pins += 1
        return entry is not None

    def unpin(self, key: str) -> None:
        """Takes one pin back. Nothing happens where there is none: the entry's file was broken, so it is gone."""
        if (entry := self._entries.get(key)) and entry.pins:
            entry.pins -= 1

    def drop(self, key: str) -> bool:
        """Forgets an entry in all tiers; who uses it may go on. False for a miss. Raises InUse where it is pinned."""
        if (entry := self._entries.get(key)) is None:
            return False
        if entry.pins:
            raise InUse("the entry is pinned")
        self._lose(entry)
        return True

    def cut(self, key: str, tokens: int) -> bool:
        """Keeps the first `tokens` tokens of an entry only; False where it is gone, not longer, or on disk."""
        entry = self._entries.get(key)
        if entry is None or entry.tier is Tier.DISK or not 0 < tokens < entry.tokens:
            return False
        before, entry.tokens = entry.size_bytes, tokens
        if entry.host is not None:
            entry.host = entry.host[:, :, :tokens].clone()
            entry.size_bytes = tokens * self.geometry.token_bytes
        else:
            entry.blocks, rest = entry.blocks[: blocks_of(tokens)], entry.blocks[blocks_of(tokens) :]
            self.pages.ledger.release(rest)
            entry.size_bytes = len(entry.blocks) * self.geometry.block_bytes
        self._bytes[entry.tier] += entry.size_bytes - before
        self._touch(entry)
        return True

    def flush(self) -> int:
        """Copies to disk what fits there, before an end; how many entries were moved. What is in use stays."""
        if self._disk is None:
            return 0
        return sum(self._to_disk(entry) for entry in self.entries() if entry.tier is not Tier.DISK and not entry.holds)

    def check(self, held: Iterable[Held] = ()) -> None:
        """Asserts the invariants: blocks in use are those of entries and holders, budgets are kept."""
        owners = [entry.blocks for entry in self._entries.values()]
        self.pages.ledger.check([*owners, *(holder.blocks for holder in held)])
        for tier in Tier:
            sizes = sum(entry.size_bytes for entry in self._entries.values() if entry.tier is tier)
            assert sizes == self._bytes[tier] and self.bytes(tier) <= self._bytes_max[tier], tier
            assert len(self._order[tier]) == sum(entry.tier is tier for entry in self._entries.values()), tier

    # --- moving ---

    def _restore(self, disk: DiskTier) -> None:
        for stored in disk.scan():
            if self._room_below(Tier.DISK, stored.size_bytes):
                self._settle(Entry(stored.key, stored.tokens, dict(stored.meta), stored.size_bytes, Tier.DISK), None)
            else:
                disk.remove(stored.key)

    def _allocate(self, count: int, replaced: Entry | None = None, *, beside: int = 0) -> tuple[int, ...]:
        """Blocks of the device, `beside` those that stay, after as many evictions as that takes."""
        ledger = self.pages.ledger
        if count + beside > ledger.blocks:
            self.counters.refused += 1
            raise OutOfMemory(count, ledger.free, 0)
        stuck: set[str] = set()  # pinned, and no tier below has room
        while ledger.free < count:
            if replaced is not None and self._entries.get(replaced.key) is replaced:
                if replaced.blocks and ledger.free + ledger.sole(replaced.blocks) >= count:
                    self._lose(replaced)  # its successor takes its room
                    break
            key = self._order[Tier.DEVICE].victim(lambda key: key not in stuck and not self._entries[key].holds)
            if key is None and self.relieve():
                continue
            if key is None:
                self.counters.refused += 1
                raise OutOfMemory(count, ledger.free, ledger.blocks - ledger.free)
            if not self._demote(self._entries[key]):
                stuck.add(key)
        return ledger.allocate(count)

    def _demote(self, entry: Entry) -> bool:
        """Moves an entry one tier down, or further, or loses it; False where it is pinned and no tier has room."""
        if entry.tier is Tier.DEVICE and self._to_host(entry):
            return True
        if entry.tier is not Tier.DISK and self._to_disk(entry):
            return True
        if entry.pins:
            return False
        self._lose(entry)
        self.counters.lost += 1
        return True

    def _to_host(self, entry: Entry) -> bool:
        size = entry.tokens * self.geometry.token_bytes
        if not self._room_below(Tier.HOST, size):
            return False
        kv = self.pages.read(entry.blocks, entry.tokens).cpu()
        self._move(entry, Tier.HOST, size, host=kv)
        return True

    def _to_disk(self, entry: Entry) -> bool:
        size = entry.tokens * self.geometry.token_bytes
        if self._disk is None or not self._room_below(Tier.DISK, size):
            return False
        kv = entry.host if entry.host is not None else self.pages.read(entry.blocks, entry.tokens)
        try:
            size = self._disk.write(entry.key, kv, entry.meta)
        except OSError:
            self.counters.write_failures += 1
            return False
        if not self._room_below(Tier.DISK, size):  # the header took what was left
            self._disk.remove(entry.key)
            return False
        self._move(entry, Tier.DISK, size)
        return True

    def _room_below(self, tier: Tier, size: int) -> bool:
        """Makes room in a tier below the device; False where there cannot be."""
        if size > self._bytes_max[tier]:
            return False
        stuck: set[str] = set()
        while self._bytes[tier] + size > self._bytes_max[tier]:
            key = self._order[tier].victim(lambda key: key not in stuck)
            if key is None:
                return False
            if not self._demote(self._entries[key]):
                stuck.add(key)
        return True

    def _promote(self, entry: Entry) -> bool:
        """Brings an entry to the device; False, and it is forgotten, where its file is broken."""
        began_ns, source, size = time.monotonic_ns(), entry.tier, entry.size_bytes
        kv = entry.host
        if kv is None:
            assert self._disk is not None
            kv = self._disk.read(entry.key)
        if kv is None or kv.shape[2] != entry.tokens:
            self.counters.broken += 1
            self._lose(entry)
            return False
        entry.pins += 1  # making room must not push this very entry further down
        try:
            blocks = self._allocate(blocks_of(entry.tokens))
        finally:
            entry.pins -= 1
        self.pages.write(blocks, kv)
        if entry.tier is Tier.DISK and self._disk is not None:
            self._disk.remove(entry.key)
        self._move(entry, Tier.DEVICE, len(blocks) * self.geometry.block_bytes, blocks=blocks)
        self.counters.reloaded[source] += 1
        self.costs.reloaded(source, size, (time.monotonic_ns() - began_ns) / NS_PER_MS)
        return True

    # --- bookkeeping ---

    def _below(self, tier: Tier) -> Tier | None:
        if tier is Tier.DEVICE and self._bytes_max[Tier.HOST]:
            return Tier.HOST
        return Tier.DISK if tier is not Tier.DISK and self._disk is not None else None

    def _touch(self, entry: Entry) -> None:
        price_ms = self.costs.price_ms(self._below(entry.tier), entry.size_bytes, entry.tokens)
        self._order[entry.tier].use(entry.key, price_ms, entry.size_bytes)

    def _unsettle(self, entry: Entry) -> None:
        self._order[entry.tier].forget(entry.key)
        self._bytes[entry.tier] -= entry.size_bytes
        if entry.blocks:
            self.pages.ledger.release(entry.blocks)

    def _settle(self, entry: Entry, before: Tier | None) -> None:
        self._entries[entry.key] = entry
        self._bytes[entry.tier] += entry.size_bytes
        self._touch(entry)
        self.on_change(entry.key, before, entry.tier)

    def _move(
        self, entry: Entry, tier: Tier, size: int, *, blocks: tuple[int, ...] = (), host: Tensor | None = None
    ) -> None:
        before = entry.tier
        self._unsettle(entry)
        entry.tier, entry.size_bytes, entry.blocks, entry.host = tier, size, blocks, host
        if tier is not Tier.DEVICE:
            self.counters.demoted[tier] += 1
        self._settle(entry, before)

    def _lose(self, entry: Entry) -> None:
        self._unsettle(entry)
        del self._entries[entry.key]
        if entry.tier is Tier.DISK and self._disk is not None:
            self._disk.remove(entry.key)
        self.on_change(entry.key, entry.tier, None)
