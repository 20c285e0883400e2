"""A server process of the simulation: the real directory, delivery, sweeper and api, killed at any await."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from homenode.errors import HomenodeError, Unavailable, from_wire
from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api.errors import Rejected
from homenode_directory.api.local import LocalEndpoint, LocalStream
from homenode_directory.config import Settings
from homenode_directory.server import build
from homenode_directory.store.memory_store import Memory
from tests.sim.faults import Faults
from tests.sim.store import FaultyStore, History

if TYPE_CHECKING:
    from tests.sim.net import Pipe

T = TypeVar("T")

_PROCESS: contextvars.ContextVar[SimServer | None] = contextvars.ContextVar("process", default=None)


def tag_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Make every task know the server process that started it, so that a crash can end them all."""

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        context = options.get("context")
        process = context.get(_PROCESS) if context is not None else _PROCESS.get()
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(process.tasks.pop)  # type: ignore[arg-type]
        return task

    loop.set_task_factory(factory)  # type: ignore[arg-type]


class SimServer:
    """See the module. Clients reach it through `serve` and `call`; what it does after its death stays inside."""

    def __init__(
        self, memory: Memory, faults: Faults, history: History, rng: random.Random, term_ms: int = 10_000
    ) -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their start, so that a crash repeats exactly
        self.alive = False
        self._loop = asyncio.get_running_loop()
        self._store = FaultyStore(memory, faults, history, self.crash)
        self._pipes: list[Pipe] = []
        self._context = contextvars.copy_context()
        self._context.run(_PROCESS.set, self)
        self._server = self._context.run(
            build,
            Settings(session_ttl_ms=10_000, term_ms=term_ms),
            store=self._store,
            clock=lambda: self._loop.time() * 1_000,
            ids=lambda: f"{rng.getrandbits(64):016x}",
            threads=0,
        )
        self._endpoint = LocalEndpoint(self._server.endpoint)
        self.died: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Open the store and listen."""
        await self._task(self._server.start())
        self.alive = True

    def crash(self) -> None:
        """The process is gone: no task of it runs on, no connection stays."""
        if self._store.dead:
            return
        self.alive = False
        self._store.dead = True
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()
        for task in list(self.tasks):
            self._loop.call_soon(task.cancel)
        for hear in self.died:
            hear()

    def serve(self, up: Pipe, down: Pipe) -> bool:
        """Take a Session stream; False where nobody listens."""
        if not self.alive:
            return False
        self._pipes += [up, down]
        self._task(self._stream(up, down))
        return True

    async def _stream(self, up: Pipe, down: Pipe) -> None:
        stream = self._endpoint.session()
        reader = asyncio.ensure_future(self._read(stream, up))
        try:
            while (frame := await stream.read()) is not None:
                down.send(frame.SerializeToString())
        except Rejected:
            pass
        finally:
            reader.cancel()
            stream.cancel()
            up.close()
            down.close()

    @staticmethod
    async def _read(stream: LocalStream, up: Pipe) -> None:
        while (frame := await up.receive()) is not None:
            await stream.write(pb.SessionRequest.FromString(frame))
        stream.cancel()

    async def call(self, method: str, request: Any) -> Any:
        """A unary call."""
        return await self._reply(lambda: self._endpoint.call(method, request, 30.0))

    async def read_content(self, request: pb.ReadContentRequest) -> AsyncIterator[pb.ReadContentResponse]:
        """A content in chunks."""

        async def chunks() -> list[pb.ReadContentResponse]:
            return [chunk async for chunk in self._endpoint.read_content(request, 30.0)]

        for chunk in await self._reply(chunks):
            yield chunk

    async def write_content(self, requests: AsyncIterator[pb.WriteContentRequest]) -> pb.WriteContentResponse:
        """A content to keep."""
        return await self._reply(lambda: self._endpoint.write_content(requests, 30.0))

    async def _reply(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if not self.alive:
            raise Unavailable("nobody listens")
        task = self._task(call())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("the connection broke") from None
            raise
        except Rejected as failure:
            raise _as_client(failure) from None

    def _task(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._loop.create_task(coro, context=self._context)


def _as_client(failure: Rejected) -> HomenodeError:
    return from_wire(failure.error)
