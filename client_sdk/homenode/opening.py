"""From an address to a session: links are shared, and nothing survives a fork."""

from __future__ import annotations

import asyncio
import os
import random
import weakref
from dataclasses import dataclass
from typing import Any

from homenode.cache import Cache
from homenode.clock import Clock, boot_clock
from homenode.core import Core
from homenode.errors import InvalidArgument
from homenode.link import Link
from homenode.session import Phase, Session
from homenode.transport import Target, Transport, parse


@dataclass(frozen=True, slots=True)
class Settings:
    """How to connect.

    Attributes:
        timeout_ms: for each request that names no other, and for connecting.
        session_ttl_ms: how long the session outlives a lost connection; 0: the server's default.
        cache_bytes: most bytes of content kept in this process for the session.
        credentials: grpc.ChannelCredentials for TLS; None: plain text.
        transport: a way to the directory of the caller's own; the address then only names the workspace.
        clock: nanoseconds; see `clock`.
        seed: of the jitter; None: from the system.
    """

    timeout_ms: int = 10_000
    session_ttl_ms: int = 0
    cache_bytes: int = 64 << 20
    credentials: Any = None
    transport: Transport | None = None
    clock: Clock | None = None
    seed: int | None = None


_links: dict[tuple[int, object, int], Link] = {}
_live: weakref.WeakSet[Core] = weakref.WeakSet()


async def open_core(url: str, agent: str, settings: Settings) -> Core:
    """A session at the directory that `url` names. Raises HomenodeError."""
    target = parse(url)
    if not agent or len(agent.encode()) > 128:
        raise InvalidArgument("an agent's name has 1 to 128 bytes")
    link, shared = await _link(target, settings)
    cache = Cache(bytes_max=settings.cache_bytes)
    session = Session(
        link,
        cache,
        workspace=target.workspace,
        name=agent,
        ttl_ms=settings.session_ttl_ms,
        timeout_ms=settings.timeout_ms,
    )
    link.users += 1
    core = Core(session, cache)
    _live.add(core)
    try:
        await session.open(settings.timeout_ms)
    except BaseException:
        await _leave(link, shared)
        raise
    core.link_key = shared
    return core


async def close_core(core: Core) -> None:
    """End the session, and the link when nobody else uses it."""
    if core.session.phase is Phase.CLOSED:
        return
    await core.session.close()
    await _leave(core.session.link, core.link_key)


async def _leave(link: Link, shared: tuple[int, object, int] | None) -> None:
    link.users -= 1
    if link.users <= 0:
        if shared is not None and _links.get(shared) is link:
            del _links[shared]
        await link.close()


async def _link(target: Target, settings: Settings) -> tuple[Link, tuple[int, object, int] | None]:
    """The link to a directory: one for each event loop and target, unless the caller brings clock or transport."""
    clock = settings.clock or boot_clock()
    rng = random.Random(settings.seed)
    if settings.transport is not None:
        return Link(settings.transport, clock=clock, rng=rng), None
    place: object = target.hosts or os.path.abspath(target.path) if target.path or target.hosts else ""
    key = (id(asyncio.get_running_loop()), place, id(settings.credentials))
    link = _links.get(key) if settings.clock is None else None
    if link is None or link.closed:
        link = Link(await _transport(target, settings, rng), clock=clock, rng=rng)
        if settings.clock is None:
            other = _links.get(key)
            if other is not None and not other.closed:  # somebody was faster while we waited
                await link.close()
                return other, key
            _links[key] = link
            return link, key
        return link, None
    return link, key


async def _transport(target: Target, settings: Settings, rng: random.Random) -> Transport:
    if target.embedded:
        from homenode.embedded import EmbeddedTransport

        return await EmbeddedTransport.open(target.path)
    from homenode.grpc_transport import GrpcTransport

    return GrpcTransport(target.hosts, credentials=settings.credentials, first=rng.randrange(len(target.hosts)))


def _after_fork() -> None:
    """The child has the parent's memory but not its connection, nor its loop: no permission may be used there."""
    for core in list(_live):
        core.session.phase = Phase.CLOSED
        core.cache.freshness.close()
        core.cache.drop_all()
    _links.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
