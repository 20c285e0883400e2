"""Bodies of contents: inline in frames where they are small, on the content streams where they are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import validate
from homenode_directory.api.errors import Rejected, invalid, rejected
from homenode_directory.content.bounds import ByteBudget
from homenode_directory.content.service import ContentError, ContentStore, Held, Patches, Sent, Snapshot
from homenode_directory.errors import Overloaded
from homenode_directory.observer import Observer
from homenode_directory.place import Place
from homenode_directory.store.blobs import stored_form

CHUNK_BYTES = 256 * 1024
EXTRA_BYTES = 1024  # an encoding of incompressible bytes is a little larger than they are
CHUNK_WAIT_S = 20.0  # how long a writer may take for its next chunk
TRANSFER_S = 120.0  # how long a content may be on its way
TURN_WAIT_S = 10.0  # how long a transfer waits for others to end


class Named(Protocol):
    """A content by hash (hex) and size in bytes, such as the protocol's `Content`."""

    @property
    def hash(self) -> str: ...

    @property
    def size(self) -> int: ...


class Sliced(Protocol):
    """Knows the number of slices, once it is open."""

    slices: int


def refusal(failure: ContentError) -> Rejected:
    """A content's refusal on the wire."""
    return rejected(t.ErrorReason.Value(f"ERROR_REASON_{failure.reason.name}"), str(failure))


class Bodies:
    """Moves bodies between messages and the content store."""

    def __init__(
        self,
        content: ContentStore,
        store: Sliced,
        bounds: validate.Bounds,
        observer: Observer,
        *,
        transfer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """`transfer_bytes`: bytes that all content streams together may hold at once."""
        self._content = content
        self._store = store
        self._bounds = bounds
        self._observer = observer
        self._budget = ByteBudget(transfer_bytes)

    # --- in frames --------------------------------------------------------------------------------------------------

    def held(self, content: Named, have: Sequence[str]) -> t.Content | None:
        """The answer for a reader who holds the very content; None for one who does not."""
        if content.hash not in have:
            return None
        self._observer.content("held", 0, content.size)
        return t.Content(hash=bytes.fromhex(content.hash), size=content.size, held=True)

    async def outgoing(self, place: Place, content: Named, have: Sequence[str]) -> t.Content:
        """A content for a reader who holds `have`: with its body if that is small enough, else to be read by stream.

        Raises Rejected.
        """
        held = self.held(content, have)
        if held is not None:
            return held
        m = t.Content(hash=bytes.fromhex(content.hash), size=content.size)
        try:
            sent = await self._content.for_reader(place.slice_of(self._store.slices), content.hash, have)
        except ContentError as failure:
            raise refusal(failure) from None
        match sent:
            case Held():
                m.held = True
            case Snapshot(data=data) if len(data) <= self._bounds.inline_bytes:
                m.snapshot = data
                self._observer.content("snapshot", len(data), content.size)
            case Patches(base=base, patches=patches) if sum(map(len, patches)) <= self._bounds.inline_bytes:
                m.patches.base_hash = bytes.fromhex(base)
                m.patches.patches.extend(patches)
                self._observer.content("patch", sum(map(len, patches)), content.size)
        return m

    async def incoming(self, place: Place, content: Named, m: t.Content) -> Rejected | None:
        """Verify and keep the body of a commit, or find that it is there. Returns why it cannot be, if so."""
        try:
            await self._content.store(place.slice_of(self._store.slices), content.hash, content.size, **self._form(m))
        except ContentError as failure:
            return refusal(failure)
        return None

    def whole(self, place: Place, content: Named, m: t.Content) -> bytes | None:
        """The body of a commit, verified, in the form that its commit is to keep; None: it is for `incoming`."""
        blob = self._content.whole(place.slice_of(self._store.slices), content.hash, content.size, **self._form(m))
        return None if blob is None else stored_form(blob)

    def _form(self, m: t.Content) -> dict[str, Any]:
        which = m.WhichOneof("body")
        if which is None:
            return {}
        if which == "snapshot":
            self._small(len(m.snapshot))
            return {"snapshot": m.snapshot}
        if which == "patches":
            if len(m.patches.patches) != 1:
                raise invalid(f"content.patches: a commit carries one patch, not {len(m.patches.patches)}")
            self._small(len(m.patches.patches[0]))
            return {"patch": (validate.hash_hex(m.patches.base_hash, "base_hash"), m.patches.patches[0])}
        raise invalid("content.held: a commit names bytes, or leaves the body out when they were written before")

    def _small(self, size: int) -> None:
        if size > self._bounds.inline_bytes:
            message = f"a body in a frame may have {self._bounds.inline_bytes} bytes, not {size}; use WriteContent"
            raise rejected(t.ERROR_REASON_TOO_LARGE, message)

    # --- on streams of their own ------------------------------------------------------------------------------------

    async def read(self, place: Place, content: Named, have: Sequence[str]) -> AsyncIterator[pb.ReadContentResponse]:
        """A content in chunks: its header, then its data. Raises Rejected."""
        reserved = content.size + EXTRA_BYTES
        await self._take_turn(reserved)
        try:
            header, data = await self._encoded(place, content, have)
            yield pb.ReadContentResponse(header=header)
            for start in range(0, len(data), CHUNK_BYTES):
                yield pb.ReadContentResponse(data=data[start : start + CHUNK_BYTES])
        finally:
            self._budget.release(reserved)

    async def _encoded(self, place: Place, content: Named, have: Sequence[str]) -> tuple[pb.ContentHeader, bytes]:
        slice_ = place.slice_of(self._store.slices)
        try:
            # A reader who holds the very content asks in vain here, so it is left out of what counts.
            others = [hash_ for hash_ in have if hash_ != content.hash]
            sent: Sent = await self._content.for_reader(slice_, content.hash, others, patches_max=1)
        except ContentError as failure:
            raise refusal(failure) from None
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

    async def write(
        self, place: Place, header: pb.ContentHeader, chunks: AsyncIterator[pb.WriteContentRequest]
    ) -> pb.WriteContentResponse:
        """Take a content's data, verify and keep it. Raises Rejected."""
        hash_ = validate.hash_hex(header.hash)
        size = validate.content_size(header.size, self._bounds)
        if header.encoded_size > size + EXTRA_BYTES:
            raise invalid("encoded_size is larger than the content; send a snapshot")
        reserved = header.encoded_size
        await self._take_turn(reserved)
        try:
            async with asyncio.timeout(TRANSFER_S):
                data = await self._collect(header.encoded_size, chunks)
            await self._content.store(place.slice_of(self._store.slices), hash_, size, **self._encoding(header, data))
        except ContentError as failure:
            raise refusal(failure) from None
        finally:
            self._budget.release(reserved)
        return pb.WriteContentResponse(hash=header.hash)

    async def _take_turn(self, size: int) -> None:
        try:
            async with asyncio.timeout(TURN_WAIT_S):
                await self._budget.acquire(size)
        except TimeoutError:
            raise Overloaded("too many contents are on their way", retry_after_ms=1_000) from None

    def _encoding(self, header: pb.ContentHeader, data: bytes) -> dict[str, Any]:
        if header.encoding == pb.CONTENT_ENCODING_SNAPSHOT:
            return {"snapshot": data}
        if header.encoding == pb.CONTENT_ENCODING_PATCH:
            return {"patch": (validate.hash_hex(header.base_hash, "base_hash"), data)}
        raise invalid("encoding must be a snapshot or a patch")

    async def _collect(self, size: int, chunks: AsyncIterator[pb.WriteContentRequest]) -> bytes:
        data = bytearray()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks), CHUNK_WAIT_S)
            except StopAsyncIteration:
                break
            if chunk.WhichOneof("what") != "data":
                raise invalid("after the header only data may follow")
            data += chunk.data
            if len(data) > size:
                raise invalid("more data than encoded_size says")
        if len(data) < size:
            raise invalid("less data than encoded_size says")
        return bytes(data)
