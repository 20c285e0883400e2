"""The operations, the same for stream, unary calls and the in-process endpoint.

Each takes who calls (place and session), the request id and the request, and gives a `Step` that leads to the answer's
message. A refusal is raised as `Rejected`, by the call itself or on the way. Giving up on one leaves nothing half
done: what follows a commit is in the commit, and content that was stored for a commit that never came is collected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import pages, validate, wire, wire_many
from homenode_directory.api.bodies import Bodies
from homenode_directory.api.errors import Rejected
from homenode_directory.api.held_reads import HeldRead, HeldReads
from homenode_directory.api.names import Names
from homenode_directory.api.tools import Tools
from homenode_directory.delivery import Delivery
from homenode_directory.directory import Directory
from homenode_directory.observer import Observer
from homenode_directory.pins import Pins
from homenode_directory.place import Place
from homenode_directory.prefixes import Prefixes
from homenode_directory.slice import Reply, Slice
from homenode_directory.store.fields import artifact_of
from homenode_directory.together import Joint

LIST_DEFAULT = 100
READ_ATTEMPTS = 3


class Caller:
    """A session, and the workspace that it belongs to."""

    __slots__ = ("place", "prefix", "session", "slice_")

    def __init__(self, place: Place, session: str) -> None:
        self.place = place
        self.session = session
        self.prefix = artifact_of(place, "")
        self.slice_: Slice | None = None  # looked up once


@dataclass(slots=True)
class Asked:
    """An event for the directory. `finish` makes the answer's message of its reply, or a coroutine that does.

    `expecting`: the session may become a sharer, so its interest begins before the event is judged. `body`: a commit's
    content, for its transaction to keep.
    """

    key: str
    event: Any
    finish: Callable[[Reply], Any]
    request: int = 0
    digest: str = ""
    expecting: bool = False
    body: bytes = b""


class Hearing:
    """Who hears what the directory says to an event (a `slice.Heard`): settles the session's interest, then goes on.

    Subclasses say how, in `answered` and `failed`, which must not raise.
    """

    __slots__ = ("_artifact", "_delivery", "_session")

    def __init__(self) -> None:
        self._artifact = ""

    def expect(self, delivery: Delivery, session: str, artifact: str) -> None:
        """The session may become a sharer of the artifact, from now on."""
        self._delivery, self._session, self._artifact = delivery, session, artifact
        delivery.expect(session, artifact)

    def done(self) -> bool:
        """Never: even where nobody waits any more, the interest has to be settled."""
        return False

    def set_result(self, reply: Any, /) -> None:
        """See `Heard`."""
        if self._artifact:
            self._delivery.settle(self._session, self._artifact, held=not wire.refused(reply))
        self.answered(reply)

    def set_exception(self, error: Exception, /) -> None:
        """See `Heard`."""
        if self._artifact:  # an unknown outcome counts as a copy
            self._delivery.settle(self._session, self._artifact, held=True)
        self.failed(error)

    def answered(self, reply: Reply) -> None:
        """The reply came."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """There will be none."""
        raise NotImplementedError


class _Awaiting(Hearing):
    """Somebody awaits the reply."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Reply]) -> None:
        super().__init__()
        self._future = future

    def answered(self, reply: Reply) -> None:
        """See `Hearing`."""
        if not self._future.done():
            self._future.set_result(reply)

    def failed(self, error: Exception) -> None:
        """See `Hearing`."""
        if not self._future.done():
            self._future.set_exception(error)


Step = Asked | Coroutine[Any, Any, Any]
"""How an operation goes on: without a task of its own where nothing but the directory has to be waited for."""

Call = Callable[[Caller, int, Any], Step]


class Calls:
    """The operations over a directory."""

    def __init__(
        self,
        directory: Directory,
        delivery: Delivery,
        bodies: Bodies,
        bounds: validate.Bounds,
        observer: Observer,
        pins: Pins | None = None,
        prefixes: Prefixes | None = None,
        tenant: str = "default",
    ) -> None:
        self.names = Names(directory, tenant)
        joint = Joint(directory)
        self._pins = pins or Pins(directory, joint)
        tools = Tools(
            directory, joint, self._pins, bodies, bounds, observer, delivery, prefixes or Prefixes(directory, joint)
        )
        self._set_prefix_policy = tools.set_prefix_policy
        self._directory = directory
        self._delivery = delivery
        self._bodies = bodies
        self._held = HeldReads(bodies, observer)
        self._bounds = bounds
        self._observer = observer
        self.by_name: dict[str, Call] = {
            "read": self.read,
            "commit": self.commit,
            "acquire": self.acquire,
            "renew": self.renew,
            "release": self.release,
            "set_policy": self.set_policy,
            "stat": self.stat,
            "list": self.list,
            "history": self.history,
            "handoff": self.handoff,
            **tools.by_name,
        }

    def read(self, caller: Caller, request: int, m: pb.ReadRequest) -> Step:
        """The committed version, or an earlier one."""
        key, have = validate.key(m.key), validate.have(m.have)
        event = wire.read_event(caller.session, m)
        if m.HasField("version"):
            return self._read_version(caller, key, m, have)
        share: bool = m.share

        def finish(reply: Reply) -> Any:
            held = self._held.answer(caller.prefix + key, wire.granted(reply), reply.as_of, have, share=share)
            return held if held is not None else self._read_body(caller, key, event, reply, have, share)

        return Asked(key, event, finish, expecting=share)

    async def _read_body(
        self, caller: Caller, key: str, event: Any, reply: Reply, have: tuple[str, ...], share: bool
    ) -> pb.ReadResponse:
        for attempt in range(READ_ATTEMPTS):
            grant = wire.granted(reply)
            try:
                content = await self._bodies.outgoing(caller.place, wire.content_of(grant), have)
                return wire.read_response(grant, reply.as_of, content, share=share)
            except Rejected:
                # Newer versions may have pushed this one out of retention meanwhile.
                if attempt == READ_ATTEMPTS - 1:
                    raise
                reply = await self.reply(caller, Asked(key, event, wire.granted, expecting=share))
        raise AssertionError("unreachable")

    async def _read_version(
        self, caller: Caller, key: str, m: pb.ReadRequest, have: tuple[str, ...]
    ) -> pb.ReadResponse:
        wanted = wire.version_in(m.version)
        found = wire.accept(await self.earlier(caller.place, caller.session, key, wanted, m.snapshot))
        content = await self._bodies.outgoing(caller.place, wire.retained(found, wanted), have)
        return wire.version_response(found, content)

    async def earlier(self, place: Place, session: str, key: str, wanted: Any, snapshot: str) -> Any:
        """The record of an earlier version, or of the one that a snapshot has; or why there is none."""
        if not snapshot:
            return await self._directory.at_version(place, session, key, wanted)
        return await self._pins.read(place, session, validate.snapshot(session, snapshot, foreign=True), key)

    def commit(self, caller: Caller, request: int, m: pb.CommitRequest) -> Step:
        """A new version, or a delete."""
        key, request = validate.key(m.key), validate.request_id(request)
        event, digest = wire.commit_event(caller.session, m, self._bounds)
        asked = Asked(key, event, partial(self._committed, event.lease), request, digest, expecting=True)
        if event.content is None:
            return asked
        content = m.content
        body = self._bodies.whole(self._slice_of(caller).number, event.content, content)
        if body is None:
            return self._commit_content(caller, asked, content)
        asked.body = body
        return asked

    async def _commit_content(self, caller: Caller, asked: Asked, content: t.Content) -> pb.CommitResponse:
        failure = await self._bodies.incoming(caller.place, asked.event.content, content)
        if failure is not None:
            # The content may be gone because the first attempt of this request is long done.
            stored = await self._directory.stored(caller.place, caller.session, asked.request, asked.digest)
            if stored is None:
                raise failure
            return wire.commit_response(wire.done(stored), stored.as_of, asked.event.lease)
        return self._committed(asked.event.lease, await self.reply(caller, asked))

    def _committed(self, lease: str, reply: Reply) -> pb.CommitResponse:
        response = wire.commit_response(wire.done(reply), reply.as_of, lease)
        self._observer.committed()
        return response

    def acquire(self, caller: Caller, request: int, m: pb.AcquireRequest) -> Step:
        """The write lease, and the content that it starts from."""
        key, request, have = validate.key(m.key), validate.request_id(request), validate.have(m.have)
        event, digest = wire.acquire_event(caller.session, m, self._bounds)

        def finish(reply: Reply) -> Any:
            grant = wire.granted(reply)
            content = self._bodies.held(grant.content, have) if grant.content else None
            if content is None and grant.content is not None:
                return self._acquire_body(caller, reply, event.lease, have)
            return wire.acquire_response(grant, reply.as_of, event.lease, content)

        return Asked(key, event, finish, request, digest, expecting=True)

    async def _acquire_body(
        self, caller: Caller, reply: Reply, lease: str, have: tuple[str, ...]
    ) -> pb.AcquireResponse:
        grant = wire.granted(reply)
        content = await self._bodies.outgoing(caller.place, wire.content_of(grant), have)
        return wire.acquire_response(grant, reply.as_of, lease, content)

    def renew(self, caller: Caller, request: int, m: pb.RenewRequest) -> Step:
        """A later deadline for a write lease."""
        event, digest = wire.renew_event(caller.session, m, self._bounds)

        def finish(reply: Reply) -> pb.RenewResponse:
            return pb.RenewResponse(ttl_ms=wire.done(reply).ttl_ms, as_of=wire.position(reply.as_of))

        return Asked(validate.key(m.key), event, finish, 0, digest)

    def release(self, caller: Caller, request: int, m: pb.ReleaseRequest) -> Step:
        """The end of a write lease, or of a shared copy."""
        key, request = validate.key(m.key), validate.request_id(request)
        event, digest = wire.release_event(caller.session, m)

        def finish(reply: Reply) -> pb.ReleaseResponse:
            wire.done(reply)
            if not event.lease:
                self._delivery.drop(caller.session, key)
            return pb.ReleaseResponse(as_of=wire.position(reply.as_of))

        return Asked(key, event, finish, request, digest)

    def handoff(self, caller: Caller, request: int, m: pb.HandoffRequest) -> Step:
        """A write lease for a named successor."""
        key, request = validate.key(m.key), validate.request_id(request)
        event, digest = wire_many.handoff_event(caller.session, m, self._bounds)

        def finish(reply: Reply) -> pb.HandoffResponse:
            wire.done(reply)
            return pb.HandoffResponse(as_of=wire.position(reply.as_of))

        return Asked(key, event, finish, request, digest)

    def set_policy(self, caller: Caller, request: int, m: pb.SetPolicyRequest) -> Step:
        """The artifact's own policy, or that of a prefix."""
        if m.HasField("prefix"):
            return self._set_prefix_policy(caller, request, m)
        key, request = validate.key(m.key), validate.request_id(request)
        event, digest = wire.policy_event(caller.session, m)

        def finish(reply: Reply) -> pb.SetPolicyResponse:
            wire.done(reply)
            return pb.SetPolicyResponse(as_of=wire.position(reply.as_of))

        return Asked(key, event, finish, request, digest)

    async def stat(self, caller: Caller, request: int, m: pb.StatRequest) -> pb.StatResponse:
        """What the directory knows of an artifact."""
        found = await self._directory.stat(caller.place, caller.session, validate.key(m.key))
        response = wire.stat_response(wire.accept(found))
        await self._name(caller.place, [response])
        return response

    async def list(self, caller: Caller, request: int, m: pb.ListRequest) -> pb.ListResponse:
        """Artifacts by prefix, in pages."""
        prefix = validate.prefix(m.prefix)
        after = validate.text(m.after, "after", validate.KEY_BYTES_MAX, empty=True)
        limit = validate.within(m.limit, "limit", 1, validate.LIST_MAX, default=LIST_DEFAULT)
        response = pages.list_response(
            wire.accept(await self._directory.list(caller.place, caller.session, prefix, after, limit))
        )
        await self._name(caller.place, response.artifacts)
        return response

    async def _name(self, place: Place, stats: Iterable[pb.StatResponse]) -> None:
        """Say who holds the write leases."""
        held = [stat for stat in stats if stat.holder]
        await self.names.find(place, [stat.holder for stat in held])
        for stat in held:
            stat.holder_name = self.names.of(stat.holder)

    async def history(self, caller: Caller, request: int, m: pb.HistoryRequest) -> pb.HistoryResponse:
        """The retained versions."""
        response = pages.history_response(
            wire.accept(await self._directory.history(caller.place, caller.session, validate.key(m.key)))
        )
        await self.names.find(caller.place, [version.by for version in response.versions])
        for version in response.versions:
            version.by_name = self.names.of(version.by)
        return response

    async def result(self, caller: Caller, step: Step) -> Any:
        """Wait for an operation's answer. Raises Rejected, DirectoryError."""
        if not isinstance(step, Asked):
            return await step
        answer = step.finish(await self.reply(caller, step))
        if isinstance(answer, HeldRead):
            return answer.message()
        return await answer if asyncio.iscoroutine(answer) else answer

    def _slice_of(self, caller: Caller) -> Slice:
        slice_ = caller.slice_
        if slice_ is None:
            slice_ = caller.slice_ = self._directory.slice_of(caller.place)
        return slice_

    async def reply(self, caller: Caller, asked: Asked) -> Reply:
        """The directory's reply to what is asked. Raises DirectoryError."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.ask(caller, asked, _Awaiting(future))
        return await future

    def ask(self, caller: Caller, asked: Asked, hearing: Hearing) -> None:
        """Queue what is asked; `hearing` gets the reply. Raises DirectoryError."""
        slice_, artifact = self._slice_of(caller), caller.prefix + asked.key
        if asked.expecting:
            hearing.expect(self._delivery, caller.session, artifact)
        try:
            self._directory.post(slice_, artifact, asked.event, hearing, asked.request, asked.digest, asked.body)
        except BaseException:
            if asked.expecting:
                self._delivery.settle(caller.session, artifact)
            raise
