"""Connections of the server's own HTTP/2 end, from raw sockets and gRPC clients: bounds in number, time and memory."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from homenode_api.http2 import frames as f
from homenode_api.http2.connection import Bounds
from homenode_directory.api.http2.call import Call
from homenode_directory.api.http2.link import Times
from homenode_directory.api.http2.server import Http2Server
from tests.http2.ends import REQUEST, SETTINGS, frames_in
from tests.support.ports import wait_until_async

WAIT_S = 20
PATIENT = Times(tick=0.02)


async def _echo(request: bytes, context: Call) -> bytes:
    return request


async def _wait(request: bytes, context: Call) -> bytes:
    await asyncio.sleep(float(request))
    return b"waited"


async def _many(request: bytes, context: Call) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number * 1_000


async def _join(requests: AsyncIterator[bytes], context: Call) -> bytes:
    return b"".join([request async for request in requests])


async def _each(requests: AsyncIterator[bytes], context: Call) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request[::-1]


async def _fails(request: bytes, context: Call) -> bytes:
    raise RuntimeError("with a secret in its text")


async def _aborts(request: bytes, context: Call) -> bytes:
    remaining = context.time_remaining()
    sent = dict(context.invocation_metadata())
    await context.abort(
        grpc.StatusCode.OUT_OF_RANGE, f"{sent['x-name']} {remaining is not None}", (("x-bin", sent["y-bin"]),)
    )


TABLE = {
    "echo": grpc.unary_unary_rpc_method_handler(_echo),
    "wait": grpc.unary_unary_rpc_method_handler(_wait),
    "many": grpc.unary_stream_rpc_method_handler(_many),
    "join": grpc.stream_unary_rpc_method_handler(_join),
    "each": grpc.stream_stream_rpc_method_handler(_each),
    "fails": grpc.unary_unary_rpc_method_handler(_fails),
    "aborts": grpc.unary_unary_rpc_method_handler(_aborts),
}


@asynccontextmanager
async def serving(
    times: Times = PATIENT, bounds: Bounds | None = None, *, connections: int = 100, calls: int = 100, **more: Any
) -> AsyncIterator[tuple[Http2Server, int]]:
    """A server of the methods above."""
    server = Http2Server(bounds or Bounds(), times, calls_max=calls, connections_max=connections, **more)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", TABLE),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.bind("127.0.0.1", 0, share_port=False)
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(0)


class Raw:
    """A client that writes frames itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def greet(cls, port: int) -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        raw.writer.write(f.PREFACE + SETTINGS)
        return raw

    async def to_the_end(self) -> list[tuple[int, int, int, bytes]]:
        """Everything until the server closes."""
        async with asyncio.timeout(WAIT_S):
            try:
                return frames_in(await self.reader.read(-1))
            except ConnectionResetError:
                return []

    def close(self) -> None:
        self.writer.transport.abort()


async def test_every_kind_of_call_from_a_client_of_grpc() -> None:
    async with serving() as (server, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary("/t/echo")(b"x" * 3_000_000) == b"x" * 3_000_000
        got = [one async for one in channel.unary_stream("/t/many")(b"50")]
        assert got == [b"%d" % number * 1_000 for number in range(50)]
        assert await channel.stream_unary("/t/join")(iter([b"a", b"", b"b" * 100_000])) == b"a" + b"b" * 100_000
        each = channel.stream_stream("/t/each")
        assert [one async for one in each(iter([b"ab", b"cd"]))] == [b"ba", b"dc"]
        assert await channel.unary_unary("/t/echo")(b"packed" * 999, compression=grpc.Compression.Gzip)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary("/t/echo")(b"x" * 999, compression=grpc.Compression.Deflate)
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())).status == 1
        assert server.calls == 0


def test_a_client_with_threads() -> None:
    """grpc's other client, of which generated code for servers and tools makes use."""

    async def main() -> None:
        async with serving(calls=1_000) as (_, port):
            await asyncio.to_thread(client, port)

    def client(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls = [channel.unary_unary("/t/echo").future(b"%d" % number) for number in range(200)]
            assert [call.result(WAIT_S) for call in calls] == [b"%d" % number for number in range(200)]
            assert list(channel.stream_stream("/t/each")(iter([b"ab"] * 100))) == [b"ba"] * 100

    asyncio.run(main())


async def test_how_calls_fail() -> None:
    async with serving() as (server, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def ends(method: str, request: bytes = b"", **more: Any) -> grpc.aio.AioRpcError:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await channel.unary_unary(method)(request, **more)
            return failure.value

        failure = await ends("/t/fails")
        assert failure.code() is grpc.StatusCode.INTERNAL and "secret" not in repr(failure)
        failure = await ends("/t/aborts", timeout=9, metadata=(("x-name", "me"), ("y-bin", b"\0\1")))
        assert (failure.code(), failure.details()) == (grpc.StatusCode.OUT_OF_RANGE, "me True")
        assert dict(failure.trailing_metadata())["x-bin"] == b"\0\1"  # type: ignore[arg-type]
        assert (await ends("/t/none")).code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await ends("nonsense")).code() is not grpc.StatusCode.OK
        failure = await ends("/t/wait", b"60", timeout=0.1)
        assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        huge = (("x", "v" * 20_000),)
        assert (await ends("/t/echo", metadata=huge)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await ends("/t/echo", b"x" * (5 << 20))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await wait_until_async(lambda: server.calls == 0, what="nothing is left of failed calls")
        assert await channel.unary_unary("/t/echo")(b"still") == b"still"


@pytest.mark.parametrize("first", [b"", f.PREFACE[:9], f.PREFACE])
async def test_who_does_not_begin_is_cut(first: bytes) -> None:
    async with serving(Times(greeting=0.1, tick=0.02)) as (_, port):
        raw = Raw(*await asyncio.open_connection("127.0.0.1", port))
        raw.writer.write(first)
        await raw.to_the_end()


async def test_who_gives_no_sign_of_life_is_cut_and_who_does_is_not() -> None:
    async with serving(Times(silent=0.1, answer=0.3, tick=0.02)) as (_, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            waiting = asyncio.ensure_future(channel.unary_unary("/t/wait")(b"1.5"))
            raw = await Raw.greet(port)
            raw.writer.write(f.frame(f.HEADERS, f.END_HEADERS, 1, REQUEST.replace(b"/s/M", b"/t/x")))
            frames = await raw.to_the_end()
            assert [kind for kind, *_ in frames].count(f.PING) == 1
            assert await waiting == b"waited", "gRPC's clients answer"


async def test_connections_that_are_idle_or_old_are_left() -> None:
    async with serving(Times(idle=0.1, tick=0.02)) as (_, port):
        frames = await (await Raw.greet(port)).to_the_end()
        assert frames[-1][0] == f.GOAWAY and frames[-1][3][4:] == bytes(4)
    async with serving(Times(age=0.1, grace=WAIT_S, tick=0.02)) as (_, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls = [channel.unary_unary("/t/wait")(b"0.5") for _ in range(5)]
            assert [await call for call in calls] == [b"waited"] * 5, "calls under way come to their end"
            assert await channel.unary_unary("/t/echo")(b"new", wait_for_ready=True) == b"new"


async def test_connections_and_calls_are_counted() -> None:
    async with serving(connections=2, calls=3) as (server, port):
        raws = [await Raw.greet(port) for _ in range(2)]
        await wait_until_async(lambda: len(server._links) == 2, what="both are there")
        assert await (await Raw.greet(port)).to_the_end() == []
        raws[0].close()
        await wait_until_async(lambda: len(server._links) == 1, what="one has gone")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls = [channel.unary_unary("/t/wait")(b"60") for _ in range(3)]
            await wait_until_async(lambda: server.calls == 3, what="three are under way")
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await channel.unary_unary("/t/echo")(b"x")
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            for call in calls:
                call.cancel()
            await wait_until_async(lambda: server.calls == 0, what="cancelled calls make room")
            assert await channel.unary_unary("/t/echo")(b"x") == b"x"
        raws[1].close()


async def test_resets_do_not_multiply_handlers() -> None:
    """A stream that is reset makes room for another one; its handler counts until it has come to its end."""
    stubborn = asyncio.Event()

    async def holds(request: bytes, context: Call) -> bytes:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue
        return b""

    async with serving(bounds=Bounds(streams=4)) as (server, port):
        table = {"holds": grpc.unary_unary_rpc_method_handler(holds)}
        server.add_registered_method_handlers("u", table)
        raw = await Raw.greet(port)
        block = REQUEST.replace(b"\x04/s/M", b"\x08/u/holds")

        def ask(number: int) -> None:
            raw.writer.write(f.frame(f.HEADERS, f.END_HEADERS, number, block))
            raw.writer.write(f.frame(f.DATA, f.END_STREAM, number, f.PREFIX.pack(0, 0)))

        for number in range(1, 9, 2):
            ask(number)
        await wait_until_async(lambda: server.calls == 4, what="calls are under way")
        raw.writer.write(b"".join(f.reset(number, f.Code.CANCEL) for number in range(1, 9, 2)))
        for number in range(9, 41, 2):
            ask(number)
        await wait_until_async(lambda: next(iter(server._links)).end.last == 39, what="all is read")
        await asyncio.sleep(0.05)
        assert server.calls == 8
        stubborn.set()
        await wait_until_async(lambda: server.calls == 0, what="they end")
        raw.close()


async def test_a_flood_ends_its_connection_and_no_other() -> None:
    async with serving() as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary("/t/echo")(b"a") == b"a"
        raw = await Raw.greet(port)
        raw.writer.write(f.frame(f.PING, 0, 0, bytes(8)) * 100_000)
        frames = await raw.to_the_end()
        assert len(frames) < 10_000
        assert await channel.unary_unary("/t/echo")(b"b") == b"b"


async def test_a_client_that_does_not_read_costs_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(bounds=Bounds(waiting_bytes=2 << 20)) as (server, port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", port))
        wide = f.settings({f.INITIAL_WINDOW_SIZE: 8 << 20}) + f.window_update(0, 1 << 30)
        await loop.sock_sendall(sock, f.PREFACE + wide)
        block = REQUEST.replace(b"\x04/s/M", b"\x07/t/echo")
        body = f.PREFIX.pack(0, 100_000) + bytes(100_000)

        async def ask() -> None:
            for number in range(1, 401, 2):
                await loop.sock_sendall(sock, f.frame(f.HEADERS, f.END_HEADERS, number, block))
                for at in range(0, len(body), 16_384):
                    await loop.sock_sendall(sock, f.frame(f.DATA, 0, number, body[at : at + 16_384]))
                await loop.sock_sendall(sock, f.frame(f.DATA, f.END_STREAM, number))

        asking = asyncio.ensure_future(ask())
        link: Callable[[], Any] = lambda: next(iter(server._links))  # noqa: E731
        await wait_until_async(lambda: bool(server._links) and link().end.paused, what="the socket is full")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(20):
                assert await channel.unary_unary("/t/echo")(b"other") == b"other"
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for one in server._links:
            assert one.end.waiting <= (2 << 20) + 2 * 100_010
        sock.close()


async def test_the_end_is_announced_and_waits() -> None:
    async with serving() as (server, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = asyncio.ensure_future(channel.unary_unary("/t/wait")(b"0.4"))
            raw = await Raw.greet(port)
            await wait_until_async(lambda: server.calls == 1 and len(server._links) == 2, what="it is under way")
            await server.stop(WAIT_S)
            assert await call == b"waited"
            assert f.GOAWAY in [kind for kind, *_ in await raw.to_the_end()]
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_tls_without_http2_is_refused(tls_files: tuple[str, str]) -> None:
    cert, key = tls_files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2"])
    async with serving(tls=context) as (_, port):
        plain = ssl.create_default_context(cafile=cert)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=plain, server_hostname="localhost")
        try:
            assert f.GOAWAY not in [kind for kind, *_ in frames_in(await reader.read(-1))]
        except ConnectionError:
            pass
        writer.transport.abort()
        credentials = grpc.ssl_channel_credentials(Path(cert).read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            assert await channel.unary_unary("/t/echo")(b"x" * 500_000) == b"x" * 500_000


async def test_a_socket_in_the_file_system(short_tmp: Any) -> None:
    server = Http2Server(Bounds(), PATIENT, calls_max=9, connections_max=9)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", TABLE),))
    path = short_tmp / "s"
    server.bind_unix(str(path))
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert await channel.unary_unary("/t/echo")(b"x") == b"x"
    await server.stop(0)
    assert not path.exists()
