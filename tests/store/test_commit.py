"""The generic commit means the same in every store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from homenode_directory.store.base import (
    META,
    OFFSET,
    PREDECESSOR,
    Add,
    Before,
    BeforeField,
    Commit,
    Delete,
    Drop,
    Equals,
    Exists,
    Guard,
    Outcome,
    Put,
    Rank,
    Store,
    StoreChanged,
    StoreError,
    Unrank,
    Write,
)
from tests.store.beds import Bed

FAR_MS = 1 << 45


class Slice:
    """Slice 0 of a store, for short tests."""

    def __init__(self, store: Store, token: str) -> None:
        self.store = store
        self.token = token

    async def commit(self, *commits: Commit, relief: bool = False) -> list[Outcome]:
        return await self.store.commit(0, self.token, commits, relief=relief)

    async def write(self, *writes: Write) -> Outcome:
        (outcome,) = await self.commit(Commit(writes=writes))
        assert outcome.ok
        return outcome

    async def holds(self, *guards: Guard) -> bool:
        (outcome,) = await self.commit(Commit(guards))
        return outcome.ok

    async def records(self, *keys: str) -> Sequence[dict[str, str]]:
        return [dict(record) for record in await self.store.load(0, keys)]


@pytest.fixture
def slice_(store: Store, token: str) -> Slice:
    return Slice(store, token)


async def test_puts_drops_and_adds_change_a_record(slice_: Slice) -> None:
    await slice_.write(Put("k", "a", "1"), Put("k", "b", "é\x00\n"), Add("k", "n", 5), Add("k", "n", -7))
    assert await slice_.records("k", "absent") == [{"a": "1", "b": "é\x00\n", "n": "-2"}, {}]
    await slice_.write(Put("k", "a", ""), Drop("k", "b"), Drop("k", "never"), Add("k", "n", 1 << 50))
    assert await slice_.records("k") == [{"a": "", "n": str((1 << 50) - 2)}]


async def test_a_record_without_fields_does_not_exist(slice_: Slice) -> None:
    await slice_.write(Put("k", "a", "1"), Rank("r", "m", 1))
    assert await slice_.holds(Exists("k"), Exists("r"))
    await slice_.write(Drop("k", "a"), Unrank("r", "m"))
    assert not await slice_.holds(Exists("k"))
    assert not await slice_.holds(Exists("r"))


async def test_within_a_commit_writes_apply_in_order(slice_: Slice) -> None:
    await slice_.write(Put("k", "a", "1"), Delete("k"), Put("k", "b", "2"), Put("k", "b", "3"), Drop("k", "b"))
    assert await slice_.records("k") == [{}]
    await slice_.write(Rank("r", "m", 1), Delete("r"), Rank("r", "n", 2), Rank("r", "n", 3), Unrank("r", "x"))
    assert await slice_.store.ranked(0, "r") == {"n": 3}


async def test_delete_removes_any_shape(slice_: Slice) -> None:
    await slice_.store.put_blobs(0, [("b", b"bytes")])
    await slice_.write(Put("k", "a", "1"), Rank("r", "m", 1))
    assert await slice_.holds(Exists("b"), Exists("k"), Exists("r"))
    await slice_.write(Delete("b"), Delete("k"), Delete("r"), Delete("absent"))
    for key in ("b", "k", "r"):
        assert not await slice_.holds(Exists(key))
    assert await slice_.store.get_blob(0, "b") is None


@pytest.mark.parametrize(
    ("guard", "expected", "found"),
    [
        (Equals("k", "a", "1"), True, None),
        (Equals("k", "a", "2"), False, "1"),
        (Equals("k", "a", None), False, "1"),
        (Equals("k", "z", None), True, None),
        (Equals("k", "z", "1"), False, None),
        (Equals("nowhere", "a", None), True, None),
        (Equals("nowhere", "a", ""), False, None),
        (Equals("k", "empty", ""), True, None),
        (Equals("k", "empty", None), False, ""),
        (Exists("k"), True, None),
        (Exists("r"), True, None),
        (Exists("nowhere"), False, None),
        (Before(FAR_MS), True, None),
        (Before(1), False, None),
        (BeforeField("k", "late"), True, None),
        (BeforeField("k", "early"), False, None),
        (BeforeField("k", "z"), False, None),
    ],
)
async def test_each_guard(slice_: Slice, guard: Guard, expected: bool, found: str | None) -> None:
    texts = {"a": "1", "empty": "", "late": str(FAR_MS), "early": "1"}
    await slice_.write(*(Put("k", name, text) for name, text in texts.items()), Rank("r", "m", 1))
    (outcome,) = await slice_.commit(Commit((Equals("k", "a", "1"), guard), (Put("k", "seen", "1"),)))
    assert outcome.ok == expected
    assert outcome.failed == (-1 if expected else 1)
    assert outcome.found == found
    (record,) = await slice_.records("k")
    assert ("seen" in record) == expected


async def test_the_first_failing_guard_is_named(slice_: Slice) -> None:
    await slice_.write(Put("k", "a", "1"), Put("k", "b", "2"), Put("l", "a", "3"))
    good = (Equals("k", "a", "1"), Equals("k", "b", "2"), Exists("k"), Before(FAR_MS), Equals("l", "z", None))
    bad = (Equals("k", "b", "no"), Equals("l", "a", None), Equals("l", "z", "no"), Exists("none"), Before(1))
    for position in range(len(good) + 1):
        for guard in bad:
            (outcome,) = await slice_.commit(Commit((*good[:position], guard, Exists("none"), *good[position:])))
            assert outcome.failed == position, guard


async def test_nothing_of_a_refused_commit_is_applied(slice_: Slice) -> None:
    writes = (Put("k", "a", "1"), Rank("r", "m", 1), Add("k", "n", 1), Delete("x"))
    (before,) = await slice_.commit(Commit(writes=(Put("x", "a", "1"),), log=(b"1",)))
    (outcome,) = await slice_.commit(Commit((Exists("x"), Exists("none")), writes, (b"2", b"3")))
    assert (outcome.failed, outcome.head) == (1, before.head)
    assert await slice_.records("k", "x") == [{}, {"a": "1"}]
    assert await slice_.store.ranked(0, "r") == {}
    assert await slice_.store.read_log(0, 0, 10) == ([(1, b"1")], 1)


async def test_an_add_to_text_is_refused_whole(slice_: Slice) -> None:
    await slice_.write(Put("k", "text", "abc"))
    with pytest.raises(StoreError):
        await slice_.commit(Commit(writes=(Put("k", "a", "1"), Add("k", "text", 1), Put("k", "b", "1")), log=(b"x",)))
    with pytest.raises(StoreError):
        await slice_.commit(Commit(writes=(Add("o", "n", 3), Add("k", "text", 1), Put("o", "a", "1")), log=(b"x",)))
    assert await slice_.records("k") == [{"text": "abc"}]
    assert (await slice_.records("o"))[0].get("n", "0") == "0"  # absent counts as 0
    assert "a" not in (await slice_.records("o"))[0]
    (outcome,) = await slice_.commit(Commit(log=(b"y",)))
    assert outcome.head == 1


async def test_later_commits_of_a_call_see_earlier_ones(slice_: Slice) -> None:
    step = [
        Commit((Equals("k", "rev", str(n) if n else None),), (Put("k", "rev", str(n + 1)),), (str(n).encode(),))
        for n in range(5)
    ]
    outcomes = await slice_.commit(*step, step[2], Commit((Equals("k", "rev", "5"), Exists("k"))))
    assert [outcome.failed for outcome in outcomes] == [-1] * 5 + [0, -1]
    assert [outcome.head for outcome in outcomes] == [1, 2, 3, 4, 5, 5, 5]
    assert outcomes[5].found == "5"
    assert await slice_.store.read_log(0, 0, 10) == ([(n + 1, str(n).encode()) for n in range(5)], 5)


async def test_commits_of_a_call_succeed_or_fail_each_on_its_own(slice_: Slice) -> None:
    bad = Commit((Exists("none"),), (Put("k", "bad", "1"),), (b"bad",))
    outcomes = await slice_.commit(
        bad, Commit(writes=(Put("k", "a", "1"),), log=(b"a", b"b")), bad, Commit(writes=(Put("k", "b", "1"),))
    )
    assert [outcome.ok for outcome in outcomes] == [False, True, False, True]
    assert [outcome.head for outcome in outcomes] == [0, 2, 2, 2]
    assert await slice_.records("k") == [{"a": "1", "b": "1"}]


async def test_a_chain_stops_where_it_breaks(slice_: Slice) -> None:
    put = (Put("k", "n", "1"),)
    outcomes = await slice_.commit(
        Commit(writes=put),
        Commit((Exists("none"),), after=0),
        Commit(writes=(Put("k", "bad", "1"),), log=(b"bad",), after=1, show=("k",)),
        Commit(writes=(Put("k", "bad", "2"),), after=2),
        Commit((Exists("k"),), after=0),
    )
    assert [outcome.failed for outcome in outcomes] == [-1, 0, PREDECESSOR, PREDECESSOR, -1]
    assert outcomes[2].shown == {}
    assert await slice_.records("k") == [{"n": "1"}]
    assert (await slice_.store.read_log(0, 0, 10))[1] == 0


async def test_show_returns_what_a_refused_commit_met(slice_: Slice) -> None:
    await slice_.write(Put("k", "a", "1"), Put("k", "b", "ü"), Rank("r", "m", 3), Rank("r", "ö", 1_700_000_000_123))
    await slice_.store.put_blobs(0, [("b", b"bytes")])
    show = ("k", "r", "none", "b")
    outcomes = await slice_.commit(
        Commit((Equals("k", "a", "2"),), show=show),
        Commit((Exists("k"),), show=show),
        Commit(writes=(Put("k", "c", "3"), Drop("k", "a"), Unrank("r", "m"), Delete("b"))),
        Commit((Exists("none"),), show=show),
    )
    assert outcomes[0].shown == {"k": {"a": "1", "b": "ü"}, "r": {"m": 3, "ö": 1_700_000_000_123}}
    assert outcomes[1].shown == {}
    assert outcomes[3].shown == {"k": {"b": "ü", "c": "3"}, "r": {"ö": 1_700_000_000_123}}


async def test_time_is_the_stores_plus_the_slices_offset(slice_: Slice) -> None:
    (first,) = await slice_.commit(Commit())
    (same,) = await slice_.commit(Commit(writes=(Put(META, OFFSET, "3600000"),)))
    (later,) = await slice_.commit(Commit())
    assert first.now_ms <= same.now_ms < first.now_ms + 600_000
    assert later.now_ms >= first.now_ms + 3_600_000
    assert not await slice_.holds(Before(first.now_ms + 3_600_000))
    assert await slice_.holds(Before(first.now_ms + 2 * 3_600_000))
    assert (await slice_.store.by_score(0, "none", 1))[1] >= later.now_ms
    raw_ms = await slice_.store.now_ms()
    assert first.now_ms <= raw_ms < later.now_ms
    await slice_.write(Put(META, OFFSET, "-5000"))
    (back,) = await slice_.commit(Commit())
    assert back.now_ms < raw_ms


async def test_an_empty_call_still_compares_the_incarnation(slice_: Slice) -> None:
    assert await slice_.commit() == []
    with pytest.raises(StoreChanged):
        await slice_.store.commit(0, "1-other", [])


async def test_relief_commits_do_the_same(slice_: Slice) -> None:
    outcomes = await slice_.commit(
        Commit((Equals("k", "a", None),), (Put("k", "a", "1"),), (b"x",)), Commit((Exists("none"),)), relief=True
    )
    assert [(outcome.failed, outcome.head) for outcome in outcomes] == [(-1, 1), (0, 1)]


async def test_large_commits_and_calls(slice_: Slice) -> None:
    many = [Put("k", f"f{n}", "v" * 50) for n in range(3_000)]
    await slice_.write(*many, *(Rank("r", f"m{n}", n) for n in range(3_000)))
    guards = tuple(Equals("k", f"f{n}", "v" * 50) for n in range(3_000))
    outcomes = await slice_.commit(
        Commit(guards), Commit((*guards, Exists("none"))), *(Commit(log=(b"x",)) for _ in range(2_000))
    )
    assert [outcome.failed for outcome in outcomes[:2]] == [-1, 3_000]
    assert outcomes[-1].head == 2_000
    await slice_.write(*(Drop("k", f"f{n}") for n in range(2_999)), *(Unrank("r", f"m{n}") for n in range(2_999)))
    assert await slice_.records("k") == [{"f2999": "v" * 50}]
    assert await slice_.store.ranked(0, "r") == {"m2999": 2_999}


async def test_slices_are_apart_and_bounded(slice_: Slice) -> None:
    store = slice_.store
    other = await store.adopt(1, 0)
    await slice_.commit(Commit(writes=(Put("k", "a", "0"),), log=(b"0",)))
    (outcome,) = await store.commit(1, other.token, [Commit((Equals("k", "a", None),), (Put("k", "a", "1"),))])
    assert outcome.ok and outcome.head == 0
    assert await slice_.records("k") == [{"a": "0"}]
    assert await store.load(1, ["k"]) == [{"a": "1"}]
    with pytest.raises(StoreChanged):
        await store.commit(1, slice_.token, [])
    for outside in (-1, store.slices):
        with pytest.raises(StoreError):
            await store.commit(outside, slice_.token, [])


async def test_racing_clients_win_a_compare_and_set_once_each(bed: Bed) -> None:
    clients = [await bed.client() for _ in range(4)]
    token = (await clients[0].adopt(0, 0)).token
    assert {(await client.adopt(0, 0)).token for client in clients} == {token}
    won: list[int] = []

    async def increment(client: Store, times: int) -> None:
        done, rev = 0, 0
        while done < times:
            commit = Commit(
                (Equals("k", "rev", str(rev) if rev else None),),
                (Put("k", "rev", str(rev + 1)),),
                (str(rev + 1).encode(),),
                show=("k",),
            )
            (outcome,) = await client.commit(0, token, [commit])
            if outcome.ok:
                done, rev = done + 1, rev + 1
                won.append(rev)
            else:
                rev = int(outcome.shown["k"]["rev"])
                assert str(rev) == outcome.found

    await asyncio.gather(*(increment(client, 25) for client in clients for _ in range(3)))
    assert sorted(won) == list(range(1, 301))
    entries, head = await clients[0].read_log(0, 0, 1_000)
    assert head == 300
    assert entries == [(n, str(n).encode()) for n in range(1, 301)]
