"""Large contents through the SDK: whole, as streams and files, only what changed, and on from a cut."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import homenode
from homenode_api.chunks import CHUNK_BYTES, ChunkMessage
from tests.client.conftest import ServerFactory

MIB = 1 << 20


def body(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module")
def big() -> bytes:
    return body(6 * MIB + 123)


async def test_a_large_value_is_put_and_read(url: str, big: bytes) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        written = await a.put("big", big, metadata={"kind": "model"})
        read = await b.read("big")
        assert (read.bytes, read.version, dict(read.metadata)) == (big, written.version, {"kind": "model"})
        assert b.read_cached("big") is read
        assert (await b.read("big", max_age_ms=0)).bytes == big
        assert b.stats().fetched_bytes <= len(big)
        async with a.write("big") as draft:
            draft.bytes = draft.bytes[::-1]
        assert (await b.read("big", max_age_ms=0)).bytes == big[::-1]


async def test_text_travels_compressed(url: str) -> None:
    text = "".join(f"line {n} of a long report\n" for n in range(300_000))
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("report", text)
        assert (await b.read("report")).text == text
        assert a.stats().sent_bytes < len(text) // 3
        assert b.stats().fetched_bytes < len(text) // 3


@pytest.mark.parametrize(
    ("change", "cost"),
    [
        (lambda old: old[: 3 * MIB] + b"!" + old[3 * MIB + 1 :], 1),
        (lambda old: b"put in at the start" + old, 1),
        (lambda old: old[: 2 * MIB + 7] + b"put in" + old[2 * MIB + 7 :], 2),
        (lambda old: old + b"appended", 1),
        (lambda old: old[5000:], 1),
        (lambda old: old, 0),
    ],
    ids=["changed", "start", "middle", "end", "cut", "same"],
)
async def test_only_chunks_that_changed_travel(url: str, big: bytes, change: object, cost: int) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        first = await a.put("big", big)
        await b.read("big")
        sent, fetched = a.stats().sent_bytes, b.stats().fetched_bytes
        new = change(big)  # type: ignore[operator]
        await a.put("big", new)
        read = await b.read("big", max_age_ms=0)
        assert read.bytes == new
        assert a.stats().sent_bytes - sent <= cost * CHUNK_BYTES + 100
        assert b.stats().fetched_bytes - fetched <= cost * CHUNK_BYTES + 100
        assert (await b.read("big", version=first.version)).bytes == big


async def test_a_patch_that_cannot_be_applied_costs_a_try(url: str, big: bytes) -> None:
    """Whatever is wrong with its base, at the directory or here, the chunk comes whole and the content is right."""
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        new = big[: 3 * MIB] + b"!" + big[3 * MIB + 1 :]
        await a.put("big", big)
        await b.read("big")
        core, sent = a._core, a.stats().sent_bytes
        body = core.body

        async def unfounded(*args: object) -> object:
            made = await body(*args)  # type: ignore[arg-type]
            bases = {place: (bytes(32), data) for place, (_, data) in made.bases.items()}  # type: ignore[union-attr]
            assert len(bases) == 1
            return dataclasses.replace(made, bases=bases)  # type: ignore[type-var]

        core.body = unfounded  # type: ignore[assignment, method-assign]
        await a.put("big", new)
        assert CHUNK_BYTES <= a.stats().sent_bytes - sent <= CHUNK_BYTES + 100
        transport, bases = b._core.session.link.transport, []
        read_content = transport.read_content

        async def damaging(request: object, timeout_s: float) -> AsyncIterator[object]:
            async for message in read_content(request, timeout_s):  # type: ignore[arg-type]
                if isinstance(message, ChunkMessage) and message.base:
                    bases.append(message.base)
                    message = message._replace(data=message.data[:-1])
                yield message

        transport.read_content = damaging  # type: ignore[assignment, method-assign]
        assert (await b.read("big", max_age_ms=0)).bytes == new and len(bases) == 1


async def test_patches_go_on_after_a_cut(url: str, big: bytes) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("big", big)
        await b.read("big")
        new = bytearray(big)
        new[MIB + 5] ^= 1
        new[4 * MIB + 5] ^= 1
        transport, seen = a._core.session.link.transport, list[tuple[int, bool]]()
        write_content, read_content = transport.write_content, b._core.session.link.transport.read_content

        async def cutting(messages: AsyncIterator[object], timeout_s: float) -> object:
            async def some() -> AsyncIterator[object]:
                async for message in messages:
                    if isinstance(message, ChunkMessage):
                        seen.append((message.place, bool(message.base)))
                        if len(seen) == 2:
                            return
                    yield message

            try:
                return await write_content(some(), timeout_s)  # type: ignore[arg-type]
            except homenode.ContentMissing:  # it ended too soon
                raise homenode.Unavailable("cut") from None

        came: list[tuple[int, bool]] = []

        async def cut_once(request: object, timeout_s: float) -> AsyncIterator[object]:
            async for message in read_content(request, timeout_s):  # type: ignore[arg-type]
                if isinstance(message, ChunkMessage):
                    came.append((message.place, bool(message.base)))
                yield message
                if isinstance(message, ChunkMessage) and len(came) == 1:
                    raise homenode.Unavailable("cut")

        transport.write_content = cutting  # type: ignore[assignment, method-assign]
        b._core.session.link.transport.read_content = cut_once  # type: ignore[assignment, method-assign]
        sent, fetched = a.stats().sent_bytes, b.stats().fetched_bytes
        await a.put("big", bytes(new))
        assert seen[:2] == [(1, True), (4, True)] and seen[2:] == [(4, True)]
        assert (await b.read("big", max_age_ms=0)).bytes == new
        assert came == [(1, True), (4, True)]
        assert a.stats().sent_bytes - sent < 100 and b.stats().fetched_bytes - fetched < 100


async def test_chunks_of_any_earlier_content_are_found(url: str, big: bytes) -> None:
    async with homenode.connect(url, agent="a") as a:
        await a.put("one", big)
        sent = a.stats().sent_bytes
        await a.put("two", big[: 5 * MIB] + b"other end")
        assert a.stats().sent_bytes - sent < 100


@pytest.mark.parametrize("size", [10, 2 * MIB, 6 * MIB + 123])
@pytest.mark.parametrize("kind", ["path", "file", "bytes", "iterator", "async"])
async def test_uploads_and_downloads(url: str, tmp_path: Path, size: int, kind: str) -> None:
    data = body(size)
    (tmp_path / "in").write_bytes(data)
    sources = {
        "path": tmp_path / "in",
        "file": (tmp_path / "in").open("rb"),
        "bytes": memoryview(data),
        "iterator": iter([data[:5], data[5:]]),
        "async": _some(data),
    }
    seen: list[tuple[int, int]] = []
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        info = await a.upload("k", sources[kind], media_type="x/y", progress=lambda *done: seen.append(done))
        assert (info.size, info.media_type) == (size, "x/y")
        found = await b.download("k", tmp_path / "out")
        assert (found.version, found.hash, found.media_type) == (info.version, info.hash, "x/y")
        assert (tmp_path / "out").read_bytes() == data
        async with b.open("k") as content:
            assert (content.version, content.size) == (info.version, size)
            pieces = [piece async for piece in content]
        assert b"".join(pieces) == data and max(map(len, pieces)) <= CHUNK_BYTES
        again = await a.upload("k", tmp_path / "in")
        assert again.version > info.version and again.media_type == "x/y", "it is what this agent saw last"
    sources["file"].close()
    assert size < 4 * MIB or seen[-1] == (size, size)
    assert [path.name for path in tmp_path.iterdir()] == ["in", "out"] or len(list(tmp_path.iterdir())) == 2


async def _some(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 700_000):
        yield data[at : at + 700_000]


async def test_a_download_takes_what_the_file_has(url: str, tmp_path: Path, big: bytes) -> None:
    path = tmp_path / "copy"
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("big", big)
        await b.download("big", path)
        path.chmod(0o640)
        longer = big[:MIB] + b"put in" + big[MIB:]
        for new in (longer, longer[: 5 * MIB + MIB // 2] + b"end", longer[: 5 * MIB + MIB // 2]):
            await a.put("big", new)
            before = b.stats().fetched_bytes
            await b.download("big", path)
            assert path.read_bytes() == new and path.stat().st_mode & 0o777 == 0o640
            assert b.stats().fetched_bytes - before <= 2 * CHUNK_BYTES + 100


async def test_what_cannot_be_streamed_is_said(url: str, tmp_path: Path) -> None:
    async with homenode.connect(url, agent="a") as a:
        for source in (["text"], 5, {"a": 1}):
            with pytest.raises(homenode.InvalidArgument):
                await a.upload("k", source)  # type: ignore[arg-type]
        with pytest.raises(FileNotFoundError):
            await a.upload("k", tmp_path / "none")
        with pytest.raises(homenode.NotFound):
            await a.download("none", tmp_path / "out")
        with pytest.raises(homenode.NotFound):
            async with a.open("none"):
                pass
        await a.put("k", b"1")
        with pytest.raises(OSError):
            await a.download("k", tmp_path / "no" / "folder")
        with pytest.raises(homenode.TooLarge):
            await a.upload("k", (bytes(MIB) for _ in range(257)))
    assert not list(tmp_path.iterdir())


async def test_a_conflict_is_a_conflict_for_large_contents_too(url: str, big: bytes) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("big", big)
        with pytest.raises(homenode.AlreadyExists):
            await b.upload("big", big)
        await b.read("big")
        await a.put("big", b"small")
        with pytest.raises(homenode.VersionConflict):
            await b.put("big", big + b"!")
        assert (await b.read("big", max_age_ms=0)).bytes == b"small"


async def test_large_copies_leave_room_in_the_cache(url: str, big: bytes) -> None:
    async with homenode.connect(url, agent="a", cache_bytes=10 * MIB) as a:
        await a.put("small", b"small")
        await a.read("small")
        written = await a.put("big", big)
        assert (await a.read("big")).bytes == big
        assert a.read_cached("big") is None, "more than a quarter of the cache"
        assert a.read_cached("small") is not None
        assert a._core.cache.bytes_held < 100
        assert a._view.shown["big"].artifact.bytes == b"" and a._view.version("big") == written.version
        await a.put("big", big + b"!")


async def test_a_fetch_that_a_commit_overtakes_is_not_kept(server_factory: ServerFactory, big: bytes) -> None:
    """Rule 10: however long the body takes, it belongs to the version named, and only the newest may be cached."""
    url = (await server_factory().start()).url
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        first = await a.put("big", big)
        transport = b._core.session.link.transport
        read_content, begun, go_on = transport.read_content, asyncio.Event(), asyncio.Event()

        async def slow(request: object, timeout_s: float) -> AsyncIterator[object]:
            async for message in read_content(request, timeout_s):  # type: ignore[arg-type]
                if not request.header_only:  # type: ignore[attr-defined]  # that is the writer, on the same link
                    begun.set()
                    await go_on.wait()
                yield message

        transport.read_content = slow  # type: ignore[assignment, method-assign]
        reading = asyncio.create_task(b.read("big"))
        await begun.wait()
        second = await a.put("big", big + b"!")
        floor = b._core.cache._lines["big"]
        while floor.floor < second.version:
            await asyncio.sleep(0.005)
        go_on.set()
        old = await reading
        assert old.version == first.version and old.bytes == big
        assert b.read_cached("big") is None
        assert (await b.read("big")).bytes == big + b"!"


async def test_bytes_that_changed_on_the_way_are_not_given(url: str, tmp_path: Path, big: bytes) -> None:
    async with homenode.connect(url, agent="a", timeout_ms=3_000) as a:
        await a.put("big", big)
        a._core.cache.drop_all()
        a._core.cache.__init__(bytes_max=64 * MIB)  # type: ignore[misc]
        transport = a._core.session.link.transport
        read_content = transport.read_content

        async def damaging(request: object, timeout_s: float) -> AsyncIterator[object]:
            async for message in read_content(request, timeout_s):  # type: ignore[arg-type]
                if isinstance(message, ChunkMessage) and message.place == 2:
                    message = message._replace(data=bytes(len(message.data)))
                yield message

        transport.read_content = damaging  # type: ignore[assignment, method-assign]
        with pytest.raises(homenode.InternalError):
            await a.read("big", max_age_ms=0)
        with pytest.raises(homenode.InternalError):
            await a.download("big", tmp_path / "out")
        got = b""
        with pytest.raises(homenode.InternalError):
            async with a.open("big") as content:
                async for piece in content:
                    got += piece
        assert got == big[: 2 * MIB]
        transport.read_content = read_content  # type: ignore[method-assign]
        assert (await a.read("big")).bytes == big
    assert not list(tmp_path.iterdir())


async def test_a_snapshot_has_large_contents_too(url: str, big: bytes) -> None:
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("big", big)
        await a.put("small", "1")
        async with b.snapshot(["big", "small"]) as snap:
            await a.put("big", big[::-1])
            await a.put("small", "2")
            assert (snap["big"].bytes, snap["small"].text) == (big, "1")
        assert (await b.read("big", max_age_ms=0)).bytes == big[::-1]


async def test_closing_the_connection_ends_a_transfer(server_factory: ServerFactory, big: bytes) -> None:
    server = await server_factory().start()
    hn = await homenode.connect(server.url, agent="a", timeout_ms=600_000)
    closing: list[asyncio.Task[None]] = []

    def close(done: int, size: int) -> None:
        if done >= MIB and not closing:
            server.pause()
            closing.append(asyncio.create_task(hn.close()))

    with pytest.raises(homenode.HomenodeError):
        await asyncio.wait_for(hn.upload("big", big, progress=close), 30)
    server.go_on()
    await closing[0]


def test_blocking(short_tmp: Path, big: bytes) -> None:
    (short_tmp / "in").write_bytes(big)
    with homenode.connect_sync(f"embedded://{short_tmp}/store", agent="a") as a:
        a.upload("k", short_tmp / "in")
        a.download("k", short_tmp / "out")
        with a.open("k") as content:
            assert content.size == len(big) and b"".join(content) == big
    assert (short_tmp / "out").read_bytes() == big


async def test_random_edits_and_lengths(url: str) -> None:
    """Whatever is changed, what is read is what was written."""
    rng = random.Random(5)
    data = bytearray(os.urandom(5 * MIB))
    async with homenode.connect(url, agent="a") as a, homenode.connect(url, agent="b") as b:
        await a.put("k", bytes(data))
        for _ in range(12):
            for _ in range(rng.randrange(1, 4)):
                at, end = rng.randrange(len(data)), rng.randrange(2 * MIB)
                data[at : at + rng.choice((0, 5, end))] = rng.randbytes(rng.choice((0, 3, MIB)))
            await a.put("k", bytes(data))
            assert (await b.read("k", max_age_ms=0)).bytes == data
