"""Content that comes by itself, behind the invalidation of what it replaces: kept as the answer to a read would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homenode.artifact import LAZY
from homenode.contents import BodyMissing, decode
from homenode.requests import Phase
from homenode.values import LEVELS, NO_META, Meta
from homenode.versions import position_of, version_of
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t

if TYPE_CHECKING:
    from homenode.core import Core


def keep(core: Core, message: pb.Pushed) -> None:
    """Install a pushed copy, or leave it: then the next read asks.

    It is an answer that nobody waits for, so no request has kept the artifact's floor meanwhile. It is kept only where
    the floor certainly says everything: the last that was heard of the artifact is this very version, or the answer is
    from the end of what has been heard at all.
    """
    session, response, key = core.session, message.read, message.key
    core.cache.shared(key)
    version, as_of = version_of(response.version), position_of(response.as_of)
    if session.phase is not Phase.LIVE or not session.ready or not response.cacheable or as_of < session.fill_from:
        return
    if core.cache.newest(key) != version and as_of < session.position:
        return
    try:
        found = decode(response.content, core.cache.held(key))
    except BodyMissing:  # a patch of what is not at hand any more
        return
    if found is None or not core.cache.may_show(key, version):
        return
    data, came, _ = found
    core.pushed_bytes += came
    core.cache.told(key, strict=response.level == t.CONSISTENCY_STRICT)
    artifact = core.make(
        key,
        version,
        data,
        response.content.hash,
        Meta.of(response.metadata) if response.HasField("metadata") else NO_META,
        committed_at_ms=response.committed_at_ms,
        level=LEVELS.get(response.level, LAZY),
        fetched_ns=core.cache.freshness.confirmed_ns,
    )
    core.keep(artifact, response)
