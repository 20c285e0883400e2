"""Answers that hold many artifacts or versions, cut to what a frame should carry."""

from __future__ import annotations

from collections.abc import Iterable

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import wire
from homenode_directory.directory import Listing, VersionRecord

PAGE_BYTES_MAX = 512 * 1024


def list_response(listing: Listing) -> pb.ListResponse:
    """A page of artifacts, cut where it grows too large for a frame."""
    m = pb.ListResponse(more=listing.more, as_of=wire.position(listing.as_of))
    size = 0
    for stat in listing.stats:
        one = wire.stat_response(stat)
        size += one.ByteSize()
        if size > PAGE_BYTES_MAX and m.artifacts:
            m.more = True
            break
        m.artifacts.append(one)
    return m


def history_response(records: Iterable[VersionRecord]) -> pb.HistoryResponse:
    """The retained versions, newest first, as far as they fit in a frame."""
    m = pb.HistoryResponse()
    size = 0
    for record in records:
        one = pb.HistoryEntry(
            version=wire.version(record.version), committed_at_ms=record.committed_ms, by=record.session
        )
        if record.content is None:
            one.deleted = True
        else:
            one.hash, one.size = bytes.fromhex(record.content.hash), record.content.size
            if record.content.metadata:
                one.metadata.CopyFrom(wire.metadata(record.content.metadata))
        size += one.ByteSize()
        if size > PAGE_BYTES_MAX and m.versions:
            break
        m.versions.append(one)
    return m
