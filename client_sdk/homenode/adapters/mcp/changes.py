"""Telling MCP clients what changed: one watch of the directory, and whoever subscribed to a resource.

Clients of the protocol of 2026-07-28 open a stream of their own (`subscriptions/listen`, served by the library);
earlier ones subscribe to single resources and are told on their connection. A client that does not read holds up
nobody: what it has not been told yet is kept once for each resource.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from urllib.parse import quote, unquote

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated

from homenode.client import Homenode
from homenode.errors import InvalidArgument, Overloaded
from homenode.watch import Event

_SCHEME = "homenode:///"
SUBSCRIPTIONS_MAX = 4_096
_SEND_S = 10.0
_KNOWN_MAX = 65_536


def uri_of(key: str) -> str:
    """The resource that an artifact is: `homenode:///plan.md`."""
    return _SCHEME + quote(key, safe="/~")


def key_of(uri: str) -> str:
    """The artifact that a resource is. Raises InvalidArgument."""
    key = unquote(uri.removeprefix(_SCHEME))
    if not uri.startswith(_SCHEME) or not key:
        raise InvalidArgument(f"not a resource of this server: {uri!r}; they are named {_SCHEME}NAME")
    return key


class _Subscriber:
    """One connection of the earlier protocol, and what it is still to be told."""

    def __init__(self, session: ServerSession) -> None:
        self.session = session
        self.uris: set[str] = set()
        self.pending: OrderedDict[str, None] = OrderedDict()
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def tell(self) -> None:
        """Until the connection breaks or takes nothing for ten seconds."""
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError):
            while True:
                await self.wake.wait()
                self.wake.clear()
                while self.pending:
                    uri, _ = self.pending.popitem(last=False)
                    async with asyncio.timeout(_SEND_S):
                        await self.session.send_resource_updated(uri)


class Changes:
    """Who is told of what. `bus` is what the library's own handler listens to."""

    def __init__(self, hn: Homenode) -> None:
        self._hn = hn
        self.bus = InMemorySubscriptionBus()
        self._subscribers: dict[int, _Subscriber] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the directory while the block runs."""
        async with self._hn.watch() as events:
            task = asyncio.create_task(self._pump(events))
            try:
                yield
            finally:
                tasks = [task, *(one.task for one in self._subscribers.values() if one.task is not None)]
                for one in tasks:
                    one.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def subscribe(self, ctx: ServerRequestContext, uri: str) -> None:
        """The connection wants to be told of a resource. Raises Overloaded, InvalidArgument."""
        key_of(uri)
        if sum(len(one.uris) for one in self._subscribers.values()) >= SUBSCRIPTIONS_MAX:
            raise Overloaded(f"{SUBSCRIPTIONS_MAX} subscriptions are held here already", retry_after=1.0)
        who = _connection(ctx)
        subscriber = self._subscribers.get(who)
        if subscriber is None:
            subscriber = self._subscribers[who] = _Subscriber(ctx.session)
            subscriber.task = asyncio.create_task(subscriber.tell())
            subscriber.task.add_done_callback(lambda _: self._subscribers.pop(who, None))
        subscriber.uris.add(uri)

    def unsubscribe(self, ctx: ServerRequestContext, uri: str) -> None:
        """Not any more."""
        subscriber = self._subscribers.get(_connection(ctx))
        if subscriber is not None:
            subscriber.uris.discard(uri)
            subscriber.pending.pop(uri, None)
            if not subscriber.uris and subscriber.task is not None:
                subscriber.task.cancel()

    async def _pump(self, events: AsyncIterator[Event]) -> None:
        known: dict[str, None] = {}  # names that were told of; another one may be new
        async for event in events:
            if event.kind == "resync":  # some were missed: everything may have changed
                known.clear()
                told = {uri for one in self._subscribers.values() for uri in one.uris}
                await self.bus.publish(ResourcesListChanged())
            elif event.kind in ("change", "delete"):
                told = {uri_of(event.key)}
                if event.kind == "delete" or event.key not in known:
                    await self.bus.publish(ResourcesListChanged())
                known.pop(event.key, None)
                if event.kind == "change":
                    known[event.key] = None
                    if len(known) > _KNOWN_MAX:
                        del known[next(iter(known))]
            else:
                continue
            for uri in told:
                await self.bus.publish(ResourceUpdated(uri=uri))
                for subscriber in self._subscribers.values():
                    if uri in subscriber.uris:
                        subscriber.pending[uri] = None
                        subscriber.wake.set()


def _connection(ctx: ServerRequestContext) -> int:
    # Sessions are made for each request; what the client said of itself is kept with its connection.
    return id(ctx.session.client_params)
