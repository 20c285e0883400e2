"""γ of a model: the bundled one's is what calibration gives, a user's is found beside the weights it is for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from homenode.cli.main import main
from homenode_kv.bench.calibrating import ERROR_MAX, calibrate_model
from homenode_kv.bench.evaluation import DataError
from homenode_kv.calibration import FILE, Calibrated, CalibrationError
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import make_round
from homenode_kv.worker.models import Loaded, calibration_of, load

USAGE = 2


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def demo() -> Loaded:
    return load("demo")


def test_the_bundled_models_gamma_is_what_calibration_gives(demo: Loaded) -> None:
    bundled = calibration_of(demo)
    assert bundled is not None and bundled.error_max == ERROR_MAX
    found = calibrate_model(demo, None, ERROR_MAX, lambda line: None)
    assert (found.samples, found.fingerprint) == (bundled.samples, bundled.fingerprint)
    for name in ("afresh", "afresh_as_kept"):
        assert getattr(found, name) == pytest.approx(getattr(bundled, name), abs=0.003)
    assert (found.gamma, found.served) == (bundled.gamma, bundled.served) == (0.0, 0)
    assert bundled.afresh > 0.98 * bundled.afresh_as_kept  # no luck: there is nothing to save


def test_a_file_beside_the_model_is_found_and_one_of_another_model_is_not_used(
    demo: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = Calibrated(0.25, 0.5, 0.125, 0.5, 40, 30, demo.fingerprint)
    there = replace(demo, folder=tmp_path)
    assert calibration_of(there) is None and calibration_of(replace(demo, folder=None)) is None
    found.write(tmp_path / FILE)
    assert calibration_of(there) == found
    replace(found, fingerprint="0" * 64).write(tmp_path / FILE)
    with caplog.at_level(logging.WARNING, logger="homenode.kv"):
        assert calibration_of(there) is None
    assert "is for another model" in caplog.text
    with pytest.raises(CalibrationError):  # asked for by name it is no remark but a mistake
        calibration_of(demo, tmp_path / FILE)


def test_a_model_is_calibrated_with_its_own_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for seed in range(4):
        for example in make_round("retrieval", seed, Shape(agents=2, corpus=1, segment_tokens=32)):
            own, *segments = example.segments()
            question = example.questions[0]
            one = {"own": own, "segments": segments, "question": question.text, "answer": question.answer}
            lines.append(json.dumps(one))
    data, out = tmp_path / "data.jsonl", tmp_path / "found.json"
    data.write_text("\n".join(lines))
    command = ["--json", "kv", "calibrate", "--model", "demo", "--data", str(data), "--threads", "1"]
    assert main([*command, "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == (8 - 2) * 2 and 0 < told["afresh"] < 1
    written = json.loads(out.read_text())
    assert written["afresh"] == pytest.approx(told["afresh"], abs=1e-5) and written["command"].startswith("homenode kv")
    assert main([*command, "--out", str(out), "--error", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["afresh"] == 1.0
    assert main(command) == USAGE  # demo is no folder
    assert "--out" in json.loads(capsys.readouterr().err)["error"]["message"]


def test_a_model_of_ones_own_needs_prompts_of_ones_own(demo: Loaded) -> None:
    with pytest.raises(DataError, match="--data FILE"):
        calibrate_model(replace(demo, name="mine"), None, 0.5, lambda line: None)
