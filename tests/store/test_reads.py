"""Ranked sets, the log, blobs and incarnations mean the same in every store."""

from __future__ import annotations

import asyncio
import time

import pytest

from homenode_directory.store.base import Commit, Exists, LogTrimmed, Put, Rank, Store, StoreChanged
from tests.store.beds import Bed

MEMBERS = ["", "a", "a/b", "a/c", "a\U0010ffff", "a\U0010ffffz", "a\ud7ff", "b", "é", "日", "\U0001f600"]


async def put_ranks(store: Store, token: str, key: str, scores: dict[str, int]) -> None:
    """Rank all members."""
    writes = tuple(Rank(key, member, score) for member, score in scores.items())
    (outcome,) = await store.commit(0, token, [Commit(writes=writes)])
    assert outcome.ok


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a\U0010ffff", "a\ud7ff", "é", "zz", "\U0001f600", "\U0010ffff"])
async def test_by_prefix_walks_in_code_point_order(store: Store, token: str, prefix: str) -> None:
    await put_ranks(store, token, "i", dict.fromkeys(MEMBERS, 0))
    expected = sorted(member for member in MEMBERS if member.startswith(prefix) and member > "")
    walked: list[str] = []
    after = ""
    while page := await store.by_prefix(0, "i", prefix, after, 2):
        assert len(page) <= 2
        walked += page
        after = page[-1]
    assert walked == expected
    assert await store.by_prefix(0, "i", prefix, "a/b", 100) == [member for member in expected if member > "a/b"]
    assert await store.by_prefix(0, "absent", prefix, "", 10) == []


async def test_by_score_gives_the_lowest_first(store: Store, token: str) -> None:
    scores = {"late": 1_700_000_000_001, "b": 5, "a": 5, "negative": -3, "é": 7}
    await put_ranks(store, token, "due", scores)
    lowest, now_ms = await store.by_score(0, "due", 3)
    assert lowest == [("negative", -3), ("a", 5), ("b", 5)]
    assert dict((await store.by_score(0, "due", 100))[0]) == scores
    (later,) = await store.commit(0, token, [Commit()])
    assert now_ms <= later.now_ms
    assert (await store.by_score(0, "absent", 5))[0] == []
    await put_ranks(store, token, "due", {"late": 1})
    assert (await store.by_score(0, "due", 2))[0] == [("negative", -3), ("late", 1)]
    assert await store.ranked(0, "due") == {**scores, "late": 1}


async def test_heads_of_many_slices_are_read_at_once(store: Store, token: str) -> None:
    tokens = {0: token, 1: (await store.adopt(1, 0)).token}
    assert await store.heads(tokens) == {0: 0, 1: 0}
    await store.commit(1, tokens[1], [Commit(log=(b"a", b"b"))])
    assert await store.heads(tokens) == {0: 0, 1: 2}
    assert await store.heads({0: "another", 1: tokens[1]}) == {0: None, 1: 2}


async def test_heads_of_lost_memory_are_none(mortal_bed: Bed) -> None:
    store = await mortal_bed.client()
    tokens = {slice_: (await store.adopt(slice_, 0)).token for slice_ in (0, 1)}
    await store.commit(0, tokens[0], [Commit(log=(b"a",))])
    await mortal_bed.lose_all()
    again = await mortal_bed.client()
    assert await again.heads(tokens) == {0: None, 1: None}
    tokens = {slice_: (await again.adopt(slice_, 0)).token for slice_ in (0, 1)}
    assert await again.heads(tokens) == {0: 0, 1: 0}


async def test_the_log_is_dense_and_read_in_pages(store: Store, token: str) -> None:
    assert await store.read_log(0, 0, 10) == ([], 0)
    data = [bytes([n]) * n for n in range(30)]
    for n in range(0, 30, 3):
        outcomes = await store.commit(0, token, [Commit(log=tuple(data[n : n + 2])), Commit(log=(data[n + 2],))])
        assert [outcome.head for outcome in outcomes] == [n + 2, n + 3]
    walked: list[tuple[int, bytes]] = []
    while len(walked) < 30:
        page, head = await store.read_log(0, len(walked), 7, incarnation=token)
        assert head == 30 and 0 < len(page) <= 7
        walked += page
    assert walked == list(enumerate(data, 1))
    assert await store.read_log(0, 30, 7) == ([], 30)


async def test_what_was_trimmed_or_is_to_come_is_named(store: Store, token: str) -> None:
    await store.commit(0, token, [Commit(log=tuple(str(n).encode() for n in range(1, 11)))])
    await store.trim_log(0, 5)
    for after in (0, 3, 11, 1_000):
        with pytest.raises(LogTrimmed):
            await store.read_log(0, after, 10)
    assert (await store.read_log(0, 4, 2))[0] == [(5, b"5"), (6, b"6")]
    await store.trim_log(0, 11)
    assert await store.read_log(0, 10, 10) == ([], 10)
    with pytest.raises(LogTrimmed):
        await store.read_log(0, 9, 10)
    (outcome,) = await store.commit(0, token, [Commit(log=(b"11",))])
    assert outcome.head == 11
    assert await store.read_log(0, 10, 10) == ([(11, b"11")], 11)


async def test_a_trim_cuts_what_one_call_appended_and_never_goes_back(store: Store, token: str) -> None:
    await store.commit(0, token, [Commit(log=tuple(str(n).encode() for n in range(1, 11)))])
    await store.trim_log(0, 8)
    await store.trim_log(0, 4)
    with pytest.raises(LogTrimmed):
        await store.read_log(0, 5, 2)
    await store.commit(0, token, [Commit(log=(b"11",)), Commit(log=(b"12",))])
    assert [n for n, _ in (await store.read_log(0, 7, 10))[0]] == [8, 9, 10, 11, 12]
    assert [n for n, _ in (await store.read_log(0, 9, 2))[0]] == [10, 11]


async def test_a_tail_notices_another_incarnations_log(store: Store, token: str) -> None:
    await store.commit(0, token, [Commit(log=(b"1",))])
    with pytest.raises(StoreChanged):
        await store.read_log(0, 0, 10, incarnation="1-other")
    assert (await store.read_log(0, 0, 10, incarnation=token))[1] == 1


async def test_blobs_are_kept_and_never_overwritten(store: Store, token: str) -> None:
    large = bytes(range(256)) * 4_096
    assert await store.get_blob(0, "b/1") is None
    await asyncio.gather(*(store.put_blobs(0, [("b/1", large)]) for _ in range(4)))
    await store.put_blobs(0, [("b/1", b"other")])
    await store.put_blobs(0, [("b/empty", b"")])
    assert await store.get_blob(0, "b/1") == large
    assert await store.get_blob(0, "b/empty") == b""
    (outcome,) = await store.commit(0, token, [Commit((Exists("b/1"), Exists("b/empty")))])
    assert outcome.ok
    assert await store.get_blob(1, "b/1") is None


async def test_adoption_is_stable_and_rises_when_asked(store: Store) -> None:
    now_ms = await store.now_ms()
    first = await store.adopt(3, 0)
    assert first.number >= now_ms
    assert first.token.startswith(str(first.number)) and first.token != str(first.number)
    assert await store.adopt(3, first.number) == first
    raised = await store.adopt(3, first.number + 1_000)
    assert raised.number == first.number + 1_000
    with pytest.raises(StoreChanged):
        await store.commit(3, first.token, [])
    assert await store.commit(3, raised.token, []) == []
    assert await store.adopt(3, 0) == raised


async def test_replicas_that_adopt_at_once_agree(bed: Bed) -> None:
    clients = [await bed.client() for _ in range(6)]
    adopted = await asyncio.gather(*(client.adopt(0, 0) for client in clients))
    assert len(set(adopted)) == 1
    floor = adopted[0].number + 5
    assert len(set(await asyncio.gather(*(client.adopt(0, floor) for client in clients)))) == 1


async def test_the_number_of_slices_is_fixed_at_first_use(mortal_bed: Bed) -> None:
    first = await mortal_bed.client()
    await mortal_bed.close()
    again = await mortal_bed.client()
    assert again.slices == first.slices


async def commit_until_it_answers(store: Store, token: str, commit: Commit) -> None:
    """Until the connections of before are gone; raises what the store finally says."""
    deadline = time.monotonic() + 20
    while True:
        try:
            await store.commit(0, token, [commit])
            return
        except StoreChanged:
            raise
        except Exception:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_an_empty_store_is_a_new_incarnation(mortal_bed: Bed) -> None:
    store = await mortal_bed.client()
    before = await store.adopt(0, 0)
    await store.commit(0, before.token, [Commit(writes=(Put("k", "a", "1"),), log=(b"1",))])
    await mortal_bed.lose_all()
    store = await mortal_bed.client()
    with pytest.raises(StoreChanged):
        await commit_until_it_answers(store, before.token, Commit(writes=(Put("k", "b", "1"),)))
    after = await store.adopt(0, before.number + 1)
    assert after.number > before.number
    assert await store.load(0, ["k"]) == [{}]
    (outcome,) = await store.commit(0, after.token, [Commit(log=(b"new",))])
    assert outcome.head == 1
    assert await store.read_log(0, 0, 10, incarnation=after.token) == ([(1, b"new")], 1)
    with pytest.raises(StoreChanged):
        await store.read_log(0, 0, 10, incarnation=before.token)


async def test_an_older_state_is_a_new_incarnation(mortal_bed: Bed) -> None:
    store = await mortal_bed.client()
    before = await store.adopt(0, 0)
    await store.commit(0, before.token, [Commit(writes=(Put("k", "a", "old"),), log=(b"1",))])
    await mortal_bed.save()
    store = await mortal_bed.client()
    middle = await store.adopt(0, before.number)
    await store.commit(0, middle.token, [Commit(writes=(Put("k", "a", "new"),), log=(b"2",))])
    await mortal_bed.go_back()
    store = await mortal_bed.client()
    for token in (before.token, middle.token):
        with pytest.raises(StoreChanged):
            await commit_until_it_answers(store, token, Commit(writes=(Put("k", "b", "1"),)))
    after = await store.adopt(0, middle.number + 1)
    assert after.number > middle.number
    assert await store.load(0, ["k"]) == [{"a": "old"}]
    with pytest.raises(LogTrimmed):
        await store.read_log(0, 2, 10, incarnation=after.token)
    assert (await store.read_log(0, 0, 10, incarnation=after.token))[0] == [(1, b"1")]


async def test_of_a_record_only_the_named_fields_are_loaded(store: Store, token: str) -> None:
    await store.commit(0, token, [Commit(writes=(Put("k", "a", "1"), Put("k", "b", "ü"), Put("k", "c", "3")))])
    assert await store.load(0, ["k", "absent"], ("b", "none", "a")) == [{"a": "1", "b": "ü"}, {}]
    assert await store.load(0, ["k"], ("none",)) == [{}]
