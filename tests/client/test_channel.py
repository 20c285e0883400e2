"""The SDK's connection: against gRPC's own server, over TLS, through limits, goodbyes, silence and broken servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest
import uvloop

import homenode
from homenode import channel as channels
from homenode.channel import PATIENT, Channel, Patience
from homenode.errors import (
    DeadlineExceeded,
    HomenodeError,
    InternalError,
    Overloaded,
    Unavailable,
    Unsupported,
)
from homenode_api.http2 import frames as f
from homenode_api.http2.connection import Bounds
from tests.api.conftest import tls_files  # noqa: F401
from tests.api.test_connections import TABLE, serving
from tests.support.ports import wait_until_async

WAIT_S = 20.0


@asynccontextmanager
async def grpc_server(**options: Any) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """gRPC's own server with the methods of the tests of ours."""
    server = grpc.aio.server(options=list(options.items()))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", TABLE),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def channel_to(
    host: str, tls: ssl.SSLContext | None = None, patience: Patience = PATIENT, **bounds: Any
) -> AsyncIterator[Channel]:
    """A channel that is closed at the end."""
    channel = Channel(host, tls, Bounds(**{"message_bytes": 16 << 20, **bounds}), patience)
    try:
        yield channel
    finally:
        await channel.close()


async def _every_kind(channel: Channel) -> None:
    assert await channel.unary("/t/echo", b"x" * 3_000_000, WAIT_S) == b"x" * 3_000_000
    assert await channel.unary("/t/echo", b"", WAIT_S) == b""
    many = channel.open("/t/many", request=b"30")
    got = [await many.read() for _ in range(31)]
    assert got == [*(b"%d" % number * 1_000 for number in range(30)), None]
    join = channel.open("/t/join")
    for part in (b"a", b"b" * 200_000, b"", b"c"):
        await join.write(part)
    join.end()
    assert await join.read() == b"a" + b"b" * 200_000 + b"c" and await join.read() is None
    each = channel.open("/t/each")
    for word in (b"ab", b"cd"):
        await each.write(word)
        assert await each.read() == word[::-1]
    each.end()
    assert await each.read() is None
    answers = await asyncio.gather(*(channel.unary("/t/echo", b"%d" % n, WAIT_S) for n in range(300)))
    assert answers == [b"%d" % n for n in range(300)]


async def test_every_kind_of_call_to_grpcs_own_server() -> None:
    async with grpc_server() as (_, host), channel_to(host) as channel:
        await _every_kind(channel)


def test_every_kind_of_call_to_our_server_under_uvloop() -> None:
    async def main() -> None:
        async with serving(calls=1_000) as (_, port), channel_to(f"127.0.0.1:{port}") as channel:
            await _every_kind(channel)

    uvloop.run(main())


@pytest.mark.parametrize("theirs", [True, False])
async def test_how_calls_fail(theirs: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if theirs:
            _, host = await stack.enter_async_context(grpc_server())
        else:
            host = f"127.0.0.1:{(await stack.enter_async_context(serving()))[1]}"
        channel = await stack.enter_async_context(channel_to(host, message_bytes=100_000))
        with pytest.raises(Unsupported):
            await channel.unary("/t/none", b"", WAIT_S)
        with pytest.raises(DeadlineExceeded):
            await channel.unary("/t/wait", b"60", 0.1)
        with pytest.raises(HomenodeError):
            await channel.unary("/t/fails", b"", WAIT_S)
        with pytest.raises(Overloaded):
            await channel.unary("/t/echo", b"x" * 100_001, WAIT_S)
        calling = asyncio.ensure_future(channel.unary("/t/wait", b"60", WAIT_S))
        await asyncio.sleep(0.05)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        call = channel.open("/t/each")
        reading = asyncio.ensure_future(call.read())
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(Unavailable):
            await reading
        assert await channel.unary("/t/echo", b"still", WAIT_S) == b"still"


async def test_calls_beyond_the_servers_limit_wait_for_their_turn() -> None:
    async with serving(bounds=Bounds(streams=4)) as (_, port), channel_to(f"127.0.0.1:{port}") as channel:
        answers = await asyncio.gather(*(channel.unary("/t/wait", b"0.01", WAIT_S) for _ in range(30)))
        assert answers == [b"waited"] * 30
        endless = [channel.open("/t/each") for _ in range(4)]
        for call in endless:
            await call.write(b"ab")
        with pytest.raises(DeadlineExceeded):
            await channel.unary("/t/echo", b"x", 0.1)
        endless[0].cancel()
        assert await channel.unary("/t/echo", b"x", WAIT_S) == b"x"


async def test_a_connection_that_is_left_gives_way_to_another() -> None:
    async with grpc_server(**{"grpc.max_connection_age_ms": 200, "grpc.max_connection_age_grace_ms": 20_000}) as (
        _,
        host,
    ):
        async with channel_to(host) as channel:
            old = asyncio.ensure_future(channel.unary("/t/wait", b"1", WAIT_S))
            first = None
            for _ in range(100):
                assert await channel.unary("/t/echo", b"x", WAIT_S) == b"x"
                first = first or channel._connection
                if channel._connection is not first:
                    break
                await asyncio.sleep(0.02)
            else:
                raise AssertionError("the server did not leave")
            assert await old == b"waited"


async def test_a_server_that_comes_back_is_found_again() -> None:
    async with serving() as (server, port), channel_to(f"127.0.0.1:{port}") as channel:
        assert await channel.unary("/t/echo", b"1", WAIT_S) == b"1"
        call = channel.open("/t/each")
        await call.write(b"ab")
        assert await call.read() == b"ba"
        for link in list(server._links):
            link.abort()
        with pytest.raises(Unavailable):
            await call.read()
        assert await channel.unary("/t/echo", b"2", WAIT_S) == b"2"


async def test_nobody_there() -> None:
    async with serving() as (_, port):
        pass
    async with channel_to(f"127.0.0.1:{port}") as channel:
        for _ in range(2):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await channel.unary("/t/echo", b"x", WAIT_S)
        call = channel.open("/t/each")
        with pytest.raises(Unavailable):
            await call.write(b"x")
    with pytest.raises(Unavailable):
        await channel.unary("/t/echo", b"x", WAIT_S)


@contextmanager
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(channels, "CONNECT_S", 0.2)
    yield


@asynccontextmanager
async def saying(*pieces: bytes) -> AsyncIterator[str]:
    """A server that says this to whoever comes, and nothing more."""
    writers: list[asyncio.StreamWriter] = []

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"".join(pieces))

    server = await asyncio.start_server(come, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def test_who_does_not_greet_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with _short(monkeypatch):
        async with saying() as host, channel_to(host) as channel:
            with pytest.raises(Unavailable, match="no answer"):
                await channel.unary("/t/echo", b"x", WAIT_S)


@pytest.mark.parametrize("asked", [True, False])
async def test_who_falls_silent_is_given_up(asked: bool) -> None:
    patience = Patience(30.0, 0.2) if asked else Patience(0.2, 0.2)
    async with saying(f.frame(f.SETTINGS, 0, 0)) as host, channel_to(host, patience=patience) as channel:
        call = channel.open("/t/each")
        await call.write(b"x")
        if asked:
            channel.ask()
        with pytest.raises(Unavailable):
            await call.read()


async def test_who_answers_is_not_given_up_by_a_client_that_stood_still() -> None:
    async with serving() as (_, port), channel_to(f"127.0.0.1:{port}", patience=Patience(0.1, 0.1)) as channel:
        call = channel.open("/t/each")
        await call.write(b"ab")
        assert await call.read() == b"ba"
        for _ in range(3):
            channel.ask()
            time.sleep(0.5)
            await asyncio.sleep(0.3)  # asked again and again, and answered
        await call.write(b"cd")
        assert await call.read() == b"dc"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        f.frame(f.SETTINGS, 0, 0) + f.frame(f.PUSH_PROMISE, 0, 1, bytes(4)),
        f.frame(f.SETTINGS, 0, 0) + f.frame(f.HEADERS, f.END_HEADERS, 2, b"\x88"),
        f.frame(f.SETTINGS, 0, 0) + f.frame(f.HEADERS, f.END_HEADERS, 1, b"\xff\xff\xff"),
        f.frame(f.SETTINGS, 0, 0) + f.goaway(0, f.Code.ENHANCE_YOUR_CALM),
        b"\0\0\0",
    ],
    ids=["HTTP/1.1", "push", "even", "no headers", "goodbye", "half a frame"],
)
async def test_who_does_not_speak_the_protocol(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with _short(monkeypatch):
        async with saying(answer) as host, channel_to(host) as channel:
            with pytest.raises((Unavailable, DeadlineExceeded, InternalError)):
                await channel.unary("/t/echo", b"x", 2.0)


async def test_tls(tls_files: tuple[str, str]) -> None:  # noqa: F811
    cert, key = tls_files
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(cert, key)
    server_side.set_alpn_protocols(["h2"])
    async with serving(tls=server_side, calls=1_000) as (_, port):
        trusting = ssl.create_default_context(cafile=cert)
        trusting.set_alpn_protocols(["h2"])
        async with channel_to(f"localhost:{port}", trusting) as channel:
            await _every_kind(channel)
        doubting = ssl.create_default_context()
        doubting.set_alpn_protocols(["h2"])
        async with channel_to(f"localhost:{port}", doubting) as channel:
            with pytest.raises(Unavailable):
                await channel.unary("/t/echo", b"x", WAIT_S)


async def test_the_sdk_over_tls(tls_files: tuple[str, str]) -> None:  # noqa: F811
    from homenode_directory.api.server import ApiServer, Listen
    from homenode_directory.server import build
    from tests.api.conftest import SETTINGS

    cert, key = tls_files
    server = build(SETTINGS)
    await server.start()
    api = ApiServer(server.endpoint, Listen("127.0.0.1:0", tls_cert=cert, tls_key=key, tls_client_ca=cert))
    await api.start()
    context = ssl.create_default_context(cafile=cert)
    url = f"homenode://localhost:{api.port}/main"
    try:
        with pytest.raises(HomenodeError):
            async with homenode.connect(url, agent="bare", credentials=context, timeout_ms=1_000):
                pass
        context.load_cert_chain(cert, key)
        async with homenode.connect(url, agent="a", credentials=context) as hn:
            await hn.put("k", "text")
            await hn.put("big", bytes(6 << 20))
            assert (await hn.read("k")).text == "text"
            async with homenode.connect(url, agent="b", credentials=context) as other:
                assert len((await other.read("big")).bytes) == 6 << 20
    finally:
        await api.stop()
        await server.close()


async def test_closing_waits_for_what_is_under_way() -> None:
    async with serving() as (server, port), channel_to(f"127.0.0.1:{port}") as channel:
        call = asyncio.ensure_future(channel.unary("/t/wait", b"0.2", WAIT_S))
        await wait_until_async(lambda: server.calls == 1, what="it is under way")
        await channel.close(WAIT_S)
        assert await call == b"waited"


async def test_who_greets_and_goes_is_not_asked_again_and_again() -> None:
    came = 0

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        writer.write(f.frame(f.SETTINGS, 0, 0) + f.goaway(0, f.Code.NO_ERROR))
        with contextlib.suppress(OSError):
            await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(come, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with channel_to(f"127.0.0.1:{port}") as channel:
            call = channel.open("/t/each")
            with pytest.raises(Unavailable):
                await call.read()
    assert came == 1


async def test_a_host_with_several_addresses_is_reached_at_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "ADDRESS_S", 0.2)
    monkeypatch.setattr(channels, "CONNECT_S", 1.0)
    loop = asyncio.get_running_loop()

    async def addresses(name: str, port: int, **_: Any) -> list[Any]:
        family = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*family, (address, port)) for address in ("127.0.0.3", "127.0.0.2", "127.0.0.1")]

    async with serving() as (_, port):
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.2", port)  # and nobody at the first
        async with silent, channel_to(f"several.test:{port}") as channel:
            monkeypatch.setattr(loop, "getaddrinfo", addresses)
            assert await channel.unary("/t/echo", b"x", WAIT_S) == b"x"
            monkeypatch.undo()
