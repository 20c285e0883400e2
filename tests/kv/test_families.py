"""Families under the budget of two pools."""

from __future__ import annotations

import random

import pytest
import torch

from homenode_kv.costs import Tier
from homenode_kv.errors import InUse, OutOfMemory
from homenode_kv.families import Families
from homenode_kv.layout import Geometry
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.rope import Rotation
from homenode_kv.sheets import sheet_geometry
from tests.kv.test_collector import run
from tests.kv.test_diffs import bits, touched

GEOMETRY = Geometry(layers=3, heads=2, dim=4, dtype=torch.float32)
BLOCKS = 4  # of a member
ROTATION = Rotation("default", torch.tensor([1.0, 0.1]), 1.0)


def kv(seed: int = 0) -> torch.Tensor:
    return torch.randn(GEOMETRY.shape(32 * BLOCKS), generator=torch.Generator().manual_seed(seed))


def group(size: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Members that differ from each other in two layers of one block each."""
    base = kv(seed)
    return {f"agent {n}": touched(base, (1, 0, 32 * n % 128), (2, 1, 32 * n % 128)) for n in range(size)}


def deviations(members: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: abs(at - 1) / 10 for at, name in enumerate(members)}


class Store:
    """Two pools of some blocks, and families over them."""

    def __init__(
        self, blocks: int = 24, sheets: int = 64, host_bytes: int = 0, share_max: float = 1.0, **more: int
    ) -> None:
        self.pool = Pool(Pages(GEOMETRY, blocks), host_bytes_max=host_bytes)
        self.sheets = Pool(Pages(sheet_geometry(GEOMETRY), sheets))
        self.families = Families(self.pool, self.sheets, share_max=share_max, **more)

    def put(self, round_id: str, size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
        members = group(size, seed)
        self.families.put(round_id, members, deviations(members))
        return members

    def same(self, round_id: str, members: dict[str, torch.Tensor]) -> None:
        for name in members:
            kept = self.families.restore(round_id, name)
            assert kept is not None and bits(kept) == bits(members[name]), name

    def check(self) -> None:
        """Both pools are sound; a master has as many pins as mirrors, nobody else has any; no entry has no owner."""
        self.pool.check()
        self.sheets.check()
        owned: set[str] = set()
        for kin in self.families._kin.values():
            assert not kin.sheets or kin.master in kin.dense, "a master with mirrors is there"
            for name, key in kin.dense.items():
                entry = self.pool.entry(key)
                assert entry is not None and entry.pins == (len(kin.sheets) if name == kin.master else 0)
            owned |= {*kin.dense.values(), *(sheet.key for sheet in kin.sheets.values() if sheet.key)}
        entries = {entry.key for pool in (self.pool, self.sheets) for entry in pool.entries()}
        assert owned == set(self.families._owners) == {key for key in entries if not key.startswith("other")}


def test_a_group_is_one_dense_member_and_sheets_and_comes_back_bit_for_bit() -> None:
    store = Store()
    members = store.put("r")
    assert store.families.members("r")[0] == "agent 1", "the member of lowest deviation"
    assert (len(store.pool), len(store.sheets)) == (1, 3)
    store.same("r", members)
    store.check()
    assert store.families.restore("r", "nobody") is None and store.families.restore("s", "agent 1") is None


def test_both_ratios_are_those_of_what_the_pools_hold() -> None:
    store = Store()
    store.put("r", 4)
    ratios = store.families.ratios("r")
    share = 4 / 12  # two blocks of the member, two of the master, of 3 · 4
    dense = BLOCKS * GEOMETRY.block_bytes
    held = store.sheets.bytes(Tier.DEVICE) + 3 * 4 * 4  # four indices a mirror
    assert ratios.dirty_share == pytest.approx(share)
    assert ratios.per_mirror == pytest.approx(3 * dense / held) == pytest.approx(1 / share, rel=0.02)
    assert ratios.per_group == pytest.approx(4 * dense / (store.pool.bytes(Tier.DEVICE) + held))
    assert ratios.per_group == pytest.approx(4 / (1 + 3 * share), rel=0.02)
    standing = store.families.standing()
    assert (standing.masters, standing.mirrors, standing.dense) == (1, 3, 1)
    assert standing.mirror_dense_bytes / standing.mirror_bytes == ratios.per_mirror


def test_a_master_with_mirrors_is_never_dropped() -> None:
    store = Store(blocks=2 * BLOCKS)
    members = store.put("r")
    master = store.families._kin["r"].dense["agent 1"]
    with pytest.raises(InUse):
        store.pool.drop(master)
    for seed in range(5):  # all else is evicted before it
        store.pool.put(f"other {seed}", kv(seed))
    store.same("r", members)
    store.check()


def test_a_round_is_given_up_whole_before_the_pool_refuses_anybody() -> None:
    store = Store(blocks=2 * BLOCKS)
    store.put("a"), store.put("b", seed=1)
    store.pool.put("other", kv())
    assert ("a" in store.families, "b" in store.families) == (False, True), "the one used longest ago"
    store.check()
    store.pool.put("other larger", torch.cat([kv(), kv()], dim=2))
    assert "b" not in store.families
    store.check()
    with pytest.raises(OutOfMemory):
        store.pool.put("other too large", torch.cat([kv(), kv(), kv()], dim=2))


def test_masters_take_no_more_than_their_share_of_the_pool() -> None:
    store = Store(blocks=6 * BLOCKS, share_max=0.5)
    store.pool.put("other base", kv())
    for seed, name in enumerate("abcdef"):
        store.put(name, seed=seed)
        store.check()
    assert [name for name in "abcdef" if name in store.families] == ["d", "e", "f"]
    assert "other base" in store.pool


def test_a_master_that_must_go_hands_over_first() -> None:
    store = Store(blocks=BLOCKS)  # room for one dense member
    members = store.put("r")
    assert store.families.leave("r", "agent 1")
    assert store.families.members("r")[0] == "agent 0", "the mirror of lowest deviation"
    del members["agent 1"]
    store.same("r", members)
    store.check()
    for name in list(members):
        assert store.families.leave("r", name)
        del members[name]
        store.same("r", members)
        store.check()
    assert "r" not in store.families and not len(store.pool) and not len(store.sheets)
    assert not store.families.leave("r", "agent 1")


def test_a_materialized_member_stands_alone() -> None:
    store = Store()
    members = store.put("r")
    key = store.families.materialize("r", "agent 3")
    assert key == store.families.materialize("r", "agent 3")
    store.check()
    for name in ("agent 0", "agent 1", "agent 2"):
        store.families.leave("r", name)
    with store.pool.get(key) as held:
        assert bits(held.kv()) == bits(members["agent 3"])
    assert store.families.materialize("r", "agent 1") is None
    assert store.families.members("r") == ("agent 3",)
    tight = Store(blocks=BLOCKS)
    members = tight.put("r")
    with pytest.raises(OutOfMemory):
        tight.families.materialize("r", "agent 3")
    tight.same("r", members)


def test_members_that_share_nothing_are_kept_dense_and_save_nothing() -> None:
    store = Store()
    members = {"a": kv(1), "b": kv(2)}
    ratios = store.families.put("r", members, {"a": 0.1, "b": 0.2})
    assert (ratios.per_mirror, ratios.per_group) == (1.0, 1.0)
    store.same("r", members)
    store.check()


def test_equal_members_take_nothing() -> None:
    store = Store()
    members = {"a": kv(1), "b": kv(1)}
    assert store.families.put("r", members, {"a": 0.1, "b": 0.2}).per_mirror == float("inf")
    assert not len(store.sheets)
    store.same("r", members)
    store.check()
    store.families.leave("r", "a")
    store.same("r", {"b": members["b"]})
    store.check()


def test_mirrors_that_find_no_room_are_let_go_and_masters_of_none_may_be_evicted() -> None:
    store = Store(sheets=8)  # two mirrors' worth
    store.put("r", 4)
    assert len(store.sheets) == 2
    store.check()
    store.put("s", 3, seed=1)
    assert [name for name in ("agent 0", "agent 2", "agent 3") if store.families.restore("r", name) is not None] == []
    store.check()
    for seed in range(6):
        store.pool.put(f"other {seed}", kv(seed))
    assert "r" not in store.families, "its master had no mirrors, so it was evicted"
    assert "s" in store.families


def test_pressure_is_met_by_demotion_and_by_shedding_the_oldest() -> None:
    store = Store(blocks=2 * BLOCKS, host_bytes=2 * BLOCKS * GEOMETRY.block_bytes, share_max=2.0)
    families = {name: store.put(name, seed=seed) for seed, name in enumerate("abc")}
    assert store.pool.bytes(Tier.HOST) > 0
    for name in "ba":
        store.same(name, families[name])
    store.put("d", seed=8)
    store.put("e", seed=9)
    assert "c" not in store.families, "used longest ago"
    store.check()
    while store.families.shed():
        store.check()
    assert not len(store.pool) and not len(store.sheets)
    bounded = Store(families_max=2)
    for name in "abc":
        bounded.put(name)
    assert ("a" in bounded.families, "b" in bounded.families, "c" in bounded.families) == (False, True, True)


def test_what_is_brought_back_for_a_prompt_leaves_no_block_and_is_counted() -> None:
    store, places = Store(), torch.tensor([5, 0, 311, 7])
    members = store.put("r")
    for name in members:
        assert store.families.pays("r", name)
        moved = store.families.moved("r", name, ROTATION, places)
        assert moved is not None and bits(moved) == bits(ROTATION.shift(members[name], places.repeat_interleave(32)))
        store.check()
    assert store.families.moved("r", "nobody", ROTATION) is None and not store.families.pays("r", "nobody")
    assert store.families.moved("s", "agent 1", ROTATION) is None and not store.families.pays("s", "agent 1")
    assert store.families.standing().restored == len(members)
    tight = Store(blocks=BLOCKS)  # room for the master alone
    tight.put("r")
    assert tight.families.moved("r", "agent 3", ROTATION) is not None
    tight.check()


def test_who_stays_is_told_and_counted_when_several_leave_at_once() -> None:
    store, told = Store(), []
    store.families.on_change = lambda *change: told.append(change)
    members = store.put("r", 5)
    assert store.families.leave("r", "agent 1", "agent 2", "nobody")
    assert told == [("r", "agent 1", 4), ("r", "agent 0", 2), ("r", "agent 0", 2)]
    store.same("r", {name: members[name] for name in ("agent 0", "agent 3", "agent 4")})
    assert store.families.standing().elections == 1
    store.families.materialize("r", "agent 4")
    assert store.families.leave("r", "agent 0", "agent 3")
    assert store.families.members("r") == ("agent 4",), "whole, so it needs no master"
    store.same("r", {"agent 4": members["agent 4"]})
    store.check()
    assert store.families.leave("r", "agent 4") and told[-1] == ("r", "", 0)
    store.check()


def test_a_collected_round_becomes_a_family_under_the_budget() -> None:
    done = run(10, share=1 / 7)
    g = next(iter(done.forwards.values())).kv
    geometry = Geometry(g.shape[0], g.shape[3], g.shape[4], g.dtype)
    pool, sheets = Pool(Pages(geometry, 8)), Pool(Pages(sheet_geometry(geometry), 64))
    families = Families(pool, sheets)
    ratios = families.put("r", {name: done.composite(name) for name in done.forwards}, done.plan.deviation)
    assert families.members("r")[0] == done.plan.master
    share = 1 / 7 * 2 / 3  # one block of seven, in two layers of three
    assert ratios.dirty_share == pytest.approx(share)
    assert ratios.per_mirror == pytest.approx(1 / share, rel=0.01)
    assert ratios.per_group == pytest.approx(10 / (1 + 9 * share), rel=0.01)
    for name in done.forwards:
        assert bits(families.restore("r", name)) == bits(done.composite(name))


def test_many_mixed_operations_leave_pins_and_owners_in_order() -> None:
    chance, store = random.Random(5), Store(blocks=16, sheets=40, host_bytes=4 * BLOCKS * GEOMETRY.block_bytes)
    known: dict[str, dict[str, torch.Tensor]] = {}
    done = {"put": 0, "gone": 0, "same": 0}
    for step in range(400):
        round_id, name = f"r{chance.randrange(6)}", f"agent {chance.randrange(4)}"
        what = chance.choice(["put", "leave", "moved", "materialize", "release", "other", "restore", "restore"])
        try:
            if what == "put":
                known[round_id] = store.put(round_id, chance.randint(1, 4), seed=step % 7)
                done["put"] += 1
            elif what == "other":
                store.pool.put(f"other {chance.randrange(3)}", kv(step))
            elif what == "restore":
                kept = store.families.restore(round_id, name)
                assert kept is None or bits(kept) == bits(known[round_id][name])
                done["gone" if kept is None else "same"] += 1
            elif what == "moved":
                kept = store.families.moved(round_id, name, ROTATION, 3)
                assert kept is None or bits(kept) == bits(ROTATION.shift(known[round_id][name], 3))
            elif what == "release":
                store.families.release(round_id)
            else:
                getattr(store.families, what)(round_id, name)
        except OutOfMemory:
            store.families.shed()
        store.check()
    assert min(done.values()) > 20
