"""Ways to KV workers: one HTTP/2 connection to each address, made when it is needed."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from homenode.channel import Call, Channel, Patience
from homenode.errors import DeadlineExceeded, InternalError, InvalidArgument, NoWorker, Unsupported
from homenode_api.http2.connection import Bounds
from homenode_api.v1 import kv_tier_pb2 as kv

if TYPE_CHECKING:
    from homenode.client import Homenode
    from homenode.core import Core

CHANNELS_MAX = 64
#: Workers are heard of within a second of a directory's start.
NOBODY_WAITS, NOBODY_STEP_S = 20, 0.1
MESSAGE_BYTES_MAX = 16 << 20
BOUNDS = Bounds(stream_window=1 << 20, window=16 << 20, message_bytes=MESSAGE_BYTES_MAX, calm=1_000_000)
#: Another worker could do it, so one that stands still is left soon.
PATIENCE = Patience(2.0, 3.0)
_SERVICE = kv.DESCRIPTOR.services_by_name["KvTierService"].full_name


def path_of(name: str) -> str:
    """The path of a worker's method."""
    return f"/{_SERVICE}/{name}"


class Workers:
    """Channels to the workers that routes named; those that were not used for longest are closed."""

    def __init__(self, core: Core, credentials: ssl.SSLContext | None) -> None:
        self._core = core
        self._credentials = credentials
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def route(self, request: kv.RouteRequest, timeout_s: float, *, wait: bool = False) -> kv.RouteResponse:
        """Ask the directory; with `wait` for a while where it knows no worker. Raises NoWorker, HomenodeError."""
        for _ in range(NOBODY_WAITS if wait else 0):
            try:
                return await self._route(request, timeout_s)
            except NoWorker as nobody:
                if nobody.known:
                    raise
            await asyncio.sleep(NOBODY_STEP_S)
        return await self._route(request, timeout_s)

    async def _route(self, request: kv.RouteRequest, timeout_s: float) -> kv.RouteResponse:
        link = self._core.session.link

        async def ask(left_s: float) -> kv.RouteResponse | NoWorker:
            request.session_id = self._core.session.id
            try:
                answer: kv.RouteResponse = await link.transport.call("Route", request, left_s)
            except KeyError:
                raise Unsupported("this way to the directory knows no KV workers") from None
            except NoWorker as nobody:  # which is an answer
                return nobody
            return answer

        found = await link.again(ask, timeout_s)
        if isinstance(found, NoWorker):
            raise found
        return found

    async def unary(self, address: str, method: str, request: Any, answer: Any, timeout_s: float) -> Any:
        """One request, one answer. Raises HomenodeError."""
        data = await self._channel(address).unary(path_of(method), request.SerializeToString(), timeout_s)
        return _decoded(answer, data)

    async def generate(
        self, address: str, request: kv.GenerateRequest, stall_s: float
    ) -> AsyncGenerator[kv.GenerateResponse, None]:
        """What a worker writes; each message within `stall_s`. Raises HomenodeError."""
        call: Call = self._channel(address).open(path_of("Generate"), request=request.SerializeToString())
        try:
            while True:
                try:
                    async with asyncio.timeout(stall_s):
                        data = await call.read()
                except TimeoutError:
                    raise DeadlineExceeded("the worker made no progress in time") from None
                if data is None:
                    return
                yield _decoded(kv.GenerateResponse, data)
        finally:
            call.cancel()

    def _channel(self, address: str) -> Channel:
        channel = self._channels.get(address)
        if channel is None:
            if not address.rpartition(":")[2].isdecimal():
                raise InvalidArgument(f"a worker says that it is at {address!r}, which is no address")
            channel = self._channels[address] = Channel(address, self._credentials, BOUNDS, PATIENCE)
        self._channels.move_to_end(address)
        if len(self._channels) > CHANNELS_MAX:
            _, oldest = self._channels.popitem(last=False)
            task = asyncio.ensure_future(oldest.close(60.0))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return channel

    async def close(self) -> None:
        """Calls under way fail."""
        channels, self._channels = self._channels, OrderedDict()
        for task in self._closing:
            task.cancel()
        for channel in channels.values():
            await channel.close()


async def admission(homenode: Homenode, caller: str, timeout_s: float) -> kv.Admission:
    """Whether a session may use what the worker holds whose session this is. Raises HomenodeError."""
    session = homenode._core.session

    async def ask(left_s: float) -> kv.AdmitResponse:
        request = kv.AdmitRequest(session_id=session.id, caller=caller)
        answer: kv.AdmitResponse = await session.link.transport.call("Admit", request, left_s)
        return answer

    return (await session.link.again(ask, timeout_s)).admission


def _decoded(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InternalError("the worker sent something that is no message") from None
