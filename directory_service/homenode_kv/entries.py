"""What the pool keeps: an entry in one tier, the hold that keeps its blocks in place, and counts of what happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

from torch import Tensor

from homenode_kv.costs import Tier
from homenode_kv.pages import Pages


@dataclass(slots=True)
class Entry:
    """One KV of the pool; `blocks` on the device, `host` in host memory, neither on disk.

    Attributes:
        pins: how often it is kept from being lost.
        holds: how many use it, so that it is not moved.
    """

    key: str
    tokens: int
    meta: dict[str, str]
    size_bytes: int
    tier: Tier
    pins: int = 0
    holds: int = 0
    blocks: tuple[int, ...] = ()
    host: Tensor | None = None


class Held:
    """An entry in use: its blocks stay where they are until `release`, or the end of a `with`.

    Attributes:
        key, tokens, meta: of the entry.
        blocks: of the device, in order; none any more after `release`.
    """

    def __init__(self, pages: Pages, entry: Entry) -> None:
        self.key, self.tokens, self.meta, self.blocks = entry.key, entry.tokens, entry.meta, entry.blocks
        self._pages, self._entry = pages, entry
        entry.holds += 1
        pages.ledger.retain(self.blocks)

    def kv(self, tokens: int | None = None) -> Tensor:
        """A copy of the first `tokens` tokens (all by default), a KV."""
        assert self.blocks, "released"
        return self._pages.read(self.blocks, self.tokens if tokens is None else tokens)

    def release(self) -> None:
        """The blocks are no longer in use by this holder. Once is enough."""
        blocks, self.blocks = self.blocks, ()
        self._entry.holds -= bool(blocks)
        self._pages.ledger.release(blocks)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


@dataclass(slots=True)
class Counters:
    """What the pool did since it began.

    Attributes:
        demoted: entries that went down, by the tier they went to.
        reloaded: entries that came back to the device, by the tier they came from.
        lost: entries that were evicted for good.
        broken: files that were not what was written.
        write_failures: files that could not be written.
        refused: requests for blocks that ended with OutOfMemory.
    """

    demoted: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))
    reloaded: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))
    lost: int = 0
    broken: int = 0
    write_failures: int = 0
    refused: int = 0
