"""put, get, cat, diff: writes say what they replace, and a refusal names what is there."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

import homenode
from tests.cli.conftest import Cli


def test_put_creates_and_then_refuses_with_the_current_version(cli: Cli, page: Path) -> None:
    assert cli("put", "notes/a.md", str(page)).out == "notes/a.md is at version 1\n"
    again = cli("put", "notes/a.md", str(page))
    assert again.code == 4
    assert "exists, at version 1" in again.err
    assert "--base 1" in again.err
    assert cli("--json", "put", "notes/a.md", str(page), "--create").error["current"]["n"] == 1


def test_put_with_a_base_replaces_that_version_only(cli: Cli) -> None:
    full = cli("--json", "put", "a", stdin="1").json["version"]
    assert cli("--json", "put", "a", "--base", full, stdin="2").json["n"] == 2
    late = cli("put", "a", "-", "--base", "1", stdin="3")
    assert late.code == 4
    assert "is at version 2, not 1" in late.err
    assert cli("put", "a", "--base", full, stdin="3").code == 4
    assert cli("put", "a", "--base", "2", stdin="3").code == 0
    assert cli("cat", "a").out == "3"


def test_rm_deletes_and_says_what_is_there_instead(cli: Cli) -> None:
    cli("put", "a", stdin="1")
    cli("put", "a", "--base", "1", stdin="2")
    assert cli("rm", "a", "--base", "1").code == 4
    assert cli("rm", "a", "--base", "2").out == "a is deleted, in version 3\n"
    assert cli("cat", "a").code != 0
    assert cli("rm", "a").code == cli("cat", "a").code
    cli("put", "a", stdin="4")
    assert cli("--json", "rm", "a").json["n"] == 5


def test_put_with_force_overwrites(cli: Cli) -> None:
    cli("put", "a", stdin="1")
    assert cli("--json", "put", "a", "--force", stdin="2").json["n"] == 2
    assert cli("put", "b", "--force", stdin="new").code == 0


def test_put_with_a_base_of_nothing_is_refused(cli: Cli) -> None:
    result = cli("put", "a", "--base", "3", stdin="x")
    assert result.code == 4
    assert "does not exist; --create makes it" in result.err


def test_get_writes_a_file_at_once_and_names_the_version(cli: Cli, tmp_path: Path) -> None:
    cli("put", "a", stdin="text\n")
    target = tmp_path / "deep" / "a.txt"
    result = cli("get", "a", "-o", str(target))
    assert (result.code, result.out) == (0, "")
    assert "version 1" in result.err
    assert target.read_text() == "text\n"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]
    target.chmod(0o640)
    cli("get", "a", "-o", str(target))
    assert target.stat().st_mode & 0o777 == 0o640


def test_get_names_the_file_that_cannot_be_replaced(cli: Cli, tmp_path: Path) -> None:
    cli("put", "a", stdin="text\n")
    (tmp_path / "folder").mkdir()
    result = cli("get", "a", "-o", str(tmp_path / "folder"))
    assert (result.code, result.err) == (1, f"homenode: {tmp_path / 'folder'}: Is a directory\n")


def test_put_names_the_writer_that_holds_the_artifact(cli: Cli, url: str) -> None:
    cli("put", "a", stdin="1")
    with homenode.connect_sync(url, agent="holder") as hn, hn.lease("a"):
        refused = cli("--json", "put", "a", "--force", stdin="2")
        assert refused.code == 4
        assert refused.error["holder"] == hn.session_id
        assert "a is being written by holder; try again in" in cli("put", "a", "--force", stdin="2").err


def test_get_reads_earlier_versions_in_both_forms(cli: Cli) -> None:
    first = cli("--json", "put", "a", stdin="1").json["version"]
    cli("put", "a", "--base", "1", stdin="2")
    assert cli("get", "a").out == "2"
    assert cli("get", "a", "--version", "1").out == "1"
    assert cli("get", "a", "--version", first).out == "1"
    missing = cli("get", "a", "--version", "9")
    assert missing.code == 3
    assert "no version 9; kept are 1, 2" in missing.err


def test_bytes_come_back_as_they_went(cli: Cli, tmp_path: Path) -> None:
    data = bytes(range(256)) * 300  # more than one frame's inline body
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    assert cli("put", "bin", str(source)).code == 0
    assert cli("get", "bin", "-o", str(target)).code == 0
    assert target.read_bytes() == data
    assert base64.b64decode(cli("--json", "get", "bin").json["base64"]) == data


def test_cat_prints_all_or_nothing(cli: Cli) -> None:
    cli("put", "a", stdin="A\n")
    cli("put", "b", stdin="B\n")
    assert cli("cat", "a", "b").out == "A\nB\n"
    some = cli("cat", "a", "nowhere", "b")
    assert (some.code, some.out) == (3, "")
    assert "nowhere" in some.err


def test_diff_of_two_versions(cli: Cli) -> None:
    cli("put", "a", stdin="one\ntwo\n")
    cli("put", "a", "--base", "1", stdin="one\ntwo and a half")
    result = cli("diff", "a", "1")
    assert result.code == 0
    assert result.out.splitlines() == [
        "--- a (version 1)",
        "+++ a (version 2)",
        "@@ -1,2 +1,2 @@",
        " one",
        "-two",
        "+two and a half",
        "\\ No newline at end of file",
    ]
    assert cli("diff", "a", "2", "2").out == ""
    cli("put", "a", "--force", stdin="one\x0bstill\u2028one\x85\n")
    shown = cli("diff", "a", "2").out
    assert (
        shown.endswith("\\ No newline at end of file\n+one\x0bstill\u2028one\x85\n") and shown.count("No newline") == 1
    )
    told = cli("--json", "diff", "a", "1", "2").json
    assert (told["from"]["n"], told["to"]["n"], told["changed"]) == (1, 2, True)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("put",), 2, "KEY"),
        (("put", "a", "/no/such/file"), 1, "/no/such/file: No such file"),
        (("put", "a", "--base", "x"), 2, "a version is a number"),
        (("put", "a", "--base", "1", "--force"), 2, "not allowed with"),
        (("put", ""), 2, "key"),
        (("put", "a\nb"), 2, "control"),
        (("put", "k" * 600), 2, "512"),
        (("get", "nowhere"), 3, "nowhere"),
        (("get", "nowhere", "--version", "1"), 3, "nowhere"),
        (("get", "a", "--version", "-1"), 2, "--version"),
        (("cat",), 2, "KEY"),
        (("diff", "a"), 2, "V1"),
        (("diff", "nowhere", "1"), 3, "nowhere"),
    ],
)
def test_wrong_input_is_named(cli: Cli, args: tuple[str, ...], code: int, said: str) -> None:
    result = cli(*args, stdin="x")
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_an_artifact_beyond_the_limit_is_refused(cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate((256 << 20) + 1)
    result = cli("--json", "put", "large", str(source))
    assert (result.code, result.error["kind"]) == (1, "TooLarge")


def test_large_contents_go_through_files_and_pipes(cli: Cli, tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    (tmp_path / "in").write_bytes(data)
    assert cli("--json", "put", "large", str(tmp_path / "in")).json["size"] == len(data)
    result = cli("get", "large", "-o", str(tmp_path / "out"))
    assert f"({len(data)} bytes)" in result.err
    assert (tmp_path / "out").read_bytes() == data
    text = "a line of text\n" * 400_000
    assert cli("put", "report", stdin=text).code == 0
    assert cli("cat", "report").out == text
    assert cli("get", "report", "--version", "1").out == text


def test_diff_of_what_is_no_text(cli: Cli) -> None:
    cli("put", "bin", stdin=b"\xff\xfe")
    result = cli("diff", "bin", "1")
    assert result.code == 1
    assert "bin is not text" in result.err
