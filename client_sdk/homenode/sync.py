"""The same calls, blocking: for threads, scripts and notebooks.

One background thread runs one event loop for all blocking connections of the process, so they share links. A cached
read does not enter it: it is the same dictionary look-up as in async code.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from homenode import client
from homenode.artifact import Artifact
from homenode.change import TokenCounter, estimate_tokens
from homenode.draft import Draft, WriteContext
from homenode.errors import HomenodeError, Unavailable
from homenode.generation import Generation
from homenode.generation_prompt import Part
from homenode.joint import Gate
from homenode.lease_handle import LeaseContext, ReadLease, WriteLease
from homenode.snapshot import Snapshot
from homenode.streams import ContentStream, Streamable
from homenode.values import Policy, Savings, Stat, Value, VersionInfo
from homenode.versions import Version
from homenode.view import Counters
from homenode.watch import Event

T = TypeVar("T")


class Background:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="homenode", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there and await it here, in any event loop. Cancelling the one cancels the other."""
        if not self._thread.is_alive():
            coroutine.close()
            raise Unavailable("this connection belongs to the process that was forked; a child makes its own")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there and wait. An interrupt of the waiting thread cancels it."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise HomenodeError("a blocking call inside the event loop would wait for itself; use homenode.connect")
        if not self._thread.is_alive():
            coroutine.close()
            raise Unavailable("this connection belongs to the process that was forked; a child makes its own")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            with contextlib.suppress(concurrent.futures.CancelledError, Exception):
                concurrent.futures.wait([future], timeout=5)
            raise


_lock = threading.Lock()
_background: Background | None = None


def background() -> Background:
    """The loop of this process; a forked child gets one of its own."""
    global _background
    with _lock:
        if _background is None:
            _background = Background()
        return _background


def _after_fork() -> None:
    global _background, _lock
    _background, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class SyncHomenode:
    """A connection, blocking. Make it with `homenode.connect_sync`. Any thread may use it.

    Methods are those of `homenode.Homenode`, with the same arguments, results and errors.
    """

    def __init__(self, homenode: client.Homenode, loop: Background) -> None:
        self._homenode = homenode
        self._background = loop
        self._cached = homenode.hot

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._background.run(coroutine)

    def run(self, task: Callable[[client.Homenode], Coroutine[Any, Any, T]]) -> T:
        """Wait for a coroutine that uses the connection itself, in its own event loop: several calls at once, say."""
        return self._run(task(self._homenode))

    async def arun(self, task: Callable[[client.Homenode], Coroutine[Any, Any, T]]) -> T:
        """As `run`, awaited from any event loop."""
        return await self._background.arun(task(self._homenode))

    def hot(self, key: str) -> Artifact | None:
        """See `Homenode.hot`."""
        return self._cached(key)

    def read_cached(self, key: str) -> Artifact | None:
        """See `Homenode.read_cached`."""
        artifact = self._cached(key)
        if artifact is not None:
            return artifact

        async def serve() -> Artifact | None:
            return self._homenode.read_cached(key)

        return self._run(serve())

    def read(self, key: str, **options: Any) -> Artifact:
        """See `Homenode.read`."""
        if not options:
            artifact = self._cached(key)
            if artifact is not None:
                return artifact
        return self._run(self._homenode.read(key, **options))

    def put(self, key: str, value: Value, **options: Any) -> Artifact:
        """See `Homenode.put`."""
        return self._run(self._homenode.put(key, value, **options))

    def upload(self, key: str, source: Streamable, **options: Any) -> VersionInfo:
        """See `Homenode.upload`."""
        return self._run(self._homenode.upload(key, source, **options))

    def download(self, key: str, path: str | os.PathLike[str], **options: Any) -> VersionInfo:
        """See `Homenode.download`."""
        return self._run(self._homenode.download(key, path, **options))

    @contextlib.contextmanager
    def open(self, key: str, **options: Any) -> Iterator[SyncContentStream]:
        """See `Homenode.open`: `with hn.open(key) as content: for piece in content: …`."""
        context = self._homenode.open(key, **options)
        content = self._run(context.__aenter__())
        try:
            yield SyncContentStream(content, self._background)
        finally:
            self._run(context.__aexit__(None, None, None))

    def delete(self, key: str, **options: Any) -> Version:
        """See `Homenode.delete`."""
        return self._run(self._homenode.delete(key, **options))

    def edit(self, key: str, fn: Any, **options: Any) -> Artifact:
        """See `Homenode.edit`. `fn` is a plain function; it runs in a thread of its own and may block."""

        async def off_loop(value: Any) -> Any:
            return await asyncio.to_thread(fn, value)

        return self._run(self._homenode.edit(key, off_loop, **options))

    @contextlib.contextmanager
    def write(self, key: str, **options: Any) -> Iterator[Draft]:
        """See `Homenode.write`: `with hn.write(key) as draft:`."""
        context: WriteContext = self._homenode.write(key, **options)
        draft = self._run(context.__aenter__())
        try:
            yield draft
        except BaseException as error:
            self._run(context.__aexit__(type(error), error, error.__traceback__))
            raise
        self._run(context.__aexit__(None, None, None))

    def lease(self, key: str, mode: Any = "write", **options: Any) -> SyncLease:
        """See `Homenode.lease`: usable at once, and in `with`."""
        context: LeaseContext = self._homenode.lease(key, mode, **options)
        return SyncLease(self._run(context.__aenter__()), self._background)

    def stat(self, key: str, **options: Any) -> Stat:
        """See `Homenode.stat`."""
        return self._run(self._homenode.stat(key, **options))

    def list(self, prefix: str = "", **options: Any) -> builtins.list[Stat]:
        """See `Homenode.list`."""
        return self._run(self._homenode.list(prefix, **options))

    def history(self, key: str, **options: Any) -> builtins.list[VersionInfo]:
        """See `Homenode.history`."""
        return self._run(self._homenode.history(key, **options))

    def set_policy(self, key: str | None = None, **options: Any) -> int:
        """See `Homenode.set_policy`."""
        return self._run(self._homenode.set_policy(key, **options))

    def policies(self, **options: Any) -> dict[str, Policy]:
        """See `Homenode.policies`."""
        return self._run(self._homenode.policies(**options))

    def savings(self, **options: Any) -> Savings:
        """See `Homenode.savings`."""
        return self._run(self._homenode.savings(**options))

    def snapshot(self, keys: Sequence[str] | None = None, **options: Any) -> SyncSnapshot:
        """See `Homenode.snapshot`: usable at once, and in `with`."""
        context = self._homenode.snapshot(keys, **options)
        return SyncSnapshot(self._run(context.__aenter__()), self._background)

    def commit_many(self, values: Mapping[str, Any], **options: Any) -> dict[str, Artifact]:
        """See `Homenode.commit_many`."""
        options["leases"] = [_unwrapped(lease) for lease in options.get("leases", ())]
        return self._run(self._homenode.commit_many(values, **options))

    def handoff(self, lease: Any, to: str | SyncHomenode, **options: Any) -> None:
        """See `Homenode.handoff`."""
        successor = to if isinstance(to, str) else to._homenode
        self._run(self._homenode.handoff(_unwrapped(lease), successor, **options))

    def gate(self, reads: Iterable[Any], **options: Any) -> Gate:
        """See `Homenode.gate`."""
        return self._run(self._homenode.gate([_unwrapped(one) for one in reads], **options))

    @contextlib.contextmanager
    def watch(self, prefix: str = "") -> Iterator[Iterator[Event]]:
        """`with hn.watch("notes/") as events: for event in events: …`; the watch is in place once the block begins."""
        watch = self._homenode.watch(prefix)
        self._run(watch.__aenter__())

        def events() -> Iterator[Event]:
            while True:
                try:
                    yield self._run(watch.__anext__())
                except StopAsyncIteration:
                    return

        try:
            yield events()
        finally:
            self._run(watch.__aexit__())

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """See `Homenode.step`."""
        context = self._homenode.step()
        self._run(context.__aenter__())
        yield
        self._run(context.__aexit__(None, None, None))

    def generate(self, model: str, parts: Sequence[Part], **options: Any) -> SyncGeneration:
        """See `Homenode.generate`: `for piece in hn.generate(model, [...])`."""
        return SyncGeneration(self._run(self._homenode.generate(model, parts, **options)), self._background)

    def agent(self, name: str) -> SyncHomenode:
        """See `Homenode.agent`."""
        return SyncHomenode(self._homenode.agent(name), self._background)

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._homenode.name

    @property
    def session_id(self) -> str:
        """See `Homenode.session_id`."""
        return self._homenode.session_id

    def stats(self) -> Counters:
        """See `Homenode.stats`."""

        async def stats() -> Counters:
            return self._homenode.stats()

        return self._run(stats())

    def close(self) -> None:
        """See `Homenode.close`."""
        self._run(self._homenode.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class SyncGeneration:
    """What a worker writes, blocking; see `homenode.Generation`."""

    def __init__(self, generation: Generation, loop: Background) -> None:
        self._generation = generation
        self._background = loop

    def __getattr__(self, name: str) -> Any:
        if name in ("text", "report", "artifact", "versions"):
            return getattr(self._generation, name)
        raise AttributeError(name)

    def __iter__(self) -> Iterator[str]:
        async def piece() -> str | None:
            return await anext(self._generation, None)

        while (part := self._background.run(piece())) is not None:
            yield part

    def done(self) -> Self:
        """See `Generation.done`."""
        self._background.run(self._generation.done())
        return self

    def leave_round(self) -> bool:
        """See `Generation.leave_round`."""
        return self._background.run(self._generation.leave_round())

    def close(self) -> None:
        """See `Generation.close`."""
        self._background.run(self._generation.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SyncContentStream:
    """A content, piece by piece, blocking; see `homenode.ContentStream`."""

    def __init__(self, content: ContentStream, loop: Background) -> None:
        self._content = content
        self._background = loop
        self.info, self.version, self.size = content.info, content.version, content.size

    def __iter__(self) -> Iterator[bytes]:
        pieces = aiter(self._content)

        async def piece() -> bytes | None:
            return await anext(pieces, None)

        while (part := self._background.run(piece())) is not None:
            yield part


class SyncSnapshot:
    """A snapshot, blocking; see `homenode.Snapshot`."""

    def __init__(self, snapshot: Snapshot, loop: Background) -> None:
        self._snapshot = snapshot
        self._background = loop

    def __getattr__(self, name: str) -> Any:
        if name in ("id", "as_of", "versions", "missing", "keys"):
            return getattr(self._snapshot, name)
        raise AttributeError(name)

    def __contains__(self, key: object) -> bool:
        return key in self._snapshot

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshot)

    def __len__(self) -> int:
        return len(self._snapshot)

    def __getitem__(self, key: str) -> Artifact:
        """See `Snapshot`."""

        async def get() -> Artifact:
            return self._snapshot[key]

        return self._background.run(get())

    def read(self, key: str, **options: Any) -> Artifact:
        """See `Snapshot.read`."""
        return self._background.run(self._snapshot.read(key, **options))

    def release(self) -> None:
        """See `Snapshot.release`."""
        self._background.run(self._snapshot.release())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(HomenodeError):  # it ends with its time or its session
            self.release()


def _unwrapped(one: Any) -> Any:
    """What a blocking lease stands for."""
    return one._lease if isinstance(one, SyncLease) else one


class SyncLease:
    """A lease, blocking; see `homenode.Lease`."""

    def __init__(self, lease: WriteLease | ReadLease, loop: Background) -> None:
        self._lease = lease
        self._background = loop

    def __getattr__(self, name: str) -> Any:
        if name in ("key", "state", "version", "fence", "token", "cause", "remaining_ms", "artifact"):
            return getattr(self._lease, name)
        raise AttributeError(name)

    def commit(self, value: Value, **options: Any) -> Artifact:
        """See `WriteLease.commit`."""
        if not isinstance(self._lease, WriteLease):
            raise HomenodeError("a read lease cannot commit")
        return self._background.run(self._lease.commit(value, **options))

    def release(self) -> None:
        """See `Lease.release`."""
        self._background.run(self._lease.release())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(HomenodeError):  # it ends with its term
            self.release()


def connect_sync(
    url: str, *, agent: str = "agent", count_tokens: TokenCounter = estimate_tokens, **settings: Any
) -> SyncHomenode:
    """As `homenode.connect`, blocking: `with homenode.connect_sync(url, agent="planner") as hn:`."""
    loop = background()

    async def opened() -> client.Homenode:
        return await client.connect(url, agent=agent, count_tokens=count_tokens, **settings)

    return SyncHomenode(loop.run(opened()), loop)
