"""Opening, keeping, closing and resolving sessions."""

from __future__ import annotations

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import validate, wire
from homenode_directory.api.errors import rejected
from homenode_directory.api.parts import Parts
from homenode_directory.place import Place


class Sessions:
    """Calls about sessions as such."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def open(self, m: pb.OpenSessionRequest) -> pb.OpenSessionResponse:
        """A new session in a workspace."""
        parts = self._parts
        if parts.hub.draining:
            raise rejected(t.ERROR_REASON_UNAVAILABLE, "the server is about to stop")
        place = Place(parts.tenant, validate.workspace(m.workspace))
        name = validate.text(m.name, "name", validate.NAME_MAX, empty=True)
        ttl_ms = validate.within(m.ttl_ms, "ttl_ms", *validate.SESSION_MS, default=parts.bounds.session_ttl_ms)
        seen = validate.exact(m.seen_incarnation, "seen_incarnation")
        opened = await parts.directory.open_session(place, name, ttl_ms, seen)
        parts.liveness.opened(opened.session, opened.ttl_ms)
        parts.calls.names.learn(opened.session, name)
        return pb.OpenSessionResponse(
            session_id=opened.session,
            position=wire.position(opened.position),
            ttl_ms=opened.ttl_ms,
            term_ms=parts.bounds.term_ms,
            max_age_ms=parts.max_age_ms,
            bookmark_ms=parts.bookmark_ms,
            limits=parts.wire_limits(),
            server_version=parts.server_version,
            strongest=wire.LEVELS[parts.directory.strongest],
            consistency=wire.level(parts.consistency),
        )

    async def keep_alive(self, m: pb.KeepAliveRequest) -> pb.KeepAliveResponse:
        """A sign of life."""
        parts = self._parts
        place = validate.session(parts.tenant, m.session_id)
        settled = validate.exact(m.settled_below, "settled_below")
        alive = wire.alive(await parts.liveness.keep_alive(place, m.session_id, settled))
        return pb.KeepAliveResponse(
            position=wire.position(alive), ttl_ms=await parts.liveness.ttl_ms(place, m.session_id)
        )

    async def close(self, m: pb.CloseSessionRequest) -> pb.CloseSessionResponse:
        """The end of a session; closing one that is over is no mistake."""
        place = validate.session(self._parts.tenant, m.session_id)
        await self._parts.directory.end_session(place, m.session_id)
        return pb.CloseSessionResponse()

    async def resolve(self, m: pb.ResolveRequest) -> pb.ResolveResponse:
        """What became of requests."""
        place = validate.session(self._parts.tenant, m.session_id)
        if len(m.request_ids) > validate.RESOLVE_MAX:
            raise validate.invalid(f"request_ids: at most {validate.RESOLVE_MAX}")
        requests = [validate.request_id(value) for value in m.request_ids]
        return wire.resolve_response(await self._parts.directory.resolve(place, m.session_id, requests))
