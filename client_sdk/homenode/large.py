"""Large contents on their way: only the chunks that the other end lacks, and on from there after a cut.

What is said about time holds for each step: a transfer may take as long as it wants while chunks keep coming, and fails
when none has come for `timeout_s`, whatever servers were tried meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from homenode.chunking import LargeBody, starts_of
from homenode.contents import BodyGone, BodyMissing
from homenode.errors import (
    ContentMissing,
    DeadlineExceeded,
    HomenodeError,
    InternalError,
    InvalidArgument,
    NotFound,
    Overloaded,
    Unavailable,
    Unknown,
)
from homenode.requests import Phase
from homenode.session import Session
from homenode.transport import Outgoing
from homenode.versions import Version
from homenode_api.chunks import (
    Chunk,
    ChunkError,
    ChunkMessage,
    checked_chunks,
    pack_chunk,
    patched_chunk,
    unpack_chunk,
)
from homenode_api.patch import make_patch
from homenode_api.v1 import directory_pb2 as pb

#: Called with the bytes of the content that are done, and all of them.
Progress = Callable[[int, int], None]

LISTS_MAX = 64
_PATCH_GOOD_BYTES = 4_096  # a patch as small as this is sent without trying to compress the chunk
HAVE_CHUNKS_MAX = 1_024
BACKOFF_S = (0.05, 1.0)
_TRANSIENT = (Unavailable, DeadlineExceeded, Overloaded, Unknown)


class Patience:
    """Says how long to wait before the next try, until nothing has been got done for `limit_s`."""

    def __init__(self, session: Session, limit_s: float) -> None:
        self._session = session
        self._clock = session.loop.time
        self._rng = session.link.rng
        self._limit_s = limit_s
        self.moved()

    def moved(self) -> None:
        """Something got done."""
        self._since = self._clock()
        self._tries = 0

    async def wait(self, failure: HomenodeError) -> None:
        """Wait before the next try. Raises `failure` when it was too long, or the connection was closed."""
        if self._session.phase is Phase.CLOSED or self._clock() - self._since >= self._limit_s:
            raise failure
        wait_s = min(BACKOFF_S[1], BACKOFF_S[0] * 2 ** min(self._tries, 6)) * (0.5 + self._rng.random() / 2)
        self._tries += 1
        await asyncio.sleep(max(wait_s, min(getattr(failure, "retry_after", 0.0), self._limit_s)))


class Large:
    """Transfers of one session. Remembers the lists of contents that it has seen, at most LISTS_MAX."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lists: OrderedDict[bytes, tuple[Chunk, ...]] = OrderedDict()

    def list_of(self, hash: bytes) -> tuple[Chunk, ...]:
        """The chunks of the content with this hash; empty where they are not known."""
        return self._lists.get(hash, ())

    def learn(self, hash: bytes, chunks: tuple[Chunk, ...]) -> None:
        """Remember a list."""
        self._lists[hash] = chunks
        self._lists.move_to_end(hash)
        if len(self._lists) > LISTS_MAX:
            self._lists.popitem(last=False)

    # --- out --------------------------------------------------------------------------------------------------------

    async def upload(self, body: LargeBody, timeout_s: float, progress: Progress | None = None) -> int:
        """Send what the directory lacks of a content, ahead of the commit that names it; how many bytes that took.

        Raises HomenodeError.
        """
        patience, sent, least = Patience(self._session, timeout_s), [0], len(body.chunks) + 1
        patches = bool(body.bases)
        while True:
            try:
                missing, takes_patches = await self._missing(body, timeout_s)
                if len(missing) < least:
                    least = len(missing)
                    patience.moved()
                messages = self._messages(body, missing, sent, progress, patches and takes_patches)
                async with contextlib.aclosing(messages):
                    await self._session.link.transport.write_content(messages, timeout_s)
                self.learn(body.hash, body.chunks)
                return sent[0]
            except (*_TRANSIENT, ContentMissing) as failure:
                patches = patches and not isinstance(failure, ContentMissing)  # a base may be gone
                await patience.wait(failure)
            except InvalidArgument:
                if not patches:
                    raise
                patches = False  # an older server may have taken over

    async def _missing(self, body: LargeBody, timeout_s: float) -> tuple[list[int], bool]:
        """Places of the chunks to send, each once, and whether they may be patches."""
        places = {chunk.hash: index for index, chunk in reversed(list(enumerate(body.chunks)))}
        request = pb.MissingChunksRequest(session_id=self._session.id, hashes=places)
        answer = await self._session.link.transport.call("MissingChunks", request, timeout_s)
        hashes = list(places)
        return sorted(places[hashes[index]] for index in answer.missing), answer.patches

    async def _messages(
        self, body: LargeBody, missing: Sequence[int], sent: list[int], progress: Progress | None, patches: bool
    ) -> AsyncGenerator[Outgoing, None]:
        header = pb.ContentHeader(hash=body.hash, size=body.size, encoding=pb.CONTENT_ENCODING_CHUNKS)
        header.chunks.extend(pb.Chunk(hash=chunk.hash, size=chunk.size) for chunk in body.chunks)
        yield pb.WriteContentRequest(header=pb.WriteContentHeader(session_id=self._session.id, content=header))
        left = sum(body.chunks[index].size for index in missing)

        def packed(index: int) -> ChunkMessage:
            return _packed(index, body.read(index), body.bases.get(index) if patches else None)

        if progress is not None:
            progress(body.size - left, body.size)
        for index in missing:
            message = await asyncio.to_thread(packed, index)
            yield message
            sent[0] += len(message.data)
            left -= body.chunks[index].size
            if progress is not None:
                progress(body.size - left, body.size)

    # --- in -----------------------------------------------------------------------------------------------------------

    async def list_at(self, key: str, version: Version, timeout_s: float) -> tuple[Chunk, ...]:
        """The chunks of a version's content; none where it is in one piece or cannot be had."""
        request = self._request(key, version)
        request.header_only = True
        try:
            messages = self._session.link.transport.read_content(request, timeout_s)
            async with contextlib.aclosing(messages):
                message = await anext(messages, None)
            if not isinstance(message, pb.ReadContentResponse) or not message.header.chunks:
                return ()
            return self._header(message, message.header.hash, message.header.size)
        except HomenodeError:
            return ()  # then it is cut anew, and what it shares is found by hash

    async def fetch(
        self,
        key: str,
        version: Version,
        hash: bytes,
        size: int,
        held: Mapping[bytes, bytes],
        timeout_s: float,
        snapshot: str = "",
    ) -> tuple[bytes, int]:
        """(bytes, how many came) of a version's content; `held` are contents at hand, `snapshot` may keep the version.

        Raises BodyMissing, BodyGone, HomenodeError.
        """
        local: dict[bytes, memoryview] = {}
        newest = next((held_hash for held_hash in held if self.list_of(held_hash)), b"")
        for held_hash, data in held.items():
            chunks = self.list_of(held_hash)
            local |= {
                c.hash: memoryview(data)[at : at + c.size] for c, at in zip(chunks, starts_of(chunks), strict=True)
            }
        local = dict(list(local.items())[:HAVE_CHUNKS_MAX])
        buffer = io.BytesIO()
        buffer.seek(size - 1)
        buffer.write(b"\0")  # all of it at once, so that it need not grow, and is given away as it is in the end
        buffer.seek(0)
        came, whole = [0], hashlib.sha256()
        pieces = self.pieces(
            key, version, hash, size, local.get, list(local), timeout_s, came, verify=False, snapshot=snapshot,
            have=newest,
        )  # fmt: skip
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                whole.update(piece)  # half a millisecond, in which gRPC takes in the next
                buffer.write(piece)
        if whole.digest() != hash:
            raise BodyMissing
        return buffer.getvalue(), came[0]

    async def pieces(
        self,
        key: str,
        version: Version,
        hash: bytes,
        size: int,
        local: Callable[[bytes], bytes | memoryview | None],
        have_chunks: Sequence[bytes],
        timeout_s: float,
        came: list[int],
        *,
        verify: bool = True,
        snapshot: str = "",
        have: bytes = b"",
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """The chunks of a version's content in order, those at hand from `local`. Goes on where it was after a cut.

        `have` is a content of which `local` has chunks: others may come as patches from them.

        With `verify`, each that comes is compared with its hash; the whole is not compared here. `came[0]` counts the
        bytes that came. Raises BodyMissing, BodyGone, HomenodeError.
        """
        patience, place = Patience(self._session, timeout_s), 0
        while True:
            request = self._request(key, version, snapshot)
            request.have_chunks.extend(have_chunks)
            request.first_chunk = place
            if have:
                request.have.append(have)
            try:
                messages = self._session.link.transport.read_content(request, timeout_s)
                async with contextlib.aclosing(messages):
                    header = await anext(messages, None)
                    chunks = self._header(header, hash, size)
                    held = set(have_chunks)
                    while place < len(chunks):
                        chunk = chunks[place]
                        piece = local(chunk.hash) if chunk.hash in held else None
                        if piece is None:
                            message = await anext(messages, None)
                            piece, length = _received(message, place, chunk, verify, local if have else None)
                            came[0] += length
                        place += 1
                        patience.moved()
                        yield piece
                return
            except _TRANSIENT as failure:
                await patience.wait(failure)
            except (NotFound, ContentMissing) as failure:
                raise BodyGone(failure) from failure

    def _request(self, key: str, version: Version, snapshot: str = "") -> pb.ReadContentRequest:
        request = pb.ReadContentRequest(session_id=self._session.id, key=key, snapshot=snapshot)
        request.version.incarnation, request.version.n = version
        return request

    def _header(self, message: Any, hash: bytes, size: int) -> tuple[Chunk, ...]:
        if not isinstance(message, pb.ReadContentResponse) or not message.HasField("header"):
            raise InternalError("the server sent no header")
        header = message.header
        if header.hash != hash or header.size != size or header.encoding != pb.CONTENT_ENCODING_CHUNKS:
            raise InternalError("the server sent another content than the version has")
        try:
            chunks = checked_chunks(size, ((chunk.hash, chunk.size) for chunk in header.chunks))
        except ChunkError as failure:
            raise InternalError(f"the server sent a list of chunks that cannot be: {failure}") from None
        self.learn(hash, chunks)
        return chunks


def _packed(index: int, data: bytes, base: tuple[bytes, memoryview] | None) -> ChunkMessage:
    """A chunk as it is sent: as a patch from `base`, (hash, bytes), where that is smaller."""
    patch = make_patch(bytes(base[1]), data) if base is not None else None
    if base is not None and patch is not None and len(patch) <= min(_PATCH_GOOD_BYTES, len(data) // 2):
        return ChunkMessage(index, patch, False, base[0])
    message = ChunkMessage(index, *pack_chunk(data))
    if base is None or patch is None or 2 * len(patch) > len(message.data):
        return message
    return ChunkMessage(index, patch, False, base[0])


def _received(
    message: Any, place: int, chunk: Chunk, verify: bool, local: Callable[[bytes], bytes | memoryview | None] | None
) -> tuple[bytes | memoryview, int]:
    """A chunk that came, and how many bytes it took."""
    if message is None:
        raise Unavailable("the content ended before its last chunk")
    if not isinstance(message, ChunkMessage) or message.place != place:
        raise InternalError("the server sent something else than the next chunk")
    try:
        if message.base:
            base = local(message.base) if local is not None else None
            if base is None:
                raise BodyMissing
            return patched_chunk(chunk, message.data, base), len(message.data)
        return unpack_chunk(chunk, message.data, message.compressed, verify=verify), len(message.data)
    except ChunkError as failure:
        raise BodyMissing from failure
