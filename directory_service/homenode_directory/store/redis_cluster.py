"""A store in a Redis Cluster: each slice's keys share a hash tag, so a slice lies on one node.

A node of the cluster is a `RedisStore` of its own; this sends each call to the node of its slice. Where a slice lies is
asked for anew after every failure: a refusal (`MOVED`, `ASK`, `TRYAGAIN`, `CLUSTERDOWN`) has applied nothing, and
whoever called tries again as after any failure of a store. A slice that moves to another node meets another `run_id`
there, which is a new incarnation, as a failover is.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from redis.crc import key_slot

from homenode_directory.store.base import (
    Commit,
    Condition,
    Incarnation,
    LogTrimmed,
    Outcome,
    StoreChanged,
    StoreError,
    StoreFull,
)
from homenode_directory.store.memory_store import DEFAULT_SLICES
from homenode_directory.store.redis_store import RedisStore

CLUSTER = "+cluster"
DEFAULT_PORT = 6_379
REFRESH_S = 0.1  # at most so often

Address = tuple[str, int]
T = TypeVar("T")


class ClusterStore:
    """A client of a store in a cluster. `options` are those of `RedisStore`."""

    shared = True

    def __init__(self, url: str, **options: Any) -> None:
        """Raises ValueError, or StoreError for an option that a cluster does not have."""
        if options.get("wait_replicas"):
            raise StoreError("commits to a cluster cannot wait for replicas yet")
        self._parts = urlsplit(url)
        self._user, self._at_sign, hosts = self._parts.netloc.rpartition("@")
        if not hosts or self._parts.path.strip("/") not in ("", "0"):
            raise ValueError("say redis+cluster://HOST:PORT,HOST:PORT")
        self._seeds = [_address(host) for host in hosts.split(",")]
        self._options = options
        self._name: str = options.get("name", "hn")
        self._origin = secrets.token_hex(8)
        self._nodes: dict[Address, _Node] = {}
        self._ranges: list[tuple[int, int, Address]] = []  # of slots
        self._lock = asyncio.Lock()
        self._refreshed_at = 0.0
        self._closed = False
        self.slices: int = options.get("slices", DEFAULT_SLICES)
        self._node(self._seeds[0])  # what is wrong with the address shows now

    async def open(self) -> None:
        """See `Store.open`."""
        await self._refresh()
        home = await self._home()
        await home.join_cluster()
        self.slices = home.slices
        for node in self._nodes.values():
            node.slices = self.slices

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        for node in self._nodes.values():
            await node.close()

    # --- calls for one slice ------------------------------------------------------------------------------------

    async def adopt(self, slice_: int, at_least: int) -> Incarnation:
        """See `Store.adopt`."""
        shared = await self._guarded(self._shared_slices())
        if shared != self.slices:
            raise StoreError("the store was made anew with another number of slices; open it again")
        return await self._on(slice_, lambda node: node.adopt(slice_, at_least))

    async def commit(
        self,
        slice_: int,
        incarnation: str,
        commits: Sequence[Commit],
        *,
        relief: bool = False,
        blobs: Sequence[tuple[str, bytes]] = (),
    ) -> list[Outcome]:
        """See `Store.commit`."""
        return await self._on(
            slice_, lambda node: node.commit(slice_, incarnation, commits, relief=relief, blobs=blobs)
        )

    async def load(self, slice_: int, keys: Sequence[str], names: Sequence[str] = ()) -> list[Mapping[str, str]]:
        """See `Store.load`."""
        return await self._on(slice_, lambda node: node.load(slice_, keys, names))

    async def ranked(self, slice_: int, key: str) -> Mapping[str, int]:
        """See `Store.ranked`."""
        return await self._on(slice_, lambda node: node.ranked(slice_, key))

    async def by_prefix(self, slice_: int, key: str, prefix: str, after: str, limit: int) -> list[str]:
        """See `Store.by_prefix`."""
        return await self._on(slice_, lambda node: node.by_prefix(slice_, key, prefix, after, limit))

    async def by_score(self, slice_: int, key: str, limit: int) -> tuple[list[tuple[str, int]], int]:
        """See `Store.by_score`."""
        return await self._on(slice_, lambda node: node.by_score(slice_, key, limit))

    async def read_log(
        self, slice_: int, after: int, limit: int, *, incarnation: str | None = None
    ) -> tuple[list[tuple[int, bytes]], int]:
        """See `Store.read_log`."""
        return await self._on(slice_, lambda node: node.read_log(slice_, after, limit, incarnation=incarnation))

    async def trim_log(self, slice_: int, keep_from: int) -> None:
        """See `Store.trim_log`."""
        await self._on(slice_, lambda node: node.trim_log(slice_, keep_from))

    async def put_blobs(self, slice_: int, blobs: Sequence[tuple[str, bytes]]) -> None:
        """See `Store.put_blobs`."""
        await self._on(slice_, lambda node: node.put_blobs(slice_, blobs))

    async def get_blob(self, slice_: int, key: str) -> bytes | None:
        """See `Store.get_blob`."""
        return await self._on(slice_, lambda node: node.get_blob(slice_, key))

    # --- calls for all ------------------------------------------------------------------------------------------

    async def heads(self, slices: Mapping[int, str]) -> Mapping[int, int | None]:
        """See `Store.heads`: one round trip to each node, at the same time."""
        by_node: dict[Address, dict[int, str]] = {}
        for slice_, token in slices.items():
            by_node.setdefault(self._address_of(self._tag(slice_)), {})[slice_] = token
        found: dict[int, int | None] = {}
        for heads in await asyncio.gather(*(self._guarded(self._heads(at, own)) for at, own in by_node.items())):
            found.update(heads)
        return found

    async def _heads(self, address: Address, slices: Mapping[int, str]) -> Mapping[int, int | None]:
        return await (await self._ready(address)).heads(slices)

    async def hints(self) -> AsyncIterator[tuple[int, int]]:
        """See `Store.hints`. Every node hears what is published at any of them."""
        node = await self._ready(random.choice(self._primaries or self._seeds))
        async for hint in node.hints():
            yield hint

    async def weakness(self) -> str:
        """See `Store.weakness`."""
        for address in self._primaries:
            weak = await (await self._ready(address)).weakness()
            if weak:
                return weak
        return ""

    async def condition(self) -> Condition:
        """See `Store.condition`: of all primaries together. There is a limit where each has one."""
        found = [await (await self._ready(address)).condition() for address in self._primaries]
        limits = [one.memory_limit_bytes for one in found]
        return Condition(
            sum(one.memory_bytes for one in found),
            sum(limits) if all(limits) else 0,
            all(one.persistence_ok for one in found),
            sum(one.replicas for one in found),
        )

    async def now_ms(self) -> int:
        """See `Store.now_ms`."""
        return await (await self._home()).now_ms()

    # --- nodes --------------------------------------------------------------------------------------------------

    @property
    def _primaries(self) -> list[Address]:
        return list(dict.fromkeys(address for _, _, address in self._ranges))

    def _node(self, address: Address) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            netloc = f"{self._user}{self._at_sign}{f'[{host}]' if ':' in host else host}:{port}"
            scheme = self._parts.scheme.removesuffix(CLUSTER)
            url = urlunsplit(self._parts._replace(scheme=scheme, netloc=netloc, path=""))
            node = _Node(url, always_hint=True, **self._options)
            node.origin, node.slices = self._origin, self.slices
            self._nodes[address] = node
        return node

    async def _ready(self, address: Address) -> _Node:
        node = self._node(address)
        if not node.prepared:
            await node.prepare()
            node.prepared = True
        return node

    def _tag(self, slice_: int) -> str:
        return f"{{{self._name}:{slice_}}}"

    def _address_of(self, key: str) -> Address:
        slot = key_slot(key.encode())
        for first, last, address in self._ranges:
            if first <= slot <= last:
                return address
        raise StoreError("no node of the cluster has the slot; nothing was sent")

    async def _home(self) -> _Node:
        """The node of what all slices share."""
        return await self._ready(self._address_of(f"{self._name}#store"))

    async def _shared_slices(self) -> int:
        return await (await self._home()).fix_slices()

    async def _on(self, slice_: int, call: Callable[[_Node], Awaitable[T]]) -> T:
        async def run() -> T:
            return await call(await self._ready(self._address_of(self._tag(slice_))))

        return await self._guarded(run())

    async def _guarded(self, call: Awaitable[T]) -> T:
        """A failure may mean that the slots are elsewhere now: look before anybody tries again."""
        try:
            return await call
        except (StoreChanged, StoreFull, LogTrimmed):
            raise
        except StoreError:
            if not self._closed:
                await self._refresh()
            raise

    async def _refresh(self) -> None:
        """Ask where the slots are. Raises StoreError where no node says."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._ranges and now - self._refreshed_at < REFRESH_S:
                return
            failure: StoreError | None = None
            primaries = self._primaries
            random.shuffle(primaries)  # one of them may know less than the others
            for address in dict.fromkeys([*primaries, *self._seeds]):
                try:
                    self._ranges = await self._node(address).slots(address[0])
                except StoreError as error:
                    failure = error
                    continue
                self._refreshed_at = asyncio.get_running_loop().time()
                for gone in self._nodes.keys() - {*self._primaries, *self._seeds}:
                    await self._nodes.pop(gone).close()
                return
            raise failure or StoreError("the cluster has no nodes")


class _Node(RedisStore):
    """A node. What all slices share lies on one of them, which the cluster's store asks."""

    prepared = False

    async def join_cluster(self) -> None:
        """`join`, on the node where that is."""
        await self.join()
        self.slices = await self.fix_slices()

    async def fix_slices(self) -> int:
        """How many slices the store has, on the node where that is."""
        return await super()._fix_slices()

    async def _fix_slices(self) -> int:
        return self.slices  # the cluster's store has looked

    async def slots(self, asked: str) -> list[tuple[int, int, Address]]:
        """Which node has which slots; one that does not say its host has the one that was `asked`."""
        rows = (await self._links.call(("CLUSTER", "SLOTS")))[0]
        return [(first, last, (node[0].decode() or asked, int(node[1]))) for first, last, node, *_ in rows]


def _address(host: str) -> Address:
    name, separator, port = host.rpartition(":")
    if not separator or not port.isdecimal():
        return host.strip("[]"), DEFAULT_PORT
    return name.strip("[]"), int(port)
