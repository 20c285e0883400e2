"""edit: under compare-and-set, whatever others do meanwhile."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from homenode.cli.edit import appended, replaced
from homenode.cli.exits import CliError
from tests.cli.conftest import COMMAND, Cli, spawn

WRITERS = 5


def editor(tmp_path: Path, code: str) -> str:
    """An $EDITOR that runs `code` with the file's `path`."""
    script = tmp_path / "editor.py"
    script.write_text(f"import pathlib, subprocess, sys\npath = pathlib.Path(sys.argv[-1])\n{code}\n")
    return f"{sys.executable} {script}"


def test_append_and_replace(cli: Cli) -> None:
    cli("put", "a", stdin="one")
    assert cli("--json", "edit", "a", "--append", "two").json["n"] == 2
    assert cli("edit", "a", "--replace", "one", "1").out == "a is at version 3\n"
    assert cli("cat", "a").out == "1\ntwo\n"


def test_append_creates_only_when_told_to(cli: Cli) -> None:
    assert cli("edit", "a", "--append", "x").code == 3
    assert cli("edit", "a", "--append", "x", "--create").code == 0
    assert cli("cat", "a").out == "x\n"


@pytest.mark.parametrize("old", ["nothing of it", "t", ""])
def test_replace_needs_exactly_one_place(cli: Cli, old: str) -> None:
    cli("put", "a", stdin="two tents")
    result = cli("edit", "a", "--replace", old, "x")
    assert result.code == 1
    assert "must occur once" in result.err
    assert cli("cat", "a").out == "two tents"


def test_text_changes() -> None:
    assert appended("", "a") == "a\n"
    assert appended("a", "b") == "a\nb\n"
    assert appended("a\n", "b") == "a\nb\n"
    assert replaced("abc", "b", "") == "ac"
    with pytest.raises(CliError, match="occurs 2 times"):
        replaced("abab", "ab", "")


def test_many_processes_append_and_nothing_is_lost(cli: Cli, url: str) -> None:
    cli("put", "log", stdin="")
    writers = [spawn("edit", "log", "--append", f"line {n}", url=url) for n in range(WRITERS)]
    ends = [writer.communicate(timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS, ends
    assert sorted(cli("cat", "log").out.splitlines()) == [f"line {n}" for n in range(WRITERS)]


def test_the_editor_s_text_is_written(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("put", "docs/a.md", stdin="one\n")
    monkeypatch.setenv("EDITOR", editor(tmp_path, "assert path.suffix == '.md'; path.write_text('two\\n')"))
    assert cli("edit", "docs/a.md").out == "docs/a.md is at version 2\n"
    assert cli("cat", "docs/a.md").out == "two\n"
    monkeypatch.setenv("EDITOR", "true")
    assert cli("edit", "docs/a.md").out == "docs/a.md was not changed\n"


def test_the_editor_may_create(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", editor(tmp_path, "path.write_text('new')"))
    assert cli("edit", "a").code == 3
    assert cli("edit", "a", "--create").code == 0
    assert cli("cat", "a").out == "new"


def test_somebody_was_faster_than_the_editor(
    cli: Cli, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("put", "a", stdin="one\n")
    faster = [*COMMAND, "--url", url, "edit", "a", "--append", "theirs"]
    monkeypatch.setenv(
        "EDITOR", editor(tmp_path, f"subprocess.run({faster!r}, check=True, stdout=2)\npath.write_text('mine\\n')")
    )
    result = cli("--json", "edit", "a")
    assert result.code == 4
    assert result.error["current"]["n"] == 2
    kept = Path(result.error["kept"])
    assert kept.read_text() == "mine\n"
    assert cli("cat", "a").out == "one\ntheirs\n"
    assert f"homenode put a {kept} --base 2" in result.error["message"]
    kept.unlink()


def test_what_is_no_text_is_kept_and_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("put", "a", stdin="one")
    monkeypatch.setenv("EDITOR", editor(tmp_path, "path.write_bytes(b'\\xff')"))
    result = cli("edit", "a")
    assert result.code == 1
    kept = Path(result.err.split()[-1])
    assert kept.read_bytes() == b"\xff"
    kept.unlink()
    assert cli("cat", "a").out == "one"


def test_an_editor_that_fails_writes_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cli("put", "a", stdin="one")
    monkeypatch.setenv("EDITOR", "false")
    assert "ended with 1; nothing was written" in cli("edit", "a").err
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert "cannot start the editor" in cli("edit", "a").err
    assert not list(tmp_path.glob("homenode-*-a"))[1:], "nothing was written, so nothing is kept"
    assert cli("stat", "a").out.count("version    1 ") == 1


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("edit",), 2, "KEY"),
        (("edit", "a", "--append"), 2, "--append"),
        (("edit", "a", "--replace", "x"), 2, "--replace"),
        (("edit", "a", "--append", "x", "--replace", "x", "y"), 2, "not allowed with"),
        (("edit", "nowhere", "--append", "x"), 3, "nowhere"),
        (("edit", "a\x01", "--append", "x"), 2, "control"),
    ],
)
def test_wrong_input_is_named(cli: Cli, args: tuple[str, ...], code: int, said: str) -> None:
    result = cli(*args)
    assert result.code == code
    assert said in result.err


def test_text_is_needed_to_edit(cli: Cli) -> None:
    cli("put", "bin", stdin=b"\xff\xfe")
    result = cli("edit", "bin", "--append", "x")
    assert result.code == 1
    assert "not text" in result.err
