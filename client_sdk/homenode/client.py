"""`homenode.connect`: what agents read and write with."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from homenode import opening
from homenode.artifact import Artifact
from homenode.change import TokenCounter, estimate_tokens, whole
from homenode.chunking import Source
from homenode.clock import Clock
from homenode.core import Core
from homenode.draft import WriteContext
from homenode.edits import ATTEMPTS, edit
from homenode.errors import AlreadyExists, InvalidArgument
from homenode.generates import Generates
from homenode.large import Progress
from homenode.lease_handle import LeaseContext
from homenode.opening import Settings
from homenode.reads import NO_DEFAULT, Reads
from homenode.streams import OpenContext, Streamable, download, source_of
from homenode.tools import Tools
from homenode.usage import Meter
from homenode.values import (
    Meta,
    Policy,
    Savings,
    Stat,
    Value,
    VersionInfo,
    duration,
    encode,
    meta,
    name,
    policy,
    with_strategy,
)
from homenode.versions import ABSENT, Base, Version
from homenode.view import Counters, View
from homenode.watch import Watch
from homenode_api.v1 import directory_pb2 as pb

AGENTS_MAX = 4_096
LIST_MAX = 100_000
_PAGE = 1_000


class Homenode(Reads, Tools, Generates):
    """A connection, as one agent uses it. Make it with `homenode.connect`.

    All agents of a connection share its session and its cache; each has a view of its own: what it was shown.
    Every method that waits takes `timeout_ms`; without it the connection's own holds.
    """

    # --- writes -------------------------------------------------------------------------------------------------------

    async def put(
        self,
        key: str,
        value: Value,
        *,
        base: Version | Base | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Sequence[str] | None = None,
        media_type: str | None = None,
        timeout_ms: int | None = None,
    ) -> Artifact:
        """Write without a lease, as a compare-and-set.

        Args:
            value: text, bytes or a JSON value; see `upload` for files and streams.
            base: what this replaces: a version, `homenode.ABSENT`, or `homenode.ANY` (overwrite whatever is there).
                Without it: the version that this agent saw last, or ABSENT if it saw none.
            metadata, tags, media_type: what is not said is kept from the version that this agent saw last.

        Returns the artifact as committed. Raises VersionConflict, AlreadyExists, LeaseDenied (somebody holds the write
        lease), Unknown, HomenodeError.
        """
        data, own_type = encode(value)
        return await self._publish(key, data, base, metadata, tags, media_type or own_type or None, timeout_ms)

    async def upload(
        self,
        key: str,
        source: Streamable,
        *,
        base: Version | Base | None = None,
        metadata: Mapping[str, str] | None = None,
        tags: Sequence[str] | None = None,
        media_type: str | None = None,
        timeout_ms: int | None = None,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """Write a content of any size as `put` does, without holding it in memory.

        Args:
            source: the path of a file, a binary file, bytes, or an iterator of bytes, async or not. What can be read
                once only is kept in a temporary file first, since what was cut off has to be sent again.
            timeout_ms: the longest time without progress; it goes on after cuts, and sends only what is missing.
            progress: called with the bytes that are done, and all of them.

        Raises as `put` does, and OSError for a file that cannot be read.
        """
        async with source_of(source, self._core.artifact_max) as body:
            artifact = await self._publish(key, body, base, metadata, tags, media_type, timeout_ms, progress)
            assert artifact.version is not None
            return VersionInfo(
                artifact.version, artifact.hash, body.size, artifact.committed_at_ms, self.session_id, False,
                artifact.metadata, artifact.tags, artifact.media_type,
            )  # fmt: skip

    async def _publish(
        self,
        key: str,
        data: bytes | Source,
        base: Version | Base | None,
        metadata: Mapping[str, str] | None,
        tags: Sequence[str] | None,
        media_type: str | None,
        timeout_ms: int | None,
        progress: Progress | None = None,
    ) -> Artifact:
        seen = self._shown.get(key)
        old = seen.artifact if seen is not None else None
        kept = Meta(old.metadata, old.tags, old.media_type) if old is not None else Meta()
        new_meta = meta(metadata, tags, media_type, kept=kept)
        wanted = self._base(key, base)
        try:
            artifact = await self._core.commit(
                key, data, wanted, new_meta, self._view.counters, timeout_ms=timeout_ms, progress=progress
            )
        except AlreadyExists as refusal:
            if base is not None:
                raise
            hint = f"{key!r} exists and this agent has not read it: read it first, or say base=homenode.ANY"
            raise AlreadyExists(hint, current=refusal.current) from None
        self._view.wrote(artifact)
        return artifact

    def _base(self, key: str, base: Version | Base | None) -> Version | Base:
        if base is None:
            return self._view.version(key) or ABSENT
        if not isinstance(base, Version | Base):
            raise InvalidArgument(f"base is a Version, homenode.ABSENT or homenode.ANY, not {base!r}")
        return base

    async def delete(self, key: str, *, base: Version | Base | None = None, timeout_ms: int | None = None) -> Version:
        """Delete the artifact, as a compare-and-set like `put`; returns the version of the deletion.

        An agent that has not seen the artifact must say `base`. Raises NotFound, VersionConflict, LeaseDenied,
        HomenodeError.
        """
        wanted = self._base(key, base)
        if wanted is ABSENT:
            raise InvalidArgument(f"this agent has not read {key!r}: read it first, or say base=homenode.ANY")
        gone = await self._core.commit(key, None, wanted, Meta(), self._view.counters, timeout_ms=timeout_ms)
        self._view.forget(key)
        assert gone.version is not None
        return gone.version

    async def edit(
        self,
        key: str,
        fn: Callable[[Any], Any | Awaitable[Any]],
        *,
        kind: Literal["text", "bytes", "json"] = "text",
        default: Value = NO_DEFAULT,
        attempts: int = ATTEMPTS,
        timeout_ms: int | None = None,
    ) -> Artifact:
        """Read, modify, write: `fn` is given the content and returns the next one; again when somebody was faster.

        Args:
            fn: a function or coroutine function; it may run several times.
            kind: what `fn` takes and returns: text, bytes, or a JSON value.
            default: given to `fn` when the artifact does not exist; without it that raises NotFound.
            attempts: most tries.

        After a few conflicts the write lease is taken, in turn with others, so that a busy artifact is edited once by
        each and not tried by all. Returns the artifact as committed. Raises VersionConflict or LeaseDenied when tries
        or time run out.
        """
        return await edit(
            self, self._view, key, fn, kind=kind, default=default, attempts=attempts, timeout_ms=timeout_ms
        )

    def write(
        self, key: str, *, create: bool = False, ttl_ms: int = 0, wait_ms: int = 10_000, timeout_ms: int | None = None
    ) -> WriteContext:
        """`async with hn.write(key) as draft:` takes the write lease, commits at the end, releases on an error.

        Args:
            create: the artifact need not exist yet.
            ttl_ms: term of the lease, 1,000 to 60,000; 0: the server's default. It is renewed while the block runs.
            wait_ms: how long to queue behind another writer.

        Raises (on entry) NotFound, LeaseDenied; (on exit) VersionConflict for text written without looking at a
        version that this agent had not seen, LeaseLost and StaleFence with the cause, Unknown.
        """
        return WriteContext(
            self._core,
            self._view,
            key,
            create=create,
            ttl_ms=duration(ttl_ms, "ttl_ms"),
            wait_ms=duration(wait_ms, "wait_ms"),
            timeout_ms=timeout_ms,
        )

    def lease(
        self,
        key: str,
        mode: Literal["read", "write"] = "write",
        *,
        ttl_ms: int = 0,
        wait_ms: int = 0,
        create: bool = False,
        timeout_ms: int | None = None,
    ) -> LeaseContext:
        """A lease to await, or to use in `async with`: `.state .fence .version .remaining_ms`.

        A write lease has `commit(value)`; it is renewed until released. A read lease tells for how long the copy may be
        served from here. Raises NotFound, LeaseDenied, HomenodeError.
        """
        if mode not in ("read", "write"):
            raise InvalidArgument(f"a lease is for read or write, not {mode!r}")
        return LeaseContext(
            self._core,
            self._view,
            key,
            mode,
            ttl_ms=duration(ttl_ms, "ttl_ms"),
            wait_ms=duration(wait_ms, "wait_ms"),
            create=create,
            timeout_ms=timeout_ms,
        )

    # --- streams ------------------------------------------------------------------------------------------------------

    def open(self, key: str, *, version: Version | None = None, timeout_ms: int | None = None) -> OpenContext:
        """Read a content of any size piece by piece: `async with hn.open(key) as content: async for piece in content`.

        The version is fixed when the block begins (`content.info`), asked of the directory; nothing is cached, and what
        was before is made use of.
        `timeout_ms` is the longest time without progress; it goes on after cuts. Raises NotFound, HomenodeError.
        """
        return OpenContext(self._core, self._view, key, version, timeout_ms)

    async def download(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        version: Version | None = None,
        timeout_ms: int | None = None,
        progress: Progress | None = None,
        old: str | os.PathLike[str] | None = None,
    ) -> VersionInfo:
        """Write a content of any size to a file, which is replaced at once or not at all.

        What the file that is there already, or the one named as `old`, has of the content does not travel; where it is
        a version that the directory retains, only patches do. Raises NotFound, HomenodeError, OSError.
        """
        return await download(self._core, self._view, key, path, version, timeout_ms, progress, old)

    # --- questions ----------------------------------------------------------------------------------------------------

    async def stat(self, key: str, *, timeout_ms: int | None = None) -> Stat:
        """What the directory says of the artifact, now. Raises NotFound, HomenodeError."""
        return Stat.of(await self._core.ask("stat", pb.StatRequest(key=name(key)), timeout_ms=timeout_ms))

    async def list(
        self, prefix: str = "", *, limit: int = LIST_MAX, after: str = "", timeout_ms: int | None = None
    ) -> builtins.list[Stat]:
        """The artifacts whose name begins with `prefix`, by name, at most `limit`, those after the name `after`."""
        if not 0 < limit <= LIST_MAX:
            raise InvalidArgument(f"limit must be 1 to {LIST_MAX}, not {limit}")
        found: builtins.list[Stat] = []
        while len(found) < limit:
            request = pb.ListRequest(prefix=name(prefix), after=name(after), limit=min(_PAGE, limit - len(found)))
            page = await self._core.ask("list", request, timeout_ms=timeout_ms)
            found += [Stat.of(message) for message in page.artifacts]
            if not page.more or not page.artifacts:
                break
            after = page.artifacts[-1].key
        return found

    async def history(self, key: str, *, timeout_ms: int | None = None) -> builtins.list[VersionInfo]:
        """The retained versions, newest first. Raises NotFound, HomenodeError."""
        answer = await self._core.ask("history", pb.HistoryRequest(key=name(key)), timeout_ms=timeout_ms)
        return [VersionInfo.of(message) for message in answer.versions]

    async def set_policy(
        self,
        key: str | None = None,
        *,
        prefix: str | None = None,
        strategy: str | None = None,
        consistency: str | None = None,
        push: str | None = None,
        max_age_ms: int | None = None,
        max_reads: int | None = None,
        max_steps: int | None = None,
        timeout_ms: int | None = None,
    ) -> int:
        """Set an artifact's own policy, or that of all artifacts under a prefix; nothing said at all removes it.

        The nearest policy holds, as a whole: the artifact's own, else that of the longest prefix which has one, else
        the server's default; what it does not say has the server's default too.

        Args:
            key: the artifact.
            prefix: instead of `key`, artifacts by the beginning of their names, those to come included; "" is the
                whole workspace. A workspace has at most 64 such policies.
            strategy: "broadcast", "eager", "lazy", "lease" or "access_count" (`homenode.STRATEGIES`), for what is not
                said besides.
            consistency: "lazy" or "strict".
            push: "none", "sharers" or "all": to whom the content of a new version goes by itself.
            max_age_ms: greatest age of a cached read.
            max_reads: how often a copy may be read before it is fetched again.
            max_steps: how many steps (`step`) an agent may use a copy without hearing from the directory.

        Between lazy and strict an artifact changes once no copy of the former kind can be served any more; this waits
        for that. Of other changes the sessions that have copies are told, as of a commit, and ask again. Returns how
        many artifacts have not taken the policy over yet, because they are being written or somebody who may have a
        copy is cut off; the directory sees to them. Raises NotFound, LeaseDenied (a version is about to be published),
        Unsupported (the directory cannot keep it strict), QuotaExceeded (too many prefixes), HomenodeError.
        """
        if (key is None) == (prefix is None):
            raise InvalidArgument("a policy is of a key or of a prefix")
        said = {"max_age_ms": max_age_ms, "max_reads": max_reads, "max_steps": max_steps, "push": push}
        parts = with_strategy(strategy, said)
        wanted = policy(consistency, parts["push"], parts["max_age_ms"], parts["max_reads"], parts["max_steps"])
        if key is None:
            assert prefix is not None
            return await self._core.set_prefix_policy(prefix, wanted, timeout_ms)
        await self._core.set_policy(key, wanted, timeout_ms)
        return 0

    async def policies(self, *, timeout_ms: int | None = None) -> dict[str, Policy]:
        """The policies of the workspace's prefixes, by prefix; those of artifacts are in `stat`."""
        answer = await self._core.ask("list_policies", pb.ListPoliciesRequest(), timeout_ms=timeout_ms)
        return {one.prefix: Policy.of(one.policy) for one in answer.policies}

    async def savings(self, *, timeout_ms: int | None = None) -> Savings:
        """What the workspace's agents have saved, in the last hour and day, by agent and artifact.

        Of all servers over the store, as SDKs have told them with their pings; what servers other than this
        connection's were told in the last seconds may be missing. Look at stale reads beside it. Raises HomenodeError.
        """
        return Savings.of(await self._core.savings(timeout_ms))

    def watch(self, prefix: str = "") -> Watch:
        """Changes under a prefix: `async for event in hn.watch("notes/")`.

        Each event has `kind` ("change", "delete" or "resync": some were missed, list again), `key` and `version`.
        In `async with hn.watch(…) as events` the watch is in place once the block begins, and ends with it.
        """
        return Watch(self._core, prefix)

    # --- agents -------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._view.agent

    @property
    def session_id(self) -> str:
        """Names the session in `by` of history and events, and in `holder`; it changes when the session is lost."""
        return self._core.session.id

    @property
    def timeout_ms(self) -> int:
        """For requests that name no other."""
        return self._core.session.timeout_ms

    @property
    def clock(self) -> Clock:
        """The clock that this connection's permissions are measured on, in nanoseconds."""
        return self._core.clock

    def jitter(self) -> float:
        """A random number in [0, 1), from the connection's own source."""
        return self._core.session.link.rng.random()

    @property
    def connected(self) -> bool:
        """Whether the directory was heard of on the current stream."""
        return self._core.cache.freshness.is_open

    def agent(self, name: str) -> Homenode:
        """Another agent on the same session: it shares the cache and has a view of its own, one for each name."""
        view = self._views.get(name)
        if view is None:
            if len(self._views) >= AGENTS_MAX:
                raise InvalidArgument(f"at most {AGENTS_MAX} agents on one connection")
            view = self._views[name] = View(name, self._view.count_tokens)
        return Homenode(self._core, view, self._views, owner=False)

    @contextlib.asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """`async with hn.step():` marks a step of this agent, the unit of `max_steps`. Reads are not steps."""
        self._view.begin_step(self._now())
        yield

    def stats(self) -> Counters:
        """Counters of this agent: hits, misses, bytes that came and went, tokens shown and saved."""
        counters = self._view.totals()
        counters.pushed_bytes = self._core.pushed_bytes
        return counters

    async def close(self) -> None:
        """End the connection; for `hn.agent(…)` it does nothing. Leases are released."""
        if self._owner:
            await opening.close_core(self._core)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class Connecting:
    """What `homenode.connect` gives: await it, or use it in `async with`."""

    def __init__(self, url: str, agent: str, settings: Settings, count_tokens: TokenCounter) -> None:
        self._url = url
        self._agent = agent
        self._settings = settings
        self._count_tokens = whole(count_tokens)
        self._homenode: Homenode | None = None

    async def _open(self) -> Homenode:
        core = await opening.open_core(self._url, self._agent, self._settings)
        view = View(self._agent, self._count_tokens)
        views = {self._agent: view}
        core.session.usage = Meter(views, core.cache.freshness, core.cache.strategy).take
        if record := self._settings.record or os.environ.get("HOMENODE_RECORD", ""):
            return await _recorded(core, view, views, record)
        return Homenode(core, view, views, owner=True)

    def __await__(self) -> Any:
        return self._open().__await__()

    if not TYPE_CHECKING:  # a type checker says it without

        def __getattr__(self, name: str) -> Any:
            hint = "; await it, or use it in `async with`" if hasattr(Homenode, name) else ""
            raise AttributeError(f"homenode.connect(…) has no attribute {name!r}{hint}", name=name, obj=self)

    async def __aenter__(self) -> Homenode:
        self._homenode = await self._open()
        return self._homenode

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._homenode is not None
        await self._homenode.close()


async def _recorded(core: Core, view: View, views: dict[str, View], path: str) -> Homenode:
    """Where nothing is recorded, none of this is even loaded."""
    from homenode.history.recorded import RecordedHomenode
    from homenode.history.recorder import recorder_at

    try:
        return RecordedHomenode(core, view, views, recorder_at(path), owner=True)
    except OSError as error:
        await opening.close_core(core)
        raise InvalidArgument(f"nothing can be recorded in {path}: {error.strerror or error}") from None


def connect(
    url: str, *, agent: str = "agent", count_tokens: TokenCounter = estimate_tokens, **settings: Any
) -> Connecting:
    """Connect to a directory: `async with homenode.connect("homenode://localhost:7400/main", agent="planner") as hn:`.

    Args:
        url: `homenode://host[,host…][:port]/workspace`, or `embedded://path` for a directory in this process.
        agent: a name for people to see.
        count_tokens: counts the tokens of a text; the default estimates one for 4 bytes.
        settings: see `opening.Settings`: timeout_ms, session_ttl_ms, cache_bytes, credentials, …

    Raises (when it is awaited or entered) InvalidArgument for a wrong address, Unavailable, HomenodeError.
    """
    known = [field.name for field in dataclasses.fields(Settings)]
    for unknown in settings.keys() - set(known):
        raise InvalidArgument(f"connect has no setting {unknown!r}; there are {', '.join(known)}")
    return Connecting(url, agent, Settings(**settings), count_tokens)
