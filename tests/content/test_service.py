"""The content store over blobs in memory: what is kept is verified, what is sent is the shortest, nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode_api.patch import apply_patches, compress, content_hash, decompress, make_patch
from homenode_directory.content.chains import LINKS_MAX
from homenode_directory.content.encoding import Blob, Kind, snapshot_blob
from homenode_directory.content.service import (
    BaseGone,
    ContentError,
    ContentReason,
    ContentStore,
    Held,
    Patches,
    Sent,
    Snapshot,
)

MAX = 1 << 20


class MemoryBlobs:
    """Blobs in a dict, with counts of calls and of references by patches."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[int, str], Blob] = {}
        self.reads = 0
        self.touched: list[str] = []

    async def put_blob(
        self, slice_: int, hash_: str, data: bytes, *, size: int, links: int, chain_bytes: int, base: str
    ) -> bool:
        await asyncio.sleep(0)
        self.touched.append(hash_)
        if (slice_, hash_) in self.blobs:
            return False
        if base and (slice_, base) not in self.blobs:
            raise BaseGone
        self.blobs[slice_, hash_] = Blob(data, size, base, links, chain_bytes)
        return True

    async def get_blob(self, slice_: int, hash_: str) -> Blob | None:
        await asyncio.sleep(0)
        self.reads += 1
        return self.blobs.get((slice_, hash_))

    def collect(self, slice_: int, hash_: str) -> None:
        assert all(blob.base != hash_ for (place, _), blob in self.blobs.items() if place == slice_), "still a base"
        del self.blobs[slice_, hash_]


def text(size: int, seed: int = 1) -> bytes:
    rng = random.Random(seed)
    return "".join(f"{rng.choice('abcdefgh') * 3} {rng.randrange(10**6)}\n" for _ in range(size // 8)).encode()[:size]


def edit(data: bytes, number: int) -> bytes:
    at = number * 7919 % len(data)
    return data[:at] + b"<edit %d>" % number + data[at + 5 :]


def make(blobs: MemoryBlobs, **options: int) -> ContentStore:
    return ContentStore(blobs, **{"max_bytes": MAX, **options})


def uncached(blobs: MemoryBlobs) -> ContentStore:
    return make(blobs, cache_bytes=0)


async def put(store: ContentStore, data: bytes, base: bytes | None = None) -> str:
    """Store a content, as a patch where a base is given."""
    hash_ = content_hash(data)
    if base is None:
        await store.store(0, hash_, len(data), inline=data)
    else:
        await store.store(0, hash_, len(data), patch=(content_hash(base), make_patch(base, data)))
    return hash_


async def put_history(store: ContentStore, count: int, size: int = 20_000) -> list[bytes]:
    """A text and `count` edits, each stored as a patch of the one before."""
    versions = [text(size)]
    await put(store, versions[0])
    for number in range(count):
        versions.append(edit(versions[-1], number))
        await put(store, versions[-1], versions[-2])
    return versions


def received(sent: Sent, held: Sequence[bytes], wanted: bytes) -> int:
    """Check that a reader who holds `held` gets `wanted` from what was sent; the bytes that were sent."""
    if isinstance(sent, Held):
        assert wanted in held
        return 0
    if isinstance(sent, Snapshot):
        assert decompress(sent.data, size=sent.size, max_size=MAX) == wanted
        return len(sent.data)
    base = {content_hash(data): data for data in held}[sent.base]
    assert apply_patches(base, sent.patches, size=sent.size, max_size=MAX) == wanted
    return sum(map(len, sent.patches))


async def refused(store: ContentStore, hash_: str, size: int, **form: object) -> ContentReason:
    with pytest.raises(ContentError) as caught:
        await store.store(0, hash_, size, **form)  # type: ignore[arg-type]
    return caught.value.reason


# ----------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("data", [b"", b"x", b"text " * 4000, random.Random(2).randbytes(30_000)], ids=len)
@pytest.mark.parametrize("compressed", [False, True])
async def test_a_whole_content_comes_back(data: bytes, compressed: bool) -> None:
    blobs = MemoryBlobs()
    form = {"snapshot": compress(data)} if compressed else {"inline": data}
    hash_ = content_hash(data)
    await make(blobs).store(3, hash_, len(data), **form)
    blob = blobs.blobs[3, hash_]
    assert (blob.size, blob.base, blob.links, blob.chain_bytes) == (len(data), "", 0, 0)
    assert len(blob.data) <= len(data) + 1
    assert await uncached(blobs).load(3, hash_) == data
    assert received(await uncached(blobs).for_reader(3, hash_), [], data) > 0


async def test_slices_are_apart() -> None:
    blobs = MemoryBlobs()
    store = make(blobs)
    hash_ = await put(store, b"private")
    with pytest.raises(ContentError) as caught:
        await store.load(1, hash_)
    assert caught.value.reason is ContentReason.CONTENT_MISSING


async def test_an_edit_is_kept_as_a_patch() -> None:
    blobs = MemoryBlobs()
    versions = await put_history(make(blobs), 3)
    links = [blobs.blobs[0, content_hash(data)].links for data in versions]
    kinds = [blobs.blobs[0, content_hash(data)].kind for data in versions]
    assert links == [0, 1, 2, 3]
    assert kinds == [Kind.ZSTD, Kind.PATCH, Kind.PATCH, Kind.PATCH]
    assert sum(len(blobs.blobs[0, content_hash(data)].data) for data in versions[1:]) < 200
    for data in versions:
        assert await uncached(blobs).load(0, content_hash(data)) == data


async def test_after_16_patches_comes_a_snapshot_and_readers_still_get_a_patch() -> None:
    blobs = MemoryBlobs()
    store = make(blobs)
    versions = await put_history(store, LINKS_MAX + 1)
    last = blobs.blobs[0, content_hash(versions[-1])]
    assert (last.base, last.links) == ("", 0)
    for reader in (store, uncached(blobs)):
        sent = await reader.for_reader(0, content_hash(versions[-1]), [content_hash(versions[-2])])
        assert isinstance(sent, Patches) and received(sent, versions[-2:-1], versions[-1]) < 100


async def test_a_large_patch_is_kept_as_a_snapshot() -> None:
    blobs = MemoryBlobs()
    store = make(blobs)
    old, new = random.Random(1).randbytes(9000), random.Random(2).randbytes(9000)
    await put(store, old)
    hash_ = await put(store, new, old)
    assert blobs.blobs[0, hash_].base == ""


async def test_what_is_stored_already_is_touched() -> None:
    blobs = MemoryBlobs()
    store = make(blobs)
    hash_ = await put(store, b"same")
    await put(store, b"same")
    assert blobs.touched == [hash_, hash_]


async def test_a_content_given_in_no_form_must_be_there() -> None:
    blobs = MemoryBlobs()
    store = make(blobs)
    hash_ = await put(store, b"here")
    await store.store(0, hash_, 4)
    assert await refused(store, hash_, 5) is ContentReason.INVALID_ARGUMENT
    assert await refused(store, content_hash(b"not here"), 8) is ContentReason.CONTENT_MISSING
    blobs.collect(0, hash_)
    assert await refused(store, hash_, 4) is ContentReason.CONTENT_MISSING


NEW = text(5000, 9)
OLD = text(5000, 8)
HASH = content_hash(NEW)
PATCH = (content_hash(OLD), make_patch(OLD, NEW))
INVALID, LARGE, MISSING = ContentReason.INVALID_ARGUMENT, ContentReason.TOO_LARGE, ContentReason.CONTENT_MISSING


@pytest.mark.parametrize(
    "hash_, size, form, reason",
    [
        (HASH, 5000, {"inline": NEW[:-1] + b"?"}, INVALID),
        (HASH, 4999, {"inline": NEW}, INVALID),
        (HASH, 4999, {"inline": NEW[:-1]}, INVALID),
        (HASH, 5000, {"snapshot": compress(OLD)}, INVALID),
        (HASH, 5000, {"snapshot": NEW}, INVALID),
        (HASH, 5000, {"snapshot": compress(NEW) + b"x"}, INVALID),
        (HASH, 5000, {"patch": (PATCH[0], PATCH[1][:-1])}, INVALID),
        (HASH, 5000, {"patch": (PATCH[0], make_patch(OLD, NEW[:-1] + b"?"))}, INVALID),
        (HASH, 4999, {"patch": PATCH}, INVALID),
        (HASH, 5000, {"patch": (content_hash(b"unknown"), PATCH[1])}, MISSING),
        (HASH, 5000, {"patch": ("../etc", PATCH[1])}, INVALID),
        (HASH, 5000, {"patch": PATCH, "inline": NEW}, INVALID),
        (HASH, MAX + 1, {"inline": NEW}, LARGE),
        (HASH, 1 << 60, {"patch": PATCH}, LARGE),
        (HASH, 5000, {"inline": bytes(MAX + 2000)}, LARGE),
        (HASH, 5000, {"snapshot": bytes(MAX + 2000)}, LARGE),
        (HASH, 5000, {"patch": (PATCH[0], bytes(MAX + 2000))}, LARGE),
        (HASH, -1, {"inline": b""}, INVALID),
        (HASH.upper(), 5000, {"inline": NEW}, INVALID),
        (HASH + "\n", 5000, {"inline": NEW}, INVALID),
        ("", 5000, {"inline": NEW}, INVALID),
    ],
)
async def test_what_is_wrong_is_refused_and_nothing_kept(
    hash_: str, size: int, form: dict[str, object], reason: ContentReason
) -> None:
    blobs = MemoryBlobs()
    store = make(blobs)
    await put(store, OLD)
    before = dict(blobs.blobs)
    assert await refused(store, hash_, size, **form) is reason
    assert blobs.blobs == before


async def test_the_same_patch_that_those_tests_spoil_is_accepted() -> None:
    store = make(MemoryBlobs())
    await put(store, OLD)
    await store.store(0, HASH, 5000, patch=PATCH)
    assert await store.load(0, HASH) == NEW


async def test_a_base_collected_meanwhile_costs_a_snapshot_not_the_content() -> None:
    blobs = MemoryBlobs()
    store = make(blobs)
    versions = await put_history(store, 1)
    new = edit(versions[1], 77)
    await store.for_reader(0, content_hash(versions[1]))  # now all is cached
    blobs.collect(0, content_hash(versions[1]))
    hash_ = await put(store, new, versions[1])
    assert blobs.blobs[0, hash_].base == ""
    assert await uncached(blobs).load(0, hash_) == new


# ----------------------------------------------------------------------------------------------------------- reading


async def test_readers_get_the_shortest_form() -> None:
    blobs = MemoryBlobs()
    versions = await put_history(make(blobs), 8)
    wanted, hash_ = versions[-1], content_hash(versions[-1])
    for reader in (make(blobs), uncached(blobs)):
        for index, old in enumerate(versions):
            sent = await reader.for_reader(0, hash_, [content_hash(b"unknown"), content_hash(old)])
            assert isinstance(sent, Held if old == wanted else Patches)
            assert received(sent, [old], wanted) <= 40 * (8 - index)
        assert isinstance(await reader.for_reader(0, hash_, [content_hash(b"unknown")]), Snapshot)
        assert isinstance(await reader.for_reader(0, hash_), Snapshot)


async def test_one_patch_is_made_for_a_reader_who_takes_only_one() -> None:
    blobs = MemoryBlobs()
    versions = await put_history(make(blobs), 5)
    sent = await uncached(blobs).for_reader(0, content_hash(versions[-1]), [content_hash(versions[0])], patches_max=1)
    assert isinstance(sent, Patches) and len(sent.patches) == 1
    assert received(sent, versions[:1], versions[-1]) < 300
    sent = await uncached(blobs).for_reader(0, content_hash(versions[-1]), [content_hash(versions[0])], patches_max=0)
    assert isinstance(sent, Snapshot)


async def test_a_snapshot_shorter_than_any_patch_is_sent() -> None:
    store = make(MemoryBlobs())
    old, new = random.Random(1).randbytes(50_000), b"short again"
    await put(store, old)
    hash_ = await put(store, new, old)
    sent = await store.for_reader(0, hash_, [content_hash(old)])
    assert received(sent, [old], new) < 40


async def test_many_readers_of_one_change_cost_one_look() -> None:
    blobs = MemoryBlobs()
    versions = await put_history(make(blobs), 1)
    store = make(blobs)
    ask = [store.for_reader(0, content_hash(versions[1]), [content_hash(versions[0])]) for _ in range(50)]
    await asyncio.gather(*ask)
    reads = blobs.reads
    await store.for_reader(0, content_hash(versions[1]), [content_hash(versions[0])])
    assert blobs.reads == reads


async def test_concurrent_loads_of_one_content_read_it_once() -> None:
    blobs = MemoryBlobs()
    versions = await put_history(make(blobs), 3)
    blobs.reads = 0
    store = make(blobs)
    loads = await asyncio.gather(*(store.load(0, content_hash(versions[-1])) for _ in range(20)))
    assert loads == [versions[-1]] * 20
    assert blobs.reads == 4


@pytest.mark.parametrize("data", [b"", b"\x09junk", b"\x02not a frame", b"\x03\x01\x00\x00\x04abcd", b"\x01other"])
@pytest.mark.parametrize("base", ["", content_hash(b"base")])
async def test_damaged_blobs_are_missing_contents(data: bytes, base: str) -> None:
    blobs = MemoryBlobs()
    await put(make(blobs), b"base")
    hash_ = content_hash(b"lost")
    blobs.blobs[0, hash_] = Blob(data, 4, base, 1 if base else 0, 4)
    with pytest.raises(ContentError) as caught:
        await make(blobs).load(0, hash_)
    assert caught.value.reason is ContentReason.CONTENT_MISSING


@pytest.mark.parametrize(
    "blob",
    [
        Blob(b"", 4),
        Blob(b"\x09data", 4),
        Blob(b"\x03data", 4),
        Blob(b"\x01data", 4000, content_hash(b"base"), 1, 4),
    ],
)
async def test_a_blob_of_unknown_form_is_not_sent(blob: Blob) -> None:
    blobs = MemoryBlobs()
    base = await put(make(blobs), b"base")
    blobs.blobs[0, content_hash(b"lost")] = blob
    with pytest.raises(ContentError):
        await make(blobs).for_reader(0, content_hash(b"lost"), [base])


async def test_a_chain_in_a_circle_ends() -> None:
    blobs = MemoryBlobs()
    a, b = content_hash(b"a"), content_hash(b"b")
    patch = bytes((Kind.PATCH,)) + make_patch(b"a", b"b")
    blobs.blobs |= {(0, a): Blob(patch, 1, b, 1, 5), (0, b): Blob(patch, 1, a, 1, 5)}
    for store in (make(blobs), uncached(blobs)):
        with pytest.raises(ContentError):
            await store.load(0, a)
        with pytest.raises(ContentError):
            await store.for_reader(0, a, [content_hash(b"c")])


# ------------------------------------------------------------------------- collected, and stored in another form


async def test_a_cached_chain_that_is_gone_is_read_anew() -> None:
    blobs = MemoryBlobs()
    writer = make(blobs)
    versions = await put_history(writer, 3)
    first, last = content_hash(versions[0]), content_hash(versions[3])
    other = make(blobs, cache_bytes=60_000)  # another replica, which has looked at links and patches only
    await other.for_reader(0, last, [first])
    blobs.blobs[0, last] = snapshot_blob(versions[3])
    for data in versions[2::-1]:
        blobs.collect(0, content_hash(data))
    assert await other.load(0, last) == versions[3]


async def test_a_reader_is_answered_though_the_cached_chain_is_gone() -> None:
    """Collected and stored again in another form, through another replica."""
    blobs = MemoryBlobs()
    writer = make(blobs)
    versions = await put_history(writer, 3)
    last = content_hash(versions[3])
    other = make(blobs, cache_bytes=0)
    other._links._max = 10_000
    await other._link(0, last)
    blobs.blobs[0, last] = snapshot_blob(versions[3])
    for data in versions[2::-1]:
        blobs.collect(0, content_hash(data))
    sent = await other.for_reader(0, last, [content_hash(text(500, seed=9))])
    assert received(sent, [], versions[3]) > 0


async def test_a_snapshot_written_while_an_answer_is_made_is_not_sent_as_a_patch() -> None:
    blobs = MemoryBlobs()
    versions = await put_history(make(blobs), 2)
    rewritten = content_hash(versions[1])
    snapshot = snapshot_blob(versions[1])

    class Rewriting(MemoryBlobs):
        async def get_blob(self, slice_: int, hash_: str) -> Blob | None:
            found = await super().get_blob(slice_, hash_)
            if hash_ == rewritten:
                self.blobs[0, rewritten] = snapshot
            return found

    racing = Rewriting()
    racing.blobs = dict(blobs.blobs)
    # No room for blobs, so that they are read again when the answer is put together; links fit.
    store = make(racing, cache_bytes=0)
    store._links._max = 10_000
    sent = await store.for_reader(0, content_hash(versions[2]), [content_hash(versions[0])])
    assert isinstance(sent, Snapshot) and received(sent, [], versions[2]) > 0


# ------------------------------------------------------------------------------------------------- all of it at once


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_history_reads_back_and_every_reader_arrives(data: st.DataObject) -> None:
    async def scenario() -> None:
        blobs = MemoryBlobs()
        store = make(blobs, cache_bytes=data.draw(st.sampled_from([0, 30_000, 1 << 20])))
        versions = [text(4000)]
        await put(store, versions[0])
        for number in range(data.draw(st.integers(1, 25))):
            base = data.draw(st.sampled_from(versions))
            new = data.draw(st.sampled_from([edit(base, number), base + b"tail %d" % number, text(3000, number), base]))
            await put(store, new, data.draw(st.sampled_from([base, base, base, None])))
            versions.append(new)
        for hash_, blob in ((hash_, blob) for (_, hash_), blob in blobs.blobs.items()):
            assert blob.links <= LINKS_MAX and 2 * blob.chain_bytes <= blob.size
            assert await uncached(blobs).load(0, hash_) in versions
        for _ in range(5):
            wanted, held = (
                data.draw(st.sampled_from(versions)),
                data.draw(st.lists(st.sampled_from(versions), max_size=3)),
            )
            most = data.draw(st.integers(0, LINKS_MAX))
            sent = await store.for_reader(
                0, content_hash(wanted), [content_hash(old) for old in held], patches_max=most
            )
            assert received(sent, held, wanted) <= len(compress(wanted))
            assert not isinstance(sent, Patches) or len(sent.patches) <= most

    asyncio.run(scenario())


async def test_work_in_threads_stays_within_its_budget() -> None:
    blobs = MemoryBlobs()
    with ThreadPoolExecutor(4) as pool:
        store = ContentStore(blobs, max_bytes=MAX, executor=pool, budget_bytes=300_000)
        contents = [text(100_000, seed) for seed in range(12)]
        await asyncio.gather(*(put(store, data) for data in contents))
        edits = [edit(data, 5) for data in contents]
        await asyncio.gather(*(put(store, new, old) for new, old in zip(edits, contents, strict=True)))
    for data in contents + edits:
        assert await uncached(blobs).load(0, content_hash(data)) == data
    assert all(blobs.blobs[0, content_hash(data)].links == 1 for data in edits)
