"""Outgoing frames, put together from encoded parts.

Answers and events are encoded once, when they are known, and joined into a frame when it leaves: nothing is copied
from message to message, the queue knows exact sizes, and an invalidation that goes to many sessions is encoded once.
The result is what `SessionResponse.SerializeToString` would give (field order aside).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.varints import varint
from homenode_directory.api import wire
from homenode_directory.sinks import (
    Bookmark,
    Change,
    DeliveryEvent,
    Invalidation,
    LeaseLost,
    LeaseOffered,
    PolicyChanged,
    Pushed,
    Resync,
    SessionOver,
)


class Encodable(Protocol):
    """A message, or what stands for one that is encoded already."""

    def SerializeToString(self) -> bytes: ...


def _tags(message: Any) -> dict[str, bytes]:
    """Tag of each field that holds a message."""
    return {f.name: varint(f.number << 3 | 2) for f in message.DESCRIPTOR.fields if f.message_type}


_ANSWER = _tags(pb.Answer)
_ITEM = _tags(pb.Item)
_FRAME = _tags(pb.SessionResponse)["items"]
_NUMBER = varint(pb.Item.DESCRIPTOR.fields_by_name["session"].number << 3)
_REQUEST_ID = varint(pb.Answer.DESCRIPTOR.fields_by_name["request_id"].number << 3)
_FRAME_NUMBER = varint(pb.SessionResponse.DESCRIPTOR.fields_by_name["number"].number << 3)
_SMALL = [varint(value) for value in range(16_384)]


def _number(value: int) -> bytes:
    return _SMALL[value] if value < len(_SMALL) else varint(value)


def _item(session: int, field: str, body: bytes) -> bytes:
    head = _NUMBER + _number(session) + _ITEM[field] + _number(len(body))
    return b"".join((_FRAME, _number(len(head) + len(body)), head, body))


def answer(session: int, request_id: int, field: str, message: Encodable) -> bytes:
    """An `Answer` as a piece of a frame; `field` names its member of the oneof."""
    body = message.SerializeToString()
    head = _REQUEST_ID + _number(request_id) + _ANSWER[field] + _number(len(body))
    size = len(head) + len(body)
    item = _NUMBER + _number(session) + _ITEM["answer"] + _number(size)
    return b"".join((_FRAME, _number(len(item) + size), item, head, body))


def draining(within_ms: int) -> bytes:
    """A `Draining` for the whole stream."""
    return _item(0, "draining", pb.Draining(within_ms=within_ms).SerializeToString())


def change(event: Change) -> pb.Change:
    """A change under a watched prefix."""
    return pb.Change(
        watch_id=event.watch,
        key=event.key,
        version=wire.version(event.version),
        deleted=event.deleted,
        by=event.by,
        sequence=event.sequence,
        size=event.size,
        by_name=event.by_name,
    )


def _body(event: DeliveryEvent) -> tuple[str, bytes]:
    match event:
        case Bookmark():
            m: Any = pb.Bookmark(position=wire.position(event.position), echo=event.echo, lease_ms=event.lease_ms)
            return "bookmark", m.SerializeToString()
        case Change():
            return "change", change(event).SerializeToString()
        case LeaseLost():
            m = pb.LeaseEnded(
                key=event.key, lease_id=event.lease, cause=wire.CAUSES[event.cause], sequence=event.sequence
            )
            return "lease_ended", m.SerializeToString()
        case Pushed():
            return "pushed", event.body
        case LeaseOffered():
            m = pb.LeaseOffered(
                key=event.key,
                by=event.by,
                by_name=event.by_name,
                agent=event.agent,
                remaining_ms=event.ttl_ms,
                sequence=event.sequence,
            )
            return "lease_offered", m.SerializeToString()
        case PolicyChanged():
            return "policy_changed", pb.PolicyChanged(key=event.key, sequence=event.sequence).SerializeToString()
        case SessionOver():
            return "session_ended", pb.SessionEnded(error=wire.error(event.denial)).SerializeToString()
        case Resync():
            return "resync", pb.Resync(position=wire.position(event.position)).SerializeToString()
    raise TypeError(f"no frame for {type(event).__name__}")


def _invalidation(event: Invalidation) -> bytes:
    m = pb.Invalidation(key=event.key, fence=event.fence, sequence=event.sequence, by=event.by)
    if event.deleted:
        m.deleted = True
    if event.prepared:
        m.prepared = True
    if event.trace:
        m.traceparent = event.trace
    wire.set_version(m.version, event.version)
    return m.SerializeToString()


def event(session: int, item: DeliveryEvent) -> bytes:
    """An event as a piece of a frame. The body of an invalidation is encoded once for all sessions and streams."""
    if type(item) is Invalidation:
        body = item.body
        if not body:
            body = item.body = _invalidation(item)
        return _item(session, "invalidation", body)
    return _item(session, *_body(item))


def join(pieces: Iterable[bytes], number: int) -> bytes:
    """A whole frame: a serialised `SessionResponse`, the stream's `number`th."""
    return b"".join((*pieces, _FRAME_NUMBER, _number(number)))
