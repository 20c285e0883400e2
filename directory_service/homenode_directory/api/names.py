"""Names of sessions, for people to see beside their ids: what each was opened with.

A name is asked of the store once for a session that this server does not know, and shown from then on; who must answer
without waiting shows it the next time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection

from homenode_api.v1 import types_pb2 as t
from homenode_directory.directory import Directory
from homenode_directory.errors import DirectoryError
from homenode_directory.place import Place, session_place
from homenode_directory.sessions import NAME
from homenode_directory.store import fields
from homenode_directory.store.base import StoreError

KNOWN_MAX = 65_536
ASKED_MAX = 64


class Names:
    """Remembers the names of sessions."""

    def __init__(self, directory: Directory, tenant: str) -> None:
        self._directory = directory
        self._tenant = tenant
        self._known: OrderedDict[str, str] = OrderedDict()
        self._asked: dict[str, asyncio.Task[None]] = {}

    def learn(self, session: str, name: str) -> None:
        """What a session is called."""
        self._known[session] = name
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def of(self, session: str) -> str:
        """A session's name; "" while it is not known here, and then it is asked for."""
        name = self._known.get(session)
        if name is None and session and session not in self._asked and len(self._asked) < ASKED_MAX:
            task = self._asked[session] = asyncio.ensure_future(self._ask(session))
            task.add_done_callback(lambda _: self._asked.pop(session, None))
        return name or ""

    async def _ask(self, session: str) -> None:
        await self.find(session_place(self._tenant, session), (session,))

    async def find(self, place: Place, sessions: Collection[str]) -> None:
        """Learn the names of sessions of one workspace that are not known here, in one call of the store."""
        unknown = [session for session in dict.fromkeys(sessions) if session and session not in self._known]
        if not unknown:
            return
        number = self._directory.slice_of(place).number
        try:
            keys = [fields.session_key(session) for session in unknown]
            records = await self._directory.store.load(number, keys, (NAME,))
        except (StoreError, DirectoryError):
            return  # ids alone will do
        for session, record in zip(unknown, records, strict=True):
            self.learn(session, record.get(NAME, ""))

    def fill(self, error: t.Error) -> t.Error:
        """Name the holders that a refusal speaks of."""
        if error.holder:
            error.holder_name = self.of(error.holder)
        for refused in error.keys:
            self.fill(refused.error)
        return error
