"""`HomenodeStore`: LangGraph's `BaseStore` on a coherent directory.

Theory of operation
-------------------
An item is an artifact (`paths`, `items`): reads are served from this process while its copy is current, and an update
that another process makes takes the copy away at once. A put is a compare-and-set against the version that the calling
node saw last (`views`), so of two nodes that read the same version and both put, the second is refused with
VersionConflict, or merged by the caller's function. A node that puts without having looked overwrites, as BaseStore
defines it, unless the store was told to refuse that.

All work happens in the SDK's background loop, whatever thread or loop the graph runs in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)

import homenode
from homenode.adapters.langgraph.filters import matches
from homenode.adapters.langgraph.items import Found, created_at, metadata_of
from homenode.adapters.langgraph.paths import folder_of, item_of, name_of
from homenode.adapters.langgraph.semantic import Semantic
from homenode.adapters.langgraph.views import Node, Views, node_of_run
from homenode.artifact import Artifact
from homenode.change import Change
from homenode.client import Homenode
from homenode.errors import AlreadyExists, InvalidArgument, NotFound, Stale, TooLarge, Unsupported, VersionConflict
from homenode.sync import SyncHomenode, connect_sync
from homenode.versions import Version

#: (what the node had read, or None if that is not retained; what is there now; what the node puts) -> what is written.
Merge = Callable[[dict[str, Any] | None, dict[str, Any], dict[str, Any]], Mapping[str, Any]]

#: How often a put is tried again when others are faster each time.
ATTEMPTS = 32
#: The longest that one who lost waits before it tries again; at first it is a fiftieth of that.
_BACKOFF_S = 0.1
#: Items that one search with a query may rank, and names that one listing of namespaces may look at.
SCAN_MAX = 100_000
_PAGE = 256
#: A read within this share of an item's time to live does not prolong it again.
_TOUCH_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class _Query:
    """A search whose candidates are read, and still to be ranked by the caller's embeddings."""

    op: SearchOp
    found: list[Found]


class HomenodeStore(BaseStore):
    """A store that graphs in several threads, processes and hosts share.

    Args:
        connection: a URL as for `homenode.connect_sync`, or a connection that exists (it is then not closed here).
        prefix: what the names of the items' artifacts begin with.
        index: for `search(query=…)`: LangGraph's own configuration of an embedding function.
        ttl: LangGraph's own configuration of times to live. What has expired is not returned; it is deleted by
            `sweep_ttl`, and every `sweep_interval_minutes` where that is set.
        merge: makes one value of two when an item has changed since the node read it; without it VersionConflict is
            raised. It may run several times.
        blind: what a put does where the node has not looked: "overwrite", or "refuse" with AlreadyExists.
        agent: the name that the directory shows.
    """

    supports_ttl = True
    __slots__ = (
        "_blind",
        "_merge",
        "_own",
        "_prefix",
        "_semantic",
        "_sweeper",
        "_touched",
        "_views",
        "connection",
        "ttl_config",
    )

    def __init__(
        self,
        connection: str | SyncHomenode,
        *,
        prefix: str = "store/",
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        merge: Merge | None = None,
        blind: Literal["overwrite", "refuse"] = "overwrite",
        agent: str = "langgraph",
    ) -> None:
        if not prefix.endswith("/"):
            raise InvalidArgument(f"the prefix of a store ends with a slash, unlike {prefix!r}")
        if blind not in ("overwrite", "refuse"):
            raise InvalidArgument(f"blind is overwrite or refuse, not {blind!r}")
        self._prefix = prefix
        self._touched = prefix[:-1] + ".touched/"
        self._semantic = Semantic(index) if index else None
        self.ttl_config = ttl
        self._merge = merge
        self._blind = blind
        self._views = Views()
        self._own = isinstance(connection, str)
        self.connection = connect_sync(connection, agent=agent) if isinstance(connection, str) else connection
        self._sweeper: asyncio.Task[None] | None = None
        if ttl and ttl.get("sweep_interval_minutes"):
            self.connection.run(self._start_sweeper)

    # --- LangGraph's interface ----------------------------------------------------------------------------------------

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Reads first, then puts, the last of those that name the same item; see `BaseStore.batch`.

        Each put stands for itself: where one is refused, its error is raised after the others were done.
        """
        wanted, node = list(ops), node_of_run()
        if (hit := self._hit(wanted, node)) is not None:
            return [hit]
        results = self.connection.run(lambda hn: self._apply(hn, wanted, node))
        return [self._rank(one) if isinstance(one, _Query) else one for one in results]

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As `batch`, from any event loop."""
        wanted, node = list(ops), node_of_run()
        if (hit := self._hit(wanted, node)) is not None:
            return [hit]
        results = await self.connection.arun(lambda hn: self._apply(hn, wanted, node))
        return [await self._arank(one) if isinstance(one, _Query) else one for one in results]

    # --- beyond it ----------------------------------------------------------------------------------------------------

    def changes(self, namespace: tuple[str, ...], key: str) -> Change:
        """What changed in an item since the calling node saw it last: unchanged, a textual change, or all of it.

        The text is JSON. The node has then seen the present version. Raises NotFound.
        """
        node = node_of_run()
        return self.connection.run(lambda hn: self._changes(hn, name_of(self._prefix, namespace, key), node))

    async def achanges(self, namespace: tuple[str, ...], key: str) -> Change:
        """As `changes`, from any event loop."""
        node = node_of_run()
        return await self.connection.arun(lambda hn: self._changes(hn, name_of(self._prefix, namespace, key), node))

    def sweep_ttl(self) -> int:
        """Delete the items whose time is over; returns how many those were."""
        return self.connection.run(self._sweep)

    def close(self) -> None:
        """Stop sweeping, and close the connection if it was made here."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            self.connection.run(lambda _: _cancelled(sweeper))
        if self._own:
            self.connection.close()

    def __enter__(self) -> HomenodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _hit(self, ops: Sequence[Op], node: Node) -> Item | None:
        """The one item that is asked for, if it may be served from here: no loop is entered."""
        if len(ops) != 1 or not isinstance(ops[0], GetOp):
            return None
        artifact = self.connection.hot(name_of(self._prefix, ops[0].namespace, ops[0].key))
        if artifact is None:
            return None
        found = Found.of(ops[0].namespace, ops[0].key, artifact)
        if found.ttl_ms:
            return None
        self._views.saw(node, artifact.key, artifact)
        return found.item

    async def _apply(self, hn: Homenode, ops: Sequence[Op], node: Node) -> list[Any]:
        reads = [self._read(hn, op, node) for op in ops if not isinstance(op, PutOp)]
        answers = iter(await asyncio.gather(*reads))
        results = [None if isinstance(op, PutOp) else next(answers) for op in ops]
        puts = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        ended = await asyncio.gather(*(self._put(hn, op, node) for op in puts.values()), return_exceptions=True)
        for failure in ended:
            if isinstance(failure, BaseException):
                raise failure
        return results

    async def _read(self, hn: Homenode, op: Op, node: Node) -> Any:
        if isinstance(op, GetOp):
            found = await self._get(hn, op.namespace, op.key, node, op.refresh_ttl)
            return found.item if found is not None else None
        if isinstance(op, SearchOp):
            return await self._search(hn, op, node)
        if isinstance(op, ListNamespacesOp):
            return await self._namespaces(hn, op)
        raise InvalidArgument(f"not an operation of a store: {op!r}")

    async def _get(self, hn: Homenode, namespace: tuple[str, ...], key: str, node: Node, refresh: bool) -> Found | None:
        name = name_of(self._prefix, namespace, key)
        try:
            artifact = await hn.read(name)
        except NotFound:
            self._views.saw(node, name, None)
            return None
        self._views.saw(node, name, artifact)
        found = Found.of(namespace, key, artifact)
        if found.ttl_ms and not await self._alive(hn, found, refresh):
            return None
        return found

    async def _search(self, hn: Homenode, op: SearchOp, node: Node) -> list[SearchItem] | _Query:
        if op.limit < 0 or op.offset < 0:
            raise InvalidArgument(f"limit and offset are 0 or more, not {op.limit} and {op.offset}")
        if op.query and self._semantic is None:
            raise Unsupported("search(query=…) needs an embedding function: HomenodeStore(…, index={'embed': …})")
        most = SCAN_MAX if op.query else op.offset + op.limit
        found: list[Found] = []
        async for page in self._pages(hn, folder_of(self._prefix, op.namespace_prefix)):
            places = [item_of(self._prefix, name) for name in page]
            read = await asyncio.gather(*(self._get(hn, *place, node, op.refresh_ttl) for place in places))
            found += [one for one in read if one is not None and matches(one.value, op.filter)]
            if len(found) >= most:
                break
        if not op.query:
            return [one.ranked(None) for one in found[op.offset : most]]
        return _Query(op, found)

    def _rank(self, query: _Query) -> list[SearchItem]:
        assert self._semantic is not None and query.op.query
        ranked = self._semantic.rank(query.op.query, query.found)
        return ranked[query.op.offset : query.op.offset + query.op.limit]

    async def _arank(self, query: _Query) -> list[SearchItem]:
        assert self._semantic is not None and query.op.query
        ranked = await self._semantic.arank(query.op.query, query.found)
        return ranked[query.op.offset : query.op.offset + query.op.limit]

    async def _namespaces(self, hn: Homenode, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        folder = next((_literal(c) for c in conditions if c.match_type == "prefix"), ())
        found: set[tuple[str, ...]] = set()
        async for page in self._pages(hn, folder_of(self._prefix, folder)):
            found |= {item_of(self._prefix, name)[0] for name in page}
        kept = {ns[: op.max_depth] for ns in found if all(_fits(condition, ns) for condition in conditions)}
        return sorted(kept)[op.offset : op.offset + op.limit]

    async def _pages(self, hn: Homenode, folder: str) -> AsyncIterator[list[str]]:
        """The names under a folder, by name, a page at a time."""
        after, count = "", 0
        while stats := await hn.list(folder, limit=_PAGE, after=after):
            yield [stat.key for stat in stats]
            after, count = stats[-1].key, count + len(stats)
            if len(stats) < _PAGE:
                break
            if count >= SCAN_MAX:
                raise TooLarge(f"more than {SCAN_MAX} items under {folder!r}: name a longer namespace")

    async def _changes(self, hn: Homenode, name: str, node: Node) -> Change:
        try:
            since = self._views.seen(node, name)
        except KeyError:
            since = None
        artifact = await hn.read(name, since=since) if since is not None else await hn.read(name)
        self._views.saw(node, name, artifact)
        if artifact.change is not None:
            return artifact.change
        tokens = homenode.estimate_tokens(artifact.text)
        return Change(homenode.ChangeKind.FULL, artifact.text, tokens, tokens)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _put(self, hn: Homenode, op: PutOp, node: Node) -> None:
        name = name_of(self._prefix, op.namespace, op.key)
        try:
            seen, looked = self._views.seen(node, name), True
        except KeyError:
            seen, looked = None, False
        if op.value is None:
            await self._delete(hn, name, seen, node)
            return
        value = dict(op.value)
        if looked or self._blind == "refuse":
            artifact = await self._put_over(hn, name, seen, value, op)
        else:
            artifact = await self._overwrite(hn, name, value, op)
        self._views.saw(node, name, artifact)

    async def _put_over(
        self, hn: Homenode, name: str, seen: Version | None, mine: dict[str, Any], op: PutOp
    ) -> Artifact:
        """Replace the version that the node saw, or merge with what has replaced it since."""
        merge = self._merge

        async def put(attempt: int) -> Artifact:
            if not attempt:
                old = await _present(hn, name) if seen is not None else None
                return await self._commit(hn, name, mine, seen, old, op)
            now = await _present(hn, name)
            if now is None or merge is None:
                return await self._commit(hn, name, mine, None, None, op)
            before = await self._before(hn, name, seen)
            value = dict(await asyncio.to_thread(merge, before, Found.of((), name, now).value, mine))
            return await self._commit(hn, name, value, now.version, now, op)

        return await (put(0) if merge is None else _repeated(hn, put))

    async def _before(self, hn: Homenode, name: str, version: Version | None) -> dict[str, Any] | None:
        if version is None:
            return None
        kept = self._views.content(name, version)
        try:
            return Found.of((), name, kept or await hn.read(name, version=version)).value
        except (NotFound, Stale):
            return None

    async def _overwrite(self, hn: Homenode, name: str, value: dict[str, Any], op: PutOp) -> Artifact:
        async def put(attempt: int) -> Artifact:
            old = await _present(hn, name)
            return await self._commit(hn, name, value, old.version if old is not None else None, old, op)

        return await _repeated(hn, put)

    async def _commit(
        self, hn: Homenode, name: str, value: dict[str, Any], base: Version | None, old: Artifact | None, op: PutOp
    ) -> Artifact:
        told = metadata_of(created_at(old) if old is not None else None, op.index, op.ttl)
        return await hn.put(name, value, base=base or homenode.ABSENT, metadata=told, tags=())

    async def _delete(self, hn: Homenode, name: str, seen: Version | None, node: Node) -> None:
        try:
            await hn.delete(name, base=seen or homenode.ANY)
        except NotFound:
            pass
        self._views.saw(node, name, None)

    # --- times to live ------------------------------------------------------------------------------------------------
    # When an item was used last is kept in an artifact of its own: a new version of the item itself would cost every
    # reader its copy, and would make puts conflict that do not.

    async def _alive(self, hn: Homenode, found: Found, refresh: bool) -> bool:
        """Whether the item's time is not over; `refresh` begins it anew."""
        note = self._touched + found.artifact.key[len(self._prefix) :]
        touched = await hn.read(note, default={"ms": 0})
        used_ms = max(found.updated_at.timestamp() * 1000, touched.json["ms"])
        now_ms = int(time.time() * 1000)
        if now_ms >= used_ms + found.ttl_ms:
            return False
        if refresh and now_ms - used_ms > found.ttl_ms * _TOUCH_SHARE:
            await hn.put(note, {"ms": now_ms}, base=homenode.ANY)
        return True

    async def _sweep(self, hn: Homenode) -> int:
        gone = 0
        async for page in self._pages(hn, self._prefix):
            gone += sum(await asyncio.gather(*(self._expire(hn, name) for name in page)))
        return gone

    async def _expire(self, hn: Homenode, name: str) -> bool:
        try:
            found = Found.of(*item_of(self._prefix, name), await hn.read(name))
            if not found.ttl_ms or await self._alive(hn, found, refresh=False):
                return False
            assert found.artifact.version is not None
            await hn.delete(name, base=found.artifact.version)  # one that was put meanwhile lives
        except (NotFound, VersionConflict, InvalidArgument):
            return False
        try:
            await hn.delete(self._touched + name[len(self._prefix) :], base=homenode.ANY)
        except NotFound:
            pass
        return True

    async def _start_sweeper(self, hn: Homenode) -> None:
        assert self.ttl_config is not None
        every_s = 60 * cast(float, self.ttl_config["sweep_interval_minutes"])

        async def sweep() -> None:
            while True:
                await asyncio.sleep(every_s)
                try:
                    await self._sweep(hn)
                except homenode.HomenodeError:
                    continue  # the directory cannot be asked: what has expired is not returned all the same

        self._sweeper = asyncio.create_task(sweep())


async def _present(hn: Homenode, name: str) -> Artifact | None:
    try:
        return await hn.read(name)
    except NotFound:
        return None


async def _stand_back(hn: Homenode, attempt: int) -> None:
    """Others edit the item too: wait for a random time, longer after each lost try."""
    await asyncio.sleep(hn.jitter() * min(_BACKOFF_S, _BACKOFF_S / 50 * 2**attempt))


async def _repeated(hn: Homenode, put: Callable[[int], Awaitable[Artifact]]) -> Artifact:
    """What a put makes, called with the number of the attempt, until it wins its race. Raises what the last one did."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return await put(attempt)
        except (VersionConflict, AlreadyExists):
            await _stand_back(hn, attempt)
    return await put(ATTEMPTS - 1)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _literal(condition: MatchCondition) -> tuple[str, ...]:
    """The labels of a prefix before its first wildcard."""
    path = list(condition.path)
    return tuple(path[: path.index("*")] if "*" in path else path)


def _fits(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    path = tuple(condition.path)
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))
