"""The operations, one coroutine each, the same for stream, unary calls and the in-process endpoint.

Each takes who calls (place and session), the request id and the request, and returns the answer's message. A refusal
is raised as `Rejected`. Cancelling one of them leaves nothing half done: what follows a commit is in the commit, and
content that was stored for a commit that never came is collected.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import validate, wire
from homenode_directory.api.bodies import Bodies
from homenode_directory.api.errors import Rejected
from homenode_directory.delivery import Delivery
from homenode_directory.directory import Directory
from homenode_directory.place import Place

LIST_DEFAULT = 100
READ_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """A session, and the workspace that it belongs to."""

    place: Place
    session: str


Call = Callable[[Caller, int, Any], Awaitable[Any]]


class Calls:
    """The operations over a directory."""

    def __init__(self, directory: Directory, delivery: Delivery, bodies: Bodies, bounds: validate.Bounds) -> None:
        self._directory = directory
        self._delivery = delivery
        self._bodies = bodies
        self._bounds = bounds
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
        }

    async def read(self, caller: Caller, request: int, m: pb.ReadRequest) -> pb.ReadResponse:
        """The committed version, or an earlier one."""
        key, have = validate.key(m.key), validate.have(m.have)
        event = wire.read_event(caller.session, m)
        if m.HasField("version"):
            return await self._read_version(caller, key, m, have)
        for attempt in range(READ_ATTEMPTS):
            if m.share:
                with self._delivery.expecting(caller.session, key):
                    reply = await self._directory.request(caller.place, key, event, 0, "")
            else:
                reply = await self._directory.request(caller.place, key, event, 0, "")
            grant = wire.granted(reply)
            try:
                content = await self._bodies.outgoing(caller.place, wire.content_of(grant), have)
                return wire.read_response(grant, reply.as_of, content, share=m.share)
            except Rejected:
                # Newer versions may have pushed this one out of retention meanwhile.
                if attempt == READ_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _read_version(
        self, caller: Caller, key: str, m: pb.ReadRequest, have: tuple[str, ...]
    ) -> pb.ReadResponse:
        wanted = wire.version_in(m.version)
        found = wire.accept(await self._directory.at_version(caller.place, caller.session, key, wanted))
        content = await self._bodies.outgoing(caller.place, wire.retained(found, wanted), have)
        return wire.version_response(found, content)

    async def commit(self, caller: Caller, request: int, m: pb.CommitRequest) -> pb.CommitResponse:
        """A new version, or a delete."""
        key, request = validate.key(m.key), validate.request_id(request)
        event, digest = wire.commit_event(caller.session, m, self._bounds)
        if event.content is not None:
            failure = await self._bodies.incoming(caller.place, event.content, m.content)
            if failure is not None:
                # The content may be gone because the first attempt of this request is long done.
                stored = await self._directory.stored(caller.place, caller.session, request, digest)
                if stored is None:
                    raise failure
                return wire.commit_response(wire.done(stored), stored.as_of, event.lease)
        with self._delivery.expecting(caller.session, key):
            reply = await self._directory.request(caller.place, key, event, request, digest)
        return wire.commit_response(wire.done(reply), reply.as_of, event.lease)

    async def acquire(self, caller: Caller, request: int, m: pb.AcquireRequest) -> pb.AcquireResponse:
        """The write lease, and the content that it starts from."""
        key, request, have = validate.key(m.key), validate.request_id(request), validate.have(m.have)
        event, digest = wire.acquire_event(caller.session, m, self._bounds)
        with self._delivery.expecting(caller.session, key):
            reply = await self._directory.request(caller.place, key, event, request, digest)
        grant = wire.granted(reply)
        content = await self._bodies.outgoing(caller.place, grant.content, have) if grant.content else None
        return wire.acquire_response(grant, reply.as_of, event.lease, content)

    async def renew(self, caller: Caller, request: int, m: pb.RenewRequest) -> pb.RenewResponse:
        """A later deadline for a write lease."""
        key = validate.key(m.key)
        event, digest = wire.renew_event(caller.session, m, self._bounds)
        reply = await self._directory.request(caller.place, key, event, 0, digest)
        return pb.RenewResponse(ttl_ms=wire.done(reply).ttl_ms, as_of=wire.position(reply.as_of))

    async def release(self, caller: Caller, request: int, m: pb.ReleaseRequest) -> pb.ReleaseResponse:
        """The end of a write lease, or of a shared copy."""
        key = validate.key(m.key)
        event, digest = wire.release_event(caller.session, m)
        request = validate.request_id(request) if event.lease else 0
        reply = await self._directory.request(caller.place, key, event, request, digest)
        wire.done(reply)
        if not event.lease:
            self._delivery.drop(caller.session, key)
        return pb.ReleaseResponse(as_of=wire.position(reply.as_of))

    async def set_policy(self, caller: Caller, request: int, m: pb.SetPolicyRequest) -> pb.SetPolicyResponse:
        """The artifact's own policy."""
        key, request = validate.key(m.key), validate.request_id(request)
        event, digest = wire.policy_event(caller.session, m)
        reply = await self._directory.request(caller.place, key, event, request, digest)
        wire.done(reply)
        return pb.SetPolicyResponse(as_of=wire.position(reply.as_of))

    async def stat(self, caller: Caller, request: int, m: pb.StatRequest) -> pb.StatResponse:
        """What the directory knows of an artifact."""
        return wire.stat_response(
            wire.accept(await self._directory.stat(caller.place, caller.session, validate.key(m.key)))
        )

    async def list(self, caller: Caller, request: int, m: pb.ListRequest) -> pb.ListResponse:
        """Artifacts by prefix, in pages."""
        prefix = validate.prefix(m.prefix)
        after = validate.text(m.after, "after", validate.KEY_BYTES_MAX, empty=True)
        limit = validate.within(m.limit, "limit", 1, validate.LIST_MAX, default=LIST_DEFAULT)
        return wire.list_response(
            wire.accept(await self._directory.list(caller.place, caller.session, prefix, after, limit))
        )

    async def history(self, caller: Caller, request: int, m: pb.HistoryRequest) -> pb.HistoryResponse:
        """The retained versions."""
        return wire.history_response(
            wire.accept(await self._directory.history(caller.place, caller.session, validate.key(m.key)))
        )
