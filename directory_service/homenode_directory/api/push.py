"""Content that follows its invalidation by itself, as an artifact's policy says.

A push is a read that the server makes on behalf of a session: it joins the sharers in the same way, its content comes
as the same answer, and the client keeps it by the same rules. So a pushed copy is never ahead of what the log has told,
and is invalidated as any other. It goes out behind the invalidation, which was queued before the push began.

Pushing is a courtesy: what does not fit into a frame, finds a long queue, or fails is left out, and fetched when it is
read. Of versions that follow each other quickly the last is sent, as a patch of what the session had before them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import wire
from homenode_directory.api.bodies import Bodies
from homenode_directory.api.calls import Asked, Caller, Calls
from homenode_directory.api.errors import Rejected
from homenode_directory.audience import Audience, Member
from homenode_directory.errors import DirectoryError
from homenode_directory.observer import Observer
from homenode_directory.sinks import Pushed
from homenode_directory.store.base import StoreError
from homenode_directory.store.fields import key_of

ARTIFACTS_MAX = 256


@dataclass(slots=True)
class _Waiting:
    """What to send next of an artifact, and to whom."""

    audience: Audience
    event: Any
    members: dict[Member, bool] = field(default_factory=dict)


class Pusher:
    """Sends contents; `push` is delivery's hook."""

    def __init__(self, calls: Calls, bodies: Bodies, observer: Observer) -> None:
        self._calls = calls
        self._bodies = bodies
        self._observer = observer
        self._waiting: dict[str, _Waiting] = {}
        # While versions of an artifact follow each other: the content that a session certainly has, to be patched.
        self._bases: dict[str, dict[Member, str]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def push(self, audience: Audience, artifact: str, event: Any, members: Mapping[Member, bool]) -> None:
        """A version was committed whose content is to go to `members`."""
        waiting = self._waiting.get(artifact)
        if waiting is None:
            if len(self._waiting) >= ARTIFACTS_MAX:
                return
            waiting = self._waiting[artifact] = _Waiting(audience, event)
        waiting.audience, waiting.event = audience, event
        waiting.members.update(members)
        if artifact not in self._tasks:  # else a copy may be one that this has made a session a sharer of, not yet sent
            self._bases[artifact] = {member: event.base for member, had in members.items() if had and event.base}
            self._tasks[artifact] = asyncio.ensure_future(self._run(artifact))

    async def close(self) -> None:
        """Stop."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, artifact: str) -> None:
        try:
            while (waiting := self._waiting.pop(artifact, None)) is not None:
                try:
                    await self._send(artifact, waiting)
                except (Rejected, DirectoryError, StoreError):
                    continue  # who wants it reads it
        finally:  # in the same step as the look that found nothing, or a push in between would wait for the next one
            self._tasks.pop(artifact, None)
            self._bases.pop(artifact, None)

    async def _send(self, artifact: str, waiting: _Waiting) -> None:
        event, place, bases = waiting.event, next(iter(waiting.members)).place, self._bases[artifact]
        forms = {}
        for had in dict.fromkeys(bases.get(member, "") for member in waiting.members):
            content = await self._bodies.outgoing(place, event.content, [had] if had else [])
            if content.WhichOneof("body") is not None:  # else it is too large for a frame
                forms[had] = content
        members = [member for member in waiting.members if bases.get(member, "") in forms]
        replies = await asyncio.gather(*(self._share(member, artifact) for member in members), return_exceptions=True)
        for member, reply in zip(members, replies, strict=True):
            if isinstance(reply, BaseException) or wire.refused(reply):
                continue
            grant = wire.granted(reply)
            if grant.version != event.version or not waiting.audience.interested(member, artifact):
                continue
            if artifact in self._waiting:  # whose invalidation went ahead: nobody would keep this one
                return
            response = wire.read_response(grant, reply.as_of, forms[bases.get(member, "")], share=True)
            body = pb.Pushed(key=key_of(artifact), read=response).SerializeToString()
            member.sink.push(Pushed(key_of(artifact), body))
            bases[member] = event.content.hash
            self._observer.content("pushed", len(body), len(body))

    async def _share(self, member: Member, artifact: str) -> Any:
        """Make the session a sharer of the committed version."""
        asked = Asked(key_of(artifact), wire.share_event(member.session), wire.granted, expecting=True)
        return await self._calls.reply(Caller(member.place, member.session), asked)
