"""The pool: nothing is lost that is in use, nothing leaks, what does not fit is refused; files survive a restart."""

from __future__ import annotations

import functools
import os
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode_kv.costs import Choice, Costs, Tier
from homenode_kv.disk import DiskTier
from homenode_kv.entries import Held
from homenode_kv.errors import InUse, OutOfMemory, WrongShape
from homenode_kv.ident import digest
from homenode_kv.layout import Geometry
from homenode_kv.ledger import BlockLedger
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.recency import PricedRecency

GEOMETRY = Geometry(layers=2, heads=2, dim=4, dtype=torch.float32)
BLOCK = GEOMETRY.block_bytes


def name(number: int) -> str:
    return digest([str(number).encode()])


@functools.cache
def kv(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(GEOMETRY.shape(tokens), generator=torch.Generator().manual_seed(1000 * tokens + seed))


def pool(blocks: int = 8, host: int = 0, folder: Path | None = None, disk: int = 0, **more: object) -> Pool:
    """A pool whose budgets are given in blocks; a file's header takes a little besides."""
    tier = DiskTier(folder, GEOMETRY) if folder else None
    return Pool(
        Pages(GEOMETRY, blocks),
        host_bytes_max=host * BLOCK,
        disk=tier,
        disk_bytes_max=disk * (BLOCK + 512),
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 64, 100])
def test_what_is_put_comes_back_bit_for_bit(tokens: int) -> None:
    it = pool()
    it.put(name(0), kv(5))
    it.put(name(1), kv(tokens), {"a": "b"})
    with it.get(name(1)) as held:
        assert torch.equal(held.kv(), kv(tokens))
        assert held.meta == {"a": "b"}
        assert torch.equal(held.kv(1), kv(tokens)[:, :, :1])
    it.check()


def test_a_miss_is_none() -> None:
    it = pool()
    assert it.get(name(1)) is None and it.look(name(1)) is None and it.entry(name(1)) is None
    assert not it.drop(name(1)) and not it.pin(name(1))


def test_kv_of_another_shape_is_refused() -> None:
    it = pool()
    for bad in (kv(3).half(), kv(3)[:1], kv(3)[:, :, :0], kv(3)[0]):
        with pytest.raises(WrongShape):
            it.put(name(1), bad)


def test_the_device_gives_way_to_the_host_and_the_host_to_the_disk(tmp_path: Path) -> None:
    it = pool(blocks=2, host=2, folder=tmp_path, disk=2)
    for number in range(6):
        it.put(name(number), kv(32, number))
    assert [it.entry(name(number)).tier for number in range(6)] == (
        [Tier.DISK, Tier.DISK, Tier.HOST, Tier.HOST, Tier.DEVICE, Tier.DEVICE]
    )
    it.put(name(6), kv(32, 6))
    assert name(0) not in it and it.counters.lost == 1
    for number in (6, 1):
        with it.get(name(number)) as held:
            assert torch.equal(held.kv(), kv(32, number))
        it.check()


def test_what_is_in_use_stays_and_what_does_not_fit_is_refused() -> None:
    it = pool(blocks=4)
    it.put(name(1), kv(64))
    held = it.get(name(1))
    it.put(name(2), kv(64))
    it.put(name(3), kv(64))
    assert name(2) not in it
    with pytest.raises(OutOfMemory) as refused:
        it.put(name(4), kv(100))
    assert (refused.value.needed_blocks, refused.value.held_blocks) == (4, 2)
    with pytest.raises(OutOfMemory):
        it.put(name(4), kv(33 * 32))
    assert torch.equal(held.kv(), kv(64))
    held.release()
    held.release()
    it.put(name(4), kv(100))
    it.check()


def test_a_pinned_entry_may_move_down_but_is_never_lost(tmp_path: Path) -> None:
    it = pool(blocks=2, folder=tmp_path, disk=1)
    it.put(name(1), kv(32, 1))
    assert it.pin(name(1))
    for number in range(2, 6):
        it.put(name(number), kv(32, number))
        it.check()
    assert it.entry(name(1)).tier is Tier.DISK
    with pytest.raises(InUse):
        it.drop(name(1))
    with pytest.raises(InUse):
        it.put(name(1), kv(9))
    it.unpin(name(1))
    assert it.drop(name(1)) and not list(tmp_path.iterdir())


def test_pinned_entries_do_not_keep_others_from_being_evicted() -> None:
    it = pool(blocks=3)
    for number in range(3):
        it.put(name(number), kv(32))
    it.pin(name(0))
    it.pin(name(1))
    it.put(name(3), kv(32))
    assert [name(number) in it for number in range(4)] == [True, True, False, True]
    with pytest.raises(OutOfMemory):
        it.put(name(4), kv(64))


def test_who_uses_an_entry_that_is_dropped_goes_on() -> None:
    it = pool(blocks=2)
    it.put(name(1), kv(64))
    held = it.get(name(1))
    assert it.drop(name(1))
    it.check((held,))
    assert torch.equal(held.kv(), kv(64))
    with pytest.raises(OutOfMemory):
        it.put(name(2), kv(1))
    held.release()
    it.put(name(2), kv(1))
    it.check()


def test_an_entry_is_replaced_in_its_own_room() -> None:
    it = pool(blocks=2)
    it.put(name(1), kv(64))
    it.put(name(1), kv(50, seed=9))
    with it.get(name(1)) as held:
        assert torch.equal(held.kv(), kv(50, seed=9))
    assert it.counters.lost == 0


def test_who_begins_alike_shares_blocks_and_the_last_one_frees_them() -> None:
    it = pool(blocks=6)
    it.put(name(1), kv(100, 1))
    longer = torch.cat([kv(100, 1)[:, :, :70], kv(50, 2)], 2)
    it.put(name(2), longer, like=name(1), alike=70)
    assert it.bytes(Tier.DEVICE) == 6 * BLOCK and it.pages.ledger.free == 0  # 4, and 4 of which 2 are shared
    it.check()
    it.put(name(3), kv(64, 3))  # the first goes, and its two last blocks with it
    assert name(1) not in it and it.counters.lost == 1
    for number, what in ((2, longer), (3, kv(64, 3))):
        with it.get(name(number)) as held:
            assert torch.equal(held.kv(), what)
    with pytest.raises(OutOfMemory):
        it.put(name(4), torch.cat([longer, kv(90)], 2), like=name(2), alike=120)
    it.check()
    assert it.drop(name(2)) if name(2) in it else True
    it.check()


def test_what_is_shared_may_leave_the_device(tmp_path: Path) -> None:
    it = pool(blocks=4, host=4, folder=tmp_path, disk=4)
    it.put(name(1), kv(70, 1))
    it.put(name(2), longer := torch.cat([kv(70, 1), kv(20, 2)], 2), like=name(1), alike=70)
    it.put(name(3), kv(32, 3))
    assert it.entry(name(1)).tier is Tier.HOST
    it.check()
    for number, what in ((1, kv(70, 1)), (2, longer)):
        with it.get(name(number)) as held:
            assert torch.equal(held.kv(), what)
        it.check()


def test_an_entry_is_cut_where_it_lies(tmp_path: Path) -> None:
    it = pool(blocks=4, host=4, folder=tmp_path, disk=4)
    it.put(name(1), kv(100, 1))
    with it.get(name(1)) as held:
        assert it.cut(name(1), 40) and not it.cut(name(1), 40) and not it.cut(name(2), 1)
        assert torch.equal(held.kv(), kv(100, 1)), "who uses it has it whole"
        it.check((held,))
    assert it.bytes(Tier.DEVICE) == 2 * BLOCK
    it.put(name(2), kv(100, 2))
    assert it.entry(name(1)).tier is Tier.HOST
    assert it.cut(name(1), 9)
    it.check()
    with it.get(name(1)) as held:
        assert torch.equal(held.kv(), kv(100, 1)[:, :, :9])
    it.flush()
    assert not it.cut(name(1), 3)
    it.check()


# --- the disk ---


def test_a_restart_finds_what_was_flushed(tmp_path: Path) -> None:
    first = pool(folder=tmp_path, disk=8)
    for number in range(3):
        first.put(name(number), kv(20 + number), {"n": str(number)})
    assert first.flush() == 3
    second = pool(folder=tmp_path, disk=8)
    second.check()
    for number in range(3):
        assert second.entry(name(number)).tier is Tier.DISK
        with second.get(name(number)) as held:
            assert torch.equal(held.kv(), kv(20 + number))
            assert held.meta == {"n": str(number)}
    assert second.counters.reloaded[Tier.DISK] == 3


def test_bf16_survives_the_disk(tmp_path: Path) -> None:
    geometry = Geometry(2, 2, 4, torch.bfloat16)
    tier = DiskTier(tmp_path, geometry)
    tier.write(name(1), kv(9).bfloat16(), {})
    assert torch.equal(tier.read(name(1)), kv(9).bfloat16())


@pytest.mark.parametrize("at", [0, 20, 45, 60, 300, -1])
def test_a_file_with_one_wrong_byte_is_a_miss(tmp_path: Path, at: int) -> None:
    first = pool(folder=tmp_path, disk=8)
    first.put(name(1), kv(40))
    first.flush()
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[at] ^= 0x10
    file.write_bytes(content)
    again = pool(folder=tmp_path, disk=8)
    assert again.get(name(1)) is None
    assert name(1) not in again and not list(tmp_path.iterdir())
    again.check()


@pytest.mark.parametrize("length", [0, 7, 30, 50, 200, 3000])
def test_a_file_that_was_cut_is_a_miss(tmp_path: Path, length: int) -> None:
    tier = DiskTier(tmp_path, GEOMETRY)
    tier.write(name(1), kv(40), {})
    (file,) = tmp_path.iterdir()
    os.truncate(file, length)
    assert len(pool(folder=tmp_path, disk=8)) == 0
    assert not list(tmp_path.iterdir())


def test_half_a_write_leaves_nothing_and_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / f"{name(1)}.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "odd.kv").write_text("mine")
    assert len(pool(folder=tmp_path, disk=8)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "odd.kv"]


def test_kv_of_another_model_is_not_read(tmp_path: Path) -> None:
    DiskTier(tmp_path, GEOMETRY).write(name(1), kv(40), {})
    other = Geometry(2, 4, 4, torch.float32)
    assert list(DiskTier(tmp_path, other).scan()) == []


def test_a_file_under_another_name_is_broken_not_other_kv(tmp_path: Path) -> None:
    it = pool(folder=tmp_path, disk=8)
    for number in (1, 2):
        it.put(name(number), kv(40, seed=number))
    it.flush()
    one, other = (tmp_path / f"{name(number)}.kv" for number in (1, 2))
    one.write_bytes(other.read_bytes())
    assert it.get(name(1)) is None and it.counters.broken == 1
    with it.get(name(2)) as held:
        assert torch.equal(held.kv(), kv(40, seed=2))
    it.check()


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path / "kv", GEOMETRY)
    tier.write(name(1), kv(40), {})
    (file,) = (tmp_path / "kv").iterdir()
    assert (tmp_path / "kv").stat().st_mode & 0o077 == 0 == file.stat().st_mode & 0o077


def test_a_file_that_can_be_neither_read_nor_removed_is_a_miss(tmp_path: Path) -> None:
    it = pool(folder=tmp_path, disk=8)
    it.put(name(1), kv(40))
    it.flush()
    (tmp_path / f"{name(1)}.kv").unlink()
    (tmp_path / f"{name(1)}.kv").mkdir()  # what even root cannot unlink
    assert it.get(name(1)) is None and it.counters.broken == 1
    it.put(name(1), kv(40))
    it.flush()
    assert it.counters.write_failures == 1
    it.check()
    assert len(pool(folder=tmp_path, disk=8)) == 0


def test_a_disk_that_fails_costs_the_entry_only(tmp_path: Path) -> None:
    it = pool(blocks=1, folder=tmp_path / "gone", disk=8)
    (tmp_path / "gone").rmdir()
    it.put(name(1), kv(32))
    it.put(name(2), kv(32))
    assert name(1) not in it and it.counters.write_failures == 1
    it.check()


def test_a_pin_on_an_entry_whose_file_broke_is_taken_back_in_peace(tmp_path: Path) -> None:
    it = pool(folder=tmp_path, disk=8)
    it.put(name(1), kv(40))
    it.pin(name(1))
    it.flush()
    (file,) = tmp_path.iterdir()
    os.truncate(file, 3000)
    assert it.get(name(1)) is None and it.counters.broken == 1
    it.unpin(name(1))
    it.put(name(1), kv(41))
    it.unpin(name(1))
    it.check()


def test_a_key_is_never_a_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        DiskTier(tmp_path, GEOMETRY).read("../../etc/passwd")


# --- prices ---


def test_prices_may_be_asked_for_while_they_are_measured() -> None:
    """A worker tells its load from another thread than the one that computes."""
    costs = Costs()
    costs.prefilled(10, 2.0)
    costs.prefilled(100, 20.0)

    class Size(int):
        def bit_length(self) -> int:  # in the middle of a look for the nearest class
            costs.prefilled(1 << (3 + len(costs._prefill._per_unit)), 1.0)
            return int(self).bit_length()

    assert costs.predict(Size(12)) is not None


def test_reload_or_recompute_is_chosen_by_what_was_measured() -> None:
    costs = Costs()
    assert costs.choose(Tier.DISK, 1000, 10) == Choice(True, None, None), "what was never measured is tried"
    costs.reloaded(Tier.DISK, 1000, 8.0)
    costs.prefilled(10, 2.0)
    assert costs.choose(Tier.DISK, 1000, 10) == Choice(False, 8.0, 2.0)
    assert costs.choose(Tier.DEVICE, 1000, 10) == Choice(True, 0.0, 2.0)
    for _ in range(20):
        costs.prefilled(10, 20.0)
    choice = costs.choose(Tier.DISK, 1000, 10)
    assert choice.reload and choice.reload_ms == 8.0 and choice.recompute_ms == pytest.approx(20.0, abs=0.1)


def test_sizes_in_between_are_reckoned_from_the_nearest() -> None:
    costs = Costs()
    costs.prefilled(16, 16.0)
    costs.prefilled(1024, 4096.0)
    assert costs.choose(Tier.HOST, 1, 32).recompute_ms == 32.0
    assert costs.choose(Tier.HOST, 1, 2048).recompute_ms == 8192.0


def test_a_reload_is_measured_and_both_prices_are_told(tmp_path: Path) -> None:
    it = pool(folder=tmp_path, disk=8)
    it.put(name(1), kv(40))
    it.flush()
    it.get(name(1)).release()
    it.flush()
    it.costs.prefilled(40, 1e9)
    choice = it.look(name(1))
    assert choice.reload and 0 < choice.reload_ms < choice.recompute_ms == 1e9


def test_what_is_dear_outlasts_what_is_cheap_but_not_for_ever() -> None:
    order = PricedRecency()
    order.use("dear", 10.0, 1)
    gone = []
    for number in range(30):
        order.use(f"cheap {number}", 1.0, 1)
        if number:
            gone.append(victim := order.victim(lambda key: True))
            order.forget(victim)
    assert gone[:8] == [f"cheap {number}" for number in range(8)]
    assert "dear" in gone


def test_among_equals_the_one_unused_for_longest_goes() -> None:
    order = PricedRecency()
    for key in "abc":
        order.use(key, 1.0, 1)
    order.use("a", 1.0, 1)
    assert order.victim(lambda key: True) == "b"
    assert order.victim(lambda key: key != "b") == "c"
    for _ in range(500):
        order.use("b", 1.0, 1)
    assert order.victim(lambda key: True) == "c" and len(order._heap) < 100, "outdated items don't pile up"


# --- everything at once ---


def test_a_ledger_refuses_and_keeps_nothing() -> None:
    ledger = BlockLedger(3)
    taken = ledger.allocate(2)
    with pytest.raises(OutOfMemory):
        ledger.allocate(2)
    ledger.retain(taken)
    assert ledger.release(taken) == 0 and ledger.release(taken) == 2 and ledger.free == 3
    ledger.check([])
    with pytest.raises(AssertionError):
        ledger.release(taken)


class Mixed:
    """Random operations on a pool beside what it should hold."""

    def __init__(self, it: Pool, seed: int) -> None:
        self.pool, self.random = it, random.Random(seed)
        self.put: dict[str, torch.Tensor] = {}
        self.held: list[tuple[Held, torch.Tensor]] = []
        self.pins: list[str] = []
        self.refused = self.shared = 0

    def step(self) -> None:
        key = name(self.random.randrange(40))
        deeds = {"_put": 5, "_go_on": 4, "_cut": 1, "_get": 8, "_release": 7, "_pin": 1, "_unpin": 2, "_drop": 1}
        getattr(self, self.random.choices(list(deeds), list(deeds.values()))[0])(key)

    def _put(self, key: str) -> None:
        what = kv(self.random.randrange(1, 130), self.random.randrange(5))
        try:
            self.pool.put(key, what)
            self.put[key] = what
        except (OutOfMemory, InUse):
            self.refused += 1

    def _go_on(self, key: str) -> None:
        """What is put begins as another entry, or as what it replaces."""
        if not (there := [other for other in self.put if other in self.pool]):
            return
        like = self.random.choice(there)
        alike = self.random.randrange(self.put[like].shape[2] + 1)
        what = torch.cat([self.put[like][:, :, :alike], kv(self.random.randrange(1, 40), 7)], 2)
        blocks = self.pool.entry(like).blocks[: alike // 32]
        try:
            self.pool.put(key, what, like=like, alike=alike)
        except (OutOfMemory, InUse):
            self.refused += 1
            return
        self.put[key] = what
        self.shared += bool(blocks)
        assert self.pool.entry(key).blocks[: len(blocks)] == blocks

    def _cut(self, key: str) -> None:
        if key in self.pool and self.pool.cut(key, tokens := self.random.randrange(1, 130)):
            self.put[key] = self.put[key][:, :, :tokens]

    def _get(self, key: str) -> None:
        try:
            held = self.pool.get(key)
        except OutOfMemory:
            self.refused += 1
            return
        if held is not None:
            assert torch.equal(held.kv(), self.put[key])
            self.held.append((held, self.put[key]))

    def _release(self, key: str) -> None:
        if self.held:
            held, what = self.held.pop(self.random.randrange(len(self.held)))
            assert torch.equal(held.kv(), what), "in use, and changed"
            held.release()

    def _pin(self, key: str) -> None:
        if self.pool.pin(key):
            self.pins.append(key)

    def _unpin(self, key: str) -> None:
        if self.pins:
            key = self.pins.pop(self.random.randrange(len(self.pins)))
            assert key in self.pool, "pinned, and lost"
            self.pool.unpin(key)

    def _drop(self, key: str) -> None:
        try:
            self.pool.drop(key)
        except InUse:
            assert key in self.pins

    def check(self) -> None:
        self.pool.check(tuple(held for held, _ in self.held))

    def end(self) -> None:
        while self.held:
            self._release("")
        while self.pins:
            self._unpin("")
        self.check()
        for entry in self.pool.entries():
            self.pool.drop(entry.key)
        assert self.pool.pages.ledger.free == self.pool.pages.ledger.blocks


def test_10_000_mixed_operations_leave_blocks_in_use_equal_to_references(tmp_path: Path) -> None:
    mixed = Mixed(pool(blocks=24, host=10, folder=tmp_path, disk=12), seed=4)
    for number in range(10_000):
        mixed.step()
        if number % 10 == 0:
            mixed.check()
    counters = mixed.pool.counters
    assert mixed.refused and counters.lost and counters.demoted[Tier.HOST] and counters.demoted[Tier.DISK]
    assert counters.reloaded[Tier.HOST] and counters.reloaded[Tier.DISK] and mixed.shared > 100
    mixed.end()
    assert not list(tmp_path.iterdir())


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(0, 4), st.integers(0, 10_000))
def test_small_pools_hold_the_invariants(blocks: int, host: int, seed: int) -> None:
    mixed = Mixed(pool(blocks=blocks, host=host), seed)
    for _ in range(60):
        mixed.step()
        mixed.check()
    mixed.end()
