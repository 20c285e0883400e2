"""Large contents while servers die and connections are cut, and what they cost in memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import homenode
from homenode_api.chunks import CHUNK_BYTES
from tests.conftest import RedisFactory
from tests.faults.conftest import Report, Scale, ServerFactory
from tests.faults.processes import resident_bytes
from tests.faults.proxy import Proxy

MIB = 1 << 20


@pytest.mark.redis
async def test_an_upload_goes_on_through_another_server(
    redis_factory: RedisFactory, store_server: ServerFactory
) -> None:
    redis = redis_factory(settings={"appendfsync": "always"})
    servers = [await store_server(redis).start() for _ in range(2)]
    ports = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    data = random.Random(1).randbytes(12 * MIB)
    killed: list[int] = []
    async with homenode.connect(f"homenode://{ports}/main", agent="a", timeout_ms=30_000) as hn:
        transport = hn._core.session.link.transport

        def kill(done: int, size: int) -> None:
            if done >= 5 * MIB and not killed:
                (server,) = (one for one in servers if one.url.endswith(f"{transport.servers.current}/main"))  # type: ignore[attr-defined]
                server.kill()
                killed.append(server.port)

        written = await hn.upload("big", data, progress=kill)
        assert killed and hn.stats().sent_bytes <= len(data) + 6 * CHUNK_BYTES, "it does not begin anew"
        assert (await hn.read("big", max_age_ms=0)).bytes == data
        assert (await hn.stat("big")).version == written.version and written.version.n == 1
        assert killed[0] not in (transport.servers.current,)  # type: ignore[attr-defined]


# What was on its way when the connection is reset is lost, so a connection has to carry more than a chunk.
@pytest.mark.parametrize("size", [2 * CHUNK_BYTES + 600_000, 4 * CHUNK_BYTES + 200_000], ids=["two", "four"])
async def test_connections_cut_every_few_chunks(size: int, store_server: ServerFactory, tmp_path: Path) -> None:
    """No connection lives long enough for the whole; each transfer goes on where the one before was cut."""
    server = await store_server("sqlite").start()
    data = random.Random(2).randbytes(12 * MIB + 5)
    async with Proxy(server.port) as proxy:
        async with homenode.connect(proxy.url, agent="a", timeout_ms=30_000) as hn:
            proxy.up.connection_max = size
            proxy.up.delay_s = 0.004  # a reset overtakes what the server has not read yet, so it needs time to read
            written = await hn.upload("big", data)
            assert (await hn.stat("big")).version == written.version and written.version.n == 1
        ups = proxy.cuts
        assert ups >= 2
        proxy.heal()
        proxy.down.connection_max, proxy.down.delay_s = size, 0.004
        # Each has nothing of it at hand: what a session has in its cache does not travel.
        async with homenode.connect(proxy.url, agent="b", timeout_ms=30_000) as hn:
            await hn.download("big", tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == data
        async with homenode.connect(proxy.url, agent="c", timeout_ms=30_000) as hn, hn.open("big") as content:
            assert b"".join([piece async for piece in content]) == data
        async with homenode.connect(proxy.url, agent="d", timeout_ms=30_000) as hn:
            assert (await hn.read("big", max_age_ms=0)).bytes == data
        assert proxy.cuts >= ups + 3


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
async def test_memory_stays_bounded(
    kind: str, store_server: ServerFactory, short_tmp: Path, scale: Scale, report: Report
) -> None:
    """An upload from a file, a download to one, a small change and its delta: neither end holds the content."""
    size = scale(48, 256) * MIB
    source, target = short_tmp / "in", short_tmp / "out"
    name = _write(source, size)
    server = await store_server(kind).start()
    assert server._process is not None
    async with homenode.connect(server.url, agent="a", timeout_ms=60_000) as hn:
        await hn.upload("warm", b"w" * (6 * MIB))
        async with _watched(server._process.pid) as served, _watched(os.getpid()) as own:
            info = await hn.upload("big", source)
            assert (info.size, info.hash) == (size, name)
            await hn.download("big", target)
            sent = hn.stats().sent_bytes
            with source.open("r+b") as file:
                file.write(b"put in place of what was here")
            changed = await hn.upload("big", source)
            assert hn.stats().sent_bytes - sent <= CHUNK_BYTES
            fetched = hn.stats().fetched_bytes
            await hn.download("big", target)
            assert hn.stats().fetched_bytes - fetched <= CHUNK_BYTES
        assert _hash(target) == changed.hash == _hash(source)
    report(f"{size >> 20} MiB: server +{served[0] >> 20} MiB, client +{own[0] >> 20} MiB")
    # 32 MiB of chunks may stay in the server's cache.
    assert served[0] < 120 * MIB and own[0] < 64 * MIB


def _write(path: Path, size: int) -> bytes:
    rng, whole = random.Random(size), hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size // MIB):
            piece = rng.randbytes(MIB)
            whole.update(piece)
            file.write(piece)
    return whole.digest()


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextlib.asynccontextmanager
async def _watched(pid: int) -> AsyncIterator[list[int]]:
    """By how much the memory of a process grew at most."""
    before, grown = resident_bytes(pid), [0]

    async def watch() -> None:
        while True:
            grown[0] = max(grown[0], resident_bytes(pid) - before)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield grown
    finally:
        task.cancel()
