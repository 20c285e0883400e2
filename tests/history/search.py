"""The search for an order (Wing and Gong, with Lowe's memory of what was tried): exact, for small histories.

The judge against which `homenode.history.zones` is held. Takes one operation after the other that nothing still open
has to come before, as long as the register allows it, and goes back where it does not. Exponential where much is
concurrent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from homenode.history.operations import Operation
from homenode.history.register import Said, Sight, Write, room, said
from homenode.versions import Base, Version

OPERATIONS_MAX = 64

#: Version, how many effects nobody saw came after it, whether there is an artifact.
State = tuple[Version | None, int, bool]


def linearizable(operations: Iterable[Operation]) -> bool:
    """Whether the operations on one artifact have an order that the register allows.

    Raises ValueError for more operations than it is meant for.
    """
    told = said(operations)
    if len(told.did) + len(told.may) + len(told.saw) > 4 * OPERATIONS_MAX:
        raise ValueError("too many operations for a search")
    return _one_meaning(told) and _Search(told).run()


def _one_meaning(told: Said) -> bool:
    """Whether each version is one content and one write."""
    hashes: dict[Version, str] = {}
    writers: set[Version] = set()
    both: list[Write | Sight] = [*told.did, *told.saw]
    for one in both:
        if one.version is None:
            continue
        if one.hash and hashes.setdefault(one.version, one.hash) != one.hash:
            return False
        if isinstance(one, Write):
            if one.version in writers:
                return False
            writers.add(one.version)
    return True


class _Search:
    def __init__(self, told: Said) -> None:
        self.items: list[Write | Sight] = [*told.did, *told.saw, *told.may]
        self.needed = (1 << (len(told.did) + len(told.saw))) - 1
        written = {write.version for write in told.did}
        self.orphans = sorted({s.version for s in told.saw if s.version is not None and s.version not in written})
        self.hashes = {s.version: s.hash for s in told.saw if s.version is not None and s.hash}

    def run(self) -> bool:
        tried: set[tuple[int, State]] = set()
        stack: list[tuple[int, State]] = [((1 << len(self.items)) - 1, (None, 0, False))]
        while stack:
            at = stack.pop()
            if at in tried:
                continue
            tried.add(at)
            left, state = at
            if not left & self.needed:
                return True
            stack.extend(self._next(left, state))
        return False

    def _next(self, left: int, state: State) -> Iterator[tuple[int, State]]:
        open_ = [i for i in range(len(self.items)) if left >> i & 1]
        first_end = min((self.items[i].end for i in open_ if self.needed >> i & 1), default=0)
        for i in open_:
            item = self.items[i]
            if item.start <= first_end:
                for after in self._after(item, state):
                    yield left & ~(1 << i), after

    def _after(self, item: Write | Sight, state: State) -> Iterator[State]:
        version, hidden, present = state
        if isinstance(item, Sight):
            if item.version is None:
                fits = not present
            else:
                fits = not hidden and item.version == version and item.present in (None, present)
            if fits:
                yield state
        elif self._allowed(item, state):
            if item.version is not None:
                if self._above(item.version, version, hidden):
                    yield item.version, 0, item.present
                return
            yield version, hidden + 1, item.present
            for orphan in self.orphans:
                known = self.hashes.get(orphan, "")
                same = not known or not item.hash or known == item.hash
                if same and self._above(orphan, version, hidden):
                    yield orphan, 0, item.present

    @staticmethod
    def _above(new: Version, old: Version | None, hidden: int) -> bool:
        return (old is None or new > old) and room(old, new, hidden)

    @staticmethod
    def _allowed(item: Write, state: State) -> bool:
        version, hidden, present = state
        if isinstance(item.base, Version) and hidden:
            return False
        if item.base is Base.ABSENT and present:
            return False
        return item.over(version, present)
