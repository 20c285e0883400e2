"""Training is a function of its plan, wherever it was stopped, and the command says what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from homenode.cli.main import main
from homenode_kv.demo import train
from homenode_kv.demo.batches import make_batch
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.model import answer_logits, load_model, make_model, save_model
from homenode_kv.demo.tasks import TASKS, make_example
from homenode_kv.demo.tokenizer import decode

PLAN = train.Plan(seed=5, steps=40, threads=1)
USAGE, INTERRUPTED = 2, 130


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses_of(run: train.Run, steps: int) -> list[float]:
    return [train.advance(run) for _ in range(steps)]


def test_the_same_plan_gives_the_same_losses_and_another_seed_others() -> None:
    first = losses_of(train.start(PLAN), 3)
    assert losses_of(train.start(PLAN), 3) == first
    assert losses_of(train.start(train.Plan(seed=6, steps=40, threads=1)), 3) != first


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = train.start(PLAN)
    losses_of(whole, 4)
    half = train.start(PLAN)
    losses_of(half, 2)
    train.save_checkpoint(half, tmp_path / "half.pt")
    again = train.start(PLAN)
    train.resume(again, tmp_path / "half.pt")
    assert again.step == 2
    losses_of(again, 2)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_another_plan_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.pt"
    train.save_checkpoint(train.start(PLAN), path)
    with pytest.raises(train.TrainError, match="of another plan"):
        train.resume(train.start(train.Plan(seed=5, steps=41, threads=1)), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(train.TrainError, match="no checkpoint of this training"):
        train.resume(train.start(PLAN), path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seed": -1}, "seed is 0 or more"),
        ({"steps": 0}, "steps is from 1"),
        ({"rate": 0.0}, "rate is above 0"),
        ({"threads": 0}, "threads is from 1"),
        ({"isolated": 1.5}, "isolated is a share"),
        ({"begin": 1.0}, "begin is from 0 to below 1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(train.TrainError, match=said):
        train.Plan(**wrong)


@torch.inference_mode()
def test_padding_changes_no_logits() -> None:
    model = make_model(0).eval()
    rows = [
        (one, one.questions) for one in (make_example(task, 1, Shape(facts=1 + at)) for at, task in enumerate(TASKS))
    ]
    together = answer_logits(model, make_batch(rows))
    apart = torch.cat([answer_logits(model, make_batch([row])) for row in rows])
    assert torch.allclose(together, apart, atol=1e-5)


@torch.inference_mode()
def test_isolated_segments_see_neither_each_other_nor_less_than_themselves() -> None:
    """The masked forward gives a block the states that it has alone, and the question those of the whole."""
    model = make_model(0).eval()
    example = make_example("bound", 3)
    batch = make_batch([(example, example.questions)])
    mask = batch.isolated_mask(torch.tensor([True]))
    states = model.model(input_ids=batch.ids, position_ids=batch.positions, attention_mask=mask).last_hidden_state[0]
    for at in range(len(example.segments())):
        own = batch.segments[0] == at
        alone = model.model(input_ids=batch.ids[:, own]).last_hidden_state[0]
        assert torch.allclose(states[own], alone, atol=1e-4)
    assert mask[0, 0, -1].all()
    plain = batch.isolated_mask(torch.tensor([False]))
    assert torch.equal(plain[0, 0], torch.ones_like(plain[0, 0]).tril())


def test_words_of_a_block_name_what_they_say_something_of() -> None:
    example = make_example("bound", 3)
    batch = make_batch([(example, example.questions)])
    words = [decode([one]).strip() for one in batch.ids[0].tolist()]
    named = [decode([one]).strip() if one else "" for one in batch.named[0].tolist()]
    blocks = " ".join(example.segments()).split()
    for at, word in enumerate(words[: len(blocks)]):
        if word == "also":
            begin = max(place for place in range(at) if words[place] == "agent")
            assert named[at + 2] == words[begin - 1]
        elif word[0] == "v" and words[at - 1][0] == "k" and batch.segments[0, at] > 0:
            assert named[at] == words[at - 1]
    assert not any(name and segment <= 0 for name, segment in zip(named, batch.segments[0].tolist(), strict=True))


def command(*arguments: str | Path) -> int:
    return main(["--json", "kv", "train-demo", "--threads", "1", *map(str, arguments)])


def test_the_command_stops_goes_on_and_writes_model_and_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homenode_kv.demo.command.HELD_OUT", range(2))
    monkeypatch.setattr("homenode_kv.demo.command.LONG_PROMPTS", 1)
    out = tmp_path / "model"
    assert command("--out", out, "--steps", "3", "--stop-after", "0") == INTERRUPTED
    assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]
    assert command("--out", out, "--steps", "3") == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads((out / "card.json").read_text())
    assert (card["steps"], card["seed"], card["accuracy"].keys()) == (3, 0, set(TASKS))
    assert not (out / "checkpoint.pt").exists()
    expected = train.start(train.Plan(steps=3, threads=1))
    losses_of(expected, 3)
    made = load_model(out).state_dict()
    assert all(torch.equal(made[name], value) for name, value in expected.model.state_dict().items())


def test_the_command_refuses_what_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--out", tmp_path, "--steps", "0") == USAGE
    assert json.loads(capsys.readouterr().err)["error"]["kind"] == "TrainError"
    assert command("--out", tmp_path, "--from", tmp_path / "none") == USAGE
    assert json.loads(capsys.readouterr().err)["error"]["kind"] == "ModelFilesError"
    assert command("--out", tmp_path, "--steps", "many") == USAGE
    assert command() == USAGE


def test_without_torch_one_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homenode.cli.kv_train._PARTS", ("torch", "no_such_part"))
    assert command("--out", tmp_path) == 6
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["message"] == "kv needs parts that are not installed (no_such_part): pip install 'homenode[kv]'"


def test_a_training_that_goes_on_from_a_model_starts_with_its_weights_and_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homenode_kv.demo.command.HELD_OUT", range(1))
    monkeypatch.setattr("homenode_kv.demo.command.LONG_PROMPTS", 1)
    save_model(make_model(3), tmp_path / "base", {})
    arguments = ("--from", tmp_path / "base", "--isolated", "0.5", "--steps", "1")
    assert command("--out", tmp_path / "more", *arguments) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["accuracy_isolated"].keys() == set(TASKS)
    assert "--from" in card["command"]
    base, more = (load_model(tmp_path / name).state_dict() for name in ("base", "more"))
    moved = max(float((more[name] - base[name]).abs().max()) for name in base)
    assert 0 < moved < 0.05
    assert load_model(tmp_path / "more").config.homenode_segments == "isolated"
