"""Contents as streams: from files and iterators into the directory, and out of it piece by piece, of whatever size."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from homenode.chunking import BytesSource, FileSource, Source, chunks_in, hash_of, starts_of
from homenode.contents import BodyGone, BodyMissing
from homenode.core import FETCHES_MAX, Core
from homenode.errors import InternalError, InvalidArgument, Stale, TooLarge
from homenode.large import HAVE_CHUNKS_MAX, Progress
from homenode.values import LEVELS, Meta, VersionInfo, name
from homenode.versions import Version, version_of
from homenode.view import View
from homenode_api.chunks import CHUNK_BYTES, PIECE_MAX_BYTES
from homenode_api.v1 import directory_pb2 as pb

#: Where a content comes from: the path of a file, a binary file, bytes, or an iterator of bytes.
Streamable = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]


# --- in ---------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def source_of(value: Streamable, limit: int) -> AsyncIterator[Source]:
    """The bytes of `value`, readable as often as it takes to send them.

    What can be read once only goes through an unnamed temporary file. Raises InvalidArgument, TooLarge (beyond `limit`
    bytes), OSError.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        yield BytesSource(bytes(value))
        return
    with contextlib.ExitStack() as files:
        if isinstance(value, str | os.PathLike):
            value = files.enter_context(await asyncio.to_thread(open, value, "rb"))
        file = _regular(value)
        if file is not None:
            yield file
            return
        spool = files.enter_context(tempfile.TemporaryFile(buffering=0))
        size = 0
        async with contextlib.aclosing(_parts(value)) as parts:
            async for part in parts:
                size += len(part)
                if size > limit:
                    raise TooLarge(f"an artifact may have {limit} bytes; more came")
                await asyncio.to_thread(_write_all, spool.fileno(), part)
        yield FileSource(spool.fileno())


def _regular(value: Any) -> Source | None:
    """A binary file on a disk, from where it stands."""
    try:
        number = value.fileno()
        return FileSource(number, value.tell()) if stat.S_ISREG(os.fstat(number).st_mode) else None
    except (AttributeError, OSError, ValueError):
        return None


async def _parts(value: Any) -> AsyncGenerator[bytes, None]:
    if isinstance(value, AsyncIterable):
        async for part in value:
            yield _bytes(part)
    elif hasattr(value, "read"):
        while part := await asyncio.to_thread(value.read, CHUNK_BYTES):
            yield _bytes(part)
    elif isinstance(value, Iterable):
        parts = iter(value)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield _bytes(part)
    else:
        raise InvalidArgument(f"neither a path, a file, bytes nor an iterator of bytes: {type(value).__name__}")


def _bytes(part: Any) -> bytes:
    if not isinstance(part, bytes | bytearray | memoryview):
        raise InvalidArgument(f"a content is made of bytes, not of {type(part).__name__}")
    return bytes(part)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


# --- out --------------------------------------------------------------------------------------------------------------


class ContentStream:
    """What `async with hn.open(key) as content` gives: `async for piece in content`, once, in pieces of up to 1 MiB.

    Each piece was verified before it is given, and the end comes only when the whole was. `info` says which version it
    is, and what is known of it.
    """

    def __init__(self, info: VersionInfo, pieces: AsyncGenerator[bytes, None]) -> None:
        self.info = info
        self._pieces = pieces

    @property
    def version(self) -> Version:
        """The version that is read."""
        return self.info.version

    @property
    def size(self) -> int:
        """Bytes of the whole content."""
        return self.info.size

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def close(self) -> None:
        """Stop reading."""
        await self._pieces.aclose()


class OpenContext:
    """What `hn.open(…)` gives: `async with` it."""

    def __init__(self, core: Core, view: View, key: str, version: Version | None, timeout_ms: int | None) -> None:
        self._core = core
        self._view = view
        self._key = key
        self._version = version
        self._timeout_ms = timeout_ms
        self._stream: ContentStream | None = None

    async def __aenter__(self) -> ContentStream:
        core, view = self._core, self._view
        info = await locate(core, view, self._key, self._version, self._timeout_ms)
        if info.size <= PIECE_MAX_BYTES:
            artifact = await core.fetch(self._key, view.counters, version=info.version, timeout_ms=self._timeout_ms)
            pieces = _whole(artifact.bytes)
        else:
            cached, timeout_s = _cached(core, self._key), core.timeout_s(self._timeout_ms)
            pieces = _verified(core, view, self._key, info, timeout_s, cached, None)
        self._stream = ContentStream(info, pieces)
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is not None:
            await self._stream.close()


async def locate(core: Core, view: View, key: str, version: Version | None, timeout_ms: int | None) -> VersionInfo:
    """The committed version, or the one that is named, without its bytes. Raises NotFound, Stale, HomenodeError."""
    request = pb.ReadRequest(key=name(key))
    if version is not None:
        request.version.incarnation, request.version.n = version
    for _ in range(FETCHES_MAX):
        response, pending = await core.session.request("read", request, timeout_ms=timeout_ms)
        found, meta = version_of(response.version), Meta.of(response.metadata)
        if version is None and not core.cache.may_show(key, found):
            continue
        if version is None:
            core.cache.saw(key, found)
            level = LEVELS.get(response.level, "lazy")
            view.wrote(core.make(key, found, b"", response.content.hash, meta, level=level, fetched_ns=pending.sent_ns))
        return VersionInfo(
            found, response.content.hash, response.content.size, response.committed_at_ms, "", False, meta.values,
            meta.tags, meta.media_type,
        )  # fmt: skip
    raise Stale("the directory gave an older version than this session has seen")


async def _whole(data: bytes) -> AsyncGenerator[bytes, None]:
    for at in range(0, len(data), CHUNK_BYTES):
        yield data[at : at + CHUNK_BYTES]


async def _verified(
    core: Core,
    view: View,
    key: str,
    info: VersionInfo,
    timeout_s: float,
    local: Source | None,
    progress: Progress | None,
) -> AsyncGenerator[bytes, None]:
    """A large content in pieces; what `local` has of it does not travel. Raises HomenodeError."""
    whole, came, done, base = hashlib.sha256(), [0], 0, b""
    places: dict[bytes, tuple[int, int]] = {}  # where chunks are in `local`, and their sizes
    if local is not None and local.size:
        base, places = await _at_hand(core, key, info, local, timeout_s)

    def have(hash: bytes) -> bytes | None:
        return local.read(*places[hash]) if local is not None and hash in places else None

    try:
        pieces = core.large.pieces(
            key, info.version, info.hash, info.size, have, list(places), timeout_s, came, have=base
        )  # fmt: skip
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                await asyncio.to_thread(whole.update, piece)
                done += len(piece)
                yield bytes(piece)
                if progress is not None:
                    progress(done, info.size)
    except BodyMissing:
        raise InternalError("the content that came does not match its hash") from None
    except BodyGone as gone:
        raise gone.failure from None
    finally:
        view.counters.misses += 1
        view.counters.fetched_bytes += came[0]
    if whole.digest() != info.hash:
        raise InternalError("the content that came does not match its hash")


async def _at_hand(
    core: Core, key: str, info: VersionInfo, local: Source, timeout_s: float
) -> tuple[bytes, dict[bytes, tuple[int, int]]]:
    """What a file has of a content: the hash of the earlier version that it is (b"": of none), and chunks of both."""
    chunks = await core.large.list_at(key, info.version, timeout_s)
    starts = await asyncio.to_thread(chunks_in, local, chunks, info.size)
    places = {chunk.hash: (starts[chunk.hash], chunk.size) for chunk in chunks if chunk.hash in starts}
    base = b""
    if len(starts) < len({chunk.hash for chunk in chunks}):
        request = pb.HistoryRequest(key=name(key))
        history, _ = await core.session.request("history", request, timeout_ms=int(timeout_s * 1_000))
        alike = {one.hash: version_of(one.version) for one in history.versions if one.size == local.size}
        hash = await asyncio.to_thread(hash_of, local) if alike else b""
        if hash in alike and hash != info.hash:
            base, old = hash, await core.large.list_at(key, alike[hash], timeout_s)
            places |= {chunk.hash: (at, chunk.size) for chunk, at in zip(old, starts_of(old), strict=True)}
    return base, dict(list(places.items())[:HAVE_CHUNKS_MAX])


async def download(
    core: Core,
    view: View,
    key: str,
    path: str | os.PathLike[str],
    version: Version | None,
    timeout_ms: int | None,
    progress: Progress | None,
    old: str | os.PathLike[str] | None,
) -> VersionInfo:
    """See `Homenode.download`."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    info = await locate(core, view, key, version, timeout_ms)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with contextlib.ExitStack() as files:
            file = files.enter_context(await asyncio.to_thread(open, temporary, "xb", 0))
            there = await asyncio.to_thread(_file, target, files)
            local = there if old is None else await asyncio.to_thread(_file, Path(old), files)
            if info.size <= PIECE_MAX_BYTES:
                held = await asyncio.to_thread(_whole_of, local)
                artifact = await core.fetch(
                    key, view.counters, version=info.version, timeout_ms=timeout_ms, at_hand=held
                )  # fmt: skip
                pieces = _whole(artifact.bytes)
            else:
                local = local or _cached(core, key)
                pieces = _verified(core, view, key, info, core.timeout_s(timeout_ms), local, progress)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    await asyncio.to_thread(_write_all, file.fileno(), piece)
            if there is not None:
                os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return info


def _file(path: Path, files: contextlib.ExitStack) -> Source | None:
    """A regular file, which may have most of a content already."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for its writer
            return FileSource(files.enter_context(path.open("rb")).fileno())
    return None


def _cached(core: Core, key: str) -> Source | None:
    """The newest content of `key` that is at hand in memory."""
    return next((BytesSource(data) for data in core.cache.held(key).values() if len(data) > PIECE_MAX_BYTES), None)


def _whole_of(local: Source | None) -> dict[bytes, bytes]:
    """A file that may be an earlier version of a content in one piece, by its hash."""
    if local is None or not 0 < local.size <= PIECE_MAX_BYTES:
        return {}
    data = local.read(0, local.size)
    return {hashlib.sha256(data).digest(): data}
