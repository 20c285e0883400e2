"""From an address to a session: links are shared, and nothing survives a fork."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from homenode.cache import Cache
from homenode.clock import Clock, boot_clock
from homenode.core import Core
from homenode.errors import InvalidArgument
from homenode.link import Link
from homenode.requests import Phase
from homenode.session import Session
from homenode.transport import Target, Transport, parse

if TYPE_CHECKING:
    from homenode.traces import Spans


@dataclass(frozen=True, slots=True)
class Settings:
    """How to connect.

    Attributes:
        timeout_ms: for each request that names no other, and for connecting.
        session_ttl_ms: how long the session outlives a lost connection; 0: the server's default.
        cache_bytes: most bytes of content kept in this process for the session.
        credentials: ssl.SSLContext for TLS; None: plain text.
        transport: a way to the directory of the caller's own; the address then only names the workspace.
        clock: nanoseconds; see `clock`.
        seed: of the jitter; None: from the system.
        otlp_endpoint: collector that gets spans of what this process asks (see `traces`), http://host:4317;
            "": HOMENODE_OTLP_ENDPOINT's. An application with OpenTelemetry set up needs none.
        record: a file, or a folder, in which every operation is written down (see `history`); "": HOMENODE_RECORD's.
    """

    timeout_ms: int = 10_000
    session_ttl_ms: int = 0
    cache_bytes: int = 64 << 20
    credentials: ssl.SSLContext | None = None
    transport: Transport | None = None
    clock: Clock | None = None
    seed: int | None = None
    record: str = ""
    otlp_endpoint: str = ""


AGENT_BYTES_MAX = 128

#: Event loop, directory, credentials.
LinkKey = tuple[int, object, int]

_links: dict[LinkKey, Link] = {}
_locks: weakref.WeakValueDictionary[LinkKey, asyncio.Lock] = weakref.WeakValueDictionary()
_live: weakref.WeakSet[Core] = weakref.WeakSet()


async def open_core(url: str, agent: str, settings: Settings) -> Core:
    """A session at the directory that `url` names. Raises HomenodeError."""
    target = parse(url)
    if not agent or len(agent.encode("utf-8", "replace")) > AGENT_BYTES_MAX:
        raise InvalidArgument(f"an agent's name has 1 to {AGENT_BYTES_MAX} bytes")
    link, key = await _enter(target, settings)
    try:
        cache = Cache(bytes_max=settings.cache_bytes)
        session = Session(
            link,
            cache,
            workspace=target.workspace,
            name=agent,
            ttl_ms=settings.session_ttl_ms,
            timeout_ms=settings.timeout_ms,
        )
        session.spans = _spans(settings.otlp_endpoint)
        core = Core(session, cache)
        core.link_key, core.credentials = key, settings.credentials
        _live.add(core)
        await session.open(settings.timeout_ms)
    except BaseException:
        await _leave(link, key)
        raise
    return core


def _spans(endpoint: str) -> Spans | None:
    """Where nobody wants traces, nothing of them is even loaded."""
    if endpoint or os.environ.get("HOMENODE_OTLP_ENDPOINT") or "opentelemetry.sdk.trace" in sys.modules:
        from homenode.traces import spans

        return spans(endpoint)
    return None


async def close_core(core: Core) -> None:
    """End the session, and the link when nobody else uses it."""
    if core.session.phase is Phase.CLOSED:
        return
    try:
        await core.close_workers()
        await core.session.close()
    finally:
        await _leave(core.session.link, core.link_key)


async def _enter(target: Target, settings: Settings) -> tuple[Link, LinkKey | None]:
    """The link to a directory: one for each event loop and target, unless the caller brings clock or transport."""
    clock, rng = settings.clock or boot_clock(), random.Random(settings.seed)
    if settings.transport is not None or settings.clock is not None:
        transport = settings.transport or await _transport(target, settings, clock, rng)
        return Link(transport, clock=clock, rng=rng), None
    place: object = target.hosts or (os.path.abspath(target.path) if target.path else "")
    key = (id(asyncio.get_running_loop()), place, id(settings.credentials))
    async with _lock(key):
        found = _links.get(key)
        if found is None:
            found = _links[key] = Link(await _transport(target, settings, clock, rng), clock=clock, rng=rng)
        found.users += 1
        return found, key


async def _leave(link: Link, key: LinkKey | None) -> None:
    if key is None:
        await link.close()
        return
    async with _lock(key):  # whoever opens it again waits until it is closed
        link.users -= 1
        if link.users <= 0:
            _links.pop(key, None)
            await link.close()


def _lock(key: LinkKey) -> asyncio.Lock:
    lock = _locks.get(key)
    if lock is None:
        lock = _locks[key] = asyncio.Lock()
    return lock


async def _transport(target: Target, settings: Settings, clock: Clock, rng: random.Random) -> Transport:
    if target.embedded:
        from homenode.embedded import EmbeddedTransport

        return await EmbeddedTransport.open(target.path)
    from homenode.grpc_transport import GrpcTransport

    return GrpcTransport(target.hosts, credentials=settings.credentials, clock=clock, rng=rng)


def _after_fork() -> None:
    """The child has the parent's memory but not its connection, nor its loop: no permission may be used there."""
    for core in list(_live):
        core.session.phase = Phase.CLOSED
        core.cache.freshness.close()
        core.cache.drop_all()
    _links.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
