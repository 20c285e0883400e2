"""Answers to readers who hold the very content: made once for each version of an artifact, then copied.

Making such a message field by field costs ten times as much as copying it, and a fleet that revalidates its copies
asks for little else.
"""

from __future__ import annotations

from collections import OrderedDict

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import wire
from homenode_directory.api.bodies import Bodies
from homenode_directory.observer import Observer
from homenode_directory.place import Position

ARTIFACTS_MAX = 8_192


class HeldReads:
    """The last answer of each artifact, without its place in the log."""

    def __init__(self, bodies: Bodies, observer: Observer) -> None:
        self._bodies = bodies
        self._observer = observer
        self._made: OrderedDict[str, tuple[wire.Grant, bool, pb.ReadResponse]] = OrderedDict()

    def answer(
        self, artifact: str, grant: wire.Grant, as_of: Position, have: tuple[str, ...], *, share: bool
    ) -> pb.ReadResponse | None:
        """The answer; None where the reader does not hold the content."""
        content = wire.content_of(grant)
        if content.hash not in have:
            return None
        known = self._made.get(artifact)
        if known is None or known[1] is not share or not _same(known[0], grant):
            held = self._bodies.held(content, have)
            assert held is not None
            made = wire.read_response(grant, as_of, held, share=share)
            self._made[artifact] = grant, share, made
            if len(self._made) > ARTIFACTS_MAX:
                self._made.popitem(last=False)
            return made
        self._observer.content("held", 0, content.size)
        m = pb.ReadResponse()
        m.CopyFrom(known[2])
        wire.set_position(m.as_of, as_of)
        return m


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
