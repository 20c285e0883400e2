"""Large contents over every store: chunks are shared, counted, kept while a list needs them, freed with the last."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from homenode_api.chunks import Chunk, pack_chunk, unpack_chunk
from homenode_directory.content.large import Body, LargeContents
from homenode_directory.content.service import ContentError, ContentReason, ContentStore
from homenode_directory.store.base import Add, Commit, Exists, Store
from homenode_directory.store.blobs import INDEX, StoredBlobs, bytes_key, record_key
from tests.store.beds import Bed
from tests.store.test_blobs import Adopted

INVALID, MISSING = ContentReason.INVALID_ARGUMENT, ContentReason.CONTENT_MISSING


class Content:
    """A content cut into these pieces; sizes do not matter to a store."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.data = b"".join(pieces)
        self.hash = hashlib.sha256(self.data).hexdigest()
        self.chunks = tuple(Chunk(hashlib.sha256(piece).digest(), len(piece)) for piece in pieces)


class Shelf:
    """Large contents of slice 0."""

    def __init__(self, store: Store, executor: ThreadPoolExecutor | None = None) -> None:
        self.store = store
        self.blobs = StoredBlobs(store, Adopted(store), confirm_after_ms=0)
        self.pieces = ContentStore(self.blobs, executor=executor)
        self.large = LargeContents(self.pieces, self.blobs, cache_bytes=0)

    async def put(self, content: Content, places: Sequence[int] | None = None) -> None:
        """Upload it, sending the chunks at `places`; None: those that are missing."""
        if places is None:
            places = await self.large.missing(0, [chunk.hash.hex() for chunk in content.chunks])
        async with self.large.upload(0, content.hash, len(content.data), content.chunks) as upload:
            for place in places:
                await upload.take(place, Body(*pack_chunk(content.pieces[place])))
            await upload.finish()

    async def get(self, content: Content) -> bytes:
        chunks = await self.large.chunks(0, content.hash)
        bodies = [sent async for sent in self.large.send(0, chunks, range(len(chunks)), {})]
        assert [place for place, _ in bodies] == list(range(len(chunks)))
        return b"".join(
            unpack_chunk(chunk, body.data, body.compressed) for chunk, (_, body) in zip(chunks, bodies, strict=True)
        )

    async def refer(self, hash_: str, amount: int = 1) -> bool:
        """What the commit of a version does, or of a snapshot that pins it."""
        token = (await self.store.adopt(0, 0)).token
        guards = (Exists(bytes_key(hash_)), Exists(record_key(hash_)))
        commit = Commit(guards, (Add(record_key(hash_), "refs", amount),))
        (outcome,) = await self.store.commit(0, token, [commit])
        return outcome.ok

    async def references(self, content: Content) -> list[int]:
        records = await self.store.load(0, [record_key(chunk.hash.hex()) for chunk in content.chunks])
        return [int(record.get("refs", -1)) for record in records]

    async def collect(self, idle_ms: int = -1_000) -> int:
        """Until there is nothing more to collect."""
        total = 0
        while count := await self.blobs.collect(0, idle_ms, 100):
            total += count
        return total


A, B, C, D = (random.Random(n).randbytes(3_000) for n in range(4))
FIRST, SECOND = Content(A, B, C), Content(A, D, C)


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return Shelf(store)


async def test_what_is_put_comes_back(shelf: Shelf) -> None:
    text = b"a line of text\n" * 5_000
    content = Content(A, text, b"x", A, text)
    await shelf.put(content, [0, 1, 2])
    assert await shelf.get(content) == content.data
    with ThreadPoolExecutor(2) as executor:
        threaded = Shelf(shelf.store, executor)
        await threaded.put(FIRST)
        assert await threaded.get(FIRST) == FIRST.data


async def test_versions_share_chunks_which_go_with_the_last(shelf: Shelf) -> None:
    await shelf.put(FIRST)
    assert await shelf.refer(FIRST.hash)
    assert await shelf.large.missing(0, [chunk.hash.hex() for chunk in SECOND.chunks]) == [1]
    await shelf.put(SECOND, [1])
    assert await shelf.refer(SECOND.hash)
    assert await shelf.references(FIRST) == [2, 1, 2]
    assert await shelf.collect() == 0
    await shelf.refer(FIRST.hash, -1)
    assert await shelf.collect() == 2, "the list and the chunk that only it had"
    assert await shelf.get(SECOND) == SECOND.data
    with pytest.raises(ContentError):
        await shelf.get(FIRST)
    await shelf.refer(SECOND.hash, -1)
    assert await shelf.collect() == 4
    assert await shelf.store.ranked(0, INDEX) == {}


async def test_a_pin_keeps_chunks_after_the_version(shelf: Shelf) -> None:
    await shelf.put(FIRST)
    await shelf.refer(FIRST.hash)
    await shelf.refer(FIRST.hash)  # a snapshot
    await shelf.refer(FIRST.hash, -1)
    assert await shelf.collect() == 0
    assert await shelf.get(FIRST) == FIRST.data
    await shelf.refer(FIRST.hash, -1)
    assert await shelf.collect() == 4


async def test_an_upload_goes_on_where_it_was_cut(shelf: Shelf) -> None:
    async with shelf.large.upload(0, FIRST.hash, len(FIRST.data), FIRST.chunks) as upload:
        await upload.take(0, Body(A, False))
        await upload.take(1, Body(B, False))
    assert not await shelf.refer(FIRST.hash), "the list is not there"
    assert not await shelf.large.stored(0, FIRST.hash)
    assert await shelf.large.missing(0, [chunk.hash.hex() for chunk in FIRST.chunks]) == [2]
    await shelf.put(FIRST, [2])
    assert await shelf.get(FIRST) == FIRST.data
    assert await shelf.large.stored(0, FIRST.hash)


async def test_what_is_left_of_an_upload_is_collected(shelf: Shelf) -> None:
    async with shelf.large.upload(0, FIRST.hash, len(FIRST.data), FIRST.chunks) as upload:
        await upload.take(0, Body(A, False))
    assert await shelf.collect(idle_ms=3_600_000) == 0
    assert await shelf.collect() == 1


async def test_a_chunk_collected_meanwhile_is_asked_for_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    put_blob = shelf.blobs.put_blob

    async def late(slice_: int, hash_: str, data: bytes, **facts: object) -> bool:
        if hash_ == FIRST.hash:
            assert await shelf.collect() == 3
        return await put_blob(slice_, hash_, data, **facts)  # type: ignore[arg-type]

    monkeypatch.setattr(shelf.blobs, "put_blob", late)
    with pytest.raises(ContentError) as caught:
        await shelf.put(FIRST)
    assert caught.value.reason is MISSING
    assert not await shelf.refer(FIRST.hash)
    monkeypatch.undo()
    await shelf.put(FIRST)
    assert await shelf.get(FIRST) == FIRST.data


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([(0, A), (1, B), (2, B)], INVALID),
        ([(0, A), (1, B[:-1]), (2, C)], INVALID),
        ([(0, A), (1, B + b"!"), (2, C)], INVALID),
        ([(0, A), (2, C), (1, B)], MISSING),
        ([(1, B), (0, A), (2, C)], MISSING),
        ([(0, A), (0, A), (1, B), (2, C)], INVALID),
        ([(0, A), (1, B), (2, C), (3, D)], INVALID),
        ([(0, A), (1, B)], MISSING),
        ([], MISSING),
    ],
    ids=["wrong", "short", "long", "order", "late start", "twice", "behind", "too few", "none"],
)
async def test_hostile_chunks_are_refused(shelf: Shelf, sent: list[tuple[int, bytes]], reason: ContentReason) -> None:
    with pytest.raises(ContentError) as caught:
        async with shelf.large.upload(0, FIRST.hash, len(FIRST.data), FIRST.chunks) as upload:
            for place, piece in sent:
                await upload.take(place, Body(piece, False))
            await upload.finish()
    assert caught.value.reason is reason
    assert await shelf.blobs.get_blob(0, FIRST.hash) is None, "no list of that name"


async def test_a_chunk_that_comes_again_is_refused_at_once(shelf: Shelf) -> None:
    async with shelf.large.upload(0, FIRST.hash, len(FIRST.data), FIRST.chunks) as upload:
        await upload.take(0, Body(A, False))
        with pytest.raises(ContentError, match="order"):
            await upload.take(0, Body(A, False))


async def test_chunks_of_another_content_do_not_make_this_one(shelf: Shelf) -> None:
    with pytest.raises(ContentError) as caught:
        async with shelf.large.upload(0, FIRST.hash, len(SECOND.data), SECOND.chunks) as upload:
            for place, piece in enumerate(SECOND.pieces):
                await upload.take(place, Body(piece, False))
            await upload.finish()
    assert caught.value.reason is INVALID
    assert await shelf.blobs.get_blob(0, FIRST.hash) is None


async def test_two_ways_to_cut_one_content_hold_on_to_both(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer dies between the record and the bytes of its list; the next has cut the same content in another way."""
    other = Content(A, B + C)
    assert other.hash == FIRST.hash

    async def die(*_: object) -> None:
        raise OSError

    await shelf.put(Content(A, B, C, D))  # so that the chunks are there
    with monkeypatch.context() as patch:
        patch.setattr(shelf.store, "put_blobs", die)
        with pytest.raises(OSError):
            await shelf.put(FIRST, [])
    await shelf.put(other, [1])
    assert await shelf.references(FIRST) == [2, 2, 2] and await shelf.references(other) == [2, 1]
    assert await shelf.get(FIRST) == FIRST.data
    assert await shelf.collect() == 7
    assert await shelf.store.ranked(0, INDEX) == {}


async def test_a_chunk_may_be_an_artifact_that_is_kept_as_a_patch(shelf: Shelf) -> None:
    from homenode_api.patch import content_hash, make_patch

    old = b"".join(b"line %d\n" % n for n in range(2_000))
    new = old.replace(b"line 1000\n", b"another line\n")
    await shelf.pieces.store(0, content_hash(old), len(old), inline=old)
    await shelf.pieces.store(0, content_hash(new), len(new), patch=(content_hash(old), make_patch(old, new)))
    blob = await shelf.blobs.get_blob(0, content_hash(new))
    assert blob is not None and blob.base
    content = Content(A, new)
    await shelf.put(content)
    assert await Shelf(shelf.store).get(content) == content.data


async def test_a_large_content_is_no_base_and_in_no_single_piece(shelf: Shelf) -> None:
    await shelf.put(FIRST)
    with pytest.raises(ContentError, match="one piece") as caught:
        await shelf.pieces.load(0, FIRST.hash)
    assert caught.value.reason is MISSING
    await shelf.pieces.store(0, FIRST.hash, len(FIRST.data))
    with pytest.raises(ContentError):
        await shelf.pieces.store(0, FIRST.hash, len(FIRST.data) + 1)


async def test_racing_uploads_and_collectors_lose_nothing(bed: Bed) -> None:
    shelves = [Shelf(await bed.client()) for _ in range(3)]
    rng = random.Random(9)
    pool = [rng.randbytes(200) for _ in range(6)]
    kept: list[Content] = []

    async def write(shelf: Shelf) -> None:
        for _ in range(12):
            content = Content(*rng.choices(pool, k=rng.randrange(2, 5)))
            try:
                await shelf.put(content)
            except ContentError as failure:
                assert failure.reason is MISSING
                continue
            if await shelf.refer(content.hash):
                kept.append(content)

    async def sweep(shelf: Shelf) -> None:
        for _ in range(25):
            await shelf.blobs.collect(0, -1_000, 100)
            await asyncio.sleep(0)

    await asyncio.gather(*(write(shelf) for shelf in shelves), *(sweep(shelf) for shelf in shelves))
    assert kept
    for content in kept:
        assert await shelves[0].get(content) == content.data
        await shelves[0].refer(content.hash, -1)
    await asyncio.sleep(0.002)
    await shelves[0].collect()
    assert await shelves[0].store.ranked(0, INDEX) == {}
