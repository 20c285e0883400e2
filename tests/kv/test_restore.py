"""The fused restore against the plain way, bit for bit, in Triton's interpreter (or on a GPU, where there is one)."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from homenode_kv.diffs import Mirror
from homenode_kv.errors import WrongShape
from homenode_kv.families import Families
from homenode_kv.layout import Geometry, blocks_of
from homenode_kv.pages import Pages
from homenode_kv.pool import Pool
from homenode_kv.rope import Rotation
from homenode_kv.sheets import sheet_geometry

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed: `make kernels` brings it and runs these tests", allow_module_level=True)

from homenode_kv.kernels import restore

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(8, 8), (8, 6), (12, 12), (10, 4)]  # dimensions of a head, and how many are turned


def rotation(turned: int) -> Rotation:
    return Rotation("default", 10_000.0 ** (-torch.arange(0, turned, 2).float() / turned), 1.0)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()


class Case:
    """Pages that hold a master of `theirs` tokens among other data, and a mirror of `ours` tokens."""

    def __init__(self, ours: int, theirs: int, dim: int = 8, dtype: torch.dtype = torch.float32) -> None:
        geometry = Geometry(layers=3, heads=2, dim=dim, dtype=dtype)
        generator = torch.Generator().manual_seed(ours * 1000 + theirs)
        self.pages = Pages(geometry, 12, DEVICE)
        self.pages.data.copy_(torch.randn(self.pages.data.shape, generator=generator))  # blocks that were used before
        master = torch.randn(geometry.shape(theirs), generator=generator).to(dtype)
        member = torch.zeros(geometry.shape(ours), dtype=dtype)
        shared = min(ours, theirs)
        member[:, :, :shared] = master[:, :, :shared]
        member[1, 0, ours // 2] += 1
        member[2, 1, 0] += 1
        self.ours, self.theirs, self.member = ours, theirs, member.to(DEVICE)
        self.master_blocks = (7, 2, 9, 4)[: blocks_of(theirs)]
        self.blocks = (3, 11, 0, 5)[: blocks_of(ours)]
        self.pages.write(self.master_blocks, master.to(DEVICE))
        self.mirror = Mirror.of(self.member, master.to(DEVICE))

    def plain(self, turn: Rotation, delta: int | torch.Tensor) -> bytes:
        """All pages after the plain way."""
        pages = Pages(self.pages.geometry, 12, DEVICE)
        pages.data.copy_(self.pages.data)
        if isinstance(delta, torch.Tensor):
            delta = delta.repeat_interleave(32)[: self.ours]
        pages.write(self.blocks, self.mirror.restore(pages.read(self.master_blocks, self.theirs), turn, delta))
        return bits(pages.data)

    def fused(self, turn: Rotation, delta: int | torch.Tensor) -> bytes:
        launches = restore.restore_into(
            self.pages, self.blocks, self.mirror, self.master_blocks, self.theirs, turn, delta
        )
        assert launches == self.pages.geometry.layers
        return bits(self.pages.data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("ours", "theirs"), [(64, 64), (70, 70), (100, 70), (70, 100), (5, 9), (96, 32)])
def test_every_bit_of_the_pages_is_that_of_the_plain_way(ours: int, theirs: int, dtype: torch.dtype) -> None:
    plain = Case(ours, theirs, dtype=dtype).plain(rotation(8), 77)
    fused = Case(ours, theirs, dtype=dtype).fused(rotation(8), 77)
    if dtype is torch.bfloat16 and DEVICE == "cpu":  # the interpreter cuts off what a GPU rounds, as torch does
        steps = [torch.frombuffer(bytearray(made), dtype=torch.int16).int() for made in (fused, plain)]
        assert (steps[0] - steps[1]).abs().max() <= 1
    else:
        assert fused == plain


@pytest.mark.parametrize(("dim", "turned"), SHAPES)
def test_heads_of_any_size_are_restored_even_where_only_a_part_of_them_turns(dim: int, turned: int) -> None:
    plain = Case(70, 70, dim).plain(rotation(turned), 401)
    assert Case(70, 70, dim).fused(rotation(turned), 401) == plain


def test_each_block_may_go_to_a_place_of_its_own() -> None:
    places = torch.tensor([5, 0, 311], device=DEVICE)
    assert Case(70, 70).fused(rotation(8), places) == Case(70, 70).plain(rotation(8), places)


def test_unmoved_the_member_is_there_bit_for_bit() -> None:
    case = Case(70, 70)
    case.fused(rotation(8), 0)
    assert bits(case.pages.read(case.blocks, 70)) == bits(case.member)


def test_a_member_that_equals_its_master_needs_no_sheet() -> None:
    case = Case(64, 64)
    master = case.pages.read(case.master_blocks, 64)
    case.mirror = Mirror.of(master, master)
    assert case.mirror.bytes == 0
    case.fused(rotation(8), 0)
    assert bits(case.pages.read(case.blocks, 64)) == bits(master)


def test_it_is_one_launch_a_layer_and_no_dense_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor as large as a layer of the member is made on the way."""
    case, launches, largest = Case(100, 100), [], 0
    kernel = restore._restore_layer

    class Counting:
        def __getitem__(self, grid: tuple[int, int]) -> object:
            launches.append(grid)
            return kernel[grid]

    monkeypatch.setattr(restore, "_restore_layer", Counting())
    for name in ("full", "tensor", "arange", "as_tensor"):
        real = getattr(torch, name)

        def made(*args: object, real: object = real, **more: object) -> torch.Tensor:
            nonlocal largest
            tensor = real(*args, **more)
            largest = max(largest, tensor.nbytes)
            return tensor

        monkeypatch.setattr(torch, name, made)
    case.fused(rotation(8), 3)
    assert launches == [(4, 2)] * 3
    assert largest < case.member[0].nbytes / 10


@pytest.mark.parametrize("room", [0, 3])
def test_families_restore_by_it_and_without_room_in_pages_beside_them(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = Geometry(layers=2, heads=2, dim=8, dtype=torch.float32)
    base = torch.randn(geometry.shape(70), device=DEVICE)
    members = {name: base.clone() for name in "abc"}
    for at, member in enumerate(members.values()):
        member[1, 0, 30 * at] += 1
    pool = Pool(Pages(geometry, 3 + room, DEVICE))
    families = Families(pool, Pool(Pages(sheet_geometry(geometry), 8, DEVICE)), share_max=1.0, fused=True)
    families.put("r", members, {"a": 0.3, "b": 0.1, "c": 0.2})
    assert families.members("r") == ("b", "a", "c")
    places, launches, kernel = torch.tensor([5, 0, 311], device=DEVICE), [], restore.restore_into
    monkeypatch.setattr(restore, "restore_into", lambda *args: launches.append(kernel(*args)))
    for name, member in members.items():
        moved = families.moved("r", name, rotation(8), places)
        assert moved is not None
        assert bits(moved) == bits(rotation(8).shift(member, places.repeat_interleave(32)[:70]))
        pool.check()
    assert launches == [geometry.layers] * (2 if room else 0), "the master needs none"


def test_blocks_that_do_not_fit_are_refused() -> None:
    case = Case(70, 70)
    with pytest.raises(WrongShape):
        restore.restore_into(case.pages, (3, 11), case.mirror, case.master_blocks, 70, rotation(8))
    with pytest.raises(WrongShape, match="beside"):
        restore.restore_into(case.pages, (3, 11, 7), case.mirror, case.master_blocks, 70, rotation(8))
