"""Answers to readers who hold the very content: encoded once for each version of an artifact.

Only the place in the log differs from answer to answer, and the fields of a message may come in any order. Making it
field by field costs many times as much as putting two pieces together, and a fleet that revalidates its copies asks for
little else.
"""

from __future__ import annotations

from collections import OrderedDict

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import wire
from homenode_directory.api.bodies import Bodies
from homenode_directory.observer import Observer
from homenode_directory.place import Position

ARTIFACTS_MAX = 8_192


class HeldRead:
    """A `ReadResponse`, encoded."""

    __slots__ = ("_parts",)

    def __init__(self, answer: bytes, as_of: bytes) -> None:
        self._parts = answer, as_of

    def SerializeToString(self) -> bytes:
        """As of the message."""
        return b"".join(self._parts)

    def message(self) -> pb.ReadResponse:
        """The message itself."""
        return pb.ReadResponse.FromString(self.SerializeToString())


class HeldReads:
    """The last answer of each artifact, without its place in the log."""

    def __init__(self, bodies: Bodies, observer: Observer) -> None:
        self._bodies = bodies
        self._observer = observer
        self._made: OrderedDict[str, tuple[wire.Grant, bool, bytes]] = OrderedDict()
        self._as_of = Position(0, 0), b""  # the last place, and the field that tells of it

    def answer(
        self, artifact: str, grant: wire.Grant, as_of: Position, have: tuple[str, ...], *, share: bool
    ) -> HeldRead | None:
        """The answer; None where the reader does not hold the content."""
        content = wire.content_of(grant)
        if content.hash not in have:
            return None
        if self._as_of[0] != as_of:
            self._as_of = as_of, pb.ReadResponse(as_of=wire.position(as_of)).SerializeToString()
        known = self._made.get(artifact)
        if known is None or known[1] is not share or not _same(known[0], grant):
            held = self._bodies.held(content, have)
            assert held is not None
            made = wire.read_response(grant, as_of, held, share=share)
            made.ClearField("as_of")
            known = self._made[artifact] = grant, share, made.SerializeToString()
            if len(self._made) > ARTIFACTS_MAX:
                self._made.popitem(last=False)
        else:
            self._observer.content("held", 0, content.size)
        return HeldRead(known[2], self._as_of[1])


def _same(a: wire.Grant, b: wire.Grant) -> bool:
    """Whether two grants of an artifact say the same to a reader. Equal parts are the same object as a rule."""
    return (
        a.content is b.content
        and a.version is b.version
        and a.committed_ms == b.committed_ms
        and a.level is b.level
        and a.cacheable is b.cacheable
        and a.policy is b.policy
    )
