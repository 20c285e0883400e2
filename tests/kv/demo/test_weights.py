"""The model that comes with the package answers as its card says, on prompts that neither it nor the card has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from homenode_kv.demo.examples import Kind, Shape, TaskError
from homenode_kv.demo.model import CARD, ISOLATED, WEIGHTS, ModelFilesError, load_model, make_model, measure
from homenode_kv.demo.tasks import TASKS

CARD_OF_MODEL = json.loads((WEIGHTS / CARD).read_text())
FRESH = range(1 << 50, (1 << 50) + 30)
# Thirty prompts ask sixty questions of a kind: four standard errors of a share near 0.95.
SLACK = 0.12


@pytest.mark.parametrize("task", TASKS)
def test_fresh_prompts_are_answered_as_often_as_the_card_says(task: str) -> None:
    found = measure(load_model(), task, FRESH)
    for kind in Kind:
        assert found[kind].asked == 2 * len(FRESH)
        assert found[kind].share >= CARD_OF_MODEL["accuracy"][task][kind] - SLACK


def test_the_card_says_how_the_weights_were_made_and_that_they_are_small() -> None:
    assert sum(path.stat().st_size for folder in (WEIGHTS, ISOLATED) for path in folder.iterdir()) <= 4_000_000
    assert CARD_OF_MODEL["command"].startswith("homenode kv train-demo --out ")
    assert CARD_OF_MODEL["parameters"] == sum(one.numel() for one in load_model().parameters())
    assert CARD_OF_MODEL["cpu_seconds"] <= 2 * 15 * 60


@pytest.mark.parametrize("task", TASKS)
def test_the_isolated_model_answers_over_segments_that_do_not_see_each_other(task: str) -> None:
    model = load_model(ISOLATED)
    assert model.config.homenode_segments == "isolated"
    card = json.loads((ISOLATED / CARD).read_text())
    found = measure(model, task, FRESH, isolated=True)
    for kind in Kind:
        assert found[kind].share >= card["accuracy_isolated"][task][kind] - SLACK
    assert measure(model, task, FRESH[:10])[Kind.CROSS].share >= card["accuracy"][task][Kind.CROSS] - 2 * SLACK


def test_an_untrained_model_answers_nothing() -> None:
    """What the trained one knows is not in the tasks' shape."""
    found = measure(make_model(0), "bound", FRESH[:10])
    assert max(one.share for one in found.values()) <= 0.1


def test_accuracy_does_not_depend_on_how_prompts_are_put_together() -> None:
    model = load_model()
    shape = Shape(agents=2, facts=2)
    assert measure(model, "sums", FRESH[:6], shape, rows=1) == measure(model, "sums", FRESH[:6], shape, rows=24)


def test_no_seeds_and_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="at least one seed"):
        measure(make_model(0), "bound", range(0))
    with pytest.raises(ModelFilesError, match=r"holds no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFilesError, match=r"holds no model\.safetensors"):
        load_model(tmp_path)


def test_weights_are_single_precision() -> None:
    assert {one.dtype for one in load_model().parameters()} == {torch.float32}
