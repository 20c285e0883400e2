"""A repository's history as the edits of a simulation."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from homenode.cli.main import main
from homenode.cli.simulate.corpus import CorpusError, load, pinned
from homenode.cli.simulate.edits import HISTORY
from homenode.cli.simulate.run import simulate
from homenode.cli.simulate.workload import CHANGE, COMPARE, DOCUMENT, Workload

VERSIONS = 30


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`b.py` has one version more than `täg.md`; `once.md` has one, `c.txt` is of another kind, `bad.py` no text."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-q")
    lines = [f"line {n} of the file, as it was at first" for n in range(200)]
    for n in range(VERSIONS):
        lines[7 * n % 200] = f"line changed by the commit {n}"
        (folder / "b.py").write_text("\n".join(lines))
        if n:
            (folder / "täg.md").write_text("\n".join(lines[::2]) + f"\nthe end {n}\n")
        (folder / "c.txt").write_text(str(n))
        (folder / "bad.py").write_bytes(b"\xff\xfe%d" % n)
        if n == 3:
            (folder / "once.md").write_text("once\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"commit {n}")
    return folder


def test_files_come_with_all_their_versions_the_busiest_first(repository: Path) -> None:
    found = load(pinned(str(repository)), 2)
    assert found.names == ("b.py", "täg.md")
    assert [len(texts) for texts in found.texts] == [VERSIONS, VERSIONS - 1]
    assert found.texts[0][-1] == (repository / "b.py").read_text() and found.texts[1][0].endswith("the end 1\n")
    assert found.after(0, 0) == found.texts[0][1] and found.after(0, VERSIONS - 1) is None


def test_what_cannot_be_replayed_is_said(repository: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(CorpusError, match="2 files"):
        load(pinned(str(repository)), 3)
    assert main(["simulate", "--edits", str(tmp_path), "--seeds", "1"]) == 2
    assert "git" in capsys.readouterr().err
    assert main(["simulate", "--edits", str(repository), "--edit", "whole", "--seeds", "1"]) == 2


def test_agents_write_what_was_committed_until_the_history_ends(repository: Path) -> None:
    place = pinned(str(repository))
    load_ = Workload("h", 1.0, 0, steps=40, artifacts=2, edit=HISTORY, corpus=place, shows=CHANGE, writes=COMPARE)
    changes, again = simulate(load_, 1), simulate(load_, 1)
    assert changes == again and changes.in_bounds and changes.shown <= changes.shown_max
    assert changes.reads, "writes after the last version are reads"
    documents = simulate(replace(load_, shows=DOCUMENT), 1)
    assert documents.fetches == changes.fetches and changes.tokens < documents.tokens / 2


def test_the_command_replays_a_repository(repository: Path, capsys) -> None:
    words = ["--edits", str(repository), "--artifacts", "2", "--scenario", "D", "--seeds", "2", "--steps", "10"]
    assert main(["simulate", *words, "--show", "document,change", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["edit_model"] for row in rows] == [HISTORY, HISTORY]
    assert rows[1]["tokens_mean"] < rows[0]["tokens_mean"] < rows[0]["broadcast_mean"]
