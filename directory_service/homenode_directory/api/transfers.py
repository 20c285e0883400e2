"""Contents on streams of their own: bodies over 32 KiB in one piece, large contents as chunks.

What a transfer may hold in memory is taken from one budget before it begins: all of a content in one piece, a window
of a large one. A peer that does not read, or does not send, for `STALL_S` is cut and gives it back; so is one that is
slower than `SLOWEST_BYTES_PER_S` on the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from homenode_api.chunks import (
    CHUNK_BYTES,
    HASH_BYTES,
    PIECE_MAX_BYTES,
    Chunk,
    ChunkError,
    ChunkMessage,
    checked_chunks,
    replaced,
)
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import validate
from homenode_directory.api.bodies import Named, Sliced, refusal
from homenode_directory.api.errors import invalid, rejected
from homenode_directory.content.bounds import ByteBudget
from homenode_directory.content.large import Body, LargeContents
from homenode_directory.content.service import ContentError, ContentStore, Patches, Sent, Snapshot
from homenode_directory.errors import Overloaded
from homenode_directory.observer import Observer
from homenode_directory.place import Place

DATA_BYTES = 256 * 1024
EXTRA_BYTES = 1024  # an encoding of incompressible bytes is a little larger than they are
WINDOW_BYTES = 4 * CHUNK_BYTES  # what a large content on its way has in memory
STALL_S = 20.0  # how long a peer may take for the next message
DRAIN_S = 5.0  # how long a writer may take to notice that its content was answered before its end
TURN_WAIT_S = 10.0  # how long a transfer waits for others to end
SHORTEST_S = 120.0  # how long any transfer may take
SLOWEST_BYTES_PER_S = 256 * 1024


Outgoing = pb.ReadContentResponse | ChunkMessage
Incoming = pb.WriteContentRequest | ChunkMessage
Messages = AsyncGenerator[Outgoing, None]


def limit_s(size: int) -> float:
    """How long a content of `size` bytes may be on its way."""
    return SHORTEST_S + size / SLOWEST_BYTES_PER_S


class Transfers:
    """Moves contents between streams of messages and the content stores.

    Args:
        pieces, large: contents in one piece, and large ones.
        store: says how many slices there are.
        transfer_bytes: bytes that all transfers together may hold at once.
    """

    def __init__(
        self,
        pieces: ContentStore,
        large: LargeContents,
        store: Sliced,
        bounds: validate.Bounds,
        observer: Observer,
        *,
        transfer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._pieces = pieces
        self._large = large
        self._store = store
        self._bounds = bounds
        self._observer = observer
        self.budget = ByteBudget(transfer_bytes)

    # --- out --------------------------------------------------------------------------------------------------------

    async def read(self, place: Place, content: Named, m: pb.ReadContentRequest) -> Messages:
        """A content's header, then its data or chunks. Raises Rejected, Overloaded."""
        have, have_chunks = validate.have(m.have), validate.have_chunks(m.have_chunks)
        try:
            if content.size <= PIECE_MAX_BYTES:
                messages = self._read_piece(place, content, have, m.header_only)
            else:
                messages = self._read_large(place, content, have, have_chunks, m)
            async with contextlib.aclosing(messages):
                async for message in messages:
                    yield message
        except ContentError as failure:
            raise refusal(failure) from None

    async def _read_piece(self, place: Place, content: Named, have: Sequence[str], header_only: bool) -> Messages:
        async with self._turn(content.size + EXTRA_BYTES):
            header, data = await self._encoded(place, content, have)
            yield pb.ReadContentResponse(header=header)
            for start in range(0, 0 if header_only else len(data), DATA_BYTES):
                yield pb.ReadContentResponse(data=data[start : start + DATA_BYTES])

    async def _encoded(self, place: Place, content: Named, have: Sequence[str]) -> tuple[pb.ContentHeader, bytes]:
        slice_ = place.slice_of(self._store.slices)
        # A reader who holds the very content asks in vain here, so it is left out of what counts.
        others = [hash_ for hash_ in have if hash_ != content.hash]
        sent: Sent = await self._pieces.for_reader(slice_, content.hash, others, patches_max=1)
        header = pb.ContentHeader(hash=bytes.fromhex(content.hash), size=content.size)
        if isinstance(sent, Patches):
            header.encoding, header.base_hash = pb.CONTENT_ENCODING_PATCH, bytes.fromhex(sent.base)
            data = sent.patches[0]
        else:
            assert isinstance(sent, Snapshot)
            header.encoding, data = pb.CONTENT_ENCODING_SNAPSHOT, sent.data
        header.encoded_size = len(data)
        self._observer.content("patch" if isinstance(sent, Patches) else "snapshot", len(data), content.size)
        return header, data

    async def _read_large(
        self,
        place: Place,
        content: Named,
        have: Sequence[str],
        have_chunks: Iterable[bytes],
        m: pb.ReadContentRequest,
    ) -> Messages:
        slice_ = place.slice_of(self._store.slices)
        async with self._turn(WINDOW_BYTES):
            chunks = await self._large.chunks(slice_, content.hash)
            yield pb.ReadContentResponse(header=_header(content, chunks))
            if m.header_only:
                return
            sent, spared, held = 0, 0, frozenset(have_chunks)
            places = [place for place in range(m.first_chunk, len(chunks)) if chunks[place].hash not in held]
            bodies = self._large.send(slice_, chunks, places, await self._bases(slice_, chunks, have[:1], held))
            async with contextlib.aclosing(bodies):
                async for index, body in bodies:
                    sent += len(body.data)
                    spared += chunks[index].size - len(body.data) if body.base else 0
                    yield ChunkMessage(index, *body)
            spared += content.size - sum(chunks[place].size for place in places)
            self._observer.content("chunks", sent, sent + spared)

    async def _bases(
        self, slice_: int, chunks: Sequence[Chunk], have: Sequence[str], held: frozenset[bytes]
    ) -> Mapping[int, Chunk]:
        """What chunks may be patched from, by their places: chunks of the content that the reader holds."""
        try:
            old = await self._large.chunks(slice_, have[0]) if have else ()
        except ContentError:
            return {}
        return {place: old[at] for place, at in replaced(old, chunks).items() if old[at].hash in held}

    # --- in ---------------------------------------------------------------------------------------------------------

    async def missing(self, place: Place, m: pb.MissingChunksRequest) -> pb.MissingChunksResponse:
        """Which chunks have to be sent."""
        hashes = [hash_.hex() for hash_ in validate.have_chunks(m.hashes)]
        missing = await self._large.missing(place.slice_of(self._store.slices), hashes)
        return pb.MissingChunksResponse(missing=missing, patches=True)

    async def write(
        self, place: Place, header: pb.ContentHeader, messages: AsyncIterator[Incoming]
    ) -> pb.WriteContentResponse:
        """Take a content, verify and keep it. Raises Rejected, Overloaded."""
        hash_ = validate.hash_hex(header.hash)
        size = validate.content_size(header.size, self._bounds)
        slice_ = place.slice_of(self._store.slices)
        try:
            async with asyncio.timeout(limit_s(size)):
                if header.encoding == pb.CONTENT_ENCODING_CHUNKS:
                    await self._write_large(slice_, hash_, size, header, messages)
                else:
                    await self._write_piece(slice_, hash_, size, header, messages)
        except ContentError as failure:
            raise refusal(failure) from None
        return pb.WriteContentResponse(hash=header.hash)

    async def _write_piece(
        self, slice_: int, hash_: str, size: int, header: pb.ContentHeader, messages: AsyncIterator[Incoming]
    ) -> None:
        if size > PIECE_MAX_BYTES:
            text = f"a content in one piece may have {PIECE_MAX_BYTES} bytes, not {size}; send a list of chunks"
            raise rejected(t.ERROR_REASON_TOO_LARGE, text)
        if header.encoded_size > size + EXTRA_BYTES:
            raise invalid("encoded_size is larger than the content; send a snapshot")
        async with self._turn(header.encoded_size):
            data = bytearray()
            async for message in _flowing(messages):
                if isinstance(message, ChunkMessage) or message.WhichOneof("what") != "data":
                    raise invalid("after the header only data may follow")
                data += message.data
                if len(data) > header.encoded_size:
                    raise invalid("more data than encoded_size says")
            if len(data) < header.encoded_size:
                raise invalid("less data than encoded_size says")
            await self._pieces.store(slice_, hash_, size, **_form(header, bytes(data)))

    async def _write_large(
        self, slice_: int, hash_: str, size: int, header: pb.ContentHeader, messages: AsyncIterator[Incoming]
    ) -> None:
        if header.base_hash or header.encoded_size:
            raise invalid("a list of chunks has neither base_hash nor encoded_size")
        try:
            chunks = checked_chunks(size, ((chunk.hash, chunk.size) for chunk in header.chunks))
        except ChunkError as failure:
            raise invalid(str(failure)) from None
        if await self._large.stored(slice_, hash_):
            return
        async with self._turn(WINDOW_BYTES), self._large.upload(slice_, hash_, size, chunks) as upload:
            async for message in _flowing(messages):
                if not isinstance(message, ChunkMessage):
                    raise invalid("after a list of chunks only chunks may follow")
                if len(message.data) > CHUNK_BYTES + EXTRA_BYTES:
                    raise invalid(f"a chunk has at most {CHUNK_BYTES} bytes")
                if len(message.base) not in (0, HASH_BYTES):
                    raise invalid("the base of a patch is named by its SHA-256")
                await upload.take(message.place, Body(message.data, message.compressed, message.base))
            await upload.finish()

    # --- bounds -----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _turn(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes of the budget. Raises Overloaded."""
        try:
            async with asyncio.timeout(TURN_WAIT_S):
                await self.budget.acquire(size)
        except TimeoutError:
            raise Overloaded("too many contents are on their way", retry_after_ms=1_000) from None
        try:
            yield
        finally:
            self.budget.release(size)


async def _flowing(messages: AsyncIterator[Incoming]) -> AsyncIterator[Incoming]:
    """The messages after the header, each in time."""
    while True:
        async with asyncio.timeout(STALL_S):
            message = await anext(messages, None)
        if message is None:
            return
        yield message


def _form(header: pb.ContentHeader, data: bytes) -> dict[str, Any]:
    if header.encoding == pb.CONTENT_ENCODING_SNAPSHOT:
        return {"snapshot": data}
    if header.encoding == pb.CONTENT_ENCODING_PATCH:
        return {"patch": (validate.hash_hex(header.base_hash, "base_hash"), data)}
    raise invalid("encoding must be a snapshot, a patch or a list of chunks")


def _header(content: Named, chunks: Sequence[Chunk]) -> pb.ContentHeader:
    header = pb.ContentHeader(hash=bytes.fromhex(content.hash), size=content.size, encoding=pb.CONTENT_ENCODING_CHUNKS)
    header.chunks.extend(pb.Chunk(hash=chunk.hash, size=chunk.size) for chunk in chunks)
    return header
