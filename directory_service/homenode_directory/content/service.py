"""The content store: verifies what writers send, keeps it as short chains of patches, sends readers the shortest form.

It stands over a few blob calls (`Blobs`) and knows neither versions nor artifacts: the commit that makes a content part
of a version adds a reference to it, and collection is done where references are counted. Contents are named by hash
within a slice. Who may read what is the caller's business; so is naming in `have` only contents that the reader was
given, because the length of a patch tells something of its base.

Nothing is stored before it was verified. Work on bytes runs in the executor that was handed in (small pieces, and all
of it when there is none, run in place, which keeps simulations deterministic) under a budget of bytes; raw contents,
patches and frames are cached within another. Contents that are too large for one piece have a way of their own
(`large`); here they are only found to be there when a commit names them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from homenode_api.patch import PatchError, compress, make_patch
from homenode_directory.content import encoding
from homenode_directory.content.bounds import ByteCache, KeyLocks, Workers
from homenode_directory.content.chains import (
    LINKS_MAX,
    MAX_BYTES,
    ContentTooLarge,
    Link,
    Sending,
    SendPlan,
    check_size,
    good_enough,
    plan_send,
    route,
)
from homenode_directory.content.encoding import Blob, Kind, Mismatch, Verified

_HASH = re.compile(r"[0-9a-f]{64}")
_LINK_BYTES = 256  # what a cached Link is counted as
_FRAME_EXTRA_BYTES = 1024  # a frame or patch of incompressible bytes is a little larger than they are
_HAVE_MAX = 8
SMALL_BYTES = 4096  # a content up to here is stored whole: a chain of patches would save less than it costs
_DAMAGED = "the stored content is damaged"


class BaseGone(LookupError):
    """`Blobs.put_blob` was given what needs a content that is not stored (any more); nothing was written."""


class Blobs(Protocol):
    """Where stored contents lie: bytes and a reference record, by slice and hash."""

    async def put_blob(
        self, slice_: int, hash_: str, data: bytes, *, size: int, links: int, chain_bytes: int, base: str
    ) -> bool:
        """Write bytes and reference record (no references yet) if absent; in any case note that it was touched now.

        A record of something that `needs` other contents (a patch, a list of chunks) adds a reference to each, in the
        same atomic step that finds them there; BaseGone if one is not. Dropping the record gives the references back.
        True: what is stored now is certainly these bytes, not another form of the same content.
        """

    async def get_blob(self, slice_: int, hash_: str) -> Blob | None:
        """The stored content, or None."""

    async def touch(self, slice_: int, hashes: Sequence[str]) -> list[bool]:
        """Which of these are stored; those were touched now."""


class ContentReason(StrEnum):
    """Why a content was refused; values are those of the protocol's denials."""

    TOO_LARGE = "too_large"
    CONTENT_MISSING = "content_missing"
    INVALID_ARGUMENT = "invalid_argument"


class ContentError(Exception):
    """A content cannot be stored or read. The text names no content."""

    def __init__(self, reason: ContentReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Held:
    """The reader has this content already."""

    size: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole content of `size` bytes, as `homenode_api.patch.compress` writes it."""

    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches to apply in order to the content `base`, which the reader holds; they lead to `size` bytes."""

    size: int
    base: str
    patches: tuple[bytes, ...]


Sent = Held | Snapshot | Patches


class ContentStore:
    """See the module's docstring. One per process; not thread-safe, used from one event loop."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        max_bytes: int = MAX_BYTES,
        cache_bytes: int = 64 << 20,
        executor: Executor | None = None,
        budget_bytes: int = 64 << 20,
    ) -> None:
        """`max_bytes`: largest content in one piece; `budget_bytes`: bytes in work at once, inputs and results.
        `workers`, where that work is done, are `large`'s too.
        """
        self._blobs = blobs
        self._max_bytes = max_bytes
        self.workers = Workers(executor, budget_bytes)
        self._bodies: ByteCache[bytes] = ByteCache(cache_bytes)  # raw contents, blobs, patches and frames
        self._links: ByteCache[Link] = ByteCache(cache_bytes // 16)
        self._answers: ByteCache[Sent] = ByteCache(cache_bytes // 4)  # to many readers of one change
        self._locks = KeyLocks()

    async def store(
        self,
        slice_: int,
        hash_: str,
        size: int,
        *,
        inline: bytes | None = None,
        snapshot: bytes | None = None,
        patch: tuple[str, bytes] | None = None,
    ) -> None:
        """Verify and keep a content of `size` bytes, given in one of three ways, or in none: then it must be there.

        `inline`: the bytes; `snapshot`: as `homenode_api.patch.compress` writes them; `patch`: (hash of the base,
        patch). Raises ContentError, Overloaded, and what the blob calls raise; then nothing was stored.
        """
        given = sum(form is not None for form in (inline, snapshot, patch))
        self._check_name(hash_, size, one_piece=given > 0)
        if given > 1:
            raise ContentError(ContentReason.INVALID_ARGUMENT, "a content is given in one form")
        body = patch[1] if patch is not None else snapshot if snapshot is not None else inline
        if body is not None and len(body) > self._max_bytes + _FRAME_EXTRA_BYTES:
            raise ContentError(ContentReason.TOO_LARGE, "more bytes than any content may have")
        if inline is not None:
            if len(inline) != size:
                raise ContentError(ContentReason.INVALID_ARGUMENT, "the content has another size than declared")
            verified = await self._verify(2 * size, encoding.verify_raw, hash_, inline)
        elif snapshot is not None:
            cost = size + len(snapshot)
            verified = await self._verify(cost, encoding.verify_frame, hash_, snapshot, size, self._max_bytes)
        elif patch is not None:
            await self._store_patch(slice_, hash_, size, *patch)
            return
        else:
            if (await self._blob(slice_, hash_, fresh=True)).size != size:
                raise ContentError(ContentReason.INVALID_ARGUMENT, "the content has another size than declared")
            return
        await self._put(slice_, hash_, verified)

    def whole(
        self,
        slice_: int,
        hash_: str,
        size: int,
        *,
        snapshot: bytes | None = None,
        patch: tuple[str, bytes] | None = None,
    ) -> Blob | None:
        """A small content, verified at once, as a snapshot for the commit that makes it a version to keep.

        None where `store` has to do it: a larger content, a base that is not at hand, or a form that is refused.
        """
        if size > SMALL_BYTES:
            return None
        try:
            if patch is not None:
                base, body = patch
                base_raw = self._bodies.get(("raw", slice_, base))
                if base_raw is None or len(body) > size:
                    return None
                raw = encoding.patched(hash_, body, size, self._max_bytes, base_raw)
                self._bodies.put(("made", slice_, base, hash_), body, len(body))  # what other readers of the base want
                blob = Blob(bytes((Kind.RAW,)) + raw, size)
            elif snapshot is not None and len(snapshot) <= SMALL_BYTES + _FRAME_EXTRA_BYTES:
                verified = encoding.verify_frame(hash_, snapshot, size, self._max_bytes)
                raw, blob = verified.raw, verified.blob
            else:
                return None
        except (PatchError, Mismatch):
            return None
        self._bodies.put(("raw", slice_, hash_), raw, size)
        return blob

    async def load(self, slice_: int, hash_: str) -> bytes:
        """The bytes of a stored content. Raises ContentError (CONTENT_MISSING), Overloaded."""
        raw = self._bodies.get(("raw", slice_, hash_))
        if raw is not None:
            return raw
        async with self._locks.hold(("raw", slice_, hash_)):
            raw = self._bodies.get(("raw", slice_, hash_))
            if raw is not None:
                return raw
            try:
                start, patches = await self._chain(slice_, hash_)
            except ContentError:  # it may have been collected and stored in another form since it was cached
                start, patches = await self._chain(slice_, hash_, fresh=True)
            cost = 2 * max([len(start) if isinstance(start, bytes) else start.size, *(blob.size for blob in patches)])
            raw = await self._read(cost, encoding.decode, start, patches, hash_, self._max_bytes)
            self._bodies.put(("raw", slice_, hash_), raw, len(raw))
            return raw

    async def for_reader(
        self, slice_: int, hash_: str, have: Sequence[str] = (), *, patches_max: int = LINKS_MAX
    ) -> Sent:
        """What to send to a reader who holds the contents `have` (the first 8 count): the shortest form.

        Raises ContentError (CONTENT_MISSING), Overloaded.
        """
        key = (slice_, hash_, tuple(have[:_HAVE_MAX]), patches_max)
        answer = self._answers.get(key)
        if answer is None:
            answer = await self._answer(*key)
            parts = (
                answer.patches
                if isinstance(answer, Patches)
                else (answer.data,)
                if isinstance(answer, Snapshot)
                else ()
            )
            self._answers.put(key, answer, _LINK_BYTES + sum(map(len, parts)))
        return answer

    # ------------------------------------------------------------------------------------------------------- writing

    def _check_name(self, hash_: str, size: int, *, one_piece: bool) -> None:
        if not _HASH.fullmatch(hash_) or size < 0:
            raise ContentError(ContentReason.INVALID_ARGUMENT, "not a content hash and size")
        if not one_piece:
            return
        try:
            check_size(size, self._max_bytes)
        except ContentTooLarge as error:
            raise ContentError(ContentReason.TOO_LARGE, f"{error} in one piece") from None

    async def _store_patch(self, slice_: int, hash_: str, size: int, base: str, patch: bytes) -> None:
        if not _HASH.fullmatch(base):
            raise ContentError(ContentReason.INVALID_ARGUMENT, "not a content hash")
        base_raw = await self.load(slice_, base)
        link = await self._link(slice_, base)
        cost = len(base_raw) + size
        verified = await self._verify(cost, encoding.verify_patch, hash_, patch, size, self._max_bytes, link, base_raw)
        try:
            await self._put(slice_, hash_, verified)
        except BaseGone:
            self._links.drop((slice_, base))
            blob = await self.workers.run(2 * size, encoding.snapshot_blob, verified.raw)
            await self._put(slice_, hash_, Verified(verified.raw, blob))
        if len(patch) < size:  # other readers of the base will want the very same
            self._bodies.put(("made", slice_, base, hash_), patch, len(patch))

    async def _put(self, slice_: int, hash_: str, verified: Verified) -> None:
        blob = verified.blob
        ours = await self._blobs.put_blob(
            slice_, hash_, blob.data, size=blob.size, links=blob.links, chain_bytes=blob.chain_bytes, base=blob.base
        )
        if ours:
            self._keep_blob(slice_, hash_, blob)
        self._bodies.put(("raw", slice_, hash_), verified.raw, len(verified.raw))

    # ------------------------------------------------------------------------------------------------------- reading

    async def _blob(self, slice_: int, hash_: str, *, fresh: bool = False) -> Blob:
        """The stored form, from the cache unless `fresh`."""
        data, link = self._bodies.get(("blob", slice_, hash_)), self._links.get((slice_, hash_))
        if data is not None and link is not None and not fresh:
            return Blob(data, link.size, link.base, link.links, link.chain_bytes)
        blob = await self._blobs.get_blob(slice_, hash_)
        if blob is None:
            raise ContentError(ContentReason.CONTENT_MISSING, "the content is not stored")
        if not blob.sound:
            raise ContentError(ContentReason.CONTENT_MISSING, _DAMAGED)
        self._keep_blob(slice_, hash_, blob)
        return blob

    def _keep_blob(self, slice_: int, hash_: str, blob: Blob) -> None:
        self._links.put((slice_, hash_), blob.link(hash_), _LINK_BYTES)
        self._bodies.put(("blob", slice_, hash_), blob.data, len(blob.data))

    async def _link(self, slice_: int, hash_: str, *, fresh: bool = False) -> Link:
        known = None if fresh else self._links.get((slice_, hash_))
        return known or (await self._blob(slice_, hash_, fresh=fresh)).link(hash_)

    async def _chain(self, slice_: int, hash_: str, *, fresh: bool = False) -> tuple[bytes | Blob, list[Blob]]:
        """Where to start, bytes that are at hand or a snapshot, and the patches from there, in order."""
        patches: list[Blob] = []
        at = hash_
        while len(patches) <= LINKS_MAX:
            raw = self._bodies.get(("raw", slice_, at))
            if raw is not None:
                return raw, patches[::-1]
            blob = await self._blob(slice_, at, fresh=fresh)
            if blob.kind == Kind.LIST:
                raise ContentError(ContentReason.CONTENT_MISSING, "the content is not stored in one piece")
            if not blob.base:
                return blob, patches[::-1]
            patches.append(blob)
            at = blob.base
        raise ContentError(ContentReason.CONTENT_MISSING, _DAMAGED)

    # ------------------------------------------------------------------------------------------------------- sending

    async def _answer(self, slice_: int, hash_: str, have: Sequence[str], patches_max: int) -> Sent:
        try:
            stored = await self._chain_links(slice_, hash_, have)
        except ContentError:  # another server may have stored it in another form since it was cached here
            stored = await self._chain_links(slice_, hash_, have, fresh=True)
        size = stored[hash_].size
        plan = route(hash_, stored, have)
        if plan is None or not good_enough(plan, stored, patches_max=patches_max):
            plan = await self._shortest(slice_, hash_, have, stored, patches_max)
        if plan.sending is Sending.HELD:
            return Held(size)
        if plan.sending is Sending.MADE:
            return Patches(size, plan.base, (await self._made_patch(slice_, plan.base, hash_),))
        if plan.sending is Sending.STORED:
            blobs = [await self._blob(slice_, step) for step in plan.via]
            if [blob.base for blob in blobs] == [plan.base, *plan.via[:-1]]:
                return Patches(size, plan.base, tuple(blob.body for blob in blobs))
            # It was collected and stored in another form since the chain was looked at.
        return Snapshot(size, await self._frame(slice_, hash_))

    async def _chain_links(
        self, slice_: int, hash_: str, have: Sequence[str], *, fresh: bool = False
    ) -> dict[str, Link]:
        """The chain from a content down to the first one in `have`, or as far as it goes."""
        links = {hash_: await self._link(slice_, hash_, fresh=fresh)}
        at = hash_
        for _ in range(LINKS_MAX if have else 0):
            if at in have or not links[at].base or links[at].base in have:
                break
            at = links[at].base
            links[at] = await self._link(slice_, at, fresh=fresh)
        return links

    async def _shortest(
        self, slice_: int, hash_: str, have: Sequence[str], stored: dict[str, Link], patches_max: int
    ) -> SendPlan:
        made: dict[str, int] = {}
        for base in have if patches_max else ():
            try:
                made[base] = len(await self._made_patch(slice_, base, hash_))
            except ContentError:  # forgotten since the reader got it; perhaps an older one is still there
                continue
            break
        snapshot_bytes = len(await self._frame(slice_, hash_))
        return plan_send(hash_, stored, have, snapshot_bytes=snapshot_bytes, made=made, patches_max=patches_max)

    async def _made_patch(self, slice_: int, base: str, hash_: str) -> bytes:
        key = ("made", slice_, base, hash_)
        async with self._locks.hold(key):
            patch = self._bodies.get(key)
            if patch is None:
                old, new = await self.load(slice_, base), await self.load(slice_, hash_)
                patch = await self.workers.run(2 * (len(old) + len(new)), make_patch, old, new)
                self._bodies.put(key, patch, len(patch))
            return patch

    async def _frame(self, slice_: int, hash_: str) -> bytes:
        key = ("frame", slice_, hash_)
        async with self._locks.hold(key):
            frame = self._bodies.get(key)
            if frame is None:
                blob = await self._blob(slice_, hash_)
                if blob.kind == Kind.ZSTD:
                    frame = blob.body
                else:
                    raw = await self.load(slice_, hash_)
                    frame = await self.workers.run(2 * len(raw), compress, raw)
                self._bodies.put(key, frame, len(frame))
            return frame

    # ---------------------------------------------------------------------------------------------------------- work

    async def _verify(self, cost_bytes: int, work: Callable[..., Verified], *args: object) -> Verified:
        try:
            return await self.workers.run(cost_bytes, work, *args)
        except (PatchError, Mismatch) as error:
            raise ContentError(ContentReason.INVALID_ARGUMENT, str(error)) from None

    async def _read(self, cost_bytes: int, work: Callable[..., bytes], *args: object) -> bytes:
        try:
            return await self.workers.run(cost_bytes, work, *args)
        except (PatchError, Mismatch):
            raise ContentError(ContentReason.CONTENT_MISSING, _DAMAGED) from None
