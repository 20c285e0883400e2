"""`homenode kv bench` and `homenode kv eval`, end to end, on a shape that takes no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from homenode.cli.main import main
from homenode_kv.bench import command
from homenode_kv.bench.slo import Way
from homenode_kv.demo.examples import Shape
from homenode_kv.demo.tasks import make_example

USAGE = 2
TINY = ("--shape", "random-tiny", "--quick", "--threads", "1")


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def kv(*arguments: str | Path) -> int:
    return main(["--json", "kv", *map(str, arguments)])


def rows_of(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    found = json.loads(capsys.readouterr().out)
    return {row["id"]: row for row in (found["rows"] if isinstance(found, dict) else found)}


def test_what_is_exact_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    assert kv("bench", "--only", "exactness", *TINY) == 0
    rows = rows_of(capsys)
    assert rows["exactness/mirror-restored"]["value"] == 0
    assert all(row["value"] < 1e-4 for row in rows.values()), rows
    assert all(row["trained"] and row["device"] == "cpu" and row["n"] == 8 for row in rows.values())


def test_time_is_taken_of_the_shape_that_was_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What runs on CUDA, on a CPU: the same code, another device."""
    out = tmp_path / "rows.json"
    assert kv("bench", "--only", ",".join(command.ON_CUDA), "--out", out, *TINY) == 0
    printed = capsys.readouterr().out
    document = json.loads(out.read_text())
    assert document == json.loads(printed)
    assert document["command"].startswith("homenode kv bench --device cpu --shape random-tiny --quick")
    rows = {row["id"]: row for row in document["rows"]}
    assert {row["model"] for row in rows.values()} == {"random-tiny"}
    assert not any(row["trained"] for row in rows.values())
    one = rows["collective/3/speedup-over-serial"]["beside"]
    assert (one["launches"], one["launches_serial"]) == (4, 12)
    assert all(row["beside"]["exact_plain"] == 1 for name, row in rows.items() if name.startswith("restore/"))
    assert {"first-token/agent=1", "first-token/agent=2"} <= rows.keys()
    match = rows["matching/1024"]["beside"]
    assert match["anchors"] == 20 and match["gate_ms"] < match["gate_of_all_tokens_ms"] + match["dense_ms"]


def test_the_next_version_takes_less_than_all_and_answers_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert kv("bench", "--only", "versions", *TINY) == 0
    rows = rows_of(capsys)
    for where in ("start", "middle", "end"):
        found = {way: rows[f"versions/{where}/{way}"] for way in ("dense", "exact", "moved", "based")}
        assert found["dense"]["value"] == 1 > found["exact"]["value"] > found["moved"]["value"]
        assert found["exact"]["beside"]["deviation"] < 1e-5 and found["moved"]["beside"]["for_a_base"] == 0
        assert {row["beside"]["right"] for row in found.values()} == {1}
        pages = rows[f"versions/{where}/pages"]
        assert pages["value"] <= pages["beside"]["mirror"] + 0.3
    assert rows["versions/end/pages"]["value"] <= 0.3


def test_agents_in_time_are_those_of_the_rounds_that_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert kv("bench", "--only", "slo", *TINY) == 0
    rows = rows_of(capsys)
    assert list(rows) == ["slo/prefix-cache", "slo/per-request", "slo/rounds"]
    assert {row["value"] for row in rows.values()} == {4}  # all that there are: this model takes no time
    assert rows["slo/rounds"]["beside"]["by_time"] == "4 and more"
    each = {name: row["beside"]["bytes_each"] for name, row in rows.items()}
    assert each["slo/rounds"] < each["slo/per-request"] == each["slo/prefix-cache"]
    assert all({"ms_at_1", "ms_at_2", "ms_at_4"} <= row["beside"].keys() for row in rows.values())


def test_agents_are_interpolated_up_to_the_slo_and_bounded_by_memory() -> None:
    way = Way({}, fixed=100.0, each=10.0, ms={1: 500.0, 2: 1_000.0, 4: 2_000.0})
    assert (way.by_time(), way.by_memory(155), way.over()) == (3.0, 5.5, True)
    assert Way({}, 0.0, 1.0, {1: 2_000.0}).by_time() == 0
    assert (way.by_memory(50), Way({}, 0.0, 1.0, {1: 1.0, 2: 2.0}).by_time()) == (0.0, 2)


def test_a_round_refreshes_less_over_what_the_one_before_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert kv("bench", "--only", "again", *TINY) == 0
    first, second = rows_of(capsys).values()
    assert 0 < second["value"] < first["value"] and first["beside"]["start"] == "bases"
    assert min(one["beside"]["accuracy_cross"] for one in (first, second)) == 1.0


def test_compression_comes_with_the_accuracy_of_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert kv("bench", "--only", "compression,isolated", *TINY) == 0
    rows = rows_of(capsys)
    one = rows["compression/bound/share=0.1"]
    assert one["value"] == pytest.approx(1 / one["beside"]["f"], rel=0.05)
    members, f = one["beside"]["members"], one["beside"]["f"]
    assert one["beside"]["per_group"] == pytest.approx(members / (1 + (members - 1) * f), rel=0.05)
    assert 0 <= one["beside"]["accuracy_cross"] <= 1
    assert all(
        row["beside"]["off_from_masked_forward"] < 1e-4 for name, row in rows.items() if name.startswith("isolated/")
    )
    assert rows["isolated/retrieval"]["value"] >= 0.8


def test_pictures_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homenode_kv.bench.accuracy.TASKS", ("edits",))
    monkeypatch.setattr("homenode_kv.bench.anchored.TASKS", ("edits",))
    assert kv("bench", "--only", "accuracy,anchors,collective", "--plot", tmp_path / "plots", *TINY) == 0
    rows = rows_of(capsys)
    assert {"accuracy/edits/dense", "accuracy/edits/naive", "accuracy/edits/blocks/layer=2/0.15"} <= rows.keys()
    names = ["kv-agents.png", "kv-gamma.png", "kv-refreshed.png"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "luck"), "groups are exactness, "),
        (("--shape", "huge"), "a shape is one of random-tiny, "),
        (("--device", "abacus"), "a device is cpu or cuda"),
    ],
)
def test_what_there_is_not_is_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kv("bench", "--quick", *arguments) == USAGE
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["kind"] == "BenchError" and error["message"].startswith(said)


def test_a_users_data_are_measured_on_a_users_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    lines = []
    for seed in range(3):
        example = make_example("edits", seed, Shape(segment_tokens=64))
        own, *segments = example.segments()
        for question in example.questions[:2]:
            one = {"own": own, "segments": segments, "question": question.text, "answer": question.answer}
            lines.append(json.dumps(one | {"kind": str(question.kind)}))
    data.write_text("\n".join(lines) + "\n\n")
    assert kv("eval", "--model", "demo", "--data", data, "--quick") == 0
    rows = rows_of(capsys)
    assert rows["eval/dense"]["value"] == 1.0
    assert (rows["eval/naive"]["n"], rows["eval/naive"]["model"]) == (6, "demo")
    assert rows["eval/scattered/layer=2/0.3"]["value"] >= rows["eval/naive"]["value"]
    assert kv("eval", "--model", "demo-isolated", "--data", data, "--quick") == 0
    assert rows_of(capsys)["eval/naive"]["value"] >= 5 / 6  # segments as they are, on a model that was trained for it


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "holds no prompts"),
        ("{", "line 1 is no JSON"),
        ("[1]", "line 1 is no JSON object"),
        ('{"own": "a", "question": "b", "answer": "c"}', "line 1 needs own, question and answer"),
        ('{"own": "a", "segments": [1], "question": "b", "answer": "c"}', "line 1 needs own, question and answer"),
        ('{"own": "a", "segments": ["s"], "question": "b", "answer": "c", "kind": 4}', "line 1: kind is a text"),
        (
            json.dumps({"own": "a", "segments": ["s" * 20_000], "question": "b", "answer": "c"}),
            "does not suit the model",
        ),
    ],
    ids=lambda text: text[:40],
)
def test_data_that_are_no_prompts_are_refused(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(line)
    assert kv("eval", "--model", "demo", "--data", data, "--quick") == USAGE
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["kind"] == "DataError" and said in error["message"]


def test_data_that_are_no_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"\xff\xfe")
    assert kv("eval", "--model", "demo", "--data", data, "--quick") == USAGE
    assert "no text in UTF-8" in json.loads(capsys.readouterr().err)["error"]["message"]


def test_a_file_and_a_model_that_are_not_there_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kv("eval", "--model", "demo", "--data", tmp_path / "none") == USAGE
    assert kv("eval", "--model", tmp_path, "--data", tmp_path / "none") == USAGE
