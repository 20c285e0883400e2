"""Acks of a stream, folded: one call to the directory for all that came in meanwhile."""

from __future__ import annotations

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import validate
from homenode_directory.api.calls import Caller
from homenode_directory.directory import Directory
from homenode_directory.place import Place

BATCH_MAX = 128
BARRIER_FROM = 32
ACK_KEYS_MAX = 4_096


class Acks:
    """Collects acks and sends them on. An ack that finds no room is dropped.

    That is safe: acks only shrink sharer sets early, which may be too large and never too small.
    """

    def __init__(self, directory: Directory, pending_max: int) -> None:
        self._directory = directory
        self._pending_max = pending_max
        self._pending: dict[tuple[Place, str, str], tuple[int, int]] = {}
        self._sending = False

    def add(self, caller: Caller, m: pb.Ack) -> None:
        """Take in a session's acks. Raises Rejected."""
        if len(m.keys) > ACK_KEYS_MAX:
            raise validate.invalid(f"keys: at most {ACK_KEYS_MAX}")
        for acked in m.keys:
            key = validate.key(acked.key)
            round_ = (validate.exact(acked.version.n, "version.n"), validate.exact(acked.fence, "fence"))
            named = (caller.place, key, caller.session)
            if named in self._pending:
                self._pending[named] = max(round_, self._pending[named])
            elif len(self._pending) < self._pending_max:
                self._pending[named] = round_

    @property
    def due(self) -> bool:
        """Whether `send` should be started."""
        return bool(self._pending) and not self._sending

    async def send(self) -> None:
        """Hand on everything that is collected, until nothing is left."""
        self._sending = True
        try:
            while self._pending:
                by_place: dict[Place, list[tuple[str, str, int, int]]] = {}
                for place, key, session in list(self._pending)[:BATCH_MAX]:
                    n, fence = self._pending.pop((place, key, session))
                    by_place.setdefault(place, []).append((key, session, n, fence))
                for place, rows in by_place.items():
                    await self._directory.acks(place, rows)
                    if len(rows) >= BARRIER_FROM:
                        # The slice works in order: once it has come to this, it has done the acks. So a flood of them
                        # waits here, and not in front of everybody else's requests.
                        await self._directory.confirm_session(place, rows[-1][1])
        finally:
            self._sending = False
