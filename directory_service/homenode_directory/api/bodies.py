"""Bodies of contents in frames: those that are small. `transfers` has the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from homenode_api.chunks import PIECE_MAX_BYTES
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api import validate
from homenode_directory.api.errors import Rejected, invalid, rejected
from homenode_directory.content.service import ContentError, ContentStore, Held, Patches, Snapshot
from homenode_directory.observer import Observer
from homenode_directory.place import Place
from homenode_directory.store.blobs import stored_form


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
    ) -> None:
        self._content = content
        self._store = store
        self._bounds = bounds
        self._observer = observer

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
        if content.size > PIECE_MAX_BYTES:
            return m
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
        snapshot, patch = self._form(m)
        slice_ = place.slice_of(self._store.slices)
        try:
            await self._content.store(slice_, content.hash, content.size, snapshot=snapshot, patch=patch)
        except ContentError as failure:
            return refusal(failure)
        return None

    def whole(self, slice_: int, content: Named, m: t.Content) -> bytes | None:
        """The body of a commit, verified, in the form that its commit is to keep; None: it is for `incoming`."""
        snapshot, patch = self._form(m)
        blob = self._content.whole(slice_, content.hash, content.size, snapshot=snapshot, patch=patch)
        return None if blob is None else stored_form(blob)

    def _form(self, m: t.Content) -> tuple[bytes | None, tuple[str, bytes] | None]:
        """The body as a snapshot, or as a patch with the hash of its base."""
        which = m.WhichOneof("body")
        if which is None:
            return None, None
        if which == "snapshot":
            snapshot = m.snapshot
            self._small(len(snapshot))
            return snapshot, None
        if which == "patches":
            chain = m.patches
            if len(chain.patches) != 1:
                raise invalid(f"content.patches: a commit carries one patch, not {len(chain.patches)}")
            patch = chain.patches[0]
            self._small(len(patch))
            return None, (validate.hash_hex(chain.base_hash, "base_hash"), patch)
        raise invalid("content.held: a commit names bytes, or leaves the body out when they were written before")

    def _small(self, size: int) -> None:
        if size > self._bounds.inline_bytes:
            message = f"a body in a frame may have {self._bounds.inline_bytes} bytes, not {size}; use WriteContent"
            raise rejected(t.ERROR_REASON_TOO_LARGE, message)
