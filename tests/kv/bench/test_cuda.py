"""What a run on CUDA needs, as far as a machine without it can tell: no other package, passes that can be captured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from homenode_kv.bench import command, first_token
from homenode_kv.bench.graphs import Replayed, as_untraced
from homenode_kv.bench.rows import GROUPS, Bench, Row
from homenode_kv.bench.shapes import random_engine, random_tokens
from homenode_kv.engine import Engine
from homenode_kv.slots import Slots

ROOT = Path(__file__).parents[3]
#: Runs a module where nothing can be imported but the standard library, this repository, and what these bring along.
ONLY_TORCH = """
import importlib.metadata as metadata, re, runpy, sys
from importlib.machinery import PathFinder

allowed, wanted = set(), ["torch", "transformers", "triton", "numpy"]
while wanted:
    name = re.sub("[-_.]+", "-", wanted.pop()).lower()
    if name not in allowed:
        allowed.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        wanted += [re.match("[A-Za-z0-9_.-]+", need)[0] for need in needs if "extra ==" not in need]
owners = metadata.packages_distributions()
refused = {
    module for module, names in owners.items()
    if not module.startswith("homenode")
    and not any(re.sub("[-_.]+", "-", name).lower() in allowed for name in names)
}
assert {"google", "grpc", "redis", "hpack", "zstandard", "pytest"} <= refused, refused

class Allowed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in refused else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Allowed
runpy.run_module("homenode_kv.bench", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_rows_of_a_gpu_need_nothing_but_torch_and_transformers(tmp_path: Path) -> None:
    path = os.pathsep.join(str(ROOT / part) for part in ("directory_service", "client_sdk", "proto"))
    arguments = ["--only", ",".join(command.ON_CUDA), "--shape", "random-tiny", "--quick", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", ONLY_TORCH, *arguments, "--out", str(tmp_path / "rows.json")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "rows.json").read_text())
    assert not document["failed"]
    assert {row["id"].split("/")[0] for row in document["rows"]} == set(command.ON_CUDA)
    assert document["versions"].keys() >= {"python", "torch", "transformers"} and document["processor"]


class Seen(TorchDispatchMode):
    """Which operations are asked for, and what data leave the device."""

    LEAVES = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::_to_copy")

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.masks: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        self.asked.append(name)
        if "scaled_dot_product" in name:
            self.masks.append(any(isinstance(one, torch.Tensor) for one in (*args[3:], *(kwargs or {}).values())))
        return func(*args, **(kwargs or {}))


def tiny() -> Engine:
    return random_engine("random-tiny", "cpu")


@pytest.mark.parametrize("past", [0, 24])
def test_a_captured_pass_asks_nothing_of_the_device(past: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And attends as a plain pass does: while a stream is captured transformers would make a mask of its own."""
    engine = tiny()
    slots = Slots(engine.geometry, 40, engine.device)
    slots.group(40).zero_()
    ids, where = torch.zeros(1, 40 - past, dtype=torch.long), torch.arange(past, 40)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with Seen() as traced, torch.no_grad():
        engine.compute(slots, ids, where, 40)
    with Seen() as seen, torch.no_grad(), as_untraced():
        engine.compute(slots, ids, where, 40)
    assert not {name for name in seen.asked if name in Seen.LEAVES[:4]}
    assert seen.masks == [past > 0] * engine.geometry.layers
    assert all(traced.masks)  # or there would be nothing to mend


@pytest.mark.parametrize("past", [0, 24])
def test_a_pass_over_slots_of_its_own_is_a_prefill(past: int) -> None:
    engine = tiny()
    before, tokens = random_tokens(engine, 24, 1)[:past], random_tokens(engine, 16, 2)
    kept = engine.prefill(before).kv if past else None
    one = Replayed(engine, len(tokens), past)
    assert one.failure == "no CUDA device"
    if kept is not None:
        one.kept.copy_(kept)
    for text in (tokens, tokens[::-1]):  # the second finds nothing of the first
        assert torch.allclose(one(text), engine.prefill(text, kept).logits, atol=1e-5)


def test_graphs_give_the_first_token_that_the_plain_ways_give() -> None:
    engine = tiny()
    agent = first_token.agent_of(engine, 1, first_token.TINY)
    anchors = first_token.anchors_for(engine, agent)
    ways = first_token.ways_of(engine, agent, anchors, False)
    graphs, failure = first_token.graphs_of(engine, agent, anchors, False)
    assert failure == "no CUDA device" and len(graphs) == len(ways) == 3
    for name, call in graphs.items():
        assert torch.allclose(call(), ways[name.removesuffix(first_token.GRAPH)](), atol=1e-4)
    assert torch.allclose(ways["dense"](), ways["prefix"](), atol=1e-4)


def test_the_longest_prompts_are_about_as_long_as_they_are_said_to_be() -> None:
    for tokens in first_token.LONG:
        setting = first_token.Setting.of_last(tokens)
        made = setting.prefix + setting.input + setting.task + (setting.agents - 1) * setting.output
        assert tokens - setting.agents < made <= tokens


def test_a_group_that_fails_takes_no_other_rows_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(bench: Bench) -> Iterator[Row]:
        yield bench.row("first/1", 1.0, "one", 1)
        raise torch.OutOfMemoryError("not enough")

    def whole(bench: Bench) -> Iterator[Row]:
        yield bench.row("second/1", 2.0, "two", 1)

    command.groups()
    made: dict[str, Callable[[Bench], Iterator[Row]]] = {"matching": broken, "restore": whole}
    for name, one in made.items():
        monkeypatch.setitem(GROUPS, name, one)
    bench, out = Bench(), tmp_path / "rows.json"
    rows = command.measure(bench, "command", list(made), out)
    assert [row.id for row in rows] == ["first/1", "second/1"]
    assert bench.failed == {"matching": "OutOfMemoryError: not enough"}
    assert json.loads(out.read_text())["failed"] == bench.failed
