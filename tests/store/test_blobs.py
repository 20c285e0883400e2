"""Contents are kept while somebody refers to them or has just touched them, and are collected otherwise."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from homenode_directory.content.encoding import Blob
from homenode_directory.content.service import BaseGone
from homenode_directory.store.base import Add, Commit, Exists, Incarnation, Store, StoreError
from homenode_directory.store.blobs import INDEX, StoredBlobs, bytes_key, record_key
from tests.store.beds import Bed


class Adopted:
    """Adopts each slice when asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def current(self, slice_: int) -> Incarnation:
        return await self._store.adopt(slice_, 0)

    async def renew(self, slice_: int, seen: str) -> Incarnation:
        return await self._store.adopt(slice_, 0)


class Shelf:
    """Contents of slice 0."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.blobs = StoredBlobs(store, Adopted(store), confirm_after_ms=0)

    async def put(self, hash_: str, base: str = "", data: bytes = b"\x01bytes\n") -> None:
        links = 1 if base else 0
        await self.blobs.put_blob(0, hash_, data, size=7, links=links, chain_bytes=links * 5, base=base)

    async def refer(self, hash_: str, amount: int = 1) -> bool:
        """What the commit of a version does."""
        token = (await self.store.adopt(0, 0)).token
        commit = Commit((Exists(bytes_key(hash_)),), (Add(record_key(hash_), "refs", amount),))
        (outcome,) = await self.store.commit(0, token, [commit])
        return outcome.ok

    async def record(self, hash_: str) -> dict[str, str]:
        return dict((await self.store.load(0, [record_key(hash_)]))[0])

    async def collect(self, idle_ms: int = -1_000) -> int:
        """By default as of a second from now: whatever was touched has been idle then."""
        return await self.blobs.collect(0, idle_ms, 100)

    async def there(self, hash_: str) -> bool:
        return await self.blobs.get_blob(0, hash_) is not None


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return Shelf(store)


async def test_a_content_comes_back_as_it_was_put(shelf: Shelf) -> None:
    await shelf.put("h0", data=b"\x01\n\n[]\x00")
    await shelf.put("h1", "h0", b"\x03patch")
    assert await shelf.blobs.get_blob(0, "h0") == Blob(b"\x01\n\n[]\x00", 7)
    assert await shelf.blobs.get_blob(0, "h1") == Blob(b"\x03patch", 7, "h0", 1, 5)
    assert await shelf.blobs.get_blob(0, "none") is None
    record = await shelf.record("h1")
    assert record["refs"] == "0"
    assert record["on/h0"] == "1"


async def test_a_second_put_only_touches(shelf: Shelf) -> None:
    await shelf.put("h")
    await shelf.refer("h")
    before = await shelf.record("h")
    await shelf.put("other")
    await shelf.put("h", "other", b"\x03patch")
    assert await shelf.blobs.get_blob(0, "h") == Blob(b"\x01bytes\n", 7)
    after = await shelf.record("h")
    assert int(after.pop("touched")) >= int(before.pop("touched"))
    assert after == before
    assert (await shelf.record("other"))["refs"] == "0"


async def test_a_patch_needs_its_base_and_holds_on_to_it(shelf: Shelf) -> None:
    with pytest.raises(BaseGone):
        await shelf.put("patch", "base")
    assert await shelf.record("patch") == {}
    assert await shelf.store.ranked(0, INDEX) == {}
    await shelf.put("base")
    await shelf.put("patch", "base")
    assert (await shelf.record("base"))["refs"] == "1"
    await shelf.refer("patch")
    assert await shelf.collect() == 0
    await shelf.refer("patch", -1)
    assert await shelf.collect() == 1
    assert not await shelf.there("patch")
    assert (await shelf.record("base"))["refs"] == "0"
    assert await shelf.collect() == 1
    assert not await shelf.there("base")
    assert await shelf.store.ranked(0, INDEX) == {}


async def test_collection_spares_the_touched_and_the_referred_to(shelf: Shelf) -> None:
    for hash_ in ("idle", "kept"):
        await shelf.put(hash_)
    assert await shelf.refer("kept")
    assert await shelf.collect(idle_ms=3_600_000) == 0
    assert await shelf.collect() == 1
    assert not await shelf.there("idle")
    assert await shelf.there("kept")
    assert not await shelf.refer("idle")
    await shelf.refer("kept", -1)
    assert await shelf.collect() == 1


async def test_a_content_that_is_used_while_it_is_collected_survives(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hash_ in ("referred", "touched", "idle"):
        await shelf.put(hash_)
    load = shelf.store.load

    async def load_then_use(slice_: int, keys: Sequence[str]) -> list[dict[str, str]]:
        records = await load(slice_, keys)
        monkeypatch.setattr(shelf.store, "load", load)
        await shelf.refer("referred")
        await asyncio.sleep(0.002)  # the touch has to fall into another millisecond than the put
        await shelf.put("touched")
        return [dict(record) for record in records]

    monkeypatch.setattr(shelf.store, "load", load_then_use)
    await asyncio.sleep(0.002)
    assert await shelf.collect() == 1
    assert await shelf.there("referred") and await shelf.there("touched")
    assert not await shelf.there("idle")


async def test_a_writer_that_died_before_its_bytes_is_made_good(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    await shelf.put("a")
    await shelf.put("b")

    async def die(*_: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(shelf.store, "put_blobs", die)
        with pytest.raises(OSError):
            await shelf.put("h", "a", b"\x03from a")
    assert not await shelf.there("h")
    assert (await shelf.record("a"))["refs"] == "1"
    await shelf.put("h", "b", b"\x03from b")
    assert await shelf.blobs.get_blob(0, "h") == Blob(b"\x03from b", 7, "b", 1, 5)
    assert (await shelf.record("a"))["refs"] == (await shelf.record("b"))["refs"] == "1"
    assert [await shelf.collect() for _ in range(3)] == [1, 2, 0]


async def test_a_content_collected_while_it_is_written_is_written_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.put("base")
    put_blobs = shelf.store.put_blobs
    calls: list[str] = []

    async def stall(slice_: int, blobs: list[tuple[str, bytes]]) -> None:
        calls.append(blobs[0][0])
        if len(calls) == 1:
            await asyncio.sleep(0.002)
            assert await shelf.collect() == 1
        await put_blobs(slice_, blobs)

    monkeypatch.setattr(shelf.store, "put_blobs", stall)
    await shelf.put("h", "base", b"\x03patch")
    assert len(calls) == 2
    assert (await shelf.record("h"))["refs"] == "0"
    assert (await shelf.record("base"))["refs"] == "1"
    assert await shelf.collect() == 1
    assert not await shelf.there("h")


async def test_racing_writers_readers_and_collectors_lose_nothing(bed: Bed) -> None:
    shelves = [Shelf(await bed.client()) for _ in range(3)]
    rng = random.Random(7)
    referred: dict[str, int] = {}

    async def write(shelf: Shelf, count: int) -> None:
        for _ in range(count):
            hash_, base = f"h{rng.randrange(6)}", rng.choice(["", "h6", "h7"])
            try:
                await shelf.put(hash_, base, b"\x03" + base.encode() if base else b"\x01")
            except BaseGone:
                await shelf.put(base)
                continue
            except StoreError:  # collected in every round: the collectors here find everything idle
                continue
            if await shelf.refer(hash_):
                referred[hash_] = referred.get(hash_, 0) + 1

    async def sweep(shelf: Shelf, count: int) -> None:
        for _ in range(count):
            await shelf.collect()
            await asyncio.sleep(0)

    await asyncio.gather(*(write(shelf, 30) for shelf in shelves), *(sweep(shelf, 30) for shelf in shelves))
    assert referred
    for hash_, count in referred.items():
        blob = await shelves[0].blobs.get_blob(0, hash_)
        assert blob is not None
        assert blob.data == (b"\x03" + blob.base.encode() if blob.base else b"\x01")
        assert int((await shelves[0].record(hash_))["refs"]) == count
        if blob.base:
            assert await shelves[0].there(blob.base)
        await shelves[0].refer(hash_, -count)
    for _ in range(4):
        await asyncio.sleep(0.002)
        await shelves[0].collect()
    assert await shelves[0].store.ranked(0, INDEX) == {}
    for n in range(8):
        assert not await shelves[0].there(f"h{n}")
        assert await shelves[0].record(f"h{n}") == {}
