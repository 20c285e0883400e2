"""Bodies of contents between messages and bytes: patches where a base is at hand, snapshots else."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from homenode.errors import ContentMissing, HomenodeError, InternalError, NotFound
from homenode.transport import CHUNK_BYTES, Transport
from homenode_api.chunks import PIECE_MAX_BYTES, ChunkMessage
from homenode_api.patch import PatchError, apply_patches, compress, decompress, make_patch
from homenode_api.v1 import directory_pb2 as pb
from homenode_api.v1 import types_pb2 as t

INLINE_BYTES_MAX = 32 << 10
_PATCH_WORTH_BYTES = 256  # below this a snapshot is as small as a patch
_PATCH_GOOD_BYTES = 1_024  # a patch as small as this is sent without trying a snapshot


class BodyMissing(Exception):
    """The body that came rests on bytes that are not at hand (any more): ask again, naming none."""


class BodyGone(Exception):
    """The directory has forgotten the version whose body was asked for; `failure` is what it said."""

    def __init__(self, failure: HomenodeError) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Encoded(NamedTuple):
    """A content ready to be sent: `body` is a snapshot, or with `base_hash` one patch from that content; or nothing,
    because the directory has this very content."""

    hash: bytes
    size: int
    body: bytes
    base_hash: bytes = b""

    def write_to(self, content: t.Content, *, inline: bool) -> None:
        """Into a commit; without `inline`, the body has been sent on a content stream."""
        content.hash, content.size = self.hash, self.size
        if self.base_hash == self.hash:
            return
        if inline and self.base_hash:
            content.patches.base_hash = self.base_hash
            content.patches.patches.append(self.body)
        elif inline:
            content.snapshot = self.body


def encode(data: bytes, base: tuple[bytes, bytes] | None) -> Encoded:
    """The smaller of a snapshot and a patch from `base`, which is (hash, bytes), of a content in one piece; nothing of
    one that is the base."""
    hash = hashlib.sha256(data).digest()
    if base is None or len(data) < _PATCH_WORTH_BYTES or len(base[1]) > PIECE_MAX_BYTES:
        return Encoded(hash, len(data), compress(data))
    if base[0] == hash:
        return Encoded(hash, len(data), b"", hash)
    patch = make_patch(base[1], data)
    if len(patch) <= min(_PATCH_GOOD_BYTES, len(data) // 2):
        return Encoded(hash, len(data), patch, base[0])
    snapshot = compress(data)
    if len(patch) < len(snapshot):
        return Encoded(hash, len(data), patch, base[0])
    return Encoded(hash, len(data), snapshot)


async def upload(transport: Transport, session_id: str, encoded: Encoded, timeout_s: float) -> None:
    """Send a body on a content stream, ahead of the commit that names it. Raises HomenodeError."""
    body = encoded.body
    header = pb.ContentHeader(
        hash=encoded.hash,
        size=encoded.size,
        encoding=pb.CONTENT_ENCODING_PATCH if encoded.base_hash else pb.CONTENT_ENCODING_SNAPSHOT,
        base_hash=encoded.base_hash,
        encoded_size=len(body),
    )

    async def requests() -> AsyncIterator[pb.WriteContentRequest]:
        yield pb.WriteContentRequest(header=pb.WriteContentHeader(session_id=session_id, content=header))
        for at in range(0, len(body), CHUNK_BYTES):
            yield pb.WriteContentRequest(data=body[at : at + CHUNK_BYTES])

    await transport.write_content(requests(), timeout_s)


def decode(content: t.Content, held: Mapping[bytes, bytes]) -> tuple[bytes, int, bool] | None:
    """(bytes, how many came, whether as patches) of a content in a frame; None when it is on the content stream.

    `held` are the contents that were named in the request. Raises BodyMissing where the body does not lead to the
    content that it names.
    """
    body = content.WhichOneof("body")
    if body is None:
        return None
    came = 0
    try:
        if body == "held":
            data = held[content.hash]
        elif body == "snapshot":
            came = len(content.snapshot)
            data = decompress(content.snapshot, size=content.size, max_size=PIECE_MAX_BYTES)
        else:
            chain = content.patches
            came = sum(map(len, chain.patches))
            data = apply_patches(held[chain.base_hash], chain.patches, size=content.size, max_size=PIECE_MAX_BYTES)
    except (KeyError, PatchError) as failure:
        raise BodyMissing from failure
    if body != "held":
        _verify(data, content.hash)
    return data, came, body == "patches"


async def download(
    transport: Transport, request: pb.ReadContentRequest, hash: bytes, held: Mapping[bytes, bytes], timeout_s: float
) -> tuple[bytes, int, bool]:
    """(bytes, how many came, whether as patches) of the content `hash` from a content stream.

    Raises HomenodeError, BodyMissing, BodyGone.
    """
    header: pb.ContentHeader | None = None
    parts: list[bytes] = []
    came = 0
    try:
        async for response in transport.read_content(request, timeout_s):
            if isinstance(response, ChunkMessage):
                raise InternalError("the server sent a chunk of a content in one piece")
            if header is None:
                header = response.header
            else:
                parts.append(response.data)
                came += len(response.data)
                if came > header.encoded_size:
                    raise InternalError("the server sent more bytes than it announced")
    except (NotFound, ContentMissing) as failure:
        raise BodyGone(failure) from failure
    if header is None:
        raise InternalError("the server sent no content")
    patched = header.encoding == pb.CONTENT_ENCODING_PATCH
    body = b"".join(parts)
    try:
        if patched:
            base = held[header.base_hash]
            data = apply_patches(base, [body], size=header.size, max_size=PIECE_MAX_BYTES)
        else:
            data = decompress(body, size=header.size, max_size=PIECE_MAX_BYTES)
    except (KeyError, PatchError) as failure:
        raise BodyMissing from failure
    _verify(data, hash)
    return data, came, patched


def _verify(data: bytes, hash: bytes) -> None:
    if hashlib.sha256(data).digest() != hash:
        raise BodyMissing
