"""Operations on several artifacts: snapshots, joint commits and gates. As `calls`, of which they are a part."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import validate, wire, wire_many
from homenode_directory.api.bodies import Bodies
from homenode_directory.api.errors import invalid
from homenode_directory.delivery import Delivery
from homenode_directory.directory import Directory
from homenode_directory.observer import Observer
from homenode_directory.pins import Pins
from homenode_directory.prefixes import Prefixes
from homenode_directory.store.fields import artifact_of
from homenode_directory.together import Joint, Request

SETTLE_MARGIN_MS = 1_000  # beyond the time in which the last copy dies


class Tools:
    """The operations over a directory. Each takes who calls, the request id and the request, and gives the answer."""

    def __init__(
        self,
        directory: Directory,
        joint: Joint,
        pins: Pins,
        bodies: Bodies,
        bounds: validate.Bounds,
        observer: Observer,
        delivery: Delivery,
        prefixes: Prefixes,
    ) -> None:
        self._directory = directory
        self._joint = joint
        self._pins = pins
        self._bodies = bodies
        self._bounds = bounds
        self._observer = observer
        self._delivery = delivery
        self._prefixes = prefixes
        self.by_name: dict[str, Callable[[Any, int, Any], Coroutine[Any, Any, Any]]] = {
            "snapshot": self.snapshot,
            "release_snapshot": self.release_snapshot,
            "commit_many": self.commit_many,
            "gate": self.gate,
            "list_policies": self.list_policies,
        }

    async def snapshot(self, caller: Any, request: int, m: pb.SnapshotRequest) -> pb.SnapshotResponse:
        """Several artifacts as of one place in the log, pinned."""
        limits = self._pins.limits
        number = validate.request_id(request)
        keys = wire_many.distinct(m.keys, limits.keys_max, "keys") if m.keys else ()
        prefix = validate.prefix(m.prefix)
        ttl_ms = validate.within(m.ttl_ms, "ttl_ms", 1_000, limits.ttl_max_ms, default=limits.ttl_ms)
        asked = Request(caller.session, number, wire_many.snapshot_digest(m))
        snapshot = wire.accept(await self._pins.take(caller.place, asked, ttl_ms, keys=keys, prefix=prefix))
        return wire_many.snapshot_response(snapshot, ttl_ms)

    async def release_snapshot(
        self, caller: Any, request: int, m: pb.ReleaseSnapshotRequest
    ) -> pb.ReleaseSnapshotResponse:
        """The end of a snapshot of this session."""
        await self._pins.release(caller.place, validate.snapshot(caller.session, m.snapshot))
        return pb.ReleaseSnapshotResponse()

    async def commit_many(self, caller: Any, request: int, m: pb.CommitManyRequest) -> pb.CommitManyResponse:
        """New versions of several artifacts, or none."""
        number = validate.request_id(request)
        events, digest = wire_many.commits(caller.session, m, self._bounds)
        for content, body in wire_many.contents(events, m):
            failure = await self._bodies.incoming(caller.place, content, body)
            if failure is not None:
                # The content may be gone because the first attempt of this request is long done.
                stored = await self._directory.stored(caller.place, caller.session, number, digest)
                if stored is None:
                    raise failure
                return wire_many.commit_many_response(stored, events)
        artifacts = [artifact_of(caller.place, key) for key, _ in events]
        for artifact in artifacts:  # the session may become a sharer of each
            self._delivery.expect(caller.session, artifact)
        held = True  # as long as the outcome is not known
        try:
            reply = await self._joint.commit_many(caller.place, events, Request(caller.session, number, digest))
            held = not wire.refused(reply)
        finally:
            for artifact in artifacts:
                self._delivery.settle(caller.session, artifact, held=held)
        response = wire_many.commit_many_response(reply, events)
        self._observer.committed(len(response.items))
        return response

    async def set_prefix_policy(self, caller: Any, request: int, m: pb.SetPolicyRequest) -> pb.SetPolicyResponse:
        """The policy of all artifacts under a prefix. Waits until they have taken it over, within bounds."""
        number, prefix = validate.request_id(request), validate.prefix(m.prefix)
        if m.key:
            raise invalid("either key or prefix, not both")
        policy, digest = wire.prefix_policy(m)
        reply = await self._prefixes.set(caller.place, Request(caller.session, number, digest), prefix, policy)
        wire.done(reply)
        within_s = (self._directory.settings.terms.quiet_ms + SETTLE_MARGIN_MS) / 1_000
        remaining = await self._prefixes.settle(caller.place, prefix, within_s)
        return pb.SetPolicyResponse(as_of=wire.position(reply.as_of), remaining=remaining)

    async def list_policies(self, caller: Any, request: int, m: pb.ListPoliciesRequest) -> pb.ListPoliciesResponse:
        """The policies of the workspace's prefixes."""
        return wire.list_policies_response(wire.accept(await self._prefixes.of(caller.place, caller.session)))

    async def gate(self, caller: Any, request: int, m: pb.GateRequest) -> pb.GateResponse:
        """Whether what was read still holds."""
        reads = wire_many.reads(m)
        cut = wire.accept(await self._joint.cut(caller.place, caller.session, [read.key for read in reads]))
        return wire_many.gate_response(wire_many.findings(caller.session, reads, cut), cut.as_of)
