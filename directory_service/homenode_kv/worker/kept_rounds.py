"""What is kept of rounds: of each its master whole, the other members as what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from homenode_kv.collector import Collected
from homenode_kv.errors import OutOfMemory
from homenode_kv.families import Families, Standing
from homenode_kv.ident import Version
from homenode_kv.pool import Pool
from homenode_kv.worker.prompts import Prompt


class KeptRounds:
    """See the module.

    Attributes:
        on_change: hears of a round's master and how many mirrors it has; "" where it is kept no more.
    """

    def __init__(self, pool: Pool, sheets: Pool) -> None:
        self._pool = pool
        self._families = Families(pool, sheets)
        self._versions: dict[str, dict[str, Version]] = {}
        self._standing = Standing(0, 0, 0, 0, 0)
        self.on_change: Callable[[str, str, int], None] = lambda round_id, master, mirrors: None

    def keep(
        self, round_id: str, collected: Collected, prompts: Iterable[Prompt], dead: Callable[[str, Version], bool]
    ) -> tuple[int, int]:
        """Keeps what the members share; bytes that takes, and as many whole members would.

        (0, 0) where nothing is shared, a version is dead by now, or there is no room.
        """
        pieces = [piece for prompt in prompts for piece in prompt.pieces]
        versions = {piece.artifact: piece.version for piece in pieces if piece.version is not None}
        if not collected.plan.shared or any(dead(*one) for one in versions.items()):
            return 0, 0
        members = {member: collected.composite(member) for member in collected.forwards}
        try:
            ratios = self._families.put(round_id, members, collected.plan.deviation)
        except OutOfMemory:
            return 0, 0
        self._versions = {known: one for known, one in self._versions.items() if known in self._families}
        self._versions[round_id] = versions
        self.on_change(round_id, collected.plan.master, len(members) - 1)
        whole = sum(kv.nbytes for kv in members.values())
        return int(whole / ratios.per_group), whole

    def materialize(self, round_id: str, member: str) -> tuple[int, int] | None:
        """Makes a member whole; its tokens and bytes, None for a miss. Raises OutOfMemory."""
        key = self._families.materialize(round_id, member)
        entry = self._pool.entry(key) if key is not None else None
        return (entry.tokens, entry.size_bytes) if entry is not None else None

    def release(self, artifact: str, current: Version) -> None:
        """`artifact` is at `current`: rounds over an older version go."""
        for round_id, versions in list(self._versions.items()):
            if versions.get(artifact, current) < current:
                del self._versions[round_id]
                if self._families.release(round_id):
                    self.on_change(round_id, "", 0)

    def shed(self) -> bool:
        """Gives up the round that was used longest ago; False where there is none."""
        return self._families.shed()

    def standing(self) -> Standing:
        """How much is kept; other threads may ask."""
        try:
            self._standing = self._families.standing()
        except RuntimeError:  # something changed while it was counted
            pass
        return self._standing
