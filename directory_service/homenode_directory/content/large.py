"""Large contents: lists of chunks, taken in and given out one chunk at a time.

A chunk is a content like any other, named by its own hash, so versions share what they have in common. The list is kept
under the hash of the whole; its record refers to every chunk (`Blob.needs`), so whoever refers to the list keeps all.

An upload goes through the list in order. Chunks that come are verified and kept at once, without a reference: after a
cut they need not come again, and if nobody goes on they are collected. Those that do not come are read from the store.
All pass through one hash, and the list is kept only when that is the content's. A handful of chunks is in memory at
a time, however large the content is.

A chunk may come, and be sent, as a patch from one that both ends have. It is stored whole all the same: chunks have no
chains. What a patch does not lead to, or from what is not here, has to be sent whole; so a patch costs a try at worst.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from homenode_api.chunks import CHUNK_BYTES, Chunk, ChunkError, pack_chunk, patched_chunk, unpack_chunk
from homenode_api.patch import make_patch
from homenode_directory.content.bounds import ByteCache, KeyLocks
from homenode_directory.content.encoding import Kind, chunk_blob, list_blob
from homenode_directory.content.service import BaseGone, Blobs, ContentError, ContentReason, ContentStore
from homenode_directory.errors import Overloaded

T = TypeVar("T")
R = TypeVar("R")

#: Chunks that are read before they are wanted, and chunks that are on their way into the store.
AHEAD_MAX = 2
KEEPING_MAX = 3


class Body(NamedTuple):
    """A chunk as it is stored and sent; with `base`, which is never stored, a patch from that chunk."""

    data: bytes | memoryview
    compressed: bool
    base: bytes = b""


class LargeContents:
    """See the module's docstring. One per process, used from one event loop.

    Args:
        pieces: contents in one piece; its workers do the hashing, within its budget.
        blobs: where both lie.
        cache_bytes: chunks kept in memory for readers.
    """

    def __init__(self, pieces: ContentStore, blobs: Blobs, *, cache_bytes: int = 32 << 20) -> None:
        self._pieces = pieces
        self._blobs = blobs
        self._bodies: ByteCache[Body] = ByteCache(cache_bytes)
        self._lists: ByteCache[tuple[Chunk, ...]] = ByteCache(cache_bytes // 16)
        self._locks = KeyLocks()

    async def missing(self, slice_: int, hashes: Sequence[str]) -> list[int]:
        """Places of those that are not stored; the others will not be collected for a while."""
        there = await self._blobs.touch(slice_, hashes)
        return [index for index, found in enumerate(there) if not found]

    async def chunks(self, slice_: int, hash_: str) -> tuple[Chunk, ...]:
        """The list of a stored content. Raises ContentError (CONTENT_MISSING)."""
        chunks = self._lists.get((slice_, hash_))
        if chunks is None:
            blob = await self._blobs.get_blob(slice_, hash_)
            chunks = blob.chunks if blob is not None else ()
            if not chunks:
                raise ContentError(ContentReason.CONTENT_MISSING, "the content is not stored as a list of chunks")
            self._lists.put((slice_, hash_), chunks, 128 * len(chunks))
        return chunks

    async def send(
        self, slice_: int, chunks: Sequence[Chunk], places: Iterable[int], bases: Mapping[int, Chunk]
    ) -> AsyncGenerator[tuple[int, Body], None]:
        """The chunks at these places, each with its place, in this order. Raises ContentError (CONTENT_MISSING).

        As patches from `bases`, by place, where that is much smaller. What is stored is sent as it is: the reader
        compares it with its hash.
        """

        async def load(place: int) -> tuple[int, Body]:
            base = bases.get(place)
            if base is not None:
                return place, await self._patch(slice_, base, chunks[place])
            return place, await self._body(slice_, chunks[place])

        async with contextlib.aclosing(_ahead(places, load)) as bodies:
            async for sent in bodies:
                yield sent

    async def stored(self, slice_: int, hash_: str) -> bool:
        """Whether the list of that content is kept; then it was verified, and will not be collected for a while."""
        return (await self._blobs.touch(slice_, [hash_]))[0]

    def upload(self, slice_: int, hash_: str, size: int, chunks: Sequence[Chunk]) -> Upload:
        """A content on its way in: `async with` it, `take` chunks, `finish`. `chunks` is a checked list."""
        return Upload(self, slice_, hash_, size, chunks)

    async def _body(self, slice_: int, chunk: Chunk) -> Body:
        key = (slice_, chunk.hash)
        body = self._bodies.get(key)
        if body is not None:
            return body
        async with self._locks.hold(key):
            body = self._bodies.get(key) or await self._read(slice_, chunk)
            self._bodies.put(key, body, len(body.data))
            return body

    async def _patch(self, slice_: int, base: Chunk, chunk: Chunk) -> Body:
        """A chunk for who has `base`: the patch, or the chunk itself."""
        key = (slice_, base.hash, chunk.hash)
        body = self._bodies.get(key)
        if body is not None:
            return body
        async with self._locks.hold(key):
            body, new = self._bodies.get(key), await self._body(slice_, chunk)
            if body is None:
                try:
                    body = await self._make_patch(slice_, base, chunk, new)
                except (ContentError, ChunkError, Overloaded):
                    return new
                self._bodies.put(key, body, len(body.data))
            return body

    async def _make_patch(self, slice_: int, base: Chunk, chunk: Chunk, new: Body) -> Body:
        before = await self._body(slice_, base)

        def work() -> Body:
            old = unpack_chunk(base, before.data, before.compressed)
            patch = make_patch(bytes(old), bytes(unpack_chunk(chunk, new.data, new.compressed)))
            return Body(patch, False, base.hash) if 2 * len(patch) <= len(new.data) else new

        return await self._pieces.workers.run(2 * (base.size + chunk.size), work)

    async def _from_patch(self, slice_: int, chunk: Chunk, body: Body) -> Body:
        """A chunk that came as a patch. Raises ContentError (CONTENT_MISSING), upon which it is to be sent whole."""
        blob = await self._blobs.get_blob(slice_, body.base.hex())
        refusal = ContentError(ContentReason.CONTENT_MISSING, "a chunk cannot be made from its patch; send it whole")
        if blob is None or not blob.sound or blob.kind not in (Kind.RAW, Kind.ZSTD) or blob.size > CHUNK_BYTES:
            raise refusal
        base = Chunk(body.base, blob.size)

        def work() -> Body:
            old = unpack_chunk(base, blob.body, blob.kind == Kind.ZSTD)
            return Body(*pack_chunk(patched_chunk(chunk, body.data, old)))

        try:
            return await self._pieces.workers.run(2 * (base.size + chunk.size), work)
        except ChunkError:
            raise refusal from None

    async def _read(self, slice_: int, chunk: Chunk) -> Body:
        blob = await self._blobs.get_blob(slice_, chunk.hash.hex())
        if blob is None or blob.size != chunk.size or not blob.sound:
            raise ContentError(ContentReason.CONTENT_MISSING, "a chunk of the content is not stored")
        if blob.kind in (Kind.RAW, Kind.ZSTD):
            return Body(blob.body, blob.kind == Kind.ZSTD)
        # These bytes are an artifact of their own as well, which is kept as a patch.
        return Body(await self._pieces.load(slice_, chunk.hash.hex()), False)

    async def _verify(self, whole: Any, chunk: Chunk, body: Body) -> None:
        """Compare a chunk with its hash, and add it to that of the whole. Raises ChunkError, Overloaded."""

        def work() -> None:
            whole.update(unpack_chunk(chunk, body.data, body.compressed))

        await self._pieces.workers.run(chunk.size + len(body.data), work)

    async def _keep(self, slice_: int, chunk: Chunk, body: Body) -> None:
        data = chunk_blob(body.data, body.compressed, chunk.size).data
        await self._blobs.put_blob(slice_, chunk.hash.hex(), data, size=chunk.size, links=0, chain_bytes=0, base="")


class Upload:
    """See `LargeContents.upload`."""

    def __init__(self, large: LargeContents, slice_: int, hash_: str, size: int, chunks: Sequence[Chunk]) -> None:
        self._large = large
        self._slice = slice_
        self._hash = hash_
        self._size = size
        self._chunks = chunks
        self._whole = hashlib.sha256()
        self._next = 0
        self._keeping: deque[asyncio.Task[None]] = deque()

    async def take(self, index: int, body: Body) -> None:
        """The next chunk that came. Raises ContentError, Overloaded, and what the blob calls raise."""
        if not self._next <= index < len(self._chunks):
            raise ContentError(ContentReason.INVALID_ARGUMENT, "chunks come in the order of the list, each once")
        await self._pass_stored(index)
        chunk = self._chunks[index]
        if body.base:
            body = await self._large._from_patch(self._slice, chunk, body)
        try:
            await self._large._verify(self._whole, chunk, body)
        except ChunkError as failure:
            raise ContentError(ContentReason.INVALID_ARGUMENT, str(failure)) from None
        self._next = index + 1
        if len(self._keeping) >= KEEPING_MAX:
            await self._keeping.popleft()
        self._keeping.append(asyncio.ensure_future(self._large._keep(self._slice, chunk, body)))

    async def finish(self) -> None:
        """Everything came: keep the list. Raises as `take` does; then no content of this name was kept."""
        await self._pass_stored(len(self._chunks))
        if self._whole.hexdigest() != self._hash:
            raise ContentError(ContentReason.INVALID_ARGUMENT, "the content does not match its hash")
        while self._keeping:
            await self._keeping.popleft()
        data = list_blob(self._size, self._chunks).data
        try:
            await self._large._blobs.put_blob(
                self._slice, self._hash, data, size=self._size, links=0, chain_bytes=0, base=""
            )
        except BaseGone:
            raise ContentError(
                ContentReason.CONTENT_MISSING, "a chunk was collected meanwhile; send it again"
            ) from None

    async def _pass_stored(self, stop: int) -> None:
        """Read the chunks up to `stop` that did not come."""

        async def load(place: int) -> tuple[Chunk, Body]:
            chunk = self._chunks[place]
            return chunk, await self._large._read(self._slice, chunk)

        if self._next == stop:
            return
        while self._keeping:  # one of them may stand here a second time
            await self._keeping.popleft()
        async with contextlib.aclosing(_ahead(range(self._next, stop), load)) as stored:
            async for chunk, body in stored:
                try:
                    await self._large._verify(self._whole, chunk, body)
                except ChunkError:
                    raise ContentError(ContentReason.CONTENT_MISSING, "a stored chunk is damaged") from None
        self._next = stop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is on its way into the store arrives there, for the next try.
        await asyncio.gather(*self._keeping, return_exceptions=True)


async def _ahead(items: Iterable[T], load: Callable[[T], Awaitable[R]]) -> AsyncGenerator[R, None]:
    """`load` of each item in order, AHEAD_MAX of them begun before they are wanted."""
    rest = iter(items)
    under_way: deque[asyncio.Future[R]] = deque()
    try:
        while True:
            for item in rest:
                under_way.append(asyncio.ensure_future(load(item)))
                if len(under_way) > AHEAD_MAX:
                    break
            if not under_way:
                return
            yield await under_way.popleft()
    finally:
        for future in under_way:
            future.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
