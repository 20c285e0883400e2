"""Which entry of a tier goes first: the one that is cheapest to bring back for its size, and long unused.

GreedyDual-Size (Cao and Irani, "Cost-Aware WWW Proxy Caching Algorithms", USENIX USITS 1997, section 4.1): an entry is
worth H = clock + price / size when it is used; the least H goes, and the clock rises to it. So recency is paid in the
currency of the price, and what was dear stays longer, but not for ever."""

from __future__ import annotations

import heapq
from collections.abc import Callable

#: The heap is rebuilt when so many more of its items are outdated than are alive.
_OUTDATED_MAX = 64


class PricedRecency:
    """The order in which entries of one tier are evicted."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._worth: dict[str, tuple[float, int]] = {}  # worth, and the count of uses at the last one
        self._heap: list[tuple[float, int, str]] = []
        self._uses = 0

    def __len__(self) -> int:
        return len(self._worth)

    def use(self, key: str, price_ms: float, size_bytes: int) -> None:
        """`key` was stored or read: bringing it back would take `price_ms`, keeping it takes `size_bytes`."""
        self._uses += 1  # among equals the one that was used first goes first
        worth = self._clock + price_ms / max(size_bytes, 1)
        self._worth[key] = worth, self._uses
        heapq.heappush(self._heap, (worth, self._uses, key))
        if len(self._heap) > 2 * len(self._worth) + _OUTDATED_MAX:
            self._compact()

    def forget(self, key: str) -> None:
        """`key` left the tier."""
        self._worth.pop(key, None)

    def victim(self, allowed: Callable[[str], bool]) -> str | None:
        """The entry to evict among those that are `allowed`, or None; it stays in the order until `forget`."""
        aside = []
        found = None
        while self._heap and found is None:
            worth, uses, key = heapq.heappop(self._heap)
            if self._worth.get(key) != (worth, uses):
                continue
            aside.append((worth, uses, key))
            if allowed(key):
                found = key
                self._clock = max(self._clock, worth)
        for item in aside:
            heapq.heappush(self._heap, item)
        return found

    def _compact(self) -> None:
        self._heap = [(worth, uses, key) for key, (worth, uses) in self._worth.items()]
        heapq.heapify(self._heap)
