"""`homenode kv serve` with options that make no sense: one line each, before a model is loaded."""

from __future__ import annotations

import pytest

from homenode.cli.main import main

pytest.importorskip("torch")

NOWHERE = ["--directory", "homenode://127.0.0.1:1/main", "--timeout", "1"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--threads", "-1"], "from 1 to"),
        (["--waiting", "0"], "from 1 to"),
        (["--waiting", "-5"], "from 1 to"),
        (["--error-max", "nan"], "from 0 on"),
        (["--error-max", "-1"], "from 0 on"),
        (["--listen", "nonsense"], "host:port"),
        (["--listen", "127.0.0.1"], "host:port"),
        (["--listen", "127.0.0.1:99999"], "host:port"),
        (["--advertise", "nonsense"], "host:port"),
        (["--metrics", "nonsense"], "host:port"),
        (["--name", "x" * 129], "128 bytes"),
        (["--name", "a\nb"], "printable"),
        (["--device", "nonsense"], "no device 'nonsense'"),
        (["--dtype", "nonsense"], "a dtype is float32"),
        (["--dtype", "nn"], "a dtype is float32"),
        (["--dtype", "int8"], "a dtype is float32"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kv", "serve", "--model", "demo", *NOWHERE, *options]) == 2
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said


def test_an_id_that_nobody_answers_for_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert main(["kv", "serve", "--model", "nobody/nothing", *NOWHERE]) == 2
    assert capsys.readouterr().err == "homenode: there is no model at 'nobody/nothing', nor under that id\n"
