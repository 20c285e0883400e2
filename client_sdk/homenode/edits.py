"""Read, modify, write, until it holds."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from homenode.artifact import Artifact
from homenode.clock import NS_PER_MS
from homenode.errors import (
    Contended,
    DeadlineExceeded,
    HomenodeError,
    InvalidArgument,
    LeaseDenied,
    LeaseLost,
    VersionConflict,
)
from homenode.reads import NO_DEFAULT
from homenode.values import JSON_TYPE, Value, encode, encode_json
from homenode.versions import ABSENT

if TYPE_CHECKING:
    from homenode.client import Homenode
    from homenode.view import View

ATTEMPTS = 64
#: How long an artifact that others were editing too is edited under the write lease, in turn with them. Trying without
#: a lease first would make each of them a sharer of every version, whom every commit has to tell.
BUSY_NS = 1_000 * NS_PER_MS
QUEUE_MS = 10_000
WAIT_S = (0.002, 0.5)


async def edit(
    hn: Homenode,
    view: View,
    key: str,
    fn: Callable[[Any], Any],
    *,
    kind: str,
    default: Value,
    attempts: int,
    timeout_ms: int | None,
) -> Artifact:
    """See `Homenode.edit`."""
    if kind not in ("text", "bytes", "json") or attempts < 1:
        raise InvalidArgument(f"kind is text, bytes or json, not {kind!r}; attempts are 1 or more")
    if default is not NO_DEFAULT:
        default = _as_bytes(default, kind)
    total_ms = hn.timeout_ms if timeout_ms is None else timeout_ms
    until_ns = hn.clock() + total_ms * NS_PER_MS
    last: HomenodeError | None = None
    for attempt in range(attempts):
        left_ms = max(1, (until_ns - hn.clock()) // NS_PER_MS)
        try:
            in_turn = view.is_busy(key, hn.clock())
            if in_turn:
                return await _in_turn(hn, view, key, fn, kind, default, left_ms)
            return await _compare_and_set(hn, key, fn, kind, default, left_ms)
        except (VersionConflict, LeaseDenied, LeaseLost, Contended) as refusal:  # nothing was written
            last = refusal
            if attempt + 1 >= attempts or hn.clock() >= until_ns:
                raise
            view.found_busy(key, hn.clock() + BUSY_NS)
            if in_turn:  # else the queue is where to wait
                await asyncio.sleep(_wait_s(hn, attempt, getattr(refusal, "retry_after", 0.0)))
        except DeadlineExceeded:
            if last is None:
                raise
            raise last from None  # what kept us so long says more
    raise AssertionError("unreachable")


async def _compare_and_set(
    hn: Homenode, key: str, fn: Callable[[Any], Any], kind: str, default: Value, left_ms: int
) -> Artifact:
    found = await hn.read(key, default=default, timeout_ms=left_ms)
    data = await _edited(fn, kind, found.bytes)
    media_type = JSON_TYPE if kind == "json" else None
    return await hn.put(key, data, base=found.version or ABSENT, media_type=media_type, timeout_ms=left_ms)


async def _in_turn(
    hn: Homenode, view: View, key: str, fn: Callable[[Any], Any], kind: str, default: Any, left_ms: int
) -> Artifact:
    seen = view.version(key)
    create = default is not NO_DEFAULT
    wait_ms = min(left_ms, QUEUE_MS)
    async with hn.write(key, create=create, wait_ms=wait_ms, timeout_ms=left_ms) as draft:
        if draft.version != seen:  # others go on
            view.found_busy(key, hn.clock() + BUSY_NS)
        there = draft.bytes  # looked at, even where there is nothing any more: what this agent saw may be gone
        data = there if draft.version is not None else default
        draft.bytes = await _edited(fn, kind, data)
        if kind == "json":
            draft.media_type = JSON_TYPE
    done = draft.committed or draft.lease.artifact
    assert done is not None
    return done


async def _edited(fn: Callable[[Any], Any], kind: str, data: bytes) -> bytes:
    """What `fn` makes of a content."""
    value = fn(data.decode() if kind == "text" else json.loads(data) if kind == "json" else data)
    if inspect.isawaitable(value):
        value = await value
    return _as_bytes(value, kind)


def _as_bytes(value: Any, kind: str) -> bytes:
    if kind == "json":
        return encode_json(value)
    if not isinstance(value, str if kind == "text" else bytes | bytearray | memoryview):
        raise InvalidArgument(f"an edit of {kind} takes and gives {kind}, not {type(value).__name__}")
    return encode(value)[0]


def _wait_s(hn: Homenode, attempt: int, retry_after_s: float) -> float:
    low, high = WAIT_S
    return min(high, max(low * 2 ** min(attempt, 8), min(retry_after_s, high))) * hn.jitter()
